"""What a server may answer instead of doing its work: whether it is surely not done, what to do, and no secrets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aether.core import Event, OutcomeUnknown, Unavailable, open_bus, open_election, open_store
from aether.core.scope import Scope
from aether.core.spi import Entry, NewRecord, Write
from aether.core.url import BackendURL
from aether.redis.lines import Line
from aether.redis.options import read_options
from aether.redis.places import Ask, Place
from aether.redis.servers import RedisServer
from aether.redis.store import RedisStore

Made = Callable[..., RedisServer]

SAY = "return redis.error_reply(ARGV[1])"
"""The server says what it is told to say: its errors come one by one from states that are hard to bring about."""


def event(actor_id: str, version: int) -> Event:
    return Event(type="A", actor_id=actor_id, version=version)


@asynccontextmanager
async def line_to(server: RedisServer) -> AsyncIterator[Line]:
    async def anybody(ask: Ask) -> None:
        """No questions."""

    line = Line(Place(read_options(BackendURL(server.url)), timeout=20.0), anybody, timeout=20.0)
    try:
        yield line
    finally:
        await line.close()


# --- Whether it is done ---


@pytest.mark.parametrize(
    "answer",
    [
        "ASK 1 127.0.0.1:1",
        "BUSY Redis is busy running a script",
        "CLUSTERDOWN Hash slot not served",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down",
        "MISCONF Errors writing to the AOF file",
        "NOAUTH Authentication required.",
        "NOPERM this user has no permissions",
        "NOREPLICAS Not enough good replicas to write.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
    ],
)
async def test_what_is_refused_before_anything_is_done_is_surely_not_done(server: RedisServer, answer: str) -> None:
    async with line_to(server) as line:
        with pytest.raises(Unavailable, match=answer.split()[0]):
            await line.call("it", ("EVAL", SAY, 0, answer), writes=True)
        assert await line.call("echo", ("ECHO", "x"), writes=False) == [b"x"], "the line goes on"


@pytest.mark.parametrize("answer", ["ERR what is this", "WRONGTYPE another kind of value", "NEWKIND of error"])
async def test_any_other_error_leaves_it_open(server: RedisServer, answer: str) -> None:
    async with line_to(server) as line:
        with pytest.raises(OutcomeUnknown):
            await line.call("it", ("EVAL", SAY, 0, answer), writes=True)
        with pytest.raises(Unavailable):
            await line.call("it", ("EVAL", SAY, 0, answer), writes=False)


@pytest.mark.parametrize("answer", ["OOM full", "READONLY a replica", "MOVED 1 127.0.0.1:1", "NOPERM no"])
async def test_what_was_done_is_not_surely_undone_by_an_error_behind_it(server: RedisServer, answer: str) -> None:
    async with line_to(server) as line:
        with pytest.raises(OutcomeUnknown):
            await line.call("it", ("INCR", "{done}"), ("EVAL", SAY, 0, answer), writes=True)


@pytest.mark.parametrize("answer", ["READONLY a replica", "CLUSTERDOWN no", "MOVED 1 127.0.0.1:{port}"])
async def test_who_asked_behind_a_refusal_still_gets_the_answer(server: RedisServer, answer: str) -> None:
    """The connection leads to the wrong place, but what was sent over it is answered there."""
    async with line_to(server) as line:
        await line.call("echo", ("ECHO", "x"), writes=False)
        refused = asyncio.create_task(
            line.call("it", ("EVAL", SAY, 0, answer.format(port=server.port)), writes=True), name="refused"
        )
        behind = asyncio.create_task(
            line.call("it", ("XREAD", "BLOCK", 200, "STREAMS", "{none}", 0), writes=True), name="behind"
        )
        with pytest.raises(Unavailable):
            await refused
        assert await behind == [None]


async def test_a_server_that_is_full_behind_an_append_does_not_deny_it(made: Made) -> None:
    """With `wait_replicas` a command follows the append: its refusal says nothing of the append."""
    primary, replica = made(), made()
    await replica.ask("REPLICAOF", "127.0.0.1", primary.port)
    await primary.ask("ACL", "SETUSER", "part", "reset", "on", "nopass", "~*", "&*", "+@all", "-set")
    url = f"redis://part:x@127.0.0.1:{primary.port}"
    driver = RedisStore(BackendURL(url, {"wait_replicas": 1}), _scope())
    await driver.open()
    try:
        with pytest.raises(OutcomeUnknown, match="NOPERM"):
            await driver.append([_write("a", 0)])
        assert await driver.version("a") == 1
    finally:
        await driver.close()


async def test_a_user_who_may_not_wait_is_told_so_when_it_opens(server: RedisServer) -> None:
    waits = [name for name in ("wait", "waitaof") if (await server.ask("COMMAND", "INFO", name))[0] is not None]
    rights = ["~*", "&*", "+@all", *(f"-{name}" for name in waits)]
    await server.ask("ACL", "SETUSER", "hasty", "reset", "on", "nopass", *rights)
    with pytest.raises(Unavailable, match="NOPERM"):
        async with open_store(f"redis://hasty:x@127.0.0.1:{server.port}", wait_replicas=1):
            pass


async def test_messages_that_were_published_are_not_denied_for_one_that_was_refused(server: RedisServer) -> None:
    await server.ask("ACL", "SETUSER", "some", "reset", "on", "nopass", "~*", "+@all", "&aether:bus:0:mixed:B")
    url = f"redis://some:x@127.0.0.1:{server.port}"
    async with (
        open_bus(server.url, namespace="mixed") as hearing,
        open_bus(url, namespace="mixed", timeout=20.0) as bus,
        hearing.subscribe() as events,
    ):
        mine, other = event("a", 1), Event(type="B", actor_id="b", version=1)
        results = await asyncio.gather(bus.publish(mine), bus.publish(other), return_exceptions=True)
        assert isinstance(results[0], Unavailable)
        assert results[1] is None
        assert (await anext(events)).actor_id == "b"


# --- Secrets, and what to do ---


@pytest.mark.parametrize("url", ["redis://aether:s3cret@{place}", "redis://:s3cret@{place}"])
async def test_a_server_that_repeats_the_password_is_not_quoted(made: Made, url: str) -> None:
    """One without AUTH answers: unknown command 'AUTH', with args beginning with the password."""
    server = made(**{"rename-command AUTH": '""'})
    with pytest.raises(Unavailable, match="AUTH") as caught:
        async with open_store(url.format(place=f"127.0.0.1:{server.port}")):
            pass
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in str(error) + repr(error)
        error = error.__cause__ or error.__context__


async def test_why_the_sentinels_do_not_help_is_said(server: RedisServer) -> None:
    """Here it is no sentinel, but answers as one that wants another password."""
    place = f"127.0.0.1:{server.port}"
    with pytest.raises(Unavailable, match="unknown command 'SENTINEL'"):
        async with open_store(f"redis+sentinel://{place}/orders", timeout=5.0):
            pass
    with pytest.raises(Unavailable, match="WRONGPASS") as caught:
        async with open_store(f"redis+sentinel://{place}/orders?sentinel_user=x&sentinel_password=wr0ng", timeout=5.0):
            pass
    assert "wr0ng" not in str(caught.value)


async def test_a_silent_sentinel_is_passed_over(tmp_path: Path, made: Made) -> None:
    primary, silent = made(), made()
    settings = {"sentinel monitor orders": f"127.0.0.1 {primary.port} 1"}
    async with RedisServer(tmp_path / "sentinel", settings=settings, sentinel=True) as sentinel:
        silent.pause()
        try:
            url = f"redis+sentinel://127.0.0.1:{silent.port},127.0.0.1:{sentinel.port}/orders"
            async with open_store(url, timeout=8.0) as store:
                await store.append(event("a", 1))
        finally:
            silent.resume()


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
async def test_a_host_that_cannot_be_one_is_said(host: str) -> None:
    with pytest.raises((Unavailable, ValueError), match=host[:10]):
        async with open_store(f"redis://{host}:6379", timeout=5.0):
            pass


# --- Strangers ---


async def test_a_record_of_a_stranger_is_no_lease(server: RedisServer) -> None:
    await server.ask("HSET", "{aether:foreign}:leases", "billing", "nonsense", "other", "1 x", b"\xff", "1 y")
    async with open_election(server.url, namespace="foreign", timeout=1.0) as election:
        assert (await election._live().scan("")) == [Entry("other", 1, b"x")]
        with pytest.raises(Unavailable, match="none of ours"):
            await election._live().read("billing")


def _scope() -> Scope:
    return Scope("behind", timeout=20.0)


def _write(actor: str, expected: int) -> Write:
    return Write(actor, expected, (NewRecord(expected + 1, "id", "A", b"{}"),))
