"""Checkpoints: claimed, fenced, moved in one round trip, and never beyond what was handled. In virtual time."""

import asyncio
from typing import Any

import pytest

from aether.core import (
    START,
    CheckpointMoved,
    Event,
    EventStore,
    OutcomeUnknown,
    Position,
    StaleToken,
    Unavailable,
)
from aether.core.projection import PARK, STOP, project
from aether.core.state import NewEvent, record


async def put(store: EventStore, *names: str) -> None:
    """`aX` is an event of type X of actor a."""
    for one in names:
        await record(store, one[0], NewEvent(type=one[1:]))


def test_claims_are_unique_and_fence(run):
    async def body(store, clock):
        await put(store, "aX", "aY")
        positions = [position async for position, _ in store.feed()]
        claims = await asyncio.gather(*(store.claim_checkpoint("c") for _ in range(10)))
        assert sorted(claim.token for claim in claims) == list(range(1, 11))
        await store.save_checkpoint("c", positions[0], token=10, expected=START)
        with pytest.raises(CheckpointMoved):
            await store.save_checkpoint("c", positions[1], token=10, expected=positions[1])
        with pytest.raises(StaleToken):
            await store.save_checkpoint("c", positions[1], token=9)
        assert await store.claim_checkpoint("c", token=20) == (positions[0], 20)
        with pytest.raises(StaleToken):
            await store.claim_checkpoint("c", token=19)
        assert await store.checkpoint_token("c") == 20
        assert await store.checkpoint_token("d") == 0

    run(body)


def test_a_checkpoint_whose_answer_was_lost_is_no_move(run):
    async def body(store, clock):
        await put(store, "aX")
        head = await store.head()
        save, lost = store.driver.save, [1]

        async def saved(*args: Any, **kwargs: Any) -> int:
            revision = await save(*args, **kwargs)
            if lost:
                lost.pop()
                raise OutcomeUnknown("save", reason="no answer")
            return revision

        store.driver.save = saved
        await store.save_checkpoint("c", head, token=1, expected=START)
        assert await store.checkpoint("c") == head

    run(body)


def counted(store: EventStore) -> list[str]:
    """What the driver is asked about slots, from now on."""
    driver: Any = store._driver
    asked: list[str] = []
    load, save = driver.load, driver.save

    async def loads(*arguments: Any) -> Any:
        asked.append("load")
        return await load(*arguments)

    async def saves(*arguments: Any, **more: Any) -> Any:
        asked.append("save")
        return await save(*arguments, **more)

    driver.load, driver.save = loads, saves
    return asked


def test_a_checkpoint_that_stands_where_it_was_left_is_moved_in_one_round_trip(run):
    async def body(store, clock):
        await put(store, *["aX"] * 4)
        one, two, three, four = [position async for position, _ in store.feed()]
        asked = counted(store)
        claim = await store.claim_checkpoint("c")
        asked.clear()
        await store.save_checkpoint("c", one, token=claim.token, expected=START)
        await store.save_checkpoint("c", two, token=claim.token)
        await store.save_checkpoint("c", three, token=claim.token + 1, expected=two)
        assert asked == ["save"] * 3
        with pytest.raises(StaleToken):
            await store.save_checkpoint("c", four, token=claim.token)
        with pytest.raises(CheckpointMoved):
            await store.save_checkpoint("c", four, token=claim.token + 1, expected=two)
        assert await store.checkpoint("c") == three

    run(body)


def test_a_checkpoint_that_somebody_else_has_moved_is_looked_at_again(run):
    async def body(store, clock):
        await put(store, *["aX"] * 3)
        one, two, three = [position async for position, _ in store.feed()]
        async with EventStore(store._driver, namespace="t") as other:
            await store.save_checkpoint("c", one, token=1)
            await other.save_checkpoint("c", two, token=1)
            with pytest.raises(CheckpointMoved):
                await store.save_checkpoint("c", three, token=1, expected=one)
            await store.save_checkpoint("c", three, token=1, expected=two)
            assert (await other.claim_checkpoint("c", token=7)).position == three
            with pytest.raises(StaleToken):
                await store.save_checkpoint("c", three, token=1, expected=three)
            await store.save_checkpoint("c", two, token=7)
            assert await other.checkpoint("c") == two

    run(body)


