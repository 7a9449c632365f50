"""What polls, and what wakes it. Long pauses pass in virtual time."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest

from aether.core import Event, EventStore, StoreIdentityChanged, Unavailable
from aether.core.kit import Bell, Logged, Poll, PollingBus, PollingTail, StoreRegister
from aether.core.spi import BusFilter, Message
from aether.memory import MemoryStore, NamespaceSpace


def event(version: int, actor: str = "a") -> Event:
    return Event(type="T", actor_id=actor, version=version)


def in_time(work: Awaitable[Any]) -> Awaitable[Any]:
    return asyncio.wait_for(work, 10)


class ListLog:
    """The least of a `BusLog` that a bus without queues needs."""

    max_message_bytes = 1 << 20

    def __init__(self) -> None:
        self.messages: list[Logged] = []

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def put(self, message: Message) -> int:
        self.messages.append(Logged(len(self.messages) + 1, message))
        return len(self.messages)

    async def end(self) -> int:
        return len(self.messages)

    async def after(self, position: int, limit: int) -> Sequence[Logged]:
        return self.messages[position : position + limit]

    async def claim(self, queue: str, positions: Sequence[int]) -> Sequence[int]:
        return positions

    async def trim(self, upto: int) -> None: ...


class QueueSink:
    """A sink that can be waited for."""

    def __init__(self, got: asyncio.Queue[Message]) -> None:
        self.deliver = got.put_nowait

    def interrupted(self) -> None: ...

    def lost(self, count: int) -> None: ...


# --- Bell ---


def test_a_ring_between_looking_and_waiting_is_not_lost() -> None:
    async def main() -> None:
        bell = Bell()
        rung = bell.rung
        bell.ring()
        await in_time(bell.wait(rung, 3600))

    asyncio.run(main())


def test_a_ring_wakes_everybody_also_from_another_thread() -> None:
    async def main() -> None:
        bell = Bell()
        waiting = [asyncio.create_task(bell.wait(bell.rung, 3600)) for _ in range(3)]
        await asyncio.sleep(0)
        thread = threading.Thread(target=bell.ring)
        thread.start()
        await in_time(asyncio.gather(*waiting))
        thread.join()

    asyncio.run(main(), debug=True)  # then asyncio refuses what is not safe from another thread


def test_one_place_has_one_bell_as_long_as_somebody_holds_it() -> None:
    one = Bell.shared("mydb", "place")
    assert Bell.shared("mydb", "place") is one
    assert Bell.shared("mydb", "other") is not one
    one.ring()
    del one
    gc.collect()
    assert Bell.shared("mydb", "place").rung == 0


def test_ringing_for_a_loop_that_is_gone_harms_nobody() -> None:
    bell = Bell()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(bell.wait(bell.rung, 3600))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    bell.ring()
    assert not waiting.done()
    waiting.get_coro().close()  # type: ignore[union-attr]
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # it was left behind on purpose


# --- Poll ---


class Looker:
    """Finds nothing, or raises, until a given look; notes when each took place."""

    def __init__(self, finds_at: int, *, error: Exception | None = None, answers: int = 0) -> None:
        self.finds_at = finds_at
        self.error = error
        self.answers = answers
        """Every so many looks there is an answer, if only that nothing is there."""

        self.times: list[float] = []

    async def __call__(self) -> str | None:
        self.times.append(asyncio.get_running_loop().time())
        if len(self.times) == self.finds_at:
            return "found"
        if self.error is not None and not (self.answers and len(self.times) % self.answers == 0):
            raise self.error
        return None

    @property
    def pauses(self) -> list[float]:
        return [round(late - early, 4) for early, late in zip(self.times, self.times[1:], strict=False)]


def test_pauses_grow_up_to_a_bound(virtual: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    look = Looker(9)
    assert virtual(Poll(Bell(), every=0.1).until(look)) == "found"
    assert look.pauses == [0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.1, 0.1]


def test_an_outage_is_waited_for_but_not_for_ever(virtual: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    down = Unavailable("look", reason="down")
    assert virtual(Poll(Bell(), patience=30).until(Looker(200, error=down))) == "found"
    look = Looker(10_000, error=down)
    with pytest.raises(Unavailable):
        virtual(Poll(Bell(), every=1, patience=30).until(look))
    assert 30 < look.times[-1] - look.times[0] < 32


def test_patience_begins_again_with_every_answer(virtual: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    look = Looker(200, error=Unavailable("look", reason="down"), answers=20)
    assert virtual(Poll(Bell(), every=1, patience=30).until(look)) == "found"


def test_other_errors_come_through_at_once(virtual: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    look = Looker(2, error=KeyError("x"))
    with pytest.raises(KeyError):
        virtual(Poll(Bell()).until(look))
    assert len(look.times) == 1


# --- Tail ---


def test_a_tail_delivers_everything_once_however_often_it_is_cancelled() -> None:
    async def main() -> None:
        driver, bell, seen = MemoryStore(NamespaceSpace()), Bell(), []
        async with (
            EventStore(driver, namespace="shop") as store,
            PollingTail(driver, after=0, bell=bell, every=0.01) as tail,
        ):

            async def write() -> None:
                for version in range(1, 200):
                    await store.append(event(version))
                    bell.ring()
                    await asyncio.sleep(0)

            async def follow() -> None:
                seen.extend(await tail.page(7))

            writing = asyncio.create_task(write())
            turns = 0
            while len(seen) < 199:
                following = asyncio.create_task(follow())
                for _ in range(turns % 9):
                    await asyncio.sleep(0)
                turns += 1
                if turns % 2:
                    following.cancel()
                await asyncio.wait([following], timeout=10)
            await writing
        assert [stored.version for stored in seen] == list(range(1, 200))

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_tail_gives_no_more_than_was_asked_for_and_begins_where_it_was_told() -> None:
    async def main() -> None:
        driver = MemoryStore(NamespaceSpace())
        async with EventStore(driver, namespace="shop") as store, PollingTail(driver, after=3) as tail:
            await store.append(*(event(version) for version in range(1, 11)))
            pages = [[stored.version for stored in await tail.page(4)] for _ in range(2)]
            assert pages == [[4, 5, 6, 7], [8, 9, 10]]

    asyncio.run(main())


def test_an_append_of_another_process_is_found_without_a_bell() -> None:
    async def main() -> None:
        driver = MemoryStore(NamespaceSpace())
        async with EventStore(driver, namespace="shop") as store, PollingTail(driver, after=0) as tail:
            waiting = asyncio.create_task(tail.page(1))
            await asyncio.sleep(0)
            await store.append(event(1))
            assert len(await in_time(waiting)) == 1

    asyncio.run(main())


def test_a_store_that_has_gone_back_is_noticed() -> None:
    async def main() -> None:
        async with PollingTail(MemoryStore(NamespaceSpace()), after=3) as tail:
            with pytest.raises(StoreIdentityChanged):
                await in_time(tail.page(1))

    asyncio.run(main())


# --- Promptness: an idle hour makes no difference to those who hear the bell ---


def test_an_idle_tail_hears_an_append_at_once(virtual: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    async def main() -> None:
        driver, bell = MemoryStore(NamespaceSpace()), Bell()
        async with (
            EventStore(driver, namespace="shop") as store,
            PollingTail(driver, after=0, bell=bell, every=600) as tail,
        ):
            waiting = asyncio.create_task(tail.page(1))
            await asyncio.sleep(3600)
            await store.append(event(1))
            bell.ring()
            await at_once(waiting)

    virtual(main())


def test_an_idle_bus_hears_a_message_at_once(virtual: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    async def main() -> None:
        log, bell = ListLog(), Bell()
        reader, publisher = PollingBus(log, bell=bell, every=600), PollingBus(log, bell=bell)
        got: asyncio.Queue[Message] = asyncio.Queue()
        async with reader.subscribe(BusFilter("shop", None, None), queue=None, sink=QueueSink(got)):
            await asyncio.sleep(3600)
            await publisher.publish(Message("shop", "T", "a", b"{}"))
            await at_once(got.get())

    virtual(main())


def test_an_idle_watch_hears_a_change_at_once(virtual: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    async def main() -> None:
        store, bell = MemoryStore(NamespaceSpace()), Bell()
        watcher, writer = StoreRegister(store, bell=bell, every=600), StoreRegister(store, bell=bell)
        async with watcher.watch("") as watch:
            waiting = asyncio.create_task(watch.next())
            await asyncio.sleep(3600)
            await writer.cas("a", b"1", expected=0)
            await at_once(waiting)

    virtual(main())


async def at_once(work: Awaitable[Any]) -> None:
    async with asyncio.timeout(0.001):
        await work
