"""The pytest plugin: options, statuses of their own for cases that were not run, and the report.

pytest loads it in every run of an environment that has the suite installed: it imports nothing but pytest until there
is a result to report.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest

if TYPE_CHECKING:
    from aether.conformance.report import Report

PROPERTY = "aether-conformance"
"""The name under which the report of a test carries what came of its case."""

LAST_WORDS = pytest.StashKey[TextIO]()
"""Where the watchdog writes: stderr as it was before pytest captured it."""

REPORTS = pytest.StashKey["list[Report]"]()
"""The reports of the run, once its summary has been shown."""

_RESULTS = pytest.StashKey["dict[str, list[dict[str, Any]]]"]()
"""What came of the cases, by target."""

_NOT_RUN = {"not-claimed": "c", "not-testable": "t"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aether-conformance")
    group.addoption(
        "--aether-time-factor",
        type=float,
        default=1.0,
        metavar="F",
        help="multiply every bound and lease of the conformance suite, on slow machines",
    )
    group.addoption("--aether-report", metavar="DIR", help="write the report of each conformance class into DIR")
    group.addoption("--aether-deep", action="store_true", help="let the machines play ten times as long, at random")
    group.addoption("--aether-seed", type=int, metavar="N", help="play the games of a seed that was printed before")
    group.addoption("--aether-target", help=argparse.SUPPRESS)  # of the command, as the next one
    group.addoption("--aether-select", default="", help=argparse.SUPPRESS)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RESULTS] = {}
    config.stash[LAST_WORDS] = os.fdopen(os.dup(2), "w")
    # A worker gets the options of the process that started it, so all play the same games.
    if config.getoption("--aether-deep") and config.getoption("--aether-seed") is None:
        config.option.aether_seed = random.SystemRandom().randrange(1 << 32)
    # pytest's expressions know no "#", so `-k 'store.append.conflict#below'` looks for the name that is added below.
    config.option.keyword = str(config.getoption("keyword")).replace("#", "/")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[LAST_WORDS].close()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a case be selected by its whole id."""
    item.extra_keyword_matches.add(_case_id(item).replace("#", "/"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the command was not asked for."""
    wanted: Any = config.getoption("--aether-select")
    if not wanted:
        return
    left_out = [item for item in items if wanted not in _case_id(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if wanted in _case_id(item)]


def _case_id(item: pytest.Item) -> str:
    callspec: Any = getattr(item, "callspec", None)
    return str(getattr(callspec.params.get("case"), "id", "")) if callspec else ""


# --- Results ---


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
    """Count a case that was not run as what it is, never as passed."""
    status = _outcome(report).get("status", "")
    if report.when == "call" and status in _NOT_RUN:
        return status, _NOT_RUN[status], status.upper()
    return None


class _Collector:
    """Hears of every test, also of those that ran in a worker."""

    def __init__(self, results: dict[str, list[dict[str, Any]]]) -> None:
        self._results = results

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = _outcome(report)
        if report.when == "call" and outcome:
            self._results.setdefault(outcome["session"]["target"], []).append(outcome)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(_Collector(session.config.stash[_RESULTS]))


def _outcome(report: pytest.CollectReport | pytest.TestReport) -> dict[str, Any]:
    for name, value in report.user_properties if isinstance(report, pytest.TestReport) else ():
        if name == PROPERTY and isinstance(value, dict):
            return value
    return {}


# --- The report ---


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the verdict of each class, and what was not run; write the reports."""
    results = config.stash[_RESULTS]
    for target, outcomes in results.items():
        try:
            from aether.conformance.report import Report, made, table, write
        except ImportError:
            for o in outcomes:
                if o["status"] in _NOT_RUN:
                    terminalreporter.write_line(f"{o['status'].upper()} {o['case']} ({o['text']})")
            continue

        report: Report = made(outcomes, command=_command(config, target))
        config.stash.setdefault(REPORTS, []).append(report)
        terminalreporter.section(f"conformance of {target}")
        terminalreporter.write(table(report) + "\n")
        if directory := config.getoption("--aether-report"):
            folder = Path(str(directory))
            written = write(report, folder if len(results) == 1 else folder / _folder(target))
            terminalreporter.write_line(f"report: {written[0].parent}")


def _folder(target: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in target).strip("-")


def _command(config: pytest.Config, target: str) -> str:
    if config.getoption("--aether-target"):
        return f"aether-conformance run {target}"
    return "pytest " + " ".join(config.invocation_params.args) if config.invocation_params.args else "pytest"
