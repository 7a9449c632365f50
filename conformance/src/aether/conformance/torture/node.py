"""One node of a cluster under torture: a process that says on stdout what it believes, the moment it begins to.

    python -m aether.conformance.torture.node URL NODE TTL SHARDS

It ends in order when a line comes on stdin, and at once when stdin ends: its parent is gone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from contextlib import suppress
from typing import Any

import msgspec

from aether.core import AetherError, Cluster, Event, Host, TimedOut, Unavailable, connect
from aether.core.clock import SYSTEM_CLOCK
from aether.core.cluster.duties import Rules
from aether.core.cluster.membership import ClusterState
from aether.core.state import Decider, NewEvent

NAMESPACE = "torture"
CLUSTER = "torture"
ACTORS = 40
_PAUSE = 0.15  # seconds between two commands of a node, on average
_RETRY = 0.1  # seconds

_encoder = msgspec.json.Encoder()


def say(what: str, **fields: Any) -> None:
    """One line, one write: what became true, and when."""
    line = _encoder.encode({"at": SYSTEM_CLOCK.now(), "what": what, **fields}) + b"\n"
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def witness(cluster: Cluster) -> None:
    """Say what the node owns and until when, in the very step in which that changes."""
    presence = cluster._presence
    refresh, stored = presence._refresh, presence._stored
    last: list[Any] = [None]

    def believe(*, always: bool) -> None:
        term = presence.term
        belief = (sorted(presence._mine), *((0, "") if term is None else (term.token, term.holder)))
        if always or belief != last[0]:
            last[0] = belief
            until = 0.0 if term is None else term.deadline
            say("owns", shards=belief[0], token=belief[1], holder=belief[2], until=until)

    def refreshed(state: ClusterState) -> None:
        refresh(state)
        believe(always=False)

    def renewed() -> None:
        stored()
        believe(always=True)

    presence._refresh = refreshed  # type: ignore[method-assign]
    presence._stored = renewed  # type: ignore[method-assign]


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether it happens within so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await event.wait()
    return False


def _evolve(state: int, _event: Event) -> int:
    return state + 1


def _decide(state: int, _command: Event) -> list[NewEvent]:
    return [NewEvent(type="Counted", data={"state": state})]


async def _commands(cluster: Cluster, ttl: float, leave: asyncio.Event) -> None:
    while not await _within(random.uniform(0.5, 1.5) * _PAUSE, leave):
        actor_id = f"actor-{random.randrange(ACTORS)}"
        command = Event(type="Count", actor_id=actor_id, version=1)
        try:
            events = await cluster.ask(actor_id, command, timeout=2 * ttl)
        except AetherError as error:
            say("unanswered", id=command.id, actor=actor_id, error=type(error).__name__)
        else:
            say("answered", id=command.id, actor=actor_id, versions=[event.version for event in events])


async def live(url: str, node: str, ttl: float, shards: int, leave: asyncio.Event) -> None:
    """Join, work, and leave when told so."""
    async with connect(url, namespace=NAMESPACE, holder=node, timeout=max(ttl, 1.0)) as there:
        cluster = Cluster(
            there, name=CLUSTER, node=node, ttl=ttl, shards=shards, join_timeout=30.0, rules=Rules(debounce=0.05)
        )
        witness(cluster)
        cluster.host(Host(there.store, Decider(int, _evolve, _decide)))
        async with cluster:
            say("joined")
            commands = asyncio.create_task(_commands(cluster, ttl, leave))
            await leave.wait()
            commands.cancel()


async def main(url: str, node: str, ttl: float, shards: int) -> None:
    """Live until told to leave. A server that is not there is waited for."""
    logging.disable(logging.CRITICAL)
    leave = asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    life = asyncio.create_task(_again(url, node, ttl, shards, leave))
    told = asyncio.create_task(reader.readline())
    await asyncio.wait((life, told), return_when=asyncio.FIRST_COMPLETED)
    if life.done():
        await life
    elif told.result():
        leave.set()
        await life
        say("left")


async def _again(url: str, node: str, ttl: float, shards: int, leave: asyncio.Event) -> None:
    while not leave.is_set():
        try:
            await live(url, node, ttl, shards, leave)
        except (Unavailable, TimedOut) as error:
            say("again", error=str(error))
            await _within(_RETRY, leave)


if __name__ == "__main__":
    _, its_url, its_node, its_ttl, its_shards = sys.argv
    try:
        asyncio.run(main(its_url, its_node, float(its_ttl), int(its_shards)))
    except Exception as error:
        say("failed", error=repr(error))
        raise
