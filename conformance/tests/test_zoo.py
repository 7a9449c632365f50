"""The suite itself is proved by broken backends: each one dies by the case that it names, and a sound one does not."""

import asyncio
from typing import Any

import pytest

from aether.conformance.harness import Harness
from aether.conformance.rules import all_cases
from aether.conformance.runner import Session, Status
from aether.conformance.violations import SuiteError
from aether.conformance.wrappers import BusWrapper, RegisterWrapper, StoreWrapper
from aether.conformance.zoo import all_mutants, caught_by, registry_with
from aether.memory.testing import MemoryHarness

MUTANTS = all_mutants()


class QuickHarness(MemoryHarness):
    """A mutant that never answers is found out sooner."""

    deadline = 1.0


_PAIRS = [(name, case_id) for name, mutant in MUTANTS.items() for case_id in caught_by(mutant)]


@pytest.mark.parametrize(("name", "case_id"), _PAIRS)
def test_mutant_dies_by_its_case(name: str, case_id: str) -> None:
    with Session(QuickHarness(), registry=registry_with(MUTANTS[name])) as session:
        result = session.run(all_cases()[case_id])

    assert result.status is Status.FAIL, f"{case_id} does not notice {name}: {result}"
    assert "expected" in result.text


@pytest.mark.parametrize("kind", [StoreWrapper, BusWrapper, RegisterWrapper])
def test_wrapping_alone_breaks_nothing(kind: type) -> None:
    ids = {case_id for mutant in MUTANTS.values() if issubclass(mutant, kind) for case_id in caught_by(mutant)}
    with Session(QuickHarness(), registry=registry_with(kind)) as session:
        results = [session.run(all_cases()[case_id]) for case_id in sorted(ids)]

    assert [result.text for result in results if result.status is Status.FAIL] == []


# --- What is wrong with a backend as a whole ---


class ImpatientHarness(MemoryHarness):
    """A case that hangs ends after six deadlines."""

    deadline = 0.1


class Hangs(StoreWrapper):
    async def head(self) -> Any:
        await asyncio.Event().wait()


def test_backend_that_hangs_is_a_violation_and_the_session_goes_on() -> None:
    with Session(ImpatientHarness(), registry=registry_with(Hangs)) as session:
        hanging = session.run(all_cases()["store.namespace#head"])
        after = session.run(all_cases()["store.append.empty"])

    assert (hanging.status, after.status) == (Status.FAIL, Status.PASS)
    assert "it did not happen" in hanging.text


class DoesNotStart(Harness):
    stopped = False

    async def start(self) -> str:
        raise RuntimeError("no such server")

    async def stop(self) -> None:
        self.stopped = True


def test_harness_that_does_not_start_is_a_suite_error_and_is_stopped() -> None:
    harness = DoesNotStart()

    with pytest.raises(SuiteError, match="no such server"), Session(harness):
        pass

    assert harness.stopped
