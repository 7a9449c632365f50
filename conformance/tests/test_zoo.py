"""The suite itself is proved by broken backends: each one dies by the case that it names, and a sound one does not."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import pluggy
import pytest

from aether.conformance.harness import Harness
from aether.conformance.rules import all_cases
from aether.conformance.runner import Session, Status
from aether.conformance.violations import SuiteError
from aether.conformance.wrappers import BusWrapper, RegisterWrapper, StoreWrapper
from aether.core.hookspecs import PROJECT
from aether.core.registry import Registry
from aether.memory.testing import MemoryHarness


def _zoo() -> Iterator[tuple[str, type[Any]]]:
    """The broken backends: classes in `zoo/` that say what they are caught by."""
    # Test modules cannot import each other in importlib mode, and the zoo is no part of the package.
    for path in sorted(Path(__file__).with_name("zoo").glob("*.py")):
        for name, kind in run_path(str(path), run_name=f"zoo.{path.stem}").items():
            if isinstance(kind, type) and "caught_by" in vars(kind):
                yield name, kind


MUTANTS = dict(_zoo())


class QuickHarness(MemoryHarness):
    """A mutant that never answers is found out sooner."""

    deadline = 1.0


def _registry(mutant: type) -> Registry:
    """A registry in which whatever is opened is wrapped by the mutant."""
    wrapper = pluggy.HookimplMarker(PROJECT)(wrapper=True)

    class Wraps:
        @wrapper
        def aether_open_store(self) -> Iterator[Any]:
            driver = yield
            return mutant(driver) if issubclass(mutant, StoreWrapper) else driver

        @wrapper
        def aether_open_bus(self) -> Iterator[Any]:
            driver = yield
            return mutant(driver) if issubclass(mutant, BusWrapper) else driver

        @wrapper
        def aether_open_election(self) -> Iterator[Any]:
            driver = yield
            return mutant(driver) if issubclass(mutant, RegisterWrapper) else driver

    registry = Registry()
    registry.observe(Wraps())
    return registry


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_dies_by_its_case(name: str) -> None:
    mutant = MUTANTS[name]
    with Session(QuickHarness(), registry=_registry(mutant)) as session:
        result = session.run(all_cases()[mutant.caught_by])

    assert result.status is Status.FAIL, f"{mutant.caught_by} does not notice {name}: {result}"
    assert "expected" in result.text


@pytest.mark.parametrize("kind", [StoreWrapper, BusWrapper, RegisterWrapper])
def test_wrapping_alone_breaks_nothing(kind: type) -> None:
    ids = {mutant.caught_by for mutant in MUTANTS.values() if issubclass(mutant, kind)}
    with Session(QuickHarness(), registry=_registry(kind)) as session:
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
    with Session(ImpatientHarness(), registry=_registry(Hangs)) as session:
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
