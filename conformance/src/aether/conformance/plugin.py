"""The pytest plugin: options, statuses of their own for cases that were not run, and the report.

pytest loads it in every run of an environment that has the suite installed: it imports nothing but pytest until there
is something to report.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest

if TYPE_CHECKING:
    from aether.conformance.report import Report

PROPERTY = "aether-conformance"
"""The name under which the report of a test carries its case, and what came of it."""

RECOGNISED = "__aether_conformance__"
"""The attribute that tells a class of the suite from others."""

LAST_WORDS = pytest.StashKey[TextIO]()
"""Where the watchdog writes: stderr as it was before pytest captured it."""

_COLLECTOR = pytest.StashKey["Collector"]()
_IMPORT_SECONDS = 60.0  # that the module of a harness may take to import

_PHASES = ("setup", "call", "teardown")
_NOT_RUN = {"not-claimed": "c", "not-testable": "t", "not-run": "n"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aether-conformance")
    group.addoption(
        "--aether-time-factor",
        type=_positive,
        default=1.0,
        metavar="F",
        help="multiply every bound and lease of the conformance suite, on slow machines",
    )
    group.addoption("--aether-report", metavar="DIR", help="write the report of each conformance class into DIR")
    group.addoption("--aether-deep", action="store_true", help="let the machines play ten times as long, at random")
    group.addoption("--aether-seed", type=int, metavar="N", help="play the games of a seed that was printed before")
    group.addoption("--aether-target", help=argparse.SUPPRESS)  # of the command, as the next one
    group.addoption("--aether-journal", help=argparse.SUPPRESS)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no factor; give a number above 0")
    return number


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LAST_WORDS] = os.fdopen(os.dup(2), "w")
    # A worker gets the options of the process that started it, so all play the same games.
    if config.getoption("--aether-deep") and config.getoption("--aether-seed") is None:
        config.option.aether_seed = random.SystemRandom().randrange(1 << 32)
    # pytest's expressions know no "#", so `-k 'store.append.conflict#below'` looks for the name that is added below.
    config.option.keyword = str(config.getoption("keyword")).replace("#", "/")
    if not hasattr(config, "workerinput"):
        _check_target(config)
        collector = Collector(config.getoption("--aether-journal"))
        config.stash[_COLLECTOR] = collector
        config.pluginmanager.register(collector)


def _check_target(config: pytest.Config) -> None:
    """Say what is wrong with the command's target once, before anything is started."""
    target: Any = config.getoption("--aether-target")
    if target is None:
        return
    from aether.conformance.targets import find_harness
    from aether.conformance.violations import SuiteError
    from aether.conformance.watchdog import Stuck, watchdog

    factor: Any = config.getoption("--aether-time-factor")
    try:
        with watchdog(max(factor, 1.0) * _IMPORT_SECONDS, last_words=config.stash[LAST_WORDS]):
            find_harness(target)
    except (SuiteError, Stuck) as error:
        raise pytest.UsageError(str(error)) from error


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[LAST_WORDS].close()
    if _COLLECTOR in config.stash:
        config.stash[_COLLECTOR].close()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let the reports of a case say that they are of one, and let it be selected by its whole id."""
    callspec: Any = getattr(item, "callspec", None)
    if callspec and getattr(getattr(item, "cls", None), RECOGNISED, False):
        case_id = callspec.params["case"].id
        item.user_properties.append((PROPERTY, {"case": case_id}))
        item.extra_keyword_matches.add(case_id.replace("#", "/"))


# --- Results ---


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
    """Count a case that was not run as what it is, never as passed."""
    said = _said(report)
    status = said.get("status", "")
    if report.when != "call" or not report.passed:
        return None
    if status in _NOT_RUN:
        return status, _NOT_RUN[status], status.upper()
    if status not in ("", "pass"):
        return "provisional", "p", "PROVISIONAL"
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Called by xdist, in the process that gives work to a worker."""
    node.send_runtest_some = _to_the_living(node.send_runtest_some)


