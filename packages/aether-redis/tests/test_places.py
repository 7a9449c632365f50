"""Clusters and sentinels: whoever has the namespace is found, also when that changes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as Disconnected

import aether.redis
from aether.core import Event, connect, open_bus, open_store
from aether.core.kit.server import HOST
from aether.redis.servers import POWER_SAFE, RedisCluster, RedisServer
from aether.redis.space import BUS_HOME, Space

Made = Callable[..., RedisServer]


def event(actor_id: str, version: int) -> Event:
    return Event(type="A", actor_id=actor_id, version=version)


@asynccontextmanager
async def clustered(directory: Path) -> AsyncIterator[RedisCluster]:
    async with RedisCluster(directory, settings=POWER_SAFE) as cluster:
        yield cluster


async def move(cluster: RedisCluster, slot: int, source: RedisServer, target: RedisServer) -> None:
    """Give a slot, with its keys, to another node."""
    names = {server: (await server.ask("CLUSTER", "MYID")).decode() for server in cluster.servers}
    await target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    while keys := await source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
        await source.ask("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
    for server in (target, source, *cluster.servers):
        await server.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])


def owner_of(cluster: RedisCluster, slot: int) -> RedisServer:
    return cluster.servers[slot * cluster.size // 16384]


async def test_a_cluster_from_any_of_its_nodes(tmp_path: Path) -> None:
    """Namespaces live on different nodes; a slot that moves is followed, and nothing is lost on the way."""
    async with clustered(tmp_path) as cluster:
        spaces = {owner_of(cluster, key_slot(Space(name).meta)): name for name in ("a", "b", "c", "d", "e", "f", "g")}
        assert len(spaces) == 3
        for name in spaces.values():
            async with connect(cluster.servers[0].url, namespace=name) as place, place.store.subscribe() as events:
                await place.store.append(event("x", 1), event("y", 1))
                assert [(await anext(events))[1].actor_id for _ in range(2)] == ["x", "y"]
                async with place.election.lead("billing", ttl=5) as term:
                    assert term.token == 1
        await follow_a_slot(cluster, spaces)
        await write_while_a_slot_moves(cluster, spaces)
        await one_bus(cluster)


async def follow_a_slot(cluster: RedisCluster, spaces: dict[RedisServer, str]) -> None:
    source, target = cluster.servers[1], cluster.servers[2]
    name = spaces[source]
    async with open_store(cluster.url, namespace=name, timeout=20.0) as store, store.subscribe() as events:
        for _ in range(2):
            await anext(events)
        await store.append(event("x", 2))
        await move(cluster, key_slot(Space(name).meta), source, target)
        await store.append(event("x", 3))
        assert [(await anext(events))[1].version for _ in range(2)] == [2, 3]
        assert [one.version async for one in store.read("x")] == [1, 2, 3]


async def write_while_a_slot_moves(cluster: RedisCluster, spaces: dict[RedisServer, str]) -> None:
    """Two batches are under way when it goes, and comes back: each commit is stored once, whatever it was answered."""
    source, target = cluster.servers[0], cluster.servers[2]
    name = spaces[source]
    async with open_store(cluster.url, namespace=name, timeout=30.0) as store, store.subscribe() as events:
        moving = True

        async def write(actor: str) -> int:
            version = 0
            while moving or version < 5:
                version += 1
                assert not (await store.append(event(actor, version))).replayed
            return version

        writers = [asyncio.create_task(write(f"w{number}")) for number in range(64)]
        for there, back in ((source, target), (target, source), (source, target)):
            await move(cluster, key_slot(Space(name).meta), there, back)
        moving = False
        written = dict(zip([f"w{number}" for number in range(64)], await asyncio.gather(*writers), strict=True))
        found = Counter([one.actor_id async for _, one in store.feed(actors="w*")])
        assert found == written
        seen = [(await anext(events))[1] for _ in range(sum(written.values()) + 2)]
        assert [one.id for one in seen] == [one.id async for _, one in store.feed()]


async def one_bus(cluster: RedisCluster) -> None:
    """Publishers and subscribers that know different nodes meet, and those who publish know whether anybody hears."""
    first, *_, last = cluster.servers
    async with open_bus(first.url, namespace="shop") as one, open_bus(last.url, namespace="shop") as two:
        async with one.subscribe(namespaces="*") as everything, two.subscribe(types={"A"}) as events:
            await one.publish(event("x", 1))
            assert (await anext(events)).actor_id == (await anext(everything)).actor_id == "x"
            driver = two._live()
            assert await driver.publish(_message("shop"), count=True) == 2
        assert await driver.publish(_message("shop"), count=True) == 0
    assert key_slot(BUS_HOME) == key_slot(b"aether")


def _message(namespace: str) -> Any:
    from aether.core.spi import Message

    return Message(namespace, "A", "x", b"{}")


async def test_sentinels_name_the_primary_also_behind_a_failover(
    tmp_path: Path, made: Made, until: Callable[..., Any]
) -> None:
    primary, replica = made(), made()
    await replica.ask("REPLICAOF", HOST, primary.port)
    settings = {"sentinel monitor orders": f"{HOST} {primary.port} 1"}
    sentinel = RedisServer(tmp_path / "sentinel", settings=settings, sentinel=True)
    async with sentinel:
        url = f"redis+sentinel://{HOST}:{sentinel.port}/orders"
        async with open_store(url, timeout=20.0) as store, store.subscribe() as events:
            await store.append(event("x", 1))
            await until(lambda: _offered(sentinel))
            await primary.ask("WAIT", 1, 20_000)
            await sentinel.ask("SENTINEL", "FAILOVER", "orders")
            await until(lambda: _promoted(replica))
            for version in (2, 3):
                await store.append(event("x", version))
            assert [(await anext(events))[1].version for _ in range(3)] == [1, 2, 3]


async def _offered(sentinel: RedisServer) -> bool:
    """Whether the sentinel knows a replica that it could promote."""
    found = await sentinel.ask("SENTINEL", "REPLICAS", "orders")
    known = [dict(zip(one[::2], one[1::2], strict=True)) for one in found]
    return any(one[b"flags"] == b"slave" and one[b"master-link-status"] == b"ok" for one in known)


async def _promoted(replica: RedisServer) -> bool:
    try:
        return b"role:master" in await replica.ask("INFO", "replication")
    except Disconnected:  # a server drops its clients while it becomes the primary one
        return False


async def test_a_client_of_ones_own(server: RedisServer) -> None:
    """Its address, its user and its database; not its retries, and its pool stays as it was."""
    await server.ask("ACL", "SETUSER", "own", "on", ">s3cret", "~*", "&*", "+@all")
    socket = server.settings["unixsocket"]
    over_tcp = Redis(host=HOST, port=server.port, db=3, username="own", password="s3cret", decode_responses=True)
    over_socket = Redis(unix_socket_path=socket, db=3)
    async with (
        aether.redis.open_store(over_tcp, namespace="own") as store,
        aether.redis.open_store(over_socket, namespace="own") as same,
        aether.redis.open_bus(over_tcp, namespace="own") as bus,
        aether.redis.open_election(over_socket, namespace="own") as election,
        bus.subscribe() as events,
        election.lead("billing", ttl=5) as term,
    ):
        await store.append(event("x", 1))
        await bus.publish(event("y", 1))
        assert (await same.version("x"), (await anext(events)).actor_id, term.token) == (1, "y", 1)
    assert await over_tcp.ping()
    await over_tcp.aclose()
    await over_socket.aclose()
