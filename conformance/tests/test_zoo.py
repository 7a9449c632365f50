"""The suite itself is proved by broken backends: each one dies by the cases that it names, and a sound one does not."""

import asyncio
import gc
import importlib.util
import inspect
import warnings
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aether.conformance.harness import Harness
from aether.conformance.rules import Case, all_cases
from aether.conformance.runner import Session, Status
from aether.conformance.simulation import World
from aether.conformance.violations import SuiteError
from aether.conformance.wrappers import BusWrapper, RegisterWrapper, StoreWrapper
from aether.conformance.zoo import CoreMutant, Mutant, all_mutants, caught_by, core_mutants, registry_with, session_with
from aether.core.features import Feature
from aether.memory.testing import MemoryHarness
from aether.nats.testing import NatsHarness

MUTANTS: dict[str, Mutant] = {**all_mutants(), **core_mutants()}


class QuickHarness(MemoryHarness):
    """A mutant that never answers is found out sooner."""

    deadline = 1.0


class QuickServerHarness(NatsHarness):
    """As above, with the time that a server needs to come back."""

    deadline = 3.0


def _harness(mutant: object) -> Harness:
    return QuickServerHarness() if getattr(mutant, "needs_server", False) else QuickHarness()


@pytest.fixture
def swept() -> Iterator[None]:
    """What a mutant leaves behind is its own affair: it is not found in a later test."""
    yield
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


# --- Every mutant dies ---


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if caught_by(mutant)])
def test_mutant_dies_by_its_cases(
    name: str, record_property: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where histories are kept
    mutant = MUTANTS[name]
    with session_with(mutant, _harness(mutant)) as session:
        results = [session.run(all_cases()[case_id]) for case_id in caught_by(mutant)]

    for result in results:
        assert result.status is Status.FAIL, f"{result.case.id} does not notice {name}: {result}"
        assert "expected" in result.text
    record_property("zoo", (name, [result.case.id for result in results]))


def test_every_mutant_says_what_is_wrong_with_it() -> None:
    for name, mutant in MUTANTS.items():
        text = mutant.broken.__doc__ if isinstance(mutant, CoreMutant) else mutant.__doc__
        assert text, name


def test_every_mutant_dies_by_something() -> None:
    immortal = {n for n, m in MUTANTS.items() if not caught_by(m) and not (isinstance(m, CoreMutant) and m.found_by)}

    assert immortal == set()


def _proved_beside(case: Case) -> bool:
    """What breaks these is no wrapper of a driver: test_transaction.py and test_stopped.py prove each of them."""
    return Feature.CALLER_TRANSACTION in case.needs or case.rule.endswith(".timeout")


def test_every_case_kills_something() -> None:
    """A case that no mutant fails may not be able to fail at all."""
    proven = {case_id for mutant in MUTANTS.values() for case_id in caught_by(mutant)}
    unproven = [case.id for case in all_cases().values() if case.id not in proven and not _proved_beside(case)]

    assert unproven == [], f"no mutant breaks {', '.join(unproven)}: {len(unproven)} cases are unproven"


def test_mutants_name_cases_that_exist() -> None:
    named = {case_id for mutant in MUTANTS.values() for case_id in caught_by(mutant)}

    assert named <= set(all_cases())


# --- The core's own tests find the bugs of its elections ---

_CORE_TESTS = Path(__file__).parents[2] / "packages" / "aether-core" / "tests"


@cache
def _loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"core_{name}", _CORE_TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _core_test(name: str) -> Any:
    """A test of the core's elections and clusters, whichever module it is in."""
    everything: dict[str, Any] = {}
    for path in sorted([*_CORE_TESTS.glob("test_election*.py"), *_CORE_TESTS.glob("test_cluster*.py")]):
        everything |= vars(_loaded(path.stem))
    return everything[name]


def _arguments(test: Any) -> Iterator[dict[str, Any]]:
    """What pytest would call a test of the core with, once for each of its parameters."""
    fixtures = {"world": World, "new_world": lambda: World}
    wanted = [name for name in inspect.signature(test).parameters if name in fixtures]
    choices = []
    for mark in getattr(test, "pytestmark", []):
        names, values = mark.args
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
        choices.append([dict(zip(names, one if len(names) > 1 else [one], strict=True)) for one in values])
    for chosen in product(*choices):
        yield {name: fixtures[name]() for name in wanted} | {k: v for one in chosen for k, v in one.items()}


def _run_core_test(name: str) -> None:
    test = _core_test(name)
    for arguments in _arguments(test):
        test(**arguments)


_PAIRS_OF_THE_CORE = [(name, test) for name, mutant in core_mutants().items() for test in mutant.found_by]


@pytest.mark.parametrize(("name", "test"), _PAIRS_OF_THE_CORE)
def test_mutant_dies_by_tests_of_the_core(name: str, test: str, record_property: Any) -> None:
    with core_mutants()[name].applied(), pytest.raises((Exception, pytest.fail.Exception)):  # however it fails
        _run_core_test(test)
    record_property("zoo", (name, []))


@pytest.mark.parametrize("test", sorted({test for _, test in _PAIRS_OF_THE_CORE}))
def test_sound_core_passes_its_tests(test: str) -> None:
    _run_core_test(test)


# --- A sound backend lives ---


def test_wrapping_alone_breaks_nothing() -> None:
    with Session(MemoryHarness(), registry=registry_with(StoreWrapper, BusWrapper, RegisterWrapper)) as session:
        results = [session.run(case) for case in all_cases().values() if not case.machine]

    assert [result.text for result in results if result.status not in (Status.PASS, Status.NOT_CLAIMED)] == []


def test_what_a_mutant_of_the_core_replaces_comes_back() -> None:
    before = {name: vars(mutant.place)[mutant.name] for name, mutant in core_mutants().items()}
    for mutant in core_mutants().values():
        with mutant.applied():
            pass

    assert {name: vars(mutant.place)[mutant.name] for name, mutant in core_mutants().items()} == before


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