def _to_the_living(send: Callable[[Sequence[int]], None]) -> Callable[[Sequence[int]], None]:
    """Send work to a worker, unless it has just died: xdist would end the whole run, a moment before it hears of it.

    What was meant for the worker is given to others when it does.
    """

    def sent(indices: Sequence[int]) -> None:
        with suppress(OSError):
            send(indices)

    return sent


class Collector:
    """Hears of every test, also of those that ran in a worker, and keeps a journal of the cases among them."""

    def __init__(self, journal: object) -> None:
        self.entries: list[dict[str, Any]] = []
        self.reports: list[tuple[Report, Path | None]] = []
        self.failed = ""
        """Why there are no files of a report."""

        self._classes: set[str] = set()
        self._running: dict[str, str] = {}
        self._file = Path(str(journal)).open("a", encoding="utf-8") if journal else None  # noqa: SIM115  (see close)

    @property
    def has_journal(self) -> bool:
        """Whether another process reports."""
        return self._file is not None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        of = report.nodeid.rpartition("::")[0]
        said = _said(report)
        if said:
            self._classes.add(of)
        elif of not in self._classes:
            return
        if report.when == "setup" and report.passed:
            self._running[report.nodeid] = said["case"]
            self._keep({"what": "began", "of": of, **said})
        elif report.when == "call" and "status" in said:
            self._running.pop(report.nodeid, None)
            self._keep({"what": "ended", "of": of, **said})
        elif report.failed:
            case_id = self._running.pop(report.nodeid, None)
            if report.when in _PHASES or case_id is None:
                self._keep({**said, "what": "error", "when": report.when, "of": of, "text": _shown(report)})
            else:  # the report of a worker that crashed has no phase
                self._keep({"what": "died", "of": of, "case": case_id})

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        # xdist ends a run with an exception of a derived class, for `-x` and after many crashes.
        self._keep({"what": "interrupted" if excinfo.type is KeyboardInterrupt else "stopped"})

    def close(self) -> None:
        """Say that nothing comes any more."""
        self._keep({"what": "closed"})
        if self._file is not None:
            self._file.close()

    def _keep(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()


def _shown(report: pytest.TestReport) -> str:
    from aether.conformance.redaction import printable, without_secrets

    return without_secrets(printable(report.longreprtext))


def _said(report: pytest.CollectReport | pytest.TestReport) -> dict[str, Any]:
    properties = report.user_properties if isinstance(report, pytest.TestReport) else []
    for name, value in reversed(properties):
        if name == PROPERTY and isinstance(value, dict):
            return value
    return {}


# --- The report ---


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report of each class."""
    collector = session.config.stash.get(_COLLECTOR, None)
    if collector is None or collector.has_journal or not collector.entries:
        return
    from aether.conformance.report import folders, reports, write
    from aether.conformance.violations import SuiteError

    directory: Any = session.config.getoption("--aether-report")
    made = reports(collector.entries, command=_command(session.config))
    for report, name in zip(made, folders([report.backend.target for report in made]), strict=True):
        place = Path(directory) / name if directory else None
        try:
            if place is not None:
                write(report, place)
        except SuiteError as error:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
            collector.failed, place = str(error), None
        collector.reports.append((report, place))


def _command(config: pytest.Config) -> str:
    from aether.core.url import redact

    arguments = [redact(each) if "://" in each else each for each in config.invocation_params.args]
    return shlex.join(["pytest", *arguments])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the verdict of each class, and what was not run."""
    collector = config.stash.get(_COLLECTOR, None)
    for report, place in collector.reports if collector else ():
        from aether.conformance.report import table

        terminalreporter.section(f"conformance of {report.backend.target}")
        terminalreporter.write(table(report) + "\n")
        if place is not None:
            terminalreporter.write_line(f"report: {place / 'index.html'}")
    if collector and collector.failed:
        terminalreporter.write_line(collector.failed, red=True)
