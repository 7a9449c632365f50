"""`conformance(MyHarness)`: a pytest class with one test per case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aether.conformance.harness import Harness
from aether.conformance.plugin import LAST_WORDS, PROPERTY, RECOGNISED
from aether.conformance.redaction import printable, without_secrets
from aether.conformance.rules import Case, all_cases
from aether.conformance.runner import Session
from aether.conformance.status import Result, Status
from aether.conformance.violations import SuiteError


class NoSession:
    """Stands for a session that did not start: no case is run."""

    def __init__(self, target: str, error: str) -> None:
        self._target = target
        self._error = error
        self._told = False

    def settle(self, case: Case) -> Result:
        """The reason, once; after that the cases are not run."""
        status = Status.NOT_RUN if self._told else Status.SUITE_ERROR
        self._told = True
        return Result(case, status, self._error)

    def facts(self) -> dict[str, Any]:
        """What is known without a server."""
        return {"target": self._target, "error": self._error}


def make_class(harness: Callable[[pytest.Config], Callable[[], Harness]]) -> type:
    """A class for a test module, over the harness that is made in each process that runs tests of it.

    Its test is a plain function, so no async plugin is needed, and `-k`, `--lf`, `-x` and `-n` work as usual. There is
    one server for the class, in each worker.
    """

    class Conformance:
        @pytest.fixture(scope="class")
        @classmethod
        def session(cls, request: pytest.FixtureRequest) -> Iterator[Session | NoSession]:
            session = _started(harness(request.config), request.config)
            yield session
            if problem := _ended(session):  # pytest would show the causes of an error, with the secrets in them
                pytest.fail(problem, pytrace=False)

        @pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in all_cases().values()])
        def test(
            self,
            case: Case,
            session: Session | NoSession,
            record_property: Callable[[str, object], None],
        ) -> None:
            result = session.settle(case)
            record_property(PROPERTY, _described(result, session.facts()))
            if result.status in (Status.FAIL, Status.SUITE_ERROR) and not case.provisional:
                pytest.fail(result.text, pytrace=False)

    setattr(Conformance, RECOGNISED, True)
    return Conformance


def _started(make: Callable[[], Harness], config: pytest.Config) -> Session | NoSession:
    factor: Any = config.getoption("--aether-time-factor")
    seed: Any = config.getoption("--aether-seed")
    try:
        made = make()
    except Exception as error:  # noqa: BLE001  (it is an author's code)
        name = getattr(make, "__qualname__", repr(make))
        text = f"the harness {name} cannot be made: {type(error).__name__}: {error}"
        return NoSession(name, without_secrets(printable(text)))
    session = Session(made, time_factor=factor, seed=seed, last_words=config.stash.get(LAST_WORDS, None))
    try:
        return session.__enter__()
    except SuiteError as error:
        return NoSession(made.target, str(error))


def _ended(session: Session | NoSession) -> str:
    """Stop the server of a session, and return why it did not stop."""
    try:
        if isinstance(session, Session):
            session.__exit__(None, None, None)
    except SuiteError as error:
        return str(error)
    return ""


def _described(result: Result, facts: dict[str, Any]) -> dict[str, Any]:
    """A result as plain values: they may have to travel from a worker to the process that reports."""
    return {
        "case": result.case.id,
        "status": str(result.status),
        "text": result.text,
        "seconds": round(result.seconds, 4),
        "provisional": result.case.provisional,
        "session": facts,
    }
