"""Connections: lost, late, shared and cancelled."""

import asyncio
import random
import re
import ssl
from pathlib import Path

import pytest
from redis.asyncio.connection import AbstractConnection

from aether.core import BackendUnusable, Durability, Event, OutcomeUnknown, Unavailable, connect, open_store
from aether.core.kit.server import free_port
from aether.core.scope import Scope
from aether.core.url import BackendURL
from aether.redis.lines import Line
from aether.redis.options import read_options
from aether.redis.places import Ask, Greet, Place
from aether.redis.servers import RedisServer


async def anybody(ask: Ask) -> None:
    """No questions."""


class Fickle(Place):
    """Its first connections are cut off as soon as they are made."""

    cut = 2

    async def connect(self, greet: Greet) -> AbstractConnection:
        connection = await super().connect(greet)
        if self.cut:
            self.cut -= 1
            writer = connection._writer
            assert writer is not None
            asyncio.get_running_loop().call_soon(writer.transport.abort)
        return connection


def place_of(server: RedisServer, kind: type[Place] = Place) -> Place:
    return kind(read_options(BackendURL(server.url)), timeout=5.0)


async def test_a_connection_that_is_lost_at_once_mixes_up_no_replies(server: RedisServer) -> None:
    line = Line(place_of(server, Fickle), anybody, timeout=5.0)
    try:
        calls = [line.call("echo", ("ECHO", f"{number}"), writes=False) for number in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for number, answer in enumerate(answers):
            assert isinstance(answer, Unavailable) or answer == [b"%d" % number]
        assert await line.call("echo", ("ECHO", "after"), writes=False) == [b"after"]
    finally:
        await line.close()


async def test_cancelled_calls_take_no_reply_from_others(server: RedisServer) -> None:
    line = Line(place_of(server), anybody, timeout=30.0)
    rng = random.Random(7)
    try:
        calls = [asyncio.create_task(line.call("echo", ("ECHO", f"{n}"), writes=False)) for n in range(400)]
        for call in rng.sample(calls, 200):
            await asyncio.sleep(0)
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        found = {n: answer for n, answer in enumerate(answers) if not isinstance(answer, asyncio.CancelledError)}
        assert len(found) >= 200
        assert all(answer == [b"%d" % n] for n, answer in found.items())
    finally:
        await line.close()


async def test_a_write_is_never_sent_twice(server: RedisServer) -> None:
    """redis-py's own retries would: the answer is lost, and the server has done it."""
    line = Line(place_of(server), anybody, timeout=0.2)
    try:
        server.pause()
        try:
            with pytest.raises(OutcomeUnknown):
                # The connection is made by the kernel, which answers for a server that is stopped.
                await line.call("count", ("INCR", "{twice}"), writes=True)
        except Unavailable:
            pass  # it could not even be greeted
        finally:
            server.resume()
        assert int((await line.call("look", ("GET", "{twice}"), writes=False))[0] or 0) <= 1
    finally:
        await line.close()


async def test_a_late_answer_takes_the_connection_and_leaves_no_task(server: RedisServer) -> None:
    before = asyncio.all_tasks()
    line = Line(place_of(server), anybody, timeout=0.1)
    with pytest.raises(Unavailable):
        await line.call("waiting", ("BLPOP", "{nothing}", 0), writes=False)
    assert await line.call("echo", ("ECHO", "x"), writes=False) == [b"x"]
    await line.close()
    await line.close()
    with pytest.raises(Unavailable):
        await line.call("echo", ("ECHO", "x"), writes=False)
    assert asyncio.all_tasks() == before


async def test_closing_ends_what_waits(server: RedisServer) -> None:
    line = Line(place_of(server), anybody, timeout=30.0)
    await line.call("echo", ("ECHO", "x"), writes=False)
    read = asyncio.create_task(line.call("waiting", ("BLPOP", "{nothing}", 0), writes=False))
    write = asyncio.create_task(line.call("waiting", ("BLPOP", "{nothing}", 0), writes=True))
    await asyncio.sleep(0)
    await line.close()
    with pytest.raises(Unavailable):
        await read
    with pytest.raises(OutcomeUnknown):
        await write


async def test_no_server_is_unavailable_at_once() -> None:
    with pytest.raises(Unavailable, match="127.0.0.1"):
        async with open_store(f"redis://127.0.0.1:{free_port()}"):
            pass


async def test_a_password_shows_nowhere(server: RedisServer) -> None:
    await server.ask("ACL", "SETUSER", "aether", "on", ">s3cret", "~*", "&*", "+@all")
    place = f"127.0.0.1:{server.port}"
    async with open_store(f"redis://aether:s3cret@{place}") as store:
        assert "s3cret" not in repr(store)
    with pytest.raises(Unavailable) as caught:
        async with open_store(f"redis://aether:wr0ng@{place}"):
            pass
    assert "wr0ng" not in str(caught.value) + repr(caught.value.__cause__)


async def test_the_rights_that_the_readme_lists_are_enough(server: RedisServer) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    rights = " ".join(
        part for part in re.findall("`([^`]+)`", readme.partition("A user needs: ")[2].partition("\n\n")[0])
    )
    words = [word for word in rights.split() if word[0] in "~&+" and word not in ("&*", "+wait", "+waitaof")]
    await server.ask("ACL", "SETUSER", "least", "reset", "on", "nopass", *words)
    url = f"redis://least:x@127.0.0.1:{server.port}"
    async with (
        connect(url, namespace="shop") as place,
        place.store.subscribe() as events,
        place.bus.subscribe() as heard,
    ):
        await place.store.append(Event(type="A", actor_id="a", version=1))
        await place.store.save_checkpoint("c", (await anext(events))[0], token=1)
        assert [one.version async for one in place.store.read("a")] == [1]
        await place.bus.publish(Event(type="A", actor_id="a", version=2))
        assert (await anext(heard)).version == 2
        async with place.election.lead("billing", ttl=5):
            assert place.store.durability > Durability.NONE


async def test_what_a_user_may_not_do_is_said(server: RedisServer) -> None:
    await server.ask("ACL", "SETUSER", "reader", "on", "nopass", "~*", "+@read", "+info", "+eval", "+evalsha")
    with pytest.raises(Unavailable, match="NOPERM"):
        async with open_store(f"redis://reader:x@127.0.0.1:{server.port}", namespace="forbidden") as store:
            await store.append(Event(type="A", actor_id="a", version=1))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://localhost:x", "port"),
        ("redis://localhost/one", "number of a database"),
        ("redis://localhost/1?db=2", "keep one"),
        ("redis+unix://localhost/socket", "named by its path"),
        ("redis+sentinel://localhost", "names the service"),
        ("redis+tls://localhost", "unknown variant"),
        ("redis://localhost?tls_ca=x", "rediss://"),
        ("rediss://localhost?tls_ca=/nowhere", "cannot be loaded"),
        ("rediss://localhost?tls_key=/nowhere", "without 'tls_cert'"),
        ("rediss://localhost?tls=yes", "SSLContext"),
        ("redis://user@localhost", "needs a password"),
        ("redis://localhost?wait_replicas=many", "wait_replicas"),
        ("redis://localhost?eviction=maybe", "refuse or allow"),
        ("redis://localhost?password=a", ""),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(url: str, says: str) -> None:
    parsed = BackendURL(url)
    if not says:
        assert read_options(parsed).login == {"username": None, "password": "a"}
        return
    with pytest.raises(ValueError, match=says):
        read_options(parsed)


def test_addresses() -> None:
    def seeds(url: str) -> list[str]:
        return [str(seed) for seed in read_options(BackendURL(url)).seeds]

    assert seeds("redis://") == ["localhost:6379"]
    assert seeds("valkey://a,b:7000/3") == ["a:6379", "b:7000"]
    assert seeds("redis+unix:///run/redis.sock?db=2") == ["/run/redis.sock"]
    options = read_options(BackendURL("redis+sentinel://a,b/orders/2"))
    assert (options.seeds[0].port, options.service, options.db) == (26379, "orders", 2)
    context = read_options(BackendURL("rediss://a")).tls
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)


async def test_a_socket_and_databases_that_do_not_meet(server: RedisServer) -> None:
    path = server.settings["unixsocket"]
    async with (
        open_store(f"redis+unix://{path}?db=1", namespace="sockets") as one,
        open_store(f"{server.url}/1", namespace="sockets") as same,
        open_store(f"{server.url}/2", namespace="sockets") as other,
    ):
        await one.append(Event(type="A", actor_id="a", version=1))
        assert (await same.version("a"), await other.version("a")) == (1, 0)
        assert one.identity == same.identity != other.identity


async def test_an_old_server_is_refused() -> None:
    from aether.redis.durability import read_info

    async def ask(*command: object) -> bytes:
        return b"redis_version:6.2.5\r\n"

    with pytest.raises(BackendUnusable, match="too old"):
        await read_info(ask)


def test_a_scope_shares_nothing_before_it_is_opened() -> None:
    from aether.redis.opening import shared

    shared(BackendURL("redis://localhost"), Scope("shop"))
