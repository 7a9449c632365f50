"""Stores that break their promises only while a connection or a server breaks. They take a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec

from aether.conformance.context import drift
from aether.conformance.wrappers import StoreWrapper, TailWrapper
from aether.core import OutcomeUnknown, Unavailable, VersionConflict
from aether.core.spi import NewRecord, Page, Stored, StoreDriver, Tail, Write

_SLOW = 0.02  # seconds: what these stores take for a broken connection
_COPY = 0.005
_PAUSE = 0.005


class CallsALostAnswerAConflict(StoreWrapper):
    """Says that certainly nothing was stored, when that is not known."""

    needs_server = True
    caught_by = "store.append.unknown#ack"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        try:
            return await self.inner.append(writes)
        except OutcomeUnknown:
            first = writes[0]
            raise VersionConflict(first.actor_id, attempted=first.expected + 1, current=first.expected) from None


class RepeatsByItself(StoreWrapper):
    """Sends an append again whose answer is lost, and takes its own first try for somebody else's."""

    needs_server = True
    caught_by = "store.append.unknown#reset"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        try:
            return await self.inner.append(writes)
        except OutcomeUnknown:
            await _back(self.inner)
            return await self.inner.append(writes)


class SendsAgainLater(StoreWrapper):
    """Keeps what was not answered, and stores it behind whatever is there when the connection is back."""

    needs_server = True
    caught_by = "store.append.unknown#late"

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self._kept: list[Write] = []

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        while self._kept and writes[0] != self._kept[0]:
            await _behind(self.inner, self._kept[0])
            del self._kept[0]
        try:
            return await self.inner.append(writes)
        except OutcomeUnknown:
            self._kept = [*writes]
            raise


class SendsTwiceWhenSlow(StoreWrapper):
    """Has no patience: what is not answered at once is sent again, behind whatever is there."""

    needs_server = True
    caught_by = "store.append.unknown#delay"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        appending = asyncio.create_task(self.inner.append(writes))
        done, _ = await asyncio.wait([appending], timeout=_SLOW)
        if done:
            return appending.result()
        await appending
        return await _behind(self.inner, writes[0])


class TearsWhenCancelledAtOneAwait(StoreWrapper):
    """Stores a commit in two halves, with one await between them."""

    caught_by = "store.append.unknown#everywhere"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        await drift(5)
        write = writes[0]
        half = len(write.records) // 2
        if half:
            await self.inner.append([msgspec.structs.replace(write, records=write.records[:half])])
            await asyncio.sleep(0)
        rest = msgspec.structs.replace(write, expected=write.expected + half, records=write.records[half:])
        return await self.inner.append([rest])


class AcknowledgesWhatItKeeps(StoreWrapper):
    """Keeps in memory what it cannot send, and says that it is stored."""

    needs_server = True
    caught_by = "store.append.unknown#gone"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        try:
            return await self.inner.append(writes)
        except (OutcomeUnknown, Unavailable):
            return 1 << 40


class TakesALossForTheEnd(StoreWrapper):
    """A page that cannot be read is an empty one, and the last."""

    needs_server = True
    caught_by = "store.feed.complete#gone"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        try:
            return await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        except Unavailable:
            return Page([], more=False)

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        try:
            return await self.inner.feed(after=after, upto=upto, limit=limit)
        except Unavailable:
            return Page([], more=False)


class RepeatsAfterALoss(StoreWrapper):
    """A subscription that had to wait begins again with the last event that it has delivered."""

    needs_server = True
    caught_by = "store.subscribe.seam#reset"

    def tail(self, *, after: int) -> AbstractAsyncContextManager[Tail]:
        return self._tail(after)

    @asynccontextmanager
    async def _tail(self, after: int) -> AsyncIterator[Tail]:
        async with self.inner.tail(after=after) as tail:
            yield _RepeatsTheLast(tail)


class _RepeatsTheLast(TailWrapper):
    last: Stored | None = None

    async def page(self, limit: int) -> Sequence[Stored]:
        clock = asyncio.get_running_loop().time
        begin = clock()
        page = list(await self.inner.page(limit))
        if self.last is not None and clock() - begin > _SLOW:
            page.insert(0, self.last)
        self.last = page[-1]
        return page


class AnswersFromACopyWhenSlow(StoreWrapper):
    """Keeps versions, and answers with them while the server does not answer at once."""

    needs_server = True
    caught_by = "store.append.race#link"

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self._copies: dict[str, int] = {}

    async def version(self, actor_id: str) -> int:
        try:
            async with asyncio.timeout(_COPY if actor_id in self._copies else None):
                self._copies[actor_id] = await self.inner.version(actor_id)
        except TimeoutError:
            pass
        return self._copies[actor_id]


class TakesSilenceForSuccess(StoreWrapper):
    """An append without an answer was stored, it thinks, behind the one before."""

    needs_server = True
    caught_by = "store.append.race#faults"

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self._last = 1

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        try:
            self._last = await self.inner.append(writes)
        except OutcomeUnknown:
            self._last += 1
        return self._last


async def _back(inner: StoreDriver) -> None:
    """Wait until the server answers."""
    while await _version(inner, "?") is None:  # noqa: ASYNC110  (it has no event)
        await asyncio.sleep(_PAUSE)


async def _version(inner: StoreDriver, actor_id: str) -> int | None:
    try:
        return await inner.version(actor_id)
    except Unavailable:
        return None


async def _behind(inner: StoreDriver, write: Write) -> int:
    """Store the same events again, as the next versions."""
    await _back(inner)
    version = await inner.version(write.actor_id)
    records = tuple(_renumbered(record, version + number) for number, record in enumerate(write.records, start=1))
    return await inner.append([Write(write.actor_id, version, records)])


def _renumbered(record: NewRecord, version: int) -> NewRecord:
    data = record.data.replace(b'"version":%d,' % record.version, b'"version":%d,' % version)
    return msgspec.structs.replace(record, version=version, data=data)
