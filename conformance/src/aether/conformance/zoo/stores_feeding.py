"""Stores whose feed has another order than their commits, or another text than was stored."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

import msgspec

from aether.conformance.wrappers import StoreWrapper, TailWrapper
from aether.core.encoding import encode_event
from aether.core.event import Event
from aether.core.spi import NewRecord, Page, Stored, StoreDriver, Tail, Write


class BeginsWithItsOwnRecord(StoreWrapper):
    """The log has a header, and an empty store shows it as its last event."""

    caught_by = "store.feed.order#empty"

    async def head(self) -> Stored | None:
        header = Event(type="StoreCreated", actor_id="store", version=1)
        return await self.inner.head() or Stored(1, "store", 1, encode_event(header))


class TakesNumbersInBlocks(StoreWrapper):
    """Each connection takes a block of a sequence's numbers for its own, and positions no longer follow time."""

    caught_by = "store.feed.order#acknowledged"

    blocks = count(1)

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self.numbers = count(1000 * next(self.blocks))

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        await self.inner.append(writes)
        return next(self.numbers)


def _swapped(records: Sequence[Stored]) -> list[Stored]:
    """Two versions of one actor that follow each other have changed their places."""
    swapped = list(records)
    for place in range(len(swapped) - 1, 0, -1):
        if swapped[place - 1].actor_id == swapped[place].actor_id:
            swapped[place - 1 : place + 1] = swapped[place], swapped[place - 1]
            break
    return swapped


class OrdersByTransaction(StoreWrapper):
    """Orders by the transaction's number, which is taken before the row's lock: versions of one actor swap."""

    caught_by = "store.feed.order"

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page = await self.inner.feed(after=after, upto=upto, limit=limit)
        return Page(_swapped(page.records), page.more)

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        async with self.inner.tail(after=after) as tail:
            yield _Swapping(tail)


class _Swapping(TailWrapper):
    async def page(self, limit: int) -> Sequence[Stored]:
        return _swapped(await self.inner.page(limit))


class SkipsEmptyEvents(StoreWrapper):
    """Takes an event without data for none."""

    caught_by = "store.feed.order"

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page = await self.inner.feed(after=after, upto=upto, limit=limit)
        return Page([record for record in page.records if b'"data":{}' not in record.data], page.more)


class WakesOneTooLate(StoreWrapper):
    """A wake-up that comes while the tail looks is forgotten: the last event waits for the next one."""

    caught_by = "store.subscribe.seam#after"

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        async with self.inner.tail(after=after) as tail:
            yield _Holding(tail)


class _Holding(TailWrapper):
    held: Sequence[Stored] = ()

    async def page(self, limit: int) -> Sequence[Stored]:
        page = [*self.held, *await self.inner.page(limit)]
        if len(page) == 1:
            self.held = page
            page = [*page, *await self.inner.page(limit)]
        self.held = page[-1:]
        return page[:-1]


class NormalisesText(StoreWrapper):
    """Hands texts through a layer that composes accents."""

    caught_by = ("store.names#fields", "store.read.order#same")

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self.inner.append([msgspec.structs.replace(w, records=_composed(w)) for w in writes])


def _composed(write: Write) -> tuple[NewRecord, ...]:
    return tuple(
        msgspec.structs.replace(record, data=unicodedata.normalize("NFC", record.data.decode()).encode())
        for record in write.records
    )


class CountsByPrefix(StoreWrapper):
    """Counts the keys that begin with the actor's: `a` and `ab` meet."""

    caught_by = "store.names#actors"

    async def version(self, actor_id: str) -> int:
        head = await self.inner.head()
        page = await self.inner.feed(after=0, upto=head.position if head else 0, limit=10_000)
        return sum(record.actor_id.startswith(actor_id) for record in page.records)


class PrefetchesForEver(StoreWrapper):
    """Asks for the next page ahead, and goes on waiting for it when nobody wants it any more."""

    caught_by = "store.read.early"
    unseen = "a machine does not count what is left"

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self.ahead: set[asyncio.Task[bool]] = set()

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        if page.more:
            self.ahead.add(asyncio.create_task(asyncio.Event().wait()))
        return page

    async def close(self) -> None:
        for task in self.ahead:
            task.cancel()
        await self.inner.close()
