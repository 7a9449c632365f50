"""How the store on JetStream reads: few requests, small pages, and nothing passed over."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from nats.aio.client import Client

from aether.core import CorruptEvent, Event, EventStore, Position, VersionConflict, open_store
from aether.core.encoding import encode_event
from aether.nats import NatsServer

Body = Callable[[NatsServer, EventStore, Client], Awaitable[None]]
InStore = Callable[[Body], None]


def event(version: int, actor: str = "a", **data: Any) -> Event:
    return Event(type="T", actor_id=actor, version=version, data=data)


def test_a_commit_at_the_limit_fits(in_store: InStore) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        limits = store.limits
        count = limits.max_commit_events
        size = len(encode_event(event(count, pad="")))
        room = limits.max_commit_bytes // count - size
        await store.append(*(event(version, pad="x" * room) for version in range(1, count + 1)))
        assert await store.version("a") == count
        assert store._driver._connection.generation == 0

    in_store(body)


def test_many_large_reads_at_once_do_not_cost_the_connection(in_store: InStore) -> None:
    """A server cuts off a client for which 64 MiB wait."""

    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        for actor in range(24):
            for version in range(1, 9):
                await store.append(event(version, f"actor-{actor}", pad="x" * 500_000))

        async def read(actor: int) -> int:
            return len([found async for found in store.read(f"actor-{actor}")])

        assert await asyncio.gather(*(read(actor) for actor in range(24))) == [8] * 24
        assert store._driver._connection.generation == 0

    in_store(body)


def test_pages_of_large_events_are_small_in_both_directions(in_store: InStore) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        for version in range(1, 41):
            await store.append(event(version, pad="x" * 500_000))
        for reverse in (False, True):
            page = await store._driver.read("a", after=0, upto=None, limit=None, reverse=reverse)
            assert sum(len(stored.data) for stored in page.records) < 8 << 20
            expected = list(range(1, 41))[:: -1 if reverse else 1]
            assert [found.version async for found in store.read("a", reverse=reverse)] == expected

    in_store(body)


def test_pages_of_a_long_actor_among_others(in_store: InStore) -> None:
    """Every way of reading finds exactly its versions, with commits of different sizes scattered in the stream."""

    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        version = 0
        for number in range(400):
            size = 1 + number % 17
            await store.append(*(event(version + n) for n in range(1, size + 1)))
            version += size
            await asyncio.gather(*(store.append(event(number + 1, f"other-{n}")) for n in range(4)))
        everything = list(range(1, version + 1))
        for after, upto, limit in [
            (0, None, None),
            (1, 3, None),
            (1700, None, 7),
            (1999, 2601, None),
            (0, 2500, 2100),
            (3000, 3100, 1),
        ]:
            expected = everything[after:upto]
            ways = {"after": after, "upto": upto}
            assert [e.version async for e in store.read("a", **ways, limit=limit)] == expected[:limit]
            assert [e.version async for e in store.read("a", **ways, limit=limit, reverse=True)] == expected[::-1][
                :limit
            ]
        assert [e.version async for e in store.read("a", after=version)] == []
        assert [e.version async for e in store.read("a", after=version + 5, reverse=True)] == []

    in_store(body)


def test_one_event_of_a_long_actor_costs_few_round_trips(in_store: InStore) -> None:
    """It was found a few hundred commits too early, and then read on one commit at a time."""

    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        for start in range(1, 401):
            await store.append(event(start))
            if start % 3 == 0:
                await store.append(event(start // 3, "b"))
        await store.append(*(event(version) for version in range(401, 500)))
        log = store._driver._log  # type: ignore[attr-defined]
        asked: list[Any] = []
        batch, last = log.batch, log.last
        log.batch = lambda *arguments, **more: asked.append("batch") or batch(*arguments, **more)
        log.last = lambda subject: asked.append("last") or last(subject)

        async def read(after: int, upto: int | None = None, limit: int | None = None) -> tuple[list[int], int]:
            asked.clear()
            found = [one.version async for one in store.read("a", after=after, upto=upto, limit=limit)]
            return found, len(asked)

        assert (await read(379, 380, 1))[0] == [380]
        assert len(asked) <= 4
        assert await read(379, 381) == ([380, 381], 1)  # the place is known now
        assert await read(380, None, 3) == ([381, 382, 383], 1)
        assert await read(390) == (list(range(391, 500)), 1)
        assert await read(20, None, 2) == ([21, 22], len(asked))
        assert await read(499) == ([], len(asked))
        await store.append(event(500))
        assert await read(498) == ([499, 500], len(asked))
        for after in (0, 1, 100, 399, 400, 450, 498, 499, 500, 600):
            for limit in (1, 7, None):
                wanted = list(range(after + 1, 501))[:limit]
                assert (await read(after, None, limit))[0] == wanted

    in_store(body)


def test_a_foreign_message_in_the_stream_is_corrupt_not_skipped(in_store: InStore) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        await store.append(event(1))
        await client.jetstream().publish("aether.e.shop.b", b"hello")
        await store.append(event(2))
        with pytest.raises(CorruptEvent):
            _ = [e async for e in store.read("b")]
        with pytest.raises(CorruptEvent):
            _ = [e async for e in store.feed()]
        async with store.subscribe() as events:
            with pytest.raises(CorruptEvent):
                for _ in range(3):
                    await anext(events)

    in_store(body)


def test_a_consumer_that_is_deleted_costs_nothing(in_store: InStore) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        async with store.subscribe() as events:
            await store.append(event(1))
            assert (await anext(events))[1].version == 1
            waiting = asyncio.create_task(anext(events))
            async with asyncio.timeout(10):
                while not (consumers := (await client.jetstream().consumers_info("aether-shop"))):
                    await asyncio.sleep(0)
            await client.jetstream().delete_consumer("aether-shop", consumers[0].name)
            await store.append(event(2))
            async with asyncio.timeout(10):
                assert (await waiting)[1].version == 2
        async with asyncio.timeout(10):
            while await client.jetstream().consumers_info("aether-shop"):
                await asyncio.sleep(0)  # leaving drops the consumer

    in_store(body)


def counted(store: EventStore) -> Counter[str]:
    """How often the stream is asked for many messages and for one, from now on, and how many commits came."""
    log = store._driver._log  # type: ignore[attr-defined]
    reader = store._driver._reader  # type: ignore[attr-defined]
    asked: Counter[str] = Counter()
    batch, last, read = log.batch, log.last, reader._batch
    log.batch = lambda *arguments, **more: asked.update(["batch"]) or batch(*arguments, **more)
    log.last = lambda subject: asked.update(["last"]) or last(subject)

    async def counting(*arguments: Any) -> Any:
        bodies, end = await read(*arguments)
        asked["commits"] += len(bodies)
        return bodies, end

    reader._batch = counting
    return asked


def test_large_commits_are_read_once_however_small_the_batches_are(in_store: InStore) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        for first in range(1, 20_001, 500):
            await store.append(*(event(version) for version in range(first, first + 500)))
        asked = counted(store)
        async with store.subscribe(buffer=64) as events:
            seen: list[int] = []
            while len(seen) < 20_000:
                seen.extend(one.version for _, one in await events.batch())
        assert seen == list(range(1, 20_001))
        # The page that comes first has no more than 2 MiB, and none of its commits is read again but the last one.
        assert asked["commits"] <= 40 + asked["batch"]
        assert asked["batch"] <= 5
        asked.clear()
        assert [one.version async for _, one in store.feed()] == seen
        assert asked["commits"] <= 3 * 40

    in_store(body)


def test_the_past_is_asked_for_ahead_and_once(in_store: InStore) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        for first in range(1, 10_001, 500):
            await asyncio.gather(*(store.append(event(1, f"a{number}")) for number in range(first, first + 500)))
        asked = counted(store)
        async with store.subscribe(buffer=100) as events:
            tail = events._tail
            seen = 0
            while seen < 1800:
                seen += len(await events.batch())
                assert tail._ahead is None  # type: ignore[union-attr]
            while seen < 2100:
                seen += len(await events.batch())
            assert tail._ahead is not None  # type: ignore[union-attr]
            while seen < 10_000:
                seen += len(await events.batch())
            assert events.position == await store.head()
        assert asked["batch"] == 3
        assert asked["commits"] <= 10_000 + asked["batch"]

    in_store(body)


def test_leaving_stops_the_page_that_is_on_its_way(in_store: InStore) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        for first in range(1, 4501, 500):
            await asyncio.gather(*(store.append(event(1, f"a{number}")) for number in range(first, first + 500)))
        before = asyncio.all_tasks()
        async with store.subscribe(buffer=2500) as events:
            await events.batch()
            assert events._tail._ahead is not None  # type: ignore[union-attr]
        assert asyncio.all_tasks() == before

    in_store(body)


def test_a_page_that_was_asked_for_across_a_restart_is_asked_for_again(in_store: InStore) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        for first in range(1, 10_001, 500):
            await asyncio.gather(*(store.append(event(1, f"a{number}")) for number in range(first, first + 500)))
        async with store.subscribe(buffer=100) as events:
            seen: list[Position] = []
            while len(seen) < 10_000:
                if len(seen) == 2500:  # the next page is on its way
                    await server.restart()
                seen.extend(position for position, _ in await events.batch())
            assert seen == [position async for position, _ in store.feed()]

    in_store(body)


def test_a_read_behind_the_latest_commit_that_is_known_costs_one_request_and_sees_all_others(in_store: InStore) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        async with open_store(server.url, namespace="shop") as other:
            await store.append(event(1), event(2))
            asked = counted(store)
            assert [one.version async for one in store.read("a", after=1)] == [2]
            assert asked == {"last": 1}
            asked.clear()
            assert [one.version async for one in store.read("a", after=2)] == []
            assert asked == {"last": 1}
            for first in (3, 6, 9):  # more and more commits of somebody else
                for version in range(first, 12):
                    with suppress(VersionConflict):
                        await other.append(event(version))
                for after in (1, 2, 3, first, 11, 12):
                    for upto in (None, 2, first, 20):
                        found = [one.version async for one in store.read("a", after=after, upto=upto)]
                        assert found == list(range(after + 1, min(11, upto or 11) + 1))
            await store.append(event(12))
            await other.append(event(13))
            assert [one.version async for one in store.read("a", after=11)] == [12, 13]

    in_store(body)


def test_a_history_of_many_commits_and_of_large_ones_is_read_whole_from_a_known_place(in_store: InStore) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        assert [one async for one in store.read("a")] == []
        for first in range(1, 4001, 500):
            for version in range(first, first + 500):
                await store.append(event(version))
            assert [one.version async for one in store.read("a")] == list(range(1, first + 500))
        for version in range(1, 9):
            await store.append(event(version, "b", pad="x" * 900_000))
            assert [one.version async for one in store.read("b")] == list(range(1, version + 1))
            assert [one.version async for one in store.read("b", limit=version)] == list(range(1, version + 1))

    in_store(body)
