"""The machines: what they say about broken backends, broken references and backends that change their mind."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from aether.conformance.machines.bench import Bench, play
from aether.conformance.machines.bus import BusGame
from aether.conformance.machines.names import FAMILIES
from aether.conformance.machines.rate import bench_of, killed, machine_for
from aether.conformance.machines.register import RegisterGame
from aether.conformance.machines.store import StoreGame
from aether.conformance.reference import references
from aether.conformance.rules import all_cases
from aether.conformance.runner import Session, Status
from aether.conformance.violations import SuiteError, Violation
from aether.conformance.wrappers import BusWrapper, RegisterWrapper, StoreWrapper
from aether.conformance.zoo import DriverMutant, all_mutants, registry_with, unseen
from aether.core import VersionConflict
from aether.core.registry import default_registry
from aether.core.spi import Entry, Page, Write
from aether.memory.testing import MemoryHarness

MACHINES = [StoreGame, BusGame, RegisterGame]


@contextmanager
def bench_with(
    candidate: DriverMutant | None = None, reference: DriverMutant | None = None, **changes: Any
) -> Iterator[Bench]:
    """A bench over memory, with the model as one of two references."""
    registry = default_registry() if candidate is None else registry_with(candidate)
    with bench_of(registry, seed=0) as bench, bench_of(registry_with(reference or StoreWrapper), seed=0) as other:
        second = bench.run(_started(other))
        changes = {"games": 60, "shrink_seconds": 5.0, **changes}
        yield replace(bench, references=(*bench.references, second), **changes)


async def _started(other: Bench) -> Any:
    return other.candidate


# --- Sound backends ---


@pytest.mark.parametrize("game", MACHINES)
def test_sound_backend_passes(game: type) -> None:
    with bench_with() as bench:
        assert play(bench, game) >= bench.games


def test_games_are_the_same_each_time_and_others_with_another_seed() -> None:
    series: list[list[str]] = []

    class Watched(StoreGame):
        def teardown(self) -> None:
            series[-1].extend(self._transcript.lines)
            super().teardown()

    for seed in (None, None, 7):
        series.append([])
        with bench_with(games=5) as bench:
            play(replace(bench, seed=seed), Watched)

    assert series[0] == series[1] != series[2]
    assert len(series[0]) > 20


# --- Broken ones ---


class CountsOneTooMany(StoreWrapper):
    """Tells a conflict by one version too many."""

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        try:
            return await self.inner.append(writes)
        except VersionConflict as conflict:
            raise VersionConflict(
                conflict.actor_id, attempted=conflict.attempted, current=conflict.current + 1
            ) from None


def test_violation_is_the_shortest_series_of_calls_and_both_answers() -> None:
    with bench_with(CountsOneTooMany) as bench, pytest.raises(Violation) as caught:
        play(bench, StoreGame)

    expected, found = caught.value.expected, caught.value.found
    assert expected.startswith("every call of this series to be answered as memory and memory answer it:\n1. ")
    _, *calls = expected.splitlines()
    assert len(calls) <= 4
    assert re.match(rf"{len(calls)}\. .*append .* -> .*VersionConflict\(current=\d\)$", calls[-1])
    assert re.fullmatch(rf"call {len(calls)} -> .*VersionConflict\(current=\d\)", found)


class SwapsAccents(RegisterWrapper):
    async def read(self, name: str) -> Entry | None:
        found = await self.inner.read(name.replace("e\u0301", "\u00e9"))
        return found and found._replace(name=name)


def test_related_names_are_tried_together() -> None:
    with bench_with(SwapsAccents) as bench, pytest.raises(Violation, match=r"read 'e\\u0301'"):
        play(bench, RegisterGame)


def test_every_hostile_name_has_a_relative_or_is_drawn_alone() -> None:
    assert all(2 <= len(family) <= 5 for families in FAMILIES for family in families)
    assert all(families for families in FAMILIES)


class Blunders(StoreWrapper):
    async def version(self, actor_id: str) -> int:
        raise KeyError(actor_id)


def test_error_that_is_no_answer_is_a_violation() -> None:
    with bench_with(Blunders) as bench, pytest.raises(Violation, match=r"found .*KeyError"):
        play(bench, StoreGame)


class Hangs(StoreWrapper):
    async def head(self) -> Any:
        await asyncio.Event().wait()


def test_call_that_hangs_is_a_violation_that_names_it() -> None:
    with bench_with(Hangs, deadline=1.0, shrink_seconds=0) as bench, pytest.raises(Violation) as caught:
        play(bench, StoreGame)

    assert re.search(r"\d+\. .*(feed|head|checkpoint|subscribe).* -> ", caught.value.expected)
    assert caught.value.found.endswith("-> no answer within 1 s")


# --- What is not the backend's fault ---


class WrongModel(StoreWrapper):
    async def version(self, actor_id: str) -> int:
        return 3


def test_references_that_disagree_are_an_error_of_the_suite() -> None:
    with bench_with(reference=WrongModel) as bench, pytest.raises(SuiteError) as caught:
        play(bench, StoreGame)

    assert re.search(r"the references disagree about call \d+: memory -> \d+.*; memory -> 3", str(caught.value))


def test_reference_that_blunders_is_an_error_of_the_suite() -> None:
    with bench_with(reference=Blunders) as bench, pytest.raises(SuiteError, match="memory answers call"):
        play(bench, StoreGame)


class ChangesItsMind(StoreWrapper):
    """Loses an event of the feed, once in the process's life."""

    lost = count()

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page = await self.inner.feed(after=after, upto=upto, limit=limit)
        return page if len(page.records) < 3 or next(self.lost) else Page(page.records[1:], page.more)


