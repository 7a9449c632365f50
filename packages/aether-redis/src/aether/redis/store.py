"""The event store on Redis and Valkey.

**URL** `redis://[user[:password]@]host[:6379][,host…][/db]`, `rediss://` for TLS, `redis+unix:///socket?db=0`,
`redis+sentinel://host[:26379][,host…]/service[/db]`; `valkey://` and `valkeys://` are the same. A node of a cluster, or
several, leads to the owner of the namespace's slot. Options: `wait_replicas`, `eviction`, and those of the connection.

**Guarantees** Every rule of the suite, and MULTI_ACTOR. Durability is read from the server: `HOST` with
`appendfsync always`, `PROCESS` with `no`, `NONE` with `everysec` and without a log (decision 31).

**Limits** 1 MiB per event, 16 MiB and 10,000 events per commit, 4 MiB per snapshot. A namespace is one slot: one node
holds all of it, in memory. A failover to a replica takes what that had not got; `wait_replicas` makes it less likely,
and whoever had seen it is told (`StoreIdentityChanged`).

**Under the hood** Each event once, in the namespace's stream, at `<position>-<stamp>` (`history.py`); an actor is the
list of its positions, so its version is the list's length. Appends that come together are one script (`scripts.py`),
which judges each commit and stores those that fit: nothing is retried, and one call takes one round trip.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

from aether.core.errors import OutcomeUnknown, Unavailable, VersionConflict
from aether.core.event import new_id
from aether.core.features import Durability, Feature, Limits
from aether.core.kit import Batcher, size_of
from aether.core.scope import Scope
from aether.core.spi import Page, RevisionConflict, Slot, Stored, Tail, Write
from aether.core.url import BackendURL
from aether.redis.durability import check_eviction, read_durability, read_info
from aether.redis.follow import Follower, RedisTail
from aether.redis.history import History
from aether.redis.opening import Server, shared
from aether.redis.places import Ask, Command, Word
from aether.redis.reader import Reader
from aether.redis.scripts import APPEND, SAVE, TAG_BITS

LIMITS = Limits(
    max_event_bytes=1 << 20, max_commit_bytes=16 << 20, max_commit_events=10_000, max_snapshot_bytes=4 << 20
)

Commit = Sequence[Write]

AHEAD = 1
"""Batches that go to the server before the oldest one is answered: while it works, the others are made."""


class RedisStore:
    """A `StoreDriver` over one stream."""

    features = frozenset({Feature.MULTI_ACTOR})
    limits = LIMITS
    durability = Durability.NONE
    identity = ""

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        self.opening: partial[AbstractAsyncContextManager[Server]] = partial(shared, url, scope)
        self._timeout = scope.timeout
        self._stack = AsyncExitStack()
        self._waits: Command | None = None

    # --- Life ---

    async def open(self) -> None:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(self.opening())
            self._server, self._space = server, server.space
            self._history = History(server.space)
            self._line = server.line(self._introduce)
            self._append_line = server.line(self._history.check)
            self._reader = Reader(self._line, self._space, self._history)
            self._follower = Follower(server.line(self._history.check), self._space, self._history, self._reader)
            self._appends = Batcher(self._flush, what="append", timeout=self._timeout, size=size_of, ahead=AHEAD)
            for part in (self._follower, self._appends):
                stack.push_async_callback(part.close)
            await self._line.call("opening the store", ("PING",), writes=False)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        await self._stack.aclose()

    async def _introduce(self, ask: Ask) -> None:
        """The first connection makes the store, and reads what the server is set to; later ones look who answers."""
        if self._history.identity:
            await self._history.check(ask)
            return
        options = self._server.options
        info = await read_info(ask)
        check_eviction(info, evicts=options.evicts)
        await self._history.make(ask, new_id())
        self.identity = self._history.identity
        if options.wait_replicas:
            self._waits = await self._waiting(ask, options.wait_replicas)
        waits = self._waits is not None and self._waits[0] == "WAITAOF"
        self.durability = await read_durability(ask, info, waits=waits)

    async def _waiting(self, ask: Ask, replicas: int) -> Command:
        """What has replicas confirm what was written, on disk where the server can tell."""
        milliseconds = int(self._timeout * 500)  # half of it: whoever gets no confirmation is told so
        known = (await ask("COMMAND", "INFO", "WAITAOF"))[0] is not None
        if known and b"aof_enabled:1" in await ask("INFO", "persistence"):
            await ask("WAITAOF", 0, 0, 1)  # whether the user may; else it would be found out behind an append
            return ("WAITAOF", 1, replicas, milliseconds)
        await ask("WAIT", 0, 1)
        return ("WAIT", replicas, milliseconds)

    # --- Appending ---

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self._appends.ask(writes)

    async def _flush(self, commits: Sequence[Commit]) -> Sequence[int | Exception]:
        own = int.from_bytes(os.urandom(4)) >> (32 - TAG_BITS)
        keys, arguments = self._packed(commits, own)
        answer, *confirmed = await self._append_line.run(
            "append", APPEND, keys, arguments, *self._behind(own), writes=True
        )
        if answer == [-1]:
            raise self._history.gone()
        before, self._history.largest, *verdicts = answer
        if confirmed:
            self._confirm(confirmed[-1])
        answers: list[int | Exception] = []
        count = 0
        for commit, verdict in zip(commits, verdicts, strict=True):
            if isinstance(verdict, int):
                count += sum(len(write.records) for write in commit)
                answers.append(verdict)
            else:
                answers.append(_refusal(commit[verdict[0] - 1], verdict[1]))
        if count:
            last = max(verdict for verdict in verdicts if isinstance(verdict, int))
            self._history.appended(last, count, before, own)
        return answers

    def _packed(self, commits: Sequence[Commit], own: int) -> tuple[list[Word], list[Word]]:
        """Commits as keys and arguments of the script."""
        space = self._space
        keys: list[Word] = [space.events, space.meta]
        places: dict[str, int] = {}
        arguments: list[Word] = [self._history.identity, own, len(space.actors)]
        for commit in commits:
            arguments.append(len(commit))
            for write in commit:
                place = places.get(write.actor_id)
                if place is None:
                    keys.append(space.actor(write.actor_id))
                    place = places[write.actor_id] = len(keys)
                arguments += (place, write.expected, len(write.records))
                arguments += [record.data for record in write.records]
        return keys, arguments

    def _behind(self, value: int) -> Sequence[Command]:
        """What waits for replicas. It writes, as a connection that wrote nothing has nothing that it could wait for."""
        return () if self._waits is None else (("SET", self._space.waited, value), self._waits)

    def _confirm(self, reply: int | list[int]) -> None:
        """Raise `OutcomeUnknown` unless as many replicas have it as was asked for.

        Also for what was refused as a conflict: it may be a repetition of what the replicas have not got yet.
        """
        local, replicas = (1, reply) if isinstance(reply, int) else (reply[0], reply[1])
        wanted = self._server.options.wait_replicas
        if replicas < wanted or local < 1:
            reason = f"it is stored, but {replicas} of {wanted} replicas have confirmed it in time"
            raise OutcomeUnknown("append", reason=reason)

    # --- Reading ---

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self._reader.actor(actor_id, after, upto, limit, reverse=reverse)

    async def version(self, actor_id: str) -> int:
        return await self._reader.version(actor_id)

    async def head(self) -> Stored | None:
        return await self._reader.head()

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        return await self._reader.feed(after, upto, limit)

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        self._follower.join()
        try:
            yield RedisTail(self._follower, self._reader, after)
        finally:
            await self._follower.leave()

    # --- Slots ---

    async def load(self, kind: str, name: str) -> Slot | None:
        command = ("HMGET", self._space.slot(kind, name), "revision", "value")
        revision, value = (await self._line.call(f"{kind} {name!r}", command, writes=False))[0]
        return None if revision is None else Slot(int(revision), value)

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        what, keys = f"{kind} {name!r}", [self._space.slot(kind, name), self._space.meta]
        revision, *confirmed = await self._append_line.run(
            what, SAVE, keys, [self._history.identity, expected, value], *self._behind(expected), writes=True
        )
        if revision == -2:
            raise self._history.gone()
        if confirmed:
            self._confirm(confirmed[-1])
        if revision < 0:
            raise RevisionConflict(what)
        return int(revision)


def _refusal(write: Write, found: int | bytes) -> Exception:
    """Why a commit was not stored: its actor is at another version, or the version cannot be found out."""
    if isinstance(found, bytes):
        reason = f"the list of its positions cannot be read: {found.decode()}"
        return Unavailable(f"append to {write.actor_id!r}", reason=reason, hint="see who else writes to these keys")
    return VersionConflict(write.actor_id, attempted=write.expected + 1, current=found)
