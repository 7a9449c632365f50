"""The store on NATS JetStream: the reference.

**URL** `nats://[user[:password]@]host[:4222][,host…]`, `nats+tls://…`, or `nats+embedded:///directory` for a server of
one's own. Options: `replicas`, `monitor`, and those of the connection.

**Guarantees** Every rule of the suite, on one server and on clusters. MULTI_ACTOR when the server has atomic batches
(2.12 and later). Durability is `HOST` on the embedded server, which syncs every commit. Other servers sync every two
minutes unless they are told `sync_interval: always`, and do not tell clients which it is: it is `PROCESS`, or what
their monitoring ports say, if the option `monitor=http://host:8222[,…]` names those of all servers of the stream.

**Limits** A commit of one call has to fit into one message of the server (`max_payload`, 1 MiB by default).
Servers below 2.11 are read one commit per round trip; below 2.12 with headers, at half the speed.
Reading an actor whose commits lie far apart in a large stream is slow, whichever way it is read; snapshots cure it.

**Under the hood** One stream per namespace, one subject per actor, one message per commit of one actor. The guard is
the header `Nats-Expected-Last-Subject-Sequence`; the last sequence of each actor is remembered, and read on a miss.
There is never a `Nats-Msg-Id`: it counts for the whole stream and silently swallows events of other actors.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import cache
from typing import Self

from aether.core.errors import CommitTooLarge, Unavailable, VersionConflict
from aether.core.event import new_id
from aether.core.features import Durability, Feature, Limits
from aether.core.scope import DEFAULT_TIMEOUT, Scope
from aether.core.spi import Page, Slot, Stored, Tail, Write
from aether.core.url import BackendURL
from aether.nats.commits import INDEX_BITS, Commit, encode_commit
from aether.nats.connection import Connection, open_connection
from aether.nats.durability import monitors_of, read_durability
from aether.nats.log import EventLog, Refused
from aether.nats.options import replicas_of
from aether.nats.reader import Reader
from aether.nats.state import State
from aether.nats.tail import JetStreamTail

_REMEMBERED = 100_000  # actors whose last sequence is kept: about 20 MB
_HEADER_ROOM = 4096  # bytes of a message's headers, subject and first line, which count towards the payload
_MOST_EVENTS = 10_000
_MAX_BATCH = 1000  # messages of one atomic batch: the server's limit (10199)
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_PAUSE = 0.005
_LEADER_PAUSE = 0.1

Opening = Callable[[], AbstractAsyncContextManager[Connection]]


class JetStreamStore:
    """A `StoreDriver` over a JetStream stream."""

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        self._opening: Opening = lambda: open_connection(url, scope)
        self._namespace = scope.namespace
        self._timeout = scope.timeout
        self._replicas = replicas_of(url)
        self._monitors = monitors_of(url)
        self._stack = AsyncExitStack()
        self._tips: dict[str, tuple[int, int]] = {}
        """The latest known (version, sequence) of actors. Within one connection versions never shrink, so a stale one
        can only be refused."""

        self._remembered_at = 0

    @classmethod
    def from_connection(
        cls, connection: Connection, namespace: str, *, replicas: int | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Self:
        """A store on a connection of your own, which stays open behind it."""
        store = cls(BackendURL("nats://localhost"), Scope(namespace, timeout=timeout))
        store._opening = lambda: nullcontext(connection)
        store._replicas = replicas
        return store

    # --- Life ---

    async def open(self) -> None:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._opening())
            self._log = EventLog(connection, self._namespace, timeout=self._timeout, replicas=self._replicas)
            await self._log.open()
            self._durability = await read_durability(
                connection, self._log.stream, self._monitors, timeout=self._timeout
            )
            # Its stream is made with the first snapshot or checkpoint: opening a store costs one round trip.
            self._state = State(connection, self._namespace, timeout=self._timeout, replicas=self._replicas)
            self._reader = Reader(self._log)
            self._connection = connection
            self._stack = stack.pop_all()

    async def close(self) -> None:
        await self._stack.aclose()

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset({Feature.MULTI_ACTOR}) if self._log.atomic else frozenset()

    @property
    def limits(self) -> Limits:
        return _limits(self._connection.max_payload)

    @property
    def durability(self) -> Durability:
        return self._durability

    @property
    def identity(self) -> str:
        return self._log.identity

    # --- Writing ---

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        await self._log.ready()
        if self._remembered_at != self._log.connection.generation:
            # What was known is of before a reconnect; behind it there may be an older state of the same stream.
            self._tips.clear()
            self._remembered_at = self._log.connection.generation
        if len(writes) > _MAX_BATCH:
            raise CommitTooLarge(size=len(writes), limit=_MAX_BATCH, unit="actors")
        deadline = asyncio.get_running_loop().time() + self._timeout
        refused = False
        while True:
            tips = [await self._tip(write, look=refused) for write in writes]
            try:
                sequence = await self._publish(writes, tips)
            except Refused:
                # Somebody else was first, or something is still in flight on that subject (10164) and its outcome
                # is not visible yet: look again, and try again only while nobody has been seen to be first.
                refused = True
                self._forget(writes)
                if asyncio.get_running_loop().time() >= deadline:
                    reason = "the server keeps refusing it without a newer event"
                    raise Unavailable(_what(writes), reason=reason) from None
                await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.5))
            except BaseException:
                self._forget(writes)  # cancelled or unknown: it may be stored
                raise
            else:
                for offset, write in enumerate(reversed(writes)):
                    self._remember(write.actor_id, write.records[-1].version, sequence - offset)
                return sequence << INDEX_BITS | len(writes[-1].records) - 1

    async def _tip(self, write: Write, *, look: bool) -> int:
        """The sequence of the actor's last commit, if it is at the expected version. Raises `VersionConflict`.

        An actor that is not known and expected to be new is taken to be new: the server knows better.
        """
        version, sequence = self._tips.get(write.actor_id, (0, 0))
        if look or version != write.expected:
            version, sequence = await self._look(write.actor_id)
            if version < write.expected and self._log.replicas > 1:
                # A leader that was just elected may not have applied yet what another acknowledged.
                await asyncio.sleep(_LEADER_PAUSE)
                version, sequence = await self._look(write.actor_id)
        if version != write.expected:
            raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=version)
        return sequence

    async def _look(self, actor_id: str) -> tuple[int, int]:
        latest = await self._log.last(self._log.subject(actor_id))
        if latest is None:
            return 0, 0
        self._remember(actor_id, latest.last, latest.sequence)
        return latest.last, latest.sequence

    async def _publish(self, writes: Sequence[Write], tips: Sequence[int]) -> int:
        """Send the commit and return the sequence of its last message."""
        size = len(writes)
        batch = new_id() if size > 1 else ""
        sequence = 0
        for number, (write, tip) in enumerate(zip(writes, tips, strict=True), start=1):
            subject = self._log.subject(write.actor_id)
            headers = {_EXPECTED: str(tip)}
            if size == 1:
                return await self._log.publish(subject, encode_commit(write, previous=tip), headers, _what(writes))
            headers |= {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            body = encode_commit(write, previous=tip, part=(number - 1, size))
            if number < size:
                # Without a reply subject: an error of the batch comes with the answer to its last message.
                await self._connection.publish(subject, body, headers=headers)
            else:
                headers["Nats-Batch-Commit"] = "1"
                sequence = await self._log.publish(subject, body, headers, _what(writes))
        return sequence

    def _remember(self, actor_id: str, version: int, sequence: int) -> None:
        tips = self._tips
        tips.pop(actor_id, None)
        tips[actor_id] = version, sequence
        if len(tips) > _REMEMBERED:
            del tips[next(iter(tips))]

    def _forget(self, writes: Sequence[Write]) -> None:
        for write in writes:
            self._tips.pop(write.actor_id, None)

    # --- Reading ---

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        await self._log.ready()
        known = self._remembered_at == self._log.connection.generation
        tip = self._tips.get(actor_id) if known else None
        return await self._reader.actor(actor_id, after=after, upto=upto, limit=limit, reverse=reverse, tip=tip)

    async def version(self, actor_id: str) -> int:
        await self._log.ready()
        version, _ = await self._look(actor_id)
        return version

    async def head(self) -> Stored | None:
        await self._log.ready()
        latest = await self._log.last(self._log.subjects)
        return None if latest is None else _last_record(latest)

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        await self._log.ready()
        return await self._reader.feed(after=after, upto=upto, limit=limit)

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        tail = JetStreamTail(self._log, self._reader, after)
        await tail.open()
        try:
            yield tail
        finally:
            await tail.close()

    # --- Slots ---

    async def load(self, kind: str, name: str) -> Slot | None:
        await self._state.ready()
        entry = await self._state.read(self._state.subject(kind, name))
        return None if entry is None else Slot(*entry)

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        await self._state.ready()
        return await self._state.put(self._state.subject(kind, name), value, expected=expected)


@cache
def _limits(max_payload: int) -> Limits:
    """What a server allows: asked for with each append, and the same for as long as the connection lasts."""
    room = max(1, max_payload - _HEADER_ROOM)
    events = max(1, min(_MOST_EVENTS, room // 256))
    size = max(1, room - events)  # a newline for each
    return Limits(max_event_bytes=size, max_commit_bytes=size, max_commit_events=events, max_snapshot_bytes=room)


def _last_record(commit: Commit) -> Stored:
    index = len(commit.events) - 1
    return Stored(commit.sequence << INDEX_BITS | index, commit.actor_id, commit.last, commit.events[index])


def _what(writes: Sequence[Write]) -> str:
    return f"append to {writes[0].actor_id!r}" + (f" and {len(writes) - 1} more" if len(writes) > 1 else "")
