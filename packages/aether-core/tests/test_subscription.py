"""What subscriptions hold and ask for: a page ahead while they catch up, and nothing beside it. In virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aether.core import Closed, Event, EventStore, Subscription, Unavailable
from aether.core.spi import Stored, Tail
from aether.memory import MemoryStore, NamespaceSpace

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Slow(MemoryStore):
    """Takes a second for each page of a tail; a page that is cancelled meanwhile is not taken."""

    def __init__(self, *, fails_at: int = 0, pause: float = 1) -> None:
        super().__init__(NamespaceSpace())
        self.asked: list[int] = []
        self.under_way = 0
        self.fails_at = fails_at
        self.pause = pause

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        async with super().tail(after=after) as tail:
            yield _Slow(self, tail)


class _Slow:
    def __init__(self, store: Slow, tail: Tail) -> None:
        self._store = store
        self._tail = tail

    async def page(self, limit: int) -> Sequence[Stored]:
        store = self._store
        store.asked.append(limit)
        assert store.under_way == 0, "a tail is asked by one at a time"
        store.under_way += 1
        try:
            await asyncio.sleep(store.pause)
            if len(store.asked) == store.fails_at:
                raise Unavailable("page", reason="no server")
            return await self._tail.page(limit)
        finally:
            store.under_way -= 1


@asynccontextmanager
async def filled(driver: Slow, count: int) -> AsyncIterator[EventStore]:
    async with EventStore(driver, namespace="shop") as store:
        await store.append(*(Event(type="T", actor_id="a", version=version) for version in range(1, count + 1)))
        yield store


async def versions(events: Subscription, count: int) -> list[int]:
    """The next ones, each of which takes a quarter of a second."""
    found: list[int] = []
    while len(found) < count:
        found.append((await anext(events))[1].version)
        assert events.buffered < 8
        await asyncio.sleep(0.25)
    return found


def test_the_next_page_is_on_its_way_before_the_last_one_is_consumed(virtual: Run) -> None:
    async def main() -> None:
        driver = Slow()
        async with filled(driver, 20) as store, store.subscribe(buffer=8) as events:
            assert await versions(events, 6) == [1, 2, 3, 4, 5, 6]
            assert driver.asked == [8]
            assert await versions(events, 14) == list(range(7, 21))
            # Two were left when six were asked for, so that never more than eight are held.
            assert driver.asked == [8, 6, 6, 6]

    virtual(main())


def test_batches_are_asked_for_while_the_one_before_is_handled(virtual: Run) -> None:
    async def main() -> None:
        driver = Slow()
        clock = asyncio.get_running_loop().time
        async with filled(driver, 16) as store, store.subscribe(buffer=4) as events:
            for first in (1, 5, 9, 13):
                assert [event.version for _, event in await events.batch()] == list(range(first, first + 4))
                await asyncio.sleep(1)
                assert events.buffered in (0, 4)
            assert clock() == pytest.approx(5.0)

    virtual(main())


def test_what_is_live_is_not_asked_for_ahead(virtual: Run) -> None:
    async def main() -> None:
        driver = Slow()
        async with filled(driver, 3) as store, store.subscribe(buffer=4) as events:
            for version in (4, 5, 6):
                await events.batch()
                await store.append(Event(type="T", actor_id="a", version=version))
                await asyncio.sleep(10)
            assert (driver.asked, driver.under_way) == ([4, 4, 4], 0)

    virtual(main())


def test_what_comes_at_once_is_not_asked_for_ahead(virtual: Run) -> None:
    async def main() -> None:
        driver = Slow(pause=0)
        async with filled(driver, 20) as store, store.subscribe(buffer=8) as events:
            assert await versions(events, 20) == list(range(1, 21))
            assert driver.asked == [8, 8, 8]

    virtual(main())


@pytest.mark.parametrize("batches", [True, False])
def test_a_cancelled_wait_loses_nothing_of_the_page_on_its_way(virtual: Run, batches: bool) -> None:
    async def main() -> None:
        driver = Slow()
        seen: list[int] = []
        async with filled(driver, 40) as store, store.subscribe(buffer=4) as events:

            async def consume() -> None:
                while True:
                    if batches:
                        seen.extend(event.version for _, event in await events.batch())
                    else:
                        seen.append((await anext(events))[1].version)
                    await asyncio.sleep(0)

            turns = 0
            while len(seen) < 40:
                turns += 1
                consuming = asyncio.create_task(consume())
                for _ in range(turns % 9):
                    await asyncio.sleep(0)
                if turns % 3 == 0:
                    await asyncio.sleep(1)
                consuming.cancel()
                await asyncio.wait([consuming])
                assert events.buffered <= 4
        assert seen == list(range(1, 41))

    virtual(main())


def test_the_error_of_a_page_ahead_comes_behind_the_events_before_it_and_it_is_asked_again(virtual: Run) -> None:
    async def main() -> None:
        driver = Slow(fails_at=2)
        async with filled(driver, 8) as store, store.subscribe(buffer=4) as events:
            assert len(await events.batch()) == 4
            await asyncio.sleep(5)
            with pytest.raises(Unavailable):
                await events.batch()
            assert [event.version for _, event in await events.batch()] == [5, 6, 7, 8]

    virtual(main())


@pytest.mark.parametrize("waits", [True, False])
def test_closing_leaves_no_page_on_its_way(virtual: Run, waits: bool) -> None:
    async def main() -> None:
        driver = Slow()
        async with filled(driver, 8) as store, store.subscribe(buffer=4) as events:
            await events.batch()
            waiting = asyncio.create_task(events.batch() if waits else asyncio.sleep(0))
            await asyncio.sleep(0.5)
            assert (driver.asked, driver.under_way) == ([4, 4], 1)
            await store.close()
            assert driver.under_way == 0
            if waits:
                with pytest.raises(Closed):
                    await waiting
            with pytest.raises(Closed):
                await events.batch()
        assert len(asyncio.all_tasks()) == 1

    virtual(main())


def test_a_subscription_in_batches(run):
    async def body(store, clock):
        for actor, version in (("a", 1), ("b", 1), ("a", 2)):
            await store.append(Event(type="T", actor_id=actor, version=version))
        async with store.subscribe(actors="b", buffer=2) as events:
            assert [event.actor_id for _, event in await events.batch()] == ["b"]
            assert await events.batch() == []
            assert events.position == await store.head()

    run(body)
