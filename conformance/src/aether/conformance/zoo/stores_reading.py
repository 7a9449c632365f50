"""Stores that read, feed and follow wrongly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

import msgspec

from aether.conformance.wrappers import StoreWrapper, TailWrapper
from aether.core.spi import (
    Page,
    Slot,
    Stored,
    Tail,
    Write,
)


class DropsLastOfPage(StoreWrapper):
    """Ends behind the first page."""

    caught_by = "store.read.order"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        return Page(page.records, more=False)


class RoundsNumbers(StoreWrapper):
    """Hands numbers through a column that knows no negative zero."""

    caught_by = "store.read.order#same"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        return Page([msgspec.structs.replace(r, data=r.data.replace(b"-0.0", b"0.0")) for r in page.records], page.more)


class IncludesAfter(StoreWrapper):
    """Begins with the version behind which it should begin."""

    caught_by = "store.read.after"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id, after=max(after - 1, 0), upto=upto, limit=limit, reverse=reverse)


class ExcludesUpto(StoreWrapper):
    """Ends in front of the version with which it should end."""

    caught_by = "store.read.upto"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id, after=after, upto=upto and upto - 1, limit=limit, reverse=reverse)


class IgnoresLimit(StoreWrapper):
    """Gives whole pages, however little was asked for."""

    caught_by = ("store.read.limit", "store.read.limit#pages")

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id, after=after, upto=upto, limit=None, reverse=reverse)


class ReversesThePage(StoreWrapper):
    """Takes the first events and turns them around, instead of the last ones."""

    caught_by = ("store.read.reverse", "store.read.reverse#pages")

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=False)
        return Page(page.records[::-1] if reverse else page.records, more=False if reverse else page.more)


class ReadsAReplica(StoreWrapper):
    """Some answers come from a replica that is one version behind."""

    caught_by = "store.read.own"

    lag = count()

    async def version(self, actor_id: str) -> int:
        found = await self.inner.version(actor_id)
        return max(found - 1, 0) if next(self.lag) % 7 == 6 else found


class FoldsCase(StoreWrapper):
    """Keeps actors in a column whose collation folds case."""

    caught_by = "store.names#actors"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self.inner.append([msgspec.structs.replace(w, actor_id=w.actor_id.lower()) for w in writes])

    async def version(self, actor_id: str) -> int:
        return await self.inner.version(actor_id.lower())

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id.lower(), after=after, upto=upto, limit=limit, reverse=reverse)


class TrimsSlotNames(StoreWrapper):
    """Keeps names in a column that drops spaces at their ends."""

    caught_by = "store.names#state"

    async def load(self, kind: str, name: str) -> Slot | None:
        return await self.inner.load(kind, name.strip())

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        return await self.inner.save(kind, name.strip(), value, expected=expected)


class OrdersByActor(StoreWrapper):
    """Sorts the feed by its primary key."""

    caught_by = ("store.feed.order#resume", "store.feed.order")

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page = await self.inner.feed(after=after, upto=upto, limit=limit)
        return Page(sorted(page.records, key=lambda r: (r.actor_id, r.version)), page.more)


class SkipsOneOnResume(StoreWrapper):
    """Adds one to a position that is exclusive already."""

    caught_by = "store.subscribe.seam#after"

    def tail(self, *, after: int) -> object:  # type: ignore[override]
        return self.inner.tail(after=after + 1 if after else 0)


class _TailMutant(StoreWrapper):
    tail_class: type[TailWrapper]

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        async with self.inner.tail(after=after) as tail:
            yield self.tail_class(tail)


class LosesUnderLoad(_TailMutant):
    """Goes by a number that grows before the commit: what is committed late lies behind the cursor already."""

    caught_by = "store.feed.complete#tasks"

    class tail_class(TailWrapper):  # noqa: N801
        async def page(self, limit: int) -> Sequence[Stored]:
            page = await self.inner.page(limit)
            return page[1:] if len(page) > 3 else page


class RepeatsAtTheSeam(_TailMutant):
    """Delivers the last event of a page once more with the next one."""

    caught_by = "store.subscribe.seam"

    class tail_class(TailWrapper):  # noqa: N801
        last: Sequence[Stored] = ()

        async def page(self, limit: int) -> Sequence[Stored]:
            page = await self.inner.page(limit)
            again, self.last = self.last[-1:] if len(self.last) > 1 else (), page
            return [*again, *page]


class PushesEverything(_TailMutant):
    """Ignores how much the consumer can take."""

    caught_by = "store.subscribe.pressure"

    class tail_class(TailWrapper):  # noqa: N801
        async def page(self, limit: int) -> Sequence[Stored]:
            return await self.inner.page(10 * limit)


class LosesOnCancel(_TailMutant):
    """Takes events off the connection, and drops them when whoever waits is cancelled."""

    caught_by = "store.subscribe.seam#cancelled"

    class tail_class(TailWrapper):  # noqa: N801
        async def page(self, limit: int) -> Sequence[Stored]:
            page = await self.inner.page(limit)
            await asyncio.sleep(0)
            return page
