"""`conformance(MyHarness)`: a pytest class with one test per case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aether.conformance.harness import Harness
from aether.conformance.plugin import LAST_WORDS, PROPERTY
from aether.conformance.rules import Case, all_cases
from aether.conformance.runner import Result, Session, Status
from aether.conformance.violations import SuiteError


class NoSession:
    """Stands for a session that did not start: no case was run."""

    def __init__(self, harness: Harness, error: SuiteError) -> None:
        self._harness = harness
        self._text = str(error)

    def run(self, case: Case) -> Result:
        """The reason, once; then that it was told."""
        text, self._text = self._text, "the harness did not start, as said above"
        return Result(case, Status.SUITE_ERROR, text)

    def facts(self) -> dict[str, Any]:
        """What is known without a server."""
        return {"target": self._harness.target}


def make_class(harness: Callable[[pytest.Config], Harness]) -> type:
    """A class for a test module, over the harness that is made in each process that runs tests of it.

    Its test is a plain function, so no async plugin is needed, and `-k`, `--lf`, `-x` and `-n` work as usual. There is
    one server for the class, in each worker.
    """

    class Conformance:
        @pytest.fixture(scope="class")
        @classmethod
        def session(cls, request: pytest.FixtureRequest) -> Iterator[Session | NoSession]:
            made = harness(request.config)
            try:
                session = _session(made, request.config).__enter__()
            except SuiteError as error:
                yield NoSession(made, error)
                return
            try:
                yield session
            finally:
                session.__exit__(None, None, None)

        @pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in all_cases().values()])
        def test(
            self,
            case: Case,
            session: Session | NoSession,
            request: pytest.FixtureRequest,
            record_property: Callable[[str, object], None],
        ) -> None:
            result = session.run(case)
            if isinstance(session, NoSession) and request.config.getoption("--aether-target"):
                request.session.shouldstop = "the harness did not start"
            record_property(PROPERTY, _described(result, session.facts()))
            if result.status in (Status.FAIL, Status.SUITE_ERROR):
                pytest.fail(result.text, pytrace=False)

    return Conformance


def _session(harness: Harness, config: pytest.Config) -> Session:
    factor: Any = config.getoption("--aether-time-factor")
    seed: Any = config.getoption("--aether-seed")
    return Session(harness, time_factor=factor, seed=seed, last_words=config.stash.get(LAST_WORDS, None))


def _described(result: Result, facts: dict[str, Any]) -> dict[str, Any]:
    """A result as plain values: they may have to travel from a worker to the process that reports."""
    return {
        "case": result.case.id,
        "status": str(result.status),
        "text": result.text,
        "seconds": result.seconds,
        "session": facts,
    }
