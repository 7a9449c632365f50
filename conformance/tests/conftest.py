"""What a run says at its end: what the zoo has proved, and what was not tested because it is not installed."""

from typing import Any

import pytest

from aether.conformance.rules import all_cases
from aether.core.errors import BackendUnusable
from aether.sql.servers import find_mariadb


class _Proofs:
    """Hears of every mutant that died, also of those that died in a worker."""

    def __init__(self) -> None:
        self.mutants: set[str] = set()
        self.pairs: set[tuple[str, str]] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties: dict[str, Any] = dict(report.user_properties)
        if report.when == "call" and report.passed and "zoo" in properties:
            name, cases = properties["zoo"]
            self.mutants.add(name)
            self.pairs.update((name, case_id) for case_id in cases)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.mutants:
            proven = len({case_id for _, case_id in self.pairs})
            terminalreporter.section("zoo")
            terminalreporter.write_line(
                f"{len(self.mutants)} mutants died in {len(self.pairs)} pairs; "
                f"{proven} of {len(all_cases())} cases are proven"
            )


class _Missing:
    """Names what no wheel brings, and this machine has not."""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        try:
            find_mariadb()
        except BackendUnusable as error:
            terminalreporter.section("not tested", red=True)
            terminalreporter.write_line(f"MariaDB: {error}")


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(_Proofs())
    session.config.pluginmanager.register(_Missing())
