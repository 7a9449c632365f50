"""What only Redis does to a store: settings, scripts that are gone, full memory, and histories that change."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aether.core import (
    BackendUnusable,
    CorruptEvent,
    Durability,
    Event,
    OutcomeUnknown,
    StoreIdentityChanged,
    Unavailable,
    VersionConflict,
    open_bus,
    open_store,
)
from aether.core.scope import Scope
from aether.core.spi import NewRecord, Write
from aether.core.url import BackendURL
from aether.redis import follow
from aether.redis.servers import RedisServer
from aether.redis.store import RedisStore

Made = Callable[..., RedisServer]


def event(actor_id: str, version: int, **data: Any) -> Event:
    return Event(type="A", actor_id=actor_id, version=version, data=data)


async def append(store: Any, actor_id: str, first: int, last: int) -> None:
    for version in range(first, last + 1):
        await store.append(event(actor_id, version))


# --- Settings ---


@pytest.mark.parametrize(
    ("settings", "durability"),
    [
        ({"appendonly": "yes", "appendfsync": "always"}, Durability.HOST),
        ({"appendonly": "yes", "appendfsync": "no"}, Durability.PROCESS),
        ({"appendonly": "yes", "appendfsync": "everysec"}, Durability.NONE),
        ({"appendonly": "no"}, Durability.NONE),
    ],
)
async def test_durability_is_what_the_server_is_set_to(
    server: RedisServer, settings: dict[str, str], durability: Durability, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in settings.items():
        await server.ask("CONFIG", "SET", name, value)
    try:
        async with open_store(server.url) as store:
            assert store.durability == durability
        said = [record.getMessage() for record in caplog.records if record.name == "aether.redis"]
        assert bool(said) == (durability < Durability.HOST), "what can be lost is said"
    finally:
        await server.ask("CONFIG", "SET", "appendonly", "yes")


async def test_a_server_without_config_promises_the_least(server: RedisServer) -> None:
    await server.ask("ACL", "SETUSER", "hosted", "on", "nopass", "~*", "&*", "+@all", "-config")
    async with open_store(f"redis://hosted:x@127.0.0.1:{server.port}") as store:
        assert store.durability == Durability.NONE


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-ttl", "noeviction"])
async def test_a_server_that_may_evict_events_is_refused(server: RedisServer, policy: str) -> None:
    await server.ask("CONFIG", "SET", "maxmemory-policy", policy)
    try:
        if policy.startswith("allkeys"):
            with pytest.raises(BackendUnusable, match=f"{policy}.*noeviction"):
                async with open_store(server.url):
                    pass
        async with open_store(server.url, eviction="allow" if policy.startswith("allkeys") else "refuse"):
            pass
    finally:
        await server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


# --- The server in trouble ---


async def test_scripts_that_the_server_has_forgotten_are_sent_again(server: RedisServer) -> None:
    async with open_store(server.url, namespace="flushed") as store:
        for version in range(1, 6):
            await store.append(event("a", version))
            await server.ask("SCRIPT", "FLUSH")
        assert [one.version async for one in store.read("a")] == [1, 2, 3, 4, 5]


async def test_a_full_server_stores_nothing_and_goes_on_later(server: RedisServer) -> None:
    async with open_store(server.url, namespace="full", timeout=0.3) as store:
        await store.append(event("a", 1), event("b", 1))
        await server.ask("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(Unavailable, match="OOM"):
                await store.append(event("a", 2), event("b", 2))
            with pytest.raises(Unavailable, match="OOM"):
                await store._live().save("checkpoint", "x", b"1", expected=0)
        finally:
            await server.ask("CONFIG", "SET", "maxmemory", "0")
        assert (await store.version("a"), await store.version("b")) == (1, 1)
        await store.append(event("a", 2), event("b", 2))


async def test_a_broken_list_fails_one_commit_and_no_other(server: RedisServer) -> None:
    """Whatever a stranger has done to a key, the events of others are stored, and the feed has no hole."""
    async with open_store(server.url, namespace="broken", timeout=0.3) as store:
        await server.ask("SET", "{aether:broken}:actor:b", "nonsense")
        results = await asyncio.gather(
            store.append(event("a", 1)),
            store.append(event("b", 1)),
            store.append(event("c", 1)),
            return_exceptions=True,
        )
        assert isinstance(results[1], Unavailable)
        assert [one.actor_id async for _, one in store.feed()] == ["a", "c"]


async def test_a_store_that_was_wiped_takes_nothing_from_those_who_knew_it(server: RedisServer) -> None:
    async with open_store(server.url, namespace="wiped") as store:
        await append(store, "a", 1, 3)
        position = await store.head()
        await server.ask("FLUSHALL")
        with pytest.raises(StoreIdentityChanged):
            await store.append(event("a", 4))
        with pytest.raises(StoreIdentityChanged):
            await store.head()
        async with open_store(server.url, namespace="wiped") as anew:
            assert anew.identity != store.identity
            await append(anew, "a", 1, 3)
            with pytest.raises(StoreIdentityChanged):
                await store.append(event("a", 4))
            with pytest.raises(StoreIdentityChanged):
                async with anew.subscribe(after=position):
                    pass


async def test_an_entry_that_was_deleted_is_noticed(server: RedisServer) -> None:
    async with open_store(server.url, namespace="holes") as store:
        await append(store, "a", 1, 5)
        stream = "{aether:holes}:events"
        entries = await server.ask("XRANGE", stream, "-", "+")
        await server.ask("XDEL", stream, entries[2][0])
        with pytest.raises(CorruptEvent) as feed:
            assert [one async for one in store.feed()]
        assert feed.value.position == 3
        for reverse in (False, True):
            with pytest.raises(CorruptEvent) as read:
                assert [one async for one in store.read("a", reverse=reverse)]
            assert read.value.position == 3
        async with store.subscribe() as events:
            with pytest.raises(CorruptEvent):
                await anext(events)


@pytest.mark.parametrize("fields", [(b"nonsense", b"{}"), (b"4 a", b"{}", b"5 a", b"{}"), (b"4 \xff", b"{}")])
async def test_an_entry_of_a_stranger_is_corrupt_and_never_skipped(server: RedisServer, fields: tuple[bytes]) -> None:
    namespace = f"strangers{len(fields)}{fields[0][0]}{fields[0][-1]}"
    async with open_store(server.url, namespace=namespace) as store, store.subscribe() as events:
        await append(store, "a", 1, 3)
        for _ in range(3):
            await anext(events)
        (last, _) = (await server.ask("XREVRANGE", f"{{aether:{namespace}}}:events", "+", "-", "COUNT", 1))[0]
        tag = int(last.partition(b"-")[2]) % 2**26
        await server.ask("XADD", f"{{aether:{namespace}}}:events", f"4-{tag << 26}", *fields)
        with pytest.raises(CorruptEvent) as live:
            await anext(events)
        assert live.value.position == 4
        with pytest.raises(CorruptEvent):
            await store.head()


async def test_a_newer_format_is_refused(server: RedisServer) -> None:
    async with open_store(server.url, namespace="newer"):
        pass
    await server.ask("HSET", "{aether:newer}:meta", "format", 2)
    await server.ask("HSET", "{aether:strange}:meta", "what", "nonsense")
    for namespace in ("newer", "strange"):
        with pytest.raises(BackendUnusable, match="upgrade"):
            async with open_store(server.url, namespace=namespace):
                pass


# --- Size ---


def driver_of(server: RedisServer, namespace: str) -> RedisStore:
    return RedisStore(BackendURL(server.url), Scope(namespace, timeout=20.0))


@pytest.mark.parametrize("small", ["every other one", "the first forty"])
async def test_pages_of_large_events_stay_small_and_lose_nothing(server: RedisServer, small: str) -> None:
    driver = driver_of(server, f"large{small.split()[1]}")
    await driver.open()
    try:
        large = b'"' + b"x" * (1 << 20)
        end = 12 if small == "every other one" else 60
        for version in range(end):
            size = 100 if (version % 2 == 0 if end == 12 else version < 40) else len(large)
            await driver.append([Write("a", version, (NewRecord(version + 1, str(version), "A", large[:size]),))])
        for reverse in (False, True):
            found: list[int] = []
            bounds: dict[str, Any] = {"after": 0, "upto": None}
            while True:
                page = await driver.read("a", **bounds, limit=None, reverse=reverse)
                assert sum(len(one.data) for one in page.records) <= 6 << 20
                found += [one.version for one in page.records]
                if not page.more:
                    break
                bounds["upto" if reverse else "after"] = found[-1] - 1 if reverse else found[-1]
            assert (found[::-1] if reverse else found) == list(range(1, end + 1))
        after, count = 0, 0
        while after < end:
            page = await driver.feed(after=after, upto=end, limit=1000)
            assert sum(len(one.data) for one in page.records) <= 6 << 20
            count += len(page.records)
            after = page.records[-1].position
            assert page.more == (after < end)
        assert count == end
    finally:
        await driver.close()


async def test_a_commit_beyond_what_lua_unpacks(server: RedisServer) -> None:
    async with open_store(server.url, namespace="wide", timeout=20.0) as store:
        await store.append(*(event("a", version) for version in range(1, 10_001)))
        assert await store.version("a") == 10_000
        assert [one.version async for one in store.read("a", after=9_997)] == [9_998, 9_999, 10_000]
        with pytest.raises(VersionConflict) as caught:
            await store.append(event("a", 10_000))
        assert caught.value.current == 10_000


# --- Other histories ---


async def replicating(primary: RedisServer, replica: RedisServer, until: Callable[..., Any]) -> None:
    """Wait until a replica has all that its primary has."""
    await replica.ask("REPLICAOF", "127.0.0.1", primary.port)

    async def there() -> bool:
        text = (await replica.ask("INFO", "replication")).decode()
        return "master_link_status:up" in text and "master_sync_in_progress:0" in text

    await until(there)


def both(*servers: RedisServer) -> str:
    return "redis://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


async def stale(made: Made, until: Callable[..., Any]) -> tuple[RedisServer, RedisServer]:
    """A primary, and a replica of it."""
    primary, replica = made(), made()
    await replicating(primary, replica, until)
    return primary, replica


async def test_a_failover_to_a_stale_replica_is_noticed(made: Made, until: Callable[..., Any]) -> None:
    primary, replica = await stale(made, until)
    async with open_store(both(primary, replica), namespace="shop", timeout=2.0) as store, store.subscribe() as events:
        await append(store, "a", 1, 5)
        await primary.ask("WAIT", 1, 5000)
        await replica.ask("REPLICAOF", "NO", "ONE")  # what follows never gets there
        await append(store, "a", 6, 8)
        assert [(await anext(events))[1].version for _ in range(8)] == list(range(1, 9))
        primary.kill()
        async with open_store(both(replica), namespace="shop") as other:
            assert await other.version("a") == 5
            await append(other, "a", 6, 20)  # other events at the positions that were seen
            with pytest.raises(StoreIdentityChanged):
                await anext(events)
            with pytest.raises((StoreIdentityChanged, OutcomeUnknown)):
                await store.append(event("a", 9))
            with pytest.raises(StoreIdentityChanged):
                await store.version("a")


async def test_a_failover_that_lost_nothing_of_what_was_seen_goes_on(made: Made, until: Callable[..., Any]) -> None:
    primary, replica = await stale(made, until)
    async with open_store(both(primary, replica), namespace="shop") as store, store.subscribe() as events:
        await append(store, "a", 1, 5)
        assert [(await anext(events))[1].version for _ in range(5)] == list(range(1, 6))
        await primary.ask("WAIT", 1, 5000)
        await replica.ask("REPLICAOF", "NO", "ONE")
        primary.kill()
        await append(store, "a", 6, 9)
        assert [(await anext(events))[1].version for _ in range(4)] == [6, 7, 8, 9]


async def test_a_primary_that_becomes_a_replica_under_its_connections(made: Made, until: Callable[..., Any]) -> None:
    """REPLICAOF by hand leaves the connections: a subscriber must not go on in what is replicated then."""
    primary, other = await stale(made, until)
    async with open_store(both(primary), namespace="shop", timeout=1.0) as store, store.subscribe() as events:
        await append(store, "a", 1, 5)
        await primary.ask("WAIT", 1, 5000)
        await other.ask("REPLICAOF", "NO", "ONE")
        await append(store, "a", 6, 8)
        assert [(await anext(events))[1].version for _ in range(8)] == list(range(1, 9))
        async with open_store(both(other), namespace="shop") as elsewhere:
            await append(elsewhere, "a", 6, 20)
            waiting = asyncio.ensure_future(anext(events))
            await replicating(other, primary, until)
            await append(elsewhere, "a", 21, 22)
            with pytest.raises(Unavailable):
                await store.append(event("a", 9))
            await primary.ask("REPLICAOF", "NO", "ONE")  # it takes writes again, in the other history
            with pytest.raises(StoreIdentityChanged):
                await waiting


async def test_what_follows_another_event_is_told_from_what_was_written_behind_it(server: RedisServer) -> None:
    """The connection lives, positions have no hole, and still it is another history."""
    async with open_store(server.url, namespace="forged") as store, store.subscribe() as events:
        await append(store, "a", 1, 3)
        assert [(await anext(events))[1].version for _ in range(3)] == [1, 2, 3]
        await server.ask("XADD", "{aether:forged}:events", "4-77", "4 a", b"{}")
        with pytest.raises(StoreIdentityChanged, match="behind another event"):
            await anext(events)


async def test_replicas_that_do_not_confirm_are_no_success(made: Made, until: Callable[..., Any]) -> None:
    primary, replica = await stale(made, until)
    late = event("a", 2)
    async with (
        open_store(primary.url, wait_replicas=1, timeout=20.0) as patient,
        open_store(primary.url, wait_replicas=1, timeout=0.4) as store,
    ):
        assert store.durability == Durability.HOST
        await patient.append(event("a", 1))
        replica.pause()
        try:
            with pytest.raises(OutcomeUnknown, match="0 of 1 replicas"):
                await store.append(late)
            with pytest.raises(OutcomeUnknown):  # finding it stored is not enough either
                await store.append(late)
        finally:
            replica.resume()
        assert (await patient.append(late)).replayed


@asynccontextmanager
async def waiting_driver(server: RedisServer, timeout: float = 2.0) -> AsyncIterator[RedisStore]:
    """A driver that waits for one replica, over connections of its own."""
    driver = RedisStore(BackendURL(server.url, {"wait_replicas": 1}), Scope("waiting", timeout=timeout))
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


async def test_whoever_repeats_a_write_waits_for_replicas_too(made: Made, until: Callable[..., Any]) -> None:
    """A conflict may be with what the replicas have not got; a new connection has written nothing to wait for."""
    primary, replica = await stale(made, until)
    commit = [Write("a", 0, (NewRecord(1, "id", "A", b"{}"),))]
    async with waiting_driver(primary) as first, waiting_driver(primary) as appends, waiting_driver(primary) as saves:
        replica.pause()
        try:
            with pytest.raises(OutcomeUnknown):
                await first.append(commit)
            with pytest.raises(OutcomeUnknown):
                await appends.append(commit)
            with pytest.raises(OutcomeUnknown):
                await first.save("checkpoint", "c", b"1", expected=0)
            with pytest.raises(OutcomeUnknown):
                await saves.save("checkpoint", "c", b"1", expected=0)
        finally:
            replica.resume()


async def test_a_replica_confirms_what_is_on_its_disk(made: Made, until: Callable[..., Any]) -> None:
    primary, replica = made(), made(appendonly="no")
    await replicating(primary, replica, until)
    commit = [Write("a", 0, (NewRecord(1, "id", "A", b"{}"),))]
    async with waiting_driver(primary) as driver:
        if (await primary.ask("COMMAND", "INFO", "WAITAOF"))[0] is None:  # Redis 7.0 only tells who has it
            assert await driver.append(commit) == 1
        else:
            with pytest.raises(OutcomeUnknown):
                await driver.append(commit)
        with pytest.raises(OutcomeUnknown):
            driver._confirm([0, 1])  # the replica has it on its disk, the primary has not
        driver._confirm([1, 1])


async def test_nothing_is_lost_over_a_restart_in_the_middle(made: Made, until: Callable[..., Any]) -> None:
    """What was acknowledged is there, at its position, also where the server never waits for the disk."""
    server = made(appendfsync="no")
    async with open_store(server.url, timeout=10.0) as store, store.subscribe() as events:
        for version in range(1, 40):
            await store.append(event("a", version))
            if version % 13 == 0:
                server.kill()
                server.start_now()
        assert [(await anext(events))[1].version for _ in range(39)] == list(range(1, 40))


async def test_a_server_that_keeps_nothing_is_another_store_afterwards(made: Made) -> None:
    server = made(appendonly="no")
    async with open_store(server.url, timeout=2.0) as store:
        await append(store, "a", 1, 3)
        server.kill()
        server.start_now()
        with pytest.raises((StoreIdentityChanged, OutcomeUnknown)):
            await store.append(event("a", 4))
        with pytest.raises(StoreIdentityChanged):
            await store.version("a")


async def test_a_tail_gives_up_on_a_server_that_does_not_come_back(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that waits for something new; who asks again goes on where it was."""
    monkeypatch.setattr(follow, "_PATIENCE", 0.1)
    server = made()
    driver = driver_of(server, "patient")
    await driver.open()
    try:
        async with driver.tail(after=0) as tail:
            waiting = asyncio.create_task(tail.page(10))
            await driver.append([Write("a", 0, (NewRecord(1, "1", "A", b"{}"),))])
            assert [one.version for one in await waiting] == [1]
            waiting = asyncio.create_task(tail.page(10))
            await asyncio.sleep(0)
            server.kill()
            with pytest.raises(Unavailable):
                await waiting
            server.start_now()
            await driver.append([Write("a", 1, (NewRecord(2, "2", "A", b"{}"),))])
            while True:
                try:
                    assert [one.version for one in await tail.page(10)] == [2]
                    break
                except Unavailable:
                    pass
    finally:
        await driver.close()


