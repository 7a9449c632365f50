"""Stores that fail where things get large, late, old or odd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import ClassVar

import msgspec

from aether.conformance.wrappers import StoreWrapper, TailWrapper
from aether.core import OutcomeUnknown, VersionConflict
from aether.core.event import Event
from aether.core.spi import Page, Slot, Stored, StoreDriver, Tail, Write


class BindsTooManyParameters(StoreWrapper):
    """Each event is seven parameters of one statement, and what does not fit is left out."""

    caught_by = "store.append.limits#sizes"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self.inner.append([msgspec.structs.replace(w, records=w.records[:1000]) for w in writes])


class NamesTakeRoom(StoreWrapper):
    """The limit that it tells is that of its server, for data and names together."""

    caught_by = "store.append.limits#names"
    unseen = "only sizes near the limit show it"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        size = sum(len(w.actor_id.encode()) + sum(len(record.data) for record in w.records) for w in writes)
        if size > self.limits.max_event_bytes + 256 and len(writes[0].records) == 1:
            raise OutcomeUnknown("append", reason="the server closed the connection: maximum payload exceeded")
        return await self.inner.append(writes)


class SwallowsIdsOfTheActor(StoreWrapper):
    """Tells repeated events by their ids, whatever their versions, and says that all is well."""

    caught_by = "store.append.idempotent#moved"

    seen: ClassVar[dict[tuple[str, str, str], int]] = {}

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        key = (self.inner.identity, writes[0].actor_id, writes[0].records[0].id)
        if key not in self.seen:
            self.seen[key] = await self.inner.append(writes)
        return self.seen[key]


class AcknowledgesTheQueue(StoreWrapper):
    """Gathers what comes in at once, and takes the end of its first commit for that of all."""

    caught_by = "store.append.conflict#pipelined"

    first: asyncio.Future[int] | None = None

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        if self.first is not None:
            return await asyncio.shield(self.first)
        self.first = asyncio.ensure_future(self.inner.append(writes))
        await asyncio.sleep(0)
        position = await self.first
        self.first = None
        return position


class OrdersByTime(StoreWrapper):
    """The feed goes by the time that is in the events."""

    caught_by = "store.feed.order#clock"
    unseen = "it takes a clock that goes back"

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page = await self.inner.feed(after=after, upto=upto, limit=limit)
        decoded = [(msgspec.json.decode(one.data, type=Event).timestamp, one) for one in page.records]
        return Page([one for _, one in sorted(decoded, key=lambda pair: pair[0])], page.more)


class FeedsReplicas(StoreWrapper):
    """Each handle reads from a replica of its own, and one of them is behind."""

    caught_by = "store.feed.order#prefix"

    handles: ClassVar[list[object]] = []

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self.handles.append(self)
        self.lag = 4 * (len(self.handles) % 2)

    async def head(self) -> Stored | None:
        found = await self.inner.head()
        if found is None or found.position <= self.lag:
            return found
        page = await self.inner.feed(after=0, upto=found.position, limit=10_000)
        return page.records[-1 - self.lag]


class HashesActors(StoreWrapper):
    """A hash of 16 bits stands for the actor."""

    caught_by = "store.names#many"
    unseen = "it takes thousands of actors"

    names: ClassVar[dict[tuple[str, bytes], str]] = {}

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        for write in writes:
            key = (self.inner.identity, blake2b(write.actor_id.encode(), digest_size=2).digest())
            if self.names.setdefault(key, write.actor_id) != write.actor_id:
                raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=1)
        return await self.inner.append(writes)


class ReadsAllAtOnce(StoreWrapper):
    """The client library collects the whole answer."""

    caught_by = "store.read.pages"
    unseen = "only memory shows it"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        found: list[Stored] = []
        while True:
            page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
            found += [msgspec.structs.replace(one, data=bytes(bytearray(one.data))) for one in page.records]
            if not page.more or limit is not None:
                return Page(found, page.more)
            if reverse:
                upto = found[-1].version - 1
            else:
                after = found[-1].version


class BuffersEverything(StoreWrapper):
    """Takes events from the server as they come, whether anybody asks for them or not."""

    caught_by = "store.subscribe.pressure#memory"
    unseen = "only memory shows it"

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        queue: asyncio.Queue[Stored] = asyncio.Queue()

        async def pump(inner: Tail) -> None:
            while True:
                for one in await inner.page(100):
                    queue.put_nowait(msgspec.structs.replace(one, data=bytes(bytearray(one.data))))

        class Buffered(TailWrapper):
            async def page(self, limit: int) -> Sequence[Stored]:
                return [await queue.get()]

        async with self.inner.tail(after=after) as inner:
            pumping = asyncio.create_task(pump(inner))
            try:
                yield Buffered(inner)
            finally:
                pumping.cancel()
                await asyncio.wait([pumping])


class FewSubscriptions(StoreWrapper):
    """A pool of 32 connections, one for each subscription; the next one waits for a free one."""

    caught_by = "store.subscribe.seam#several"
    unseen = "it takes more subscriptions than a game has"

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self.pool = asyncio.Semaphore(32)

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        async with self.inner.tail(after=after) as tail:
            try:
                async with asyncio.timeout(0.05):
                    await self.pool.acquire()
            except TimeoutError:
                raise OutcomeUnknown("subscribe", reason="the pool is exhausted") from None
            try:
                yield tail
            finally:
                self.pool.release()


class TakesWholePages(StoreWrapper):
    """Has a smallest page, which is larger than what is asked for."""

    caught_by = "store.subscribe.seam#buffer"

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        class More(TailWrapper):
            async def page(self, limit: int) -> Sequence[Stored]:
                return await self.inner.page(max(limit, 4))

        async with self.inner.tail(after=after) as tail:
            yield More(tail)


class DropsWhatItCannotRead(StoreWrapper):
    """A value that is no JSON counts as none."""

    caught_by = "store.checkpoint.damaged"
    unseen = "it takes a damaged slot"

    async def load(self, kind: str, name: str) -> Slot | None:
        found = await self.inner.load(kind, name)
        try:
            return found if found is None or msgspec.json.decode(found.value) else None
        except msgspec.DecodeError:
            return None


class BelongsToTheFirstLoop(StoreWrapper):
    """A client that all stores of the process share, made in the event loop of the first."""

    caught_by = "store.close#loops"
    unseen = "it takes a second event loop"

    loop: ClassVar[asyncio.AbstractEventLoop | None] = None

    async def open(self) -> None:
        await self.inner.open()
        if BelongsToTheFirstLoop.loop is None:
            BelongsToTheFirstLoop.loop = asyncio.get_running_loop()

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("attached to a different loop")
        return await self.inner.append(writes)
