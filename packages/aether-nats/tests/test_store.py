"""The store on JetStream: what the shared suite cannot know about it."""

import asyncio
import json
import re
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from aether.core import (
    START,
    BackendUnusable,
    Durability,
    Event,
    EventStore,
    Feature,
    FeatureMissing,
    InvalidURL,
    OutcomeUnknown,
    StoreIdentityChanged,
    Unavailable,
    VersionConflict,
    open_store,
)
from aether.core.encoding import encode_event
from aether.core.event import new_id
from aether.core.registry import default_registry
from aether.core.scope import Scope
from aether.core.spi import NewRecord, Write
from aether.core.url import BackendURL
from aether.nats import NatsCluster, NatsServer
from aether.nats import open_store as open_store_on
from aether.nats.connection import Connection

Body = Callable[[NatsServer, EventStore, Client], Awaitable[None]]


def event(version: int, actor: str = "a", **data: Any) -> Event:
    return Event(type="T", actor_id=actor, version=version, data=data)


async def api(client: Client, verb: str, stream: str, **request: Any) -> dict[str, Any]:
    reply = await client.request(f"$JS.API.STREAM.{verb}.{stream}", json.dumps(request).encode(), timeout=5)
    answer: dict[str, Any] = json.loads(reply.data)
    assert "error" not in answer, answer
    return answer


@asynccontextmanager
async def raw(server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(server.url, reconnect_time_wait=0.05)
    try:
        yield client
    finally:
        await client.close()


def run(directory: Path, body: Body, *, timeout: float = 5.0) -> None:
    async def main() -> None:
        async with (
            NatsServer(directory, sync_always=False) as server,
            raw(server) as client,
            open_store(server.url, namespace="shop", timeout=timeout) as store,
        ):
            await body(server, store, client)

    asyncio.run(main())


# --- The stream ---


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_age", 3_600_000_000_000),
        ("max_msgs", 10),
        ("max_bytes", 1 << 20),
        ("deny_delete", False),
        ("storage", "memory"),
    ],
)
def test_a_stream_that_could_lose_events_is_refused(tmp_path: Path, setting: str, value: Any) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        config = (await api(client, "INFO", "aether-shop"))["config"]
        other = {**config, "name": "aether-other", "subjects": ["aether.e.other.*"], setting: value}
        await api(client, "CREATE", "aether-other", **other)
        with pytest.raises(BackendUnusable, match=f"'aether-other' has {setting}="):
            await open_store(server.url, namespace="other").open()

    run(tmp_path, body)


