"""`conformance(MyHarness)`: a pytest class with one test per case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aether.conformance.harness import Harness
from aether.conformance.plugin import PROPERTY
from aether.conformance.rules import Case, all_cases
from aether.conformance.runner import Session, Status


def make_class(harness: type[Harness]) -> type:
    """A class for a test module: `TestMyDb = conformance(MyDbHarness)`.

    Its test is a plain function, so no async plugin is needed, and `-k`, `--lf`, `-x` and `-n` work as usual. There is
    one server for the class, in each worker.
    """

    class Conformance:
        @pytest.fixture(scope="class")
        @classmethod
        def session(cls, request: pytest.FixtureRequest) -> Iterator[Session]:
            factor: Any = request.config.getoption("--aether-time-factor")
            with Session(harness(), time_factor=factor) as session:
                yield session

        @pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in all_cases().values()])
        def test(self, case: Case, session: Session, record_property: Callable[[str, object], None]) -> None:
            result = session.run(case)
            record_property(PROPERTY, [str(result.status), result.text])
            if result.status in (Status.FAIL, Status.SUITE_ERROR):
                pytest.fail(result.text, pytrace=False)

    Conformance.__doc__ = f"The conformance of {harness.__name__}."
    return Conformance