@pytest.mark.parametrize("stored", [True, False])
def test_a_move_from_where_it_was_left_whose_answer_was_lost_is_found_out(run, stored):
    async def body(store, clock):
        await put(store, "aX", "aX")
        one, two = [position async for position, _ in store.feed()]
        await store.save_checkpoint("c", one, token=1)
        save, lost = store.driver.save, [1]

        async def saved(*args: Any, **kwargs: Any) -> int:
            revision = await save(*args, **kwargs) if stored or not lost else 0
            if lost:
                lost.pop()
                raise OutcomeUnknown("save", reason="no answer")
            return revision

        store.driver.save = saved
        await store.save_checkpoint("c", two, token=1, expected=one)
        assert await store.checkpoint("c") == two

    run(body)


class Slow:
    """Saves checkpoints when it is told to."""

    def __init__(self, store: EventStore) -> None:
        self.save = store.save_checkpoint
        self.moves: list[Position] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        store.save_checkpoint = self  # type: ignore[assignment,method-assign]

    async def __call__(self, name: str, position: Position, **more: Any) -> None:
        self.moves.append(position)
        await self.gate.wait()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        await self.save(name, position, **more)


def test_the_next_events_are_handled_while_a_checkpoint_is_saved_and_no_more_than_those(run):
    async def body(store, clock):
        await put(store, *["aX"] * 6)
        positions = [position async for position, _ in store.feed()]
        slow, seen = Slow(store), []
        async with project(store, "p", lambda event: seen.append(event.version), on_error=STOP, batch=2) as running:
            while len(seen) < 4:
                await clock.sleep(0.1)
            await clock.sleep(100)
            assert (seen, slow.moves) == ([1, 2, 3, 4], [positions[1]])
            assert (await running.progress()).position == START
            slow.gate.set()
            await running.wait(positions[5], timeout=50)
        assert slow.moves[:3] == [positions[1], positions[3], positions[5]]

    run(body)


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_a_checkpoint_that_cannot_be_saved_makes_what_is_behind_it_come_again(run, batch):
    async def body(store, clock):
        await put(store, *["aX"] * 6)
        slow, seen = Slow(store), []
        slow.gate.set()
        slow.error = Unavailable("save", reason="no server")
        handler = lambda event: seen.append(event.version)  # noqa: E731
        async with project(store, "p", handler, on_error=STOP, batch=batch, clock=clock) as running:
            await running.caught_up(timeout=50)
        again = min(2 * batch, 6)
        assert seen == [*range(1, again + 1), 1, 2, 3, 4, 5, 6]

    run(body)


def test_who_was_superseded_hears_of_it_also_when_nothing_comes_any_more(run):
    async def body(store, clock):
        await put(store, "aX", "aX")
        slow = Slow(store)
        running = project(store, "p", lambda event: None, on_error=STOP)
        task = asyncio.create_task(running.run())
        while not slow.moves:
            await clock.sleep(0.1)
        await store.claim_checkpoint("aether/projection/p@1")
        slow.gate.set()
        with pytest.raises(StaleToken):
            await asyncio.wait_for(task, 10)
        assert await store.checkpoint("aether/projection/p@1") == START

    run(body)


def test_what_was_parked_is_behind_the_checkpoint_before_anything_else_is_handled(run):
    async def body(store, clock):
        await put(store, "aBAD", "bX", "cX")
        slow, seen = Slow(store), []

        def handler(event: Event) -> None:
            seen.append(event.actor_id)
            if event.type == "BAD":
                raise LookupError

        async with project(store, "p", handler, on_error=PARK, batch=1) as running:
            slow.gate.set()
            while not await running.parked():
                await clock.sleep(0.1)
            slow.gate.clear()
            before = list(seen)
            await clock.sleep(100)
            assert len(seen) <= len(before) + 1
            slow.gate.set()
            await running.caught_up(timeout=50)
        assert seen == ["a", "b", "c"]

    run(body)


def test_leaving_a_projection_leaves_no_checkpoint_under_way(run):
    async def body(store, clock):
        await put(store, "aX", "aX")
        slow = Slow(store)
        before = asyncio.all_tasks()
        async with project(store, "p", lambda event: None, on_error=STOP):
            while not slow.moves:
                await clock.sleep(0.1)
        assert asyncio.all_tasks() == before

    run(body)
