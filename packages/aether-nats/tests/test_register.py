"""The lease register on JetStream: what the conformance suite cannot know. Its rules are in the suite."""

import asyncio

import pytest

from aether.core.errors import BackendUnusable, OutcomeUnknown, Unavailable
from aether.core.event import new_id
from aether.core.scope import Scope
from aether.core.spi import Entry, RevisionConflict
from aether.core.url import BackendURL
from aether.nats.election import NatsRegister, _Watch


class Opened:
    """A register that is open within `async with`."""

    def __init__(self, url, namespace, timeout=20.0, **options):
        self.register = NatsRegister(BackendURL(url, options), Scope(namespace, timeout=timeout))

    async def __aenter__(self):
        await self.register.open()
        return self.register

    async def __aexit__(self, *_):
        await self.register.close()


@pytest.fixture
def namespace():
    return f"n-{new_id()}"


async def test_scan_is_complete_and_knows_names_from_tokens(shared, namespace):
    names = [f"node/{number}" for number in range(3_000)] + ["node", "node ", "node.*", "Node/1", "é" * 255]
    async with Opened(shared.url, namespace) as register:
        for first in range(0, len(names), 200):
            part = names[first : first + 200]
            await asyncio.gather(*(register.cas(name, name.encode(), expected=0) for name in part))
        assert {entry.name for entry in await register.scan("")} == set(names)
        found = await register.scan("node/")
        assert {entry.name: entry.value for entry in found} == {name: name.encode() for name in names[:3_000]}
        assert [entry.name for entry in await register.scan("node.")] == ["node.*"]
        assert not await register.scan("nobody")


async def test_what_a_server_of_the_cluster_told_nobody_is_read(shared, namespace, monkeypatch):
    """It had not heard yet of the subscription: the change is found by looking, a moment after the watch began."""
    monkeypatch.setattr(_Watch, "received", lambda self, message: None)
    async with Opened(shared.url, namespace) as register, Opened(shared.url, namespace) as other:
        monkeypatch.setitem(other._connection.client._server_info, "cluster", "of three")
        async with other.watch("a") as watch, asyncio.timeout(30):
            revision = await register.cas("a", b"1", expected=0)
            assert await watch.next() == Entry("a", revision, b"1")


async def test_a_watch_reports_what_is_stored(shared, namespace):
    async with (
        Opened(shared.url, namespace) as register,
        Opened(shared.url, namespace) as other,
        other.watch("a") as watch,
    ):
        revision = 0
        for number in range(100):
            await register.cas(f"b{number}", b"not watched", expected=0)
            value = b"%d" % number
            stale, revision = revision, await register.cas("a", value, expected=revision)
            with pytest.raises(RevisionConflict):
                await register.cas("a", b"refused", expected=stale)
            assert await watch.next() == await other.read("a") == Entry("a", revision, value)


async def test_a_watch_survives_a_restart(server, namespace):
    async with Opened(server.url, namespace) as register, Opened(server.url, namespace) as other:
        revisions = [await register.cas(f"a{number}", b"old", expected=0) for number in range(10)]
        async with other.watch("a") as watch:
            server.kill()
            await server.start()
            await register._connection.wait_connected(20)
            revisions[3] = await register.cas("a3", b"new", expected=revisions[3])
            seen = {}
            while len(seen) < 10 or seen["a3"].value != b"new":
                entry = await watch.next()
                seen[entry.name] = entry
            assert [seen[f"a{number}"].revision for number in range(10)] == revisions


async def test_a_cancelled_watch_loses_nothing(shared, namespace):
    async with Opened(shared.url, namespace) as register, register.watch("") as watch:
        for number in range(20):
            waiting = asyncio.create_task(watch.next())
            await asyncio.sleep(0)
            write = asyncio.create_task(register.cas(f"a{number}", b"", expected=0))
            waiting.cancel()
            await asyncio.wait([waiting])
            await write
            assert (await watch.next()).name == f"a{number}"


async def test_without_an_answer_the_outcome_is_unknown(server, namespace):
    async with Opened(server.url, namespace, timeout=2.0) as register:
        server.pause()
        register._state.timeout = 0.1
        with pytest.raises(OutcomeUnknown):
            await register.cas("b", b"1", expected=0)
        with pytest.raises(Unavailable):
            await register.read("b")
        with pytest.raises(Unavailable):
            await register.scan("")
        server.resume()
        register._state.timeout = 20
    async with Opened(server.url, namespace) as register:
        assert (await register.read("b")).value == b"1"


async def test_revisions_rise_over_restarts(server, namespace):
    async with Opened(server.url, namespace) as register:
        revision = await register.cas("a", b"1", expected=0)
        server.kill()
        await server.start()
        await register._connection.wait_connected(20)
        assert await register.cas("a", b"2", expected=revision) > revision


@pytest.mark.parametrize(
    ("setting", "value"),
    [("max_age", 10**15), ("max_msgs", 10), ("max_bytes", 10**6), ("storage", "memory"), ("deny_purge", False)],
)
async def test_a_stream_that_could_lose_something_is_refused(setting, value, shared, namespace, connect):
    config = {
        "name": f"aether_state-{namespace}",
        "subjects": [f"aether.s.{namespace}.>"],
        "max_msgs_per_subject": 1,
        "deny_delete": True,
        "deny_purge": True,
        setting: value,
    }
    async with connect(shared.url) as connection:
        await connection.js_api(f"$JS.API.STREAM.CREATE.{config['name']}", config, timeout=20)
    with pytest.raises(BackendUnusable, match=setting):
        await Opened(shared.url, namespace).__aenter__()


async def test_a_stream_that_is_gone_is_no_empty_register(shared, namespace):
    async with Opened(shared.url, namespace, timeout=2.0) as register:
        await register.cas("a", b"1", expected=0)
        state = register._state
        await register._connection.js_api(f"$JS.API.STREAM.DELETE.{state.stream}", b"", timeout=20)
        with pytest.raises(Unavailable):
            await register.read("a")
        with pytest.raises(Unavailable):
            await register.cas("a", b"2", expected=0)
        with pytest.raises(Unavailable):
            await register.scan("")


async def test_many_may_open_it_at_once(shared, namespace):
    registers = [Opened(shared.url, namespace) for _ in range(8)]
    opened = await asyncio.gather(*(each.__aenter__() for each in registers))
    assert sorted(await asyncio.gather(*(each.cas(new_id(), b"", expected=0) for each in opened))) == list(range(1, 9))
    await asyncio.gather(*(each.__aexit__() for each in registers))


async def test_replicas_in_a_cluster(cluster, namespace, connect):
    async with Opened(cluster.url, namespace) as register:
        info = await register._connection.js_api(f"$JS.API.STREAM.INFO.{register._state.stream}", b"", timeout=20)
        assert info["config"]["num_replicas"] == 3
        revision = await register.cas("a", b"1", expected=0)
        assert await register.read("a") == Entry("a", revision, b"1")
    async with Opened(cluster.url, namespace + "-one", replicas="1") as register:
        info = await register._connection.js_api(f"$JS.API.STREAM.INFO.{register._state.stream}", b"", timeout=20)
        assert info["config"]["num_replicas"] == 1
