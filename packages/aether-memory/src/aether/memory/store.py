"""The store in memory: the executable model of every rule.

**URL** `memory://` or `memory://name`. Stores of one name share their events; they live as long as the process.

**Guarantees** Every rule of the suite, MULTI_ACTOR included. Durability is `NONE`.

**Limits** 1 MiB per event and snapshot, 16 MiB and 10,000 events per commit: room to test with. Use one event loop.

**Under the hood** A list is the feed, and a list per actor is its history; a position is an index. Nothing awaits
between looking and writing, so the event loop itself is the lock; and writers hardly ever conflict by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aether.core.errors import VersionConflict
from aether.core.features import Durability, Feature, Limits
from aether.core.scope import Scope
from aether.core.spi import Page, RevisionConflict, Slot, Stored, Tail, Write
from aether.core.url import BackendURL
from aether.memory.space import NamespaceSpace, space_of

_PAGE = 1000


class MemoryStore:
    """A `StoreDriver` over dictionaries and lists."""

    features = frozenset({Feature.MULTI_ACTOR})
    limits = Limits(
        max_event_bytes=1 << 20, max_commit_bytes=16 << 20, max_commit_events=10_000, max_snapshot_bytes=1 << 20
    )
    durability = Durability.NONE

    def __init__(self, space: NamespaceSpace) -> None:
        self._space = space

    @classmethod
    def from_url(cls, url: BackendURL, scope: Scope) -> MemoryStore:
        """The store of a URL's namespace."""
        return cls(space_of(url).namespace(scope.namespace))

    @property
    def identity(self) -> str:
        return self._space.identity

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        space = self._space
        await space.turns.take()
        for write in writes:
            current = len(space.actors.get(write.actor_id, ()))
            if current != write.expected:
                raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=current)
        for write in writes:
            history = space.actors.setdefault(write.actor_id, [])
            for record in write.records:
                stored = Stored(len(space.feed) + 1, write.actor_id, record.version, record.data)
                space.feed.append(stored)
                history.append(stored)
        for tail in space.tails:
            tail.set()
        return len(space.feed)

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        await self._space.turns.take()
        history = self._space.actors.get(actor_id, [])
        end = len(history) if upto is None else min(upto, len(history))
        size = _PAGE if limit is None else min(limit, _PAGE)
        if reverse:
            start = max(after, end - size)
            return Page(history[start:end][::-1], more=start > after)
        stop = min(end, after + size)
        return Page(history[after:stop], more=stop < end)

    async def version(self, actor_id: str) -> int:
        await self._space.turns.take()
        return len(self._space.actors.get(actor_id, ()))

    async def head(self) -> Stored | None:
        return self._space.feed[-1] if self._space.feed else None

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        stop = min(upto, after + limit)
        return Page(self._space.feed[after:stop], more=stop < upto)

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        tail = _MemoryTail(self._space, after)
        self._space.tails.add(tail.changed)
        try:
            yield tail
        finally:
            self._space.tails.discard(tail.changed)

    async def load(self, kind: str, name: str) -> Slot | None:
        return self._space.slots.get((kind, name))

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        space = self._space
        slot = space.slots.get((kind, name))
        if expected != (0 if slot is None else slot.revision):
            raise RevisionConflict
        space.revisions += 1
        space.slots[kind, name] = Slot(space.revisions, value)
        return space.revisions


class _MemoryTail:
    def __init__(self, space: NamespaceSpace, after: int) -> None:
        self._space = space
        self._after = after
        self.changed = asyncio.Event()

    async def page(self, limit: int) -> Sequence[Stored]:
        while len(self._space.feed) <= self._after:
            self.changed.clear()
            await self.changed.wait()
        await self._space.turns.take()
        page = self._space.feed[self._after : self._after + limit]
        self._after += len(page)
        return page
