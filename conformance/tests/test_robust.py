"""Whatever is wrong with a backend, the command ends, with the right verdict, and leaves no process behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from aether.conformance.plugin import pytest_configure_node
from aether.conformance.profiles import Profile
from aether.conformance.report import Report, Verdict, read

HERE = Path(__file__).parent
MODULE = "broken_backends"
BOUND = 90.0  # of a run that is expected to end within a few seconds


def command(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`aether-conformance run`, with bounds that are short, for those who wait them out."""
    words = [sys.executable, "-m", "aether.conformance", "run", *arguments]
    path = os.pathsep.join([str(HERE), environment.pop("PYTHONPATH", "")])
    return subprocess.run(
        [*words, "--time-factor", "0.03", "--report", str(tmp_path / "report")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


def report(tmp_path: Path) -> Report:
    return read(tmp_path / "report" / "report.json")


CASE = "store.append.gapless"


@pytest.mark.parametrize(
    ("harness", "found"),
    [
        ("HangsInClose", "it hangs"),
        ("HangsInACall", "it hangs"),
        ("BlocksTheLoop", "it hangs"),
        ("SwallowsCancellation", "it hangs, and cannot be cancelled either"),
        ("Exits", "SystemExit: I give up"),
        ("KillsTheProcess", "the process that ran it ended"),
        ("LeavesAThread", "it hangs"),
    ],
)
def test_backend_that_breaks_in_a_case_is_not_conformant(harness: str, found: str, tmp_path: Path) -> None:
    done = command(tmp_path, f"{MODULE}:{harness}", "-k", CASE)

    assert done.returncode == 1, done.stdout + done.stderr
    assert f"not conformant: {CASE}" in done.stdout
    assert f"  found     {found}" in done.stdout
    assert found in (tmp_path / "report" / "README.md").read_text()


@pytest.mark.parametrize(
    ("harness", "reason"),
    [
        ("CannotBeMade", "no licence"),
        ("DoesNotStart", "did not start: RuntimeError: no such server"),
        ("HangsInStart", "did not start: it hangs"),
        ("BlocksInStart", "something never yields to the event loop"),
        ("ExitsInStart", "bad configuration"),
        ("HangsInOpen", "did not answer: it hangs"),
        ("DoesNotStop", "did not stop: RuntimeError: it will not go"),
        ("HangsInStop", "did not stop: it hangs"),
        ("BlocksInStop", "something never yields to the event loop"),
        ("DiesInStop", "beside the cases, the process that ran it ended"),
    ],
)
def test_harness_that_fails_gives_no_verdict(harness: str, reason: str, tmp_path: Path) -> None:
    done = command(tmp_path, f"{MODULE}:{harness}", "-k", CASE)

    assert done.returncode == 3, done.stdout + done.stderr
    made = report(tmp_path)
    assert {profile.verdict for profile in made.profiles} == {Verdict.NONE}
    assert reason in " ".join(made.errors)


def test_process_that_dies_before_a_case_gives_no_verdict(tmp_path: Path) -> None:
    done = command(tmp_path, f"{MODULE}:DiesInStart", "-k", CASE)

    assert done.returncode == 3, done.stdout + done.stderr
    assert "no verdict: pytest ended with 7 before a case began" in done.stderr


def test_backend_whose_answers_differ_fails_and_that_is_said(tmp_path: Path) -> None:
    done = command(tmp_path, f"{MODULE}:Moody", "-k", "store.append.race")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "the answers differ between two runs of the same calls" in done.stdout


@pytest.mark.parametrize("harness", ["HangsInACall", "BlocksTheLoop"])
def test_backend_that_hangs_everywhere_is_given_up(harness: str, tmp_path: Path) -> None:
    done = command(tmp_path, f"{MODULE}:{harness}")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "not-run (given up: cases failed for 3 s, and none passed in between)" in done.stdout
    assert sum(case.status == "FAIL" for case in report(tmp_path).cases) == 3


@pytest.mark.parametrize(
    ("harness", "claimed"),
    [
        ("OnlyAStore", {Profile.CORE, Profile.ORDERED}),
        ("OnlyABus", {Profile.CORE}),
        ("OnlyAnElection", {Profile.COORDINATION}),
    ],
)
def test_part_of_a_backend_claims_nothing_of_the_others(harness: str, claimed: set[Profile], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "aether.conformance", "run", f"{MODULE}:{harness}", "-k", "not same", "-n", "2"]
    done = subprocess.run(
        [*words, "--report", str(tmp_path / "report")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )

    assert done.returncode == 4, done.stdout + done.stderr  # the machines are left out, which take long
    assert "The backend has no" in done.stdout
    assert {case.profile for case in report(tmp_path).cases if case.status == "pass"} == claimed


def test_server_that_cannot_be_broken_is_not_testable(tmp_path: Path) -> None:
    done = command(tmp_path, f"{MODULE}:OnlyAStoreThatOthersReach", "-k", "store.driver.timeout or store.append.empty")

    assert done.returncode == 4, done.stdout + done.stderr
    assert "3 not-testable (the harness has no pause, resume())" in done.stdout


def test_text_that_no_file_can_hold_is_escaped(tmp_path: Path) -> None:
    done = command(tmp_path, f"{MODULE}:SaysWhatNoFileCanHold", "-k", CASE)

    assert done.returncode == 1, done.stdout + done.stderr
    assert r"no file \udcff \x1b[31mhere" in " ".join(case.text for case in report(tmp_path).cases)
    assert report(tmp_path).backend.server == r"b'\xff'"


@pytest.mark.parametrize(
    ("harness", "code"), [("TellsItsPassword", 1), ("TellsItsPasswordInStart", 3), ("TellsItsPasswordInStop", 3)]
)
def test_secrets_are_in_no_output(harness: str, code: int, tmp_path: Path) -> None:
    done = command(tmp_path, f"{MODULE}:{harness}", "-k", CASE)

    assert done.returncode == code
    assert re.search(r"cannot \w+ broken://", done.stdout)
    written = [path.read_text() for path in (tmp_path / "report").iterdir()]
    assert [text for text in (done.stdout, done.stderr, *written) if "hunter2" in text] == []


def test_secrets_of_a_url_are_in_no_output(tmp_path: Path) -> None:
    done = command(tmp_path, "nats://me:hunter2@127.0.0.1:9", "-k", CASE)  # nobody listens there

    assert done.returncode == 3
    written = [path.read_text() for path in (tmp_path / "report").iterdir()]
    assert [text for text in (done.stdout, done.stderr, *written) if "hunter2" in text] == []


ON_LINUX = ["LeavesADaemon"] if sys.platform == "linux" else []  # elsewhere nobody can tell whose it is


@pytest.mark.parametrize("harness", ["LeavesItsServer", "LeavesItsServerAndDies", *ON_LINUX])
def test_no_process_is_left(harness: str, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command(tmp_path, f"{MODULE}:{harness}", "-k", CASE, BROKEN_PID=str(pid))

    assert not _runs(int(pid.read_text()))


def _runs(pid: int) -> bool:
    """Whether a process lives. A killed one that nobody has waited for is a zombie, and does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


# --- Plugins ---

PLUGINS = {
    "import": ("import not_installed_driver", "aether-odd 0.1 claims odd:// but odd_plugin does not import"),
    "version": ("info = BackendInfo('aether-odd', spi=99)", "speaks backend interface 99"),
    "nothing": ("info = None", "has no hook aether_backend that returns a BackendInfo"),
    "no store": ("info = BackendInfo('aether-odd', spi=SPI_VERSION)", "has no store"),
}

PLUGIN = """
from aether.core.hookspecs import hookimpl
from aether.core.spi import SPI_VERSION, BackendInfo
{broken}

@hookimpl
def aether_backend():
    return info
"""


@pytest.mark.parametrize("name", PLUGINS)
def test_broken_plugin_gives_no_verdict(name: str, tmp_path: Path) -> None:
    broken, reason = PLUGINS[name]
    (tmp_path / "odd_plugin.py").write_text(PLUGIN.format(broken=broken))
    metadata = tmp_path / "aether_odd-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: aether-odd\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[aether.backends]\nodd = odd_plugin\n")

    done = command(tmp_path, "odd://here", "-k", CASE, PYTHONPATH=str(tmp_path))

    assert done.returncode == 3, done.stdout + done.stderr
    assert reason in done.stdout + done.stderr


# --- Signals and workers ---


def test_interrupted_run_stops_its_server_and_gives_no_verdict(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "aether.conformance", "run", f"{MODULE}:LeavesItsServerAndHangs"]
    with subprocess.Popen(
        [*words, "-k", CASE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE), "BROKEN_PID": str(tmp_path / "pid")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # The backend says on stderr that a case hangs now.
        assert process.stderr is not None
        while "hangs now" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=BOUND)

    assert process.returncode == 130, out + err
    assert "interrupted" in err
    assert not _runs(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("harness", "code"),
    [("KillsTheProcess", 1), ("BlocksTheLoop", 1), ("DoesNotStart", 3), ("DoesNotStop", 3), ("DiesInStop", 3)],
)
def test_workers_change_no_verdict(harness: str, code: int, tmp_path: Path) -> None:
    done = command(tmp_path, f"{MODULE}:{harness}", "-k", "store.append.gapless or store.append.empty", "-n", "2")

    assert done.returncode == code, done.stdout + done.stderr


def test_output_that_cannot_be_written_is_no_verdict(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "aether.conformance", "run", "memory", "-k", CASE]
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(words, cwd=tmp_path, stdout=write_end, stderr=subprocess.PIPE, timeout=BOUND, check=False)
    finally:
        os.close(write_end)

    assert done.returncode == 3, done.stderr


def test_first_failure_among_workers_is_a_verdict(tmp_path: Path) -> None:
    done = command(tmp_path, f"{MODULE}:TellsItsPassword", "-k", "store.append", "-n", "2", "-x")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "interrupted" not in done.stdout + done.stderr
    assert {case.text for case in report(tmp_path).cases if "the process that ran it" in case.text} == set()


def test_workers_that_die_again_and_again_give_a_verdict(tmp_path: Path) -> None:
    done = command(tmp_path, f"{MODULE}:KillsTheProcess", "-k", "store.append or store.read", "-n", "2")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "the process that ran it ended" in (tmp_path / "report" / "README.md").read_text()


def test_work_for_a_worker_that_has_just_died_does_not_end_the_run() -> None:
    def broken(_: object) -> None:
        raise OSError("cannot send (already closed?)")

    node = SimpleNamespace(send_runtest_some=broken)
    pytest_configure_node(node)

    node.send_runtest_some([0, 1])
