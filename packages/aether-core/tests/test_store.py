"""The store facade: what it promises beyond its driver. The rules of stores are in the conformance suite."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from aether.core import (
    Closed,
    CorruptEvent,
    Event,
    EventStore,
    FeatureMissing,
    InvalidEvent,
    OutcomeUnknown,
    Snapshot,
    Unavailable,
    VersionConflict,
)
from aether.core.spi import Page, Stored, Write
from aether.memory import MemoryStore, NamespaceSpace


class Flaky(MemoryStore):
    """Answers appends as a script says: `ok`, `lost` (stored, no answer), `never` (not stored, no answer), `down`."""

    def __init__(self, *script: str) -> None:
        super().__init__(NamespaceSpace())
        self.script = list(script)
        self.attempts = 0
        self.reads_fail = 0

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        self.attempts += 1
        step = self.script.pop(0) if self.script else "ok"
        if step == "down":
            raise Unavailable("append", reason="no server")
        if step == "never":
            raise OutcomeUnknown("append", reason="no answer")
        position = await super().append(writes, transaction=transaction)
        if step == "lost":
            raise OutcomeUnknown("append", reason="no answer")
        return position

    async def read(self, *args: Any, **kwargs: Any) -> Page:
        if self.reads_fail:
            self.reads_fail -= 1
            raise Unavailable("read", reason="no server")
        return await super().read(*args, **kwargs)


def event(version: int, actor: str = "a", **fields: Any) -> Event:
    return Event(type="T", actor_id=actor, version=version, **fields)


def run(driver: MemoryStore, body: Callable[[EventStore], Awaitable[Any]], timeout: float = 5.0) -> Any:
    async def main() -> Any:
        async with EventStore(driver, namespace="shop", backend="flaky", timeout=timeout) as store:
            return await body(store)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("script", "replayed", "attempts"),
    [
        (["ok"], False, 1),
        (["down", "ok"], False, 2),
        (["never", "ok"], False, 2),
        (["lost"], True, 2),
        (["never", "lost", "down"], True, 4),
    ],
)
def test_lost_answers_are_resolved(script: list[str], replayed: bool, attempts: int) -> None:
    driver = Flaky(*script)

    async def body(store: EventStore) -> None:
        appended = await store.append(event(1), event(2))
        assert appended.replayed is replayed
        assert [e.version async for e in store.read("a")] == [1, 2]
        assert appended.position == await store.head()

    run(driver, body)
    assert driver.attempts == attempts


def test_a_failing_look_back_is_repeated() -> None:
    driver = Flaky("lost")
    driver.reads_fail = 2
    appended = run(driver, lambda store: store.append(event(1)))
    assert appended.replayed
    assert len(driver._space.feed) == 1


def test_unavailable_to_the_end_means_not_sent() -> None:
    driver = Flaky(*["down"] * 100)
    with pytest.raises(Unavailable):
        run(driver, lambda store: store.append(event(1)), timeout=0.05)


def test_once_sent_the_outcome_stays_unknown() -> None:
    driver = Flaky("never", *["down"] * 100)
    sent = event(1)
    with pytest.raises(OutcomeUnknown) as caught:
        run(driver, lambda store: store.append(sent), timeout=0.05)
    assert caught.value.event_ids == (sent.id,)


def test_a_conflict_with_others_is_final() -> None:
    driver = Flaky()

    async def body(store: EventStore) -> None:
        await store.append(event(1))
        driver.script = ["lost", "never"]
        with pytest.raises(VersionConflict) as caught:
            await store.append(event(1))
        assert (caught.value.attempted, caught.value.current) == (1, 1)

    run(driver, body)


def test_bad_commits_are_refused_before_the_driver_is_asked() -> None:
    driver = Flaky()
    same = event(1)

    async def body(store: EventStore) -> None:
        for events, error in [
            ((), ValueError),
            ((event(1), event(3)), InvalidEvent),
            ((event(2), event(1)), InvalidEvent),
            ((same, Event(type="T", actor_id="b", version=1, id=same.id)), InvalidEvent),
            (("nonsense",), InvalidEvent),
        ]:
            with pytest.raises(error):
                await store.append(*events)
        with pytest.raises(FeatureMissing, match="caller-transaction"):
            await store.append(event(1), connection=object())

    run(driver, body)
    assert driver.attempts == 0


def test_numbers_are_checked_at_the_call_not_at_the_first_step() -> None:
    async def body(store: EventStore) -> None:
        for arguments in ({"after": -1}, {"upto": -1}, {"limit": -1}, {"limit": 1.5}, {"after": True}):
            with pytest.raises(ValueError, match="whole number"):
                store.read("a", **arguments)
        with pytest.raises(ValueError, match="buffer"):
            store.subscribe(buffer=0)
        with pytest.raises(ValueError, match="Position"):
            store.feed(after=3)
        with pytest.raises(TypeError, match="collection of names"):
            store.feed(types="T")

    run(Flaky(), body)


def test_a_store_that_is_not_open_says_so() -> None:
    async def main() -> None:
        store = EventStore(Flaky(), namespace="shop", backend="flaky")
        with pytest.raises(Closed, match="store 'shop' on flaky is not open; enter it with `async with`"):
            await store.append(event(1))
        await store.close()
        with pytest.raises(Closed):
            await store.open()

    asyncio.run(main())


def test_a_failed_open_closes_the_driver() -> None:
    class Failing(Flaky):
        closed = 0

        async def open(self) -> None:
            raise Unavailable("x", reason="y")

        async def close(self) -> None:
            self.closed += 1

    driver = Failing()
    with pytest.raises(Unavailable):
        run(driver, lambda store: store.head())
    assert driver.closed == 1


def test_closing_ends_waiting_subscriptions() -> None:
    async def main() -> None:
        store = EventStore(Flaky(), namespace="shop")
        await store.open()
        subscription = store.subscribe()
        await subscription.__aenter__()
        waiting = asyncio.create_task(anext(subscription))
        await asyncio.sleep(0)
        await asyncio.gather(store.close(), store.close())
        with pytest.raises(Closed):
            await waiting

    asyncio.run(main())


def test_the_position_is_there_when_the_store_is_closed() -> None:
    async def main() -> None:
        store = EventStore(Flaky(), namespace="shop")
        async with store:
            await store.append(event(1), event(2))
            async with store.subscribe(actors="b") as events:
                waiting = asyncio.create_task(anext(events))
                await asyncio.sleep(0)
                head = await store.head()
        with pytest.raises(Closed):
            await waiting
        assert events.position == head

    asyncio.run(main())


def test_closing_while_opening_ends_the_opening() -> None:
    async def main() -> None:
        driver = Flaky()
        opened = asyncio.Event()
        driver.open = opened.wait  # type: ignore[method-assign, assignment]
        store = EventStore(driver, namespace="shop")
        opening = asyncio.create_task(store.open())
        await asyncio.sleep(0)
        await store.close()
        opened.set()
        with pytest.raises(Closed):
            await opening
        assert "closed" in repr(store)

    asyncio.run(main())


def test_what_was_sent_stays_unknown_whatever_comes_behind_it() -> None:
    class Closing(Flaky):
        async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
            if self.attempts:
                raise Closed("the connection")
            return await super().append(writes)

    with pytest.raises(OutcomeUnknown):
        run(Closing("never"), lambda store: store.append(event(1)))


def test_a_snapshot_of_another_history_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """A restored store keeps its identity; what was appended since may be something else."""

    async def body(store: EventStore) -> None:
        await store.append(event(1), event(2))
        await store.save_snapshot(Snapshot(actor_id="a", version=2, schema="1", state="old"))
        space = store._driver._space
        space.feed.clear()
        space.actors.clear()
        await store.append(event(1), event(2), event(3))
        assert await store.snapshot("a", schema="1") is None
        assert "another event" in caplog.text
        await store.save_snapshot(Snapshot(actor_id="a", version=1, schema="1", state="new"))
        found = await store.snapshot("a", schema="1")
        assert found is not None
        assert found.state == "new"

    run(Flaky(), body)


def test_a_cancelled_wait_loses_nothing() -> None:
    async def body(store: EventStore) -> None:
        async with store.subscribe() as events:
            waiting = asyncio.create_task(anext(events))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await store.append(event(1), event(2))
            assert [(await anext(events))[1].version for _ in range(2)] == [1, 2]

    run(Flaky(), body)


def test_a_damaged_event_is_met_at_its_place() -> None:
    async def body(store: EventStore) -> None:
        await store.append(*(event(version) for version in range(1, 6)))
        space = driver._space
        space.feed[3] = space.actors["a"][3] = Stored(4, "a", 4, b"{")
        seen: list[int] = []
        with pytest.raises(CorruptEvent):
            async for one in store.read("a"):
                seen.append(one.version)  # noqa: PERF401  (what came before the error)
        with pytest.raises(CorruptEvent):
            async for _, one in store.feed():
                seen.append(one.version)
        async with store.subscribe() as events:
            seen += [one.version for _, one in await events.batch()]
            with pytest.raises(CorruptEvent):
                await events.batch()
        assert seen == [1, 2, 3] * 3

    driver = MemoryStore(NamespaceSpace())
    run(driver, body)
