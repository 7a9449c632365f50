"""The suite in somebody else's pytest: two lines, their settings, and everything that pytest can do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aether.conformance.report import Verdict, read
from aether.conformance.rules import all_cases

TWO_LINES = """
from aether.conformance import conformance
from aether.memory.testing import MemoryHarness

TestMemory = conformance(MemoryHarness)
"""

SETTINGS = """
[pytest]
addopts = --strict-markers --strict-config --import-mode=importlib
filterwarnings = error
xfail_strict = true
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    (tmp_path / "test_conformance.py").write_text(TWO_LINES)
    return tmp_path


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_two_lines_are_enough(project: Path) -> None:
    done = run(project, "-k", "store.append.empty or store.durability", "-v")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_conformance.py::TestMemory::test[store.append.empty] PASSED" in done.stdout
    assert "test_conformance.py::TestMemory::test[store.durability#restart] NOT-CLAIMED" in done.stdout
    assert "conformance of aether.memory.testing:MemoryHarness" in done.stdout
    assert "partial: nothing failed" in done.stdout


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_report(project: Path, workers: tuple[str, ...]) -> None:
    done = run(project, "-k", "bus.order or store.append.conflict#below", "--aether-report", "made", *workers)

    assert done.returncode == 0, done.stdout + done.stderr
    report = read(project / "made" / "report.json")
    assert report.verdict is Verdict.PARTIAL
    assert report.backend.title == "aether-memory 1.0.0"
    assert {"bus.order", "store.append.conflict#below"} == {case.id for case in report.cases if case.status == "pass"}
    assert report.command.startswith("pytest -k ")


def test_each_class_has_a_report(project: Path) -> None:
    (project / "test_other.py").write_text(
        TWO_LINES + "\nclass Other(MemoryHarness): ...\n\nTestOther = conformance(Other)\ndel TestMemory\n"
    )

    run(project, "-k", "bus.order", "--aether-report", "made")

    assert len(list(project.glob("made/*/report.json"))) == 2


def test_classes_of_one_harness_have_a_report_each(project: Path) -> None:
    (project / "test_other.py").write_text(TWO_LINES)

    run(project, "-k", "bus.order", "--aether-report", "made")

    assert len(list(project.glob("made/*/report.json"))) == 2


def test_report_that_cannot_be_written_is_said(project: Path) -> None:
    (project / "file").touch()

    done = run(project, "-k", "bus.order", "--aether-report", "file")

    assert done.returncode == 3
    assert "the report cannot be written to file" in done.stdout
    assert "partial: nothing failed" in done.stdout


def test_harness_that_does_not_start_is_said_once(project: Path) -> None:
    (project / "test_conformance.py").write_text(
        "from aether.conformance import Harness, conformance\n"
        "class Bad(Harness): ...\n"
        "TestBad = conformance(Bad)\n"
        "def test_other(): ...\n"
    )

    done = run(project)

    assert done.returncode == 1
    assert f"1 failed, 1 passed, {len(all_cases()) - 1} not-run" in done.stdout
    assert "Bad.start() has to start a server and return its URL" in done.stdout
    assert "no verdict" in done.stdout


def test_other_tests_are_left_alone(project: Path) -> None:
    (project / "test_conformance.py").write_text(
        "import pytest\n"
        "class Thing:\n    id = 'store.append.empty'\n"
        "@pytest.mark.parametrize('case', [Thing()])\n"
        "def test(case): ...\n"
    )

    done = run(project, "--aether-report", "made")

    assert done.returncode == 0
    assert "conformance of" not in done.stdout
    assert not (project / "made").exists()


def test_plugin_imports_nothing_but_pytest(project: Path) -> None:
    (project / "test_conformance.py").write_text(
        "import sys\n"
        "def test():\n"
        "    loaded = [name for name in sys.modules if name.startswith(('aether.core.', 'msgspec', 'hypothesis.'))]\n"
        "    assert loaded == ['aether.core.pytest_plugin']  # which has nothing but fixtures\n"
    )

    done = run(project, "-p", "no:hypothesispytest")

    assert done.returncode == 0, done.stdout
