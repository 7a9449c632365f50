"""The command: what it is told, what it answers, and its exit codes."""

import re
import shlex
from pathlib import Path

import pytest

from aether.conformance.__main__ import main
from aether.conformance.report import read
from aether.conformance.rules import all_cases


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs keep what failed in the current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(directory: Path) -> set[str]:
    report = read(directory / "report.json")
    return {case.id for case in report.cases} - set(report.not_run)


def test_selection_is_partial(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "memory", "-k", "store.append.gapless"]) == 4

    shown = capfd.readouterr().out
    assert f"partial: nothing failed, but not everything was checked ({len(all_cases()) - 1} not-run)" in shown


@pytest.mark.parametrize("target", ["memory", "memory://here", "aether.memory.testing:MemoryHarness"])
def test_targets(target: str) -> None:
    assert main(["run", target, "-k", "store.append.empty"]) == 4


@pytest.mark.parametrize(
    ("keyword", "cases"),
    [
        ("store.append.conflict#below", {"store.append.conflict#below"}),
        ("store.append.empty or store.append.gapless", {"store.append.empty", "store.append.gapless"}),
        ("store.append.empty and not empty", set[str]()),
    ],
)
def test_keyword(keyword: str, cases: set[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["run", "memory", "-k", keyword, "--report", str(tmp_path / "report")])

    if cases:
        assert ran(tmp_path / "report") == cases
    else:
        assert "no case matches 'store.append.empty and not empty'" in capfd.readouterr().err
    assert code == (4 if cases else 3)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing"], "no installed backend has a harness named 'nothing' (there are: mariadb, memory, nats"),
        (["no.such.module:Harness"], "cannot be loaded"),
        (["aether.core:Event"], "not a class derived from"),
        (["nowhere://"], "no installed backend answers nowhere://"),
        (["memory", "-k", "nonsense"], "no case matches 'nonsense'"),
        (["memory", "-k", "(nonsense"], "nothing was run, for the reason above"),
        (["memory", "--time-factor", "0"], "nothing was run, for the reason above"),
    ],
)
def test_what_is_no_verdict(arguments: list[str], reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *arguments]) == 3
    assert reason in capfd.readouterr().err


def test_settings_from_outside_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")

    assert main(["run", "memory", "-k", "store.append.empty"]) == 4


def test_last_failed_and_first_failure(tmp_path: Path) -> None:
    directory = tmp_path / "report"
    told = ["run", f"{_harness(tmp_path)}:Forgets", "--report", str(directory)]
    selected = "store.append.empty or store.append.gapless or store.append.race"

    assert main([*told, "-k", selected]) == 1
    failed = {case.id for case in read(directory / "report.json").cases if case.status == "FAIL"}
    assert failed == {"store.append.gapless", "store.append.race"}
    assert main([*told, "--lf"]) == 1
    assert ran(directory) == failed
    assert main([*told, "--lf", "-x"]) == 1
    assert len(ran(directory)) == 1
    assert main(["run", "memory", "--lf", "-k", selected]) == 4  # has failed in nothing: another target


def _harness(directory: Path) -> str:
    (directory / "forgetful.py").write_text(
        """
from aether.conformance.zoo import registry_with
from aether.conformance.wrappers import StoreWrapper
from aether.core import registry
from aether.memory.testing import MemoryHarness

class Forgetful(StoreWrapper):
    async def append(self, writes, *, transaction=None):
        return 1

registry.default_registry = lambda made=registry_with(Forgetful): made
import aether.conformance.runner
aether.conformance.runner.default_registry = registry.default_registry

class Forgets(MemoryHarness):
    deadline = 0.5
"""
    )
    return "forgetful"


def test_workers_share_the_cases(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "memory", "-k", "store.append", "-n", "2", "--report", str(tmp_path / "report")]

    assert main(arguments) == 4
    assert ran(tmp_path / "report") == {case_id for case_id in all_cases() if case_id.startswith("store.append")}
    assert "bringing up nodes" in capfd.readouterr().out


def test_report_repeats_the_command(tmp_path: Path) -> None:
    options = ["-k", "store.append.empty", "--time-factor", "2", "--seed", "7"]

    assert main(["run", "memory", *options, "--report", str(tmp_path / "report")]) == 4

    report = read(tmp_path / "report" / "report.json")
    assert report.command == "aether-conformance run memory -k store.append.empty --time-factor 2 --seed 7"
    assert (report.setting.seed, report.setting.time_factor) == (7, 2.0)


def test_deep_run_names_its_seed(tmp_path: Path) -> None:
    assert main(["run", "memory", "--deep", "-k", "store.append.empty", "--report", str(tmp_path / "report")]) == 4

    report = read(tmp_path / "report" / "report.json")
    assert f"--seed {report.setting.seed}" in report.command


def test_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules"]) == 0
    assert "store.append.race\n    Of N callers" in capsys.readouterr().out


# --- The README ---

README = (Path(__file__).parents[1] / "README.md").read_text()
SHOWN = re.findall(r"^    aether-conformance run (memory .*)$", README, re.MULTILINE)


@pytest.mark.parametrize("line", SHOWN)
def test_commands_of_the_readme(line: str) -> None:
    words = shlex.split(line)
    if "-k" not in words:  # where nothing has failed yet it runs everything, which other tests do
        words += ["-k", "store.append"]
    assert main(["run", *words]) in (0, 4)


def test_readme_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", capsys.readouterr().out.partition("options:")[2])) - {
        "-h",
        "--help",
    }

    assert [option for option in options if f"`{option}" not in README] == []
    assert len(SHOWN) >= 4


def test_python_of_the_readme_compiles() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)

    assert len(blocks) == 2
    for block in blocks:
        compile(block, "README.md", "exec")