def test_a_stream_of_somebody_else_is_refused(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        config = (await api(client, "INFO", "aether-shop"))["config"]
        await api(
            client,
            "CREATE",
            "aether-other",
            **{**config, "name": "aether-other", "subjects": ["aether.e.other.*"], "metadata": {}},
        )
        with pytest.raises(BackendUnusable, match="was not made by Aether"):
            await open_store(server.url, namespace="other").open()

    run(tmp_path, body)


def test_a_stream_that_is_replaced_under_an_open_store_is_noticed(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        await store.append(event(1), event(2))
        await api(client, "UPDATE", "aether-shop", **(await api(client, "INFO", "aether-shop"))["config"])
        await api(client, "DELETE", "aether-shop")
        async with open_store(server.url, namespace="shop") as again:
            assert await again.version("a") == 0
        await server.restart()
        with pytest.raises(StoreIdentityChanged):
            while True:  # until the client has noticed the restart
                await store.version("a")

    run(tmp_path, body)


def test_the_stream_denies_deletes_and_keeps_everything(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        await store.append(event(1))
        reply = await client.request("$JS.API.STREAM.MSG.DELETE.aether-shop", b'{"seq":1}')
        assert "error" in json.loads(reply.data)
        reply = await client.request("$JS.API.STREAM.PURGE.aether-shop", b"{}")
        assert "error" in json.loads(reply.data)
        assert await store.version("a") == 1

    run(tmp_path, body)


def test_multi_actor_is_what_the_stream_has(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        assert Feature.MULTI_ACTOR in store.features
        store._driver._log.atomic = False  # as on a server below 2.12, whose stream does not echo allow_atomic
        assert store.features == frozenset()
        with pytest.raises(FeatureMissing, match="multi-actor"):
            await store.append(event(1, "x"), event(1, "y"))
        assert await store.version("x") == await store.version("y") == 0

    run(tmp_path, body)


def test_an_old_stream_learns_atomic_batches(tmp_path: Path) -> None:
    """A stream that an older server made, after the server was upgraded."""

    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        config = {**(await api(client, "INFO", "aether-shop"))["config"], "allow_atomic": False}
        await api(client, "UPDATE", "aether-shop", **config)
        async with open_store(server.url, namespace="shop", require={Feature.MULTI_ACTOR}) as again:
            await again.append(event(1, "x"), event(1, "y"))

    run(tmp_path, body)


def test_durability_is_not_assumed(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        assert store.durability is Durability.PROCESS
        with pytest.raises(FeatureMissing, match="durability HOST"):
            await open_store(server.url, namespace="shop", require_durability=Durability.HOST).open()
        url = f"nats+embedded://{tmp_path}/embedded"
        async with open_store(url, namespace="shop", require_durability=Durability.HOST) as embedded:
            assert embedded.durability is Durability.HOST

    run(tmp_path / "server", body)


@pytest.mark.parametrize(("sync", "durability"), [("always", Durability.HOST), ("1m", Durability.PROCESS)])
def test_durability_is_read_from_the_monitoring_port(tmp_path: Path, sync: str, durability: Durability) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        async with NatsServer(tmp_path, sync_always=sync == "always", config=f"http: 127.0.0.1:{port}") as server:
            monitor = f"http://127.0.0.1:{port}"
            async with open_store(server.url, namespace="shop", monitor=monitor) as store:
                assert store.durability is durability
            async with open_store(server.url, namespace="shop", monitor="http://127.0.0.1:1") as store:
                assert store.durability is Durability.PROCESS

    asyncio.run(main())


def test_durability_of_three_servers(tmp_path: Path) -> None:
    async def main() -> None:
        async with NatsCluster(tmp_path, config="http: 127.0.0.1:-1") as cluster:
            logs = [server.log.read_text() for server in cluster.servers]
            ports = [re.search(r"http monitor on 127\.0\.0\.1:(\d+)", log)[1] for log in logs]
            urls = [f"http://127.0.0.1:{port}" for port in ports]
            async with open_store(cluster.url, namespace="shop", monitor=",".join(urls)) as store:
                assert store.durability is Durability.QUORUM
            async with open_store(cluster.url, namespace="shop", monitor=urls[0]) as store:
                assert store.durability is Durability.PROCESS

    asyncio.run(main())


def test_bad_options_are_refused() -> None:
    with pytest.raises(InvalidURL, match="monitor="):
        open_store("nats://localhost", monitor="localhost:8222")
    for options in ({"replicas": "many"}, {"replicas": "0"}, {"replicas": 6}):
        with pytest.raises(InvalidURL, match="replicas"):
            open_store("nats://localhost", **options)


# --- The stream is not what it was ---


def test_a_restored_stream_is_noticed_and_nothing_is_written_into_a_gap(tmp_path: Path) -> None:
    """An older copy of the data comes back under a client that lives on, and somebody else writes first."""

    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        await store.append(*(event(version) for version in range(1, 6)))
        await server.stop()
        shutil.copytree(server.directory, tmp_path / "backup")
        await server.start()
        async with store.subscribe() as events:
            await store.append(*(event(version) for version in range(6, 11)))
            for _ in range(10):
                await anext(events)
            await server.stop()
            shutil.rmtree(server.directory / "jetstream")
            shutil.copytree(tmp_path / "backup" / "jetstream", server.directory / "jetstream")
            await server.start()
            async with open_store(server.url, namespace="shop") as other:
                await other.append(event(6, new=True))
            with pytest.raises((StoreIdentityChanged, VersionConflict)):
                await store.append(event(11))
            with pytest.raises(StoreIdentityChanged):
                await anext(events)
            async with open_store(server.url, namespace="shop") as other:
                assert await other.version("a") == 6
                assert len([found async for found in other.read("a")]) == 6

    run(tmp_path / "server", body, timeout=1.0)


def test_a_stream_that_is_replaced_beside_a_live_connection_is_noticed(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        await store.append(event(1), event(2))
        async with store.subscribe() as events:
            for _ in range(2):
                await anext(events)
            waiting = asyncio.create_task(anext(events))
            async with asyncio.timeout(10):
                while not await client.jetstream().consumers_info("aether-shop"):
                    await asyncio.sleep(0)
            await api(client, "DELETE", "aether-shop")
            async with open_store(server.url, namespace="shop") as other:
                await other.append(*(event(version, "b") for version in range(1, 10)))
            with pytest.raises(StoreIdentityChanged):
                async with asyncio.timeout(20):
                    await waiting
        with pytest.raises(StoreIdentityChanged):
            await store.append(event(1, "c"))

    run(tmp_path, body)


def test_a_client_does_not_make_the_stream_again_that_is_gone(tmp_path: Path) -> None:
    """An empty stream in its place would be in the way of restoring it."""

    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        await store.append(event(1))
        await api(client, "DELETE", "aether-shop")
        store._driver._log.doubt()
        with pytest.raises(StoreIdentityChanged, match="is gone"):
            await store.append(event(2))
        assert await client.jetstream().streams_info() == []

    run(tmp_path, body)


@pytest.mark.parametrize(("setting", "value"), [("max_msgs_per_subject", 1), ("no_ack", True), ("allow_direct", False)])
def test_a_stream_that_was_changed_is_refused(tmp_path: Path, setting: str, value: Any) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        config = (await api(client, "INFO", "aether-shop"))["config"]
        await api(client, "UPDATE", "aether-shop", **{**config, setting: value})
        with pytest.raises(BackendUnusable, match=f"{setting}="):
            await open_store(server.url, namespace="shop").open()

    run(tmp_path, body)


# --- Losing the server ---


def test_appends_ride_through_a_restart(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        acknowledged: list[str] = []
        delivered: list[str] = []
        enough = asyncio.Event()

        async def write(actor: str) -> None:
            version = 1
            while not enough.is_set():
                new = event(version, actor)
                await store.append(new)
                acknowledged.append(new.id)
                version += 1

        async def follow() -> None:
            async with store.subscribe() as events:
                async for _, found in events:
                    delivered.append(found.id)
                    if found.type == "End":
                        return

        following = asyncio.create_task(follow())
        writers = [asyncio.create_task(write(f"writer-{n}")) for n in range(8)]
        for _ in range(3):
            before = len(acknowledged)
            server.kill()
            await server.start()
            async with asyncio.timeout(20):
                while len(acknowledged) < before + 200:
                    await asyncio.sleep(0)
        enough.set()
        await asyncio.gather(*writers)
        await store.append(Event(type="End", actor_id="end", version=1))
        async with asyncio.timeout(20):
            await following
        stored = [found.id async for _, found in store.feed()]
        assert len(set(stored)) == len(stored)
        assert set(acknowledged) <= set(stored)
        assert delivered == stored

    run(tmp_path, body, timeout=20.0)


def test_a_paused_server_leaves_the_outcome_unknown_and_a_repeat_is_safe(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        await store.append(event(1))
        new = event(2)
        server.pause()
        try:
            with pytest.raises(OutcomeUnknown) as caught:
                await store.append(new)
        finally:
            server.resume()
        assert caught.value.event_ids == (new.id,)
        await store.append(new)
        assert [e.id async for e in store.read("a", after=1)] == [new.id]
        with pytest.raises(VersionConflict):
            await store.append(event(2))

    run(tmp_path, body, timeout=0.5)


def test_without_a_server_it_says_so_within_the_time_out(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        await store.append(event(1))
        await client.close()
        await server.stop()
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await store.append(event(2))
        with pytest.raises(Unavailable):
            await store.version("a")
        with pytest.raises(Unavailable):
            _ = [e async for e in store.read("a")]

    run(tmp_path, body, timeout=0.5)


def test_cancelled_appends_are_whole_or_absent_and_the_store_goes_on(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        version = 0
        for steps in range(40):
            new = [event(version + 1), event(version + 2)]
            task = asyncio.create_task(store.append(*new))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            appended = await store.append(*new)
            assert appended.replayed in (True, False)
            version += 2
        assert [e.version async for e in store.read("a")] == list(range(1, version + 1))

    run(tmp_path, body)


def test_closing_under_an_append_does_not_deny_that_it_was_sent(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        await store.append(event(1))
        server.pause()
        task = asyncio.create_task(store.append(event(2)))
        for _ in range(20):
            await asyncio.sleep(0)
        await store.close()
        server.resume()
        with pytest.raises(OutcomeUnknown):
            await task

    run(tmp_path, body)


# --- nats-py's traps ---


def test_message_ids_are_not_used(tmp_path: Path) -> None:
    """A message id counts for the whole stream: the same id on another actor's subject is acknowledged and lost."""

    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        same = "the-same-id"
        await store.append(Event(type="T", actor_id="a", version=1, id=same))
        await store.append(Event(type="T", actor_id="b", version=1, id=same))
        assert [e.actor_id async for _, e in store.feed()] == ["a", "b"]

    run(tmp_path, body)


def test_wildcards_are_names_like_others(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        for actor in ("*", ">", "a", "a.b", "a b"):
            await store.append(event(1, actor))
        for actor in ("*", ">", "a", "a.b", "a b"):
            assert [e.actor_id async for e in store.read(actor)] == [actor]

    run(tmp_path, body)


def test_the_longest_name_does_not_cost_the_connection(tmp_path: Path) -> None:
    """A subject of 4 KiB makes the server close the connection."""

    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        actor = "🚀" * 255
        await store.append(event(1, actor))
        assert [e.version async for e in store.read(actor)] == [1]
        assert store._driver._connection.generation == 0

    run(tmp_path, body)


def test_a_client_of_ones_own_stays_open(tmp_path: Path) -> None:
    async def body(server: NatsServer, store: EventStore, client: Client) -> None:
        async with open_store_on(client, namespace="mine") as mine:
            await mine.append(event(1))
            assert [e.version async for e in mine.read("a")] == [1]
        assert client.is_connected

    run(tmp_path, body)


async def test_a_store_that_was_just_made_in_a_cluster_takes_appends_at_once(cluster: NatsCluster) -> None:
    """The server that a client talks to may not know yet that there is a stream: its driver waits for that."""

    async def first(number: int) -> None:
        driver = default_registry().open_store(BackendURL(cluster.url), Scope(f"new-{number}-{new_id()}"))
        await driver.open()
        made = event(1)
        await driver.append([Write("a", 0, (NewRecord(1, made.id, made.type, encode_event(made)),))])
        await driver.close()

    for start in range(0, 60, 6):
        await asyncio.gather(*(first(number) for number in range(start, start + 6)))


async def test_opening_waits_until_servers_know_who_takes_commits(
    cluster: NatsCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hear of the subjects of a new stream later than of its leader."""
    asked: list[str] = []
    request = Connection.request

    async def late(self: Connection, subject: str, payload: bytes, **options: Any) -> Any:
        reply = await request(self, subject, payload, **options)
        if "Nats-Expected-Stream" in (options.get("headers") or {}):
            asked.append(subject)
            if len(asked) < 3:
                return SimpleNamespace(data=b"", headers={"Status": "503"})
        return reply

    monkeypatch.setattr(Connection, "request", late)
    async with open_store(cluster.url, namespace=f"new-{new_id()}") as store:
        assert len(asked) == 3
        assert await store.head() == START  # what is asked with is refused by every stream
        await store.append(event(1))
