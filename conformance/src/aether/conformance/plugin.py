"""The pytest plugin: an option, and statuses of their own for cases that were not run.

pytest loads it in every run of an environment that has the suite installed: it imports nothing but pytest.
"""

from __future__ import annotations

import pytest

PROPERTY = "aether-conformance"
"""The name under which the report of a test carries what came of its case."""

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


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
    """Count a case that was not run as what it is, never as passed."""
    status, _ = _outcome(report)
    if report.when == "call" and status in _NOT_RUN:
        return status, _NOT_RUN[status], status.upper()
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was not run, and why."""
    for status in _NOT_RUN:
        for report in terminalreporter.stats.get(status, ()):
            terminalreporter.write_line(f"{status.upper()} {report.nodeid} ({_outcome(report)[1]})")


def _outcome(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str]:
    for name, value in report.user_properties if isinstance(report, pytest.TestReport) else ():
        if name == PROPERTY and isinstance(value, list | tuple):
            status, text = value
            return str(status), str(text)
    return "", ""