# --- The bus ---


async def test_a_subscriber_that_the_server_cuts_off_hears_of_the_gap(
    server: RedisServer, until: Callable[..., Any]
) -> None:
    async with open_bus(server.url, namespace="cut") as bus, bus.subscribe() as events:
        await bus.publish(event("a", 1))
        assert (await anext(events)).version == 1
        await server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: events.interrupted == 1)
        await bus.publish(event("a", 2))
        assert (await anext(events)).version == 2


@pytest.mark.parametrize("queue", [None, "q"])
async def test_what_strangers_publish_is_left_out(server: RedisServer, queue: str | None) -> None:
    async with open_bus(server.url, namespace="noise") as bus, bus.subscribe(queue=queue) as events:
        for payload in (b"", b"nonsense", b"a\n\xff\n{}"):
            await server.ask("PUBLISH", "aether:bus:0:noise:A", payload)
        await bus.publish(event("a", 1))
        assert (await anext(events)).version == 1
        assert events.interrupted == 0


async def test_databases_do_not_share_a_bus(server: RedisServer) -> None:
    async with (
        open_bus(f"{server.url}/1", namespace="apart") as one,
        open_bus(f"{server.url}/2", namespace="apart") as two,
        one.subscribe() as events,
    ):
        await two.publish(event("other", 1))
        await one.publish(event("marker", 1))
        assert (await anext(events)).actor_id == "marker"