def test_answers_that_differ_between_identical_runs_are_a_violation_with_both() -> None:
    with bench_with(ChangesItsMind) as bench, pytest.raises(Violation) as caught:
        play(bench, StoreGame)

    assert caught.value.found == "answers differ between two identical runs"
    first, _, second = caught.value.expected.partition("\nand then:\n")
    assert first.startswith("the same answers to the same calls:\n1. ")
    assert second.startswith("1. ")


# --- In a session, with both references ---


class QuickHarness(MemoryHarness):
    deadline = 2.0


def test_session_reports_what_a_machine_found_and_how_to_see_it_again() -> None:
    with Session(QuickHarness(), registry=registry_with(CountsOneTooMany), seed=3) as session:
        result = session.run(all_cases()["store.same"])

    assert result.status is Status.FAIL
    assert "every call of this series to be answered as memory and nats answer it:" in result.text
    assert result.text.endswith("-k 'store.same' --seed 3")


def test_references_start_and_agree_that_nothing_is_there() -> None:
    async def heads() -> list[object]:
        async with references(1.0) as servers:
            found = []
            for server in servers:
                async with server.store("empty") as store:
                    found.append(str(await store.head()))
            return found

    assert asyncio.run(heads()) == ["start", "start"]


# --- The zoo ---

SEEN = sorted(name for name, mutant in all_mutants().items() if not unseen(mutant))


def test_machines_alone_kill_the_zoo() -> None:
    """With one seed; `make zoo` plays eight."""
    survivors = [name for name in SEEN if not killed(all_mutants()[name], seed=0)]

    assert len(survivors) <= 0.05 * len(SEEN), survivors


def test_what_no_machine_sees_says_why() -> None:
    reasons = {name: unseen(mutant) for name, mutant in all_mutants().items() if unseen(mutant)}

    assert all(len(reason.split()) > 3 for reason in reasons.values()), reasons


def test_each_kind_of_mutant_has_its_machine() -> None:
    kinds = {machine_for(kind) for kind in (StoreWrapper, BusWrapper, RegisterWrapper)}

    assert kinds == set(MACHINES)
