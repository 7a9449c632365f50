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
    caught_by = "store.read.order"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        return Page(page.records, more=False)


class RoundsNumbers(StoreWrapper):
    caught_by = "store.read.order#same"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        return Page([msgspec.structs.replace(r, data=r.data.replace(b"-0.0", b"0.0")) for r in page.records], page.more)


class IncludesAfter(StoreWrapper):
    caught_by = "store.read.after"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id, after=max(after - 1, 0), upto=upto, limit=limit, reverse=reverse)


class ExcludesUpto(StoreWrapper):
    caught_by = "store.read.upto"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id, after=after, upto=upto and upto - 1, limit=limit, reverse=reverse)


class IgnoresLimit(StoreWrapper):
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
    caught_by = "store.read.own"

    lag = count()

    async def version(self, actor_id: str) -> int:
        found = await self.inner.version(actor_id)
        return max(found - 1, 0) if next(self.lag) % 7 == 6 else found


class FoldsCase(StoreWrapper):
    caught_by = "store.names#actors"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self.inner.append([msgspec.structs.replace(w, actor_id=w.actor_id.lower()) for w in writes])

    async def version(self, actor_id: str) -> int:
        return await self.inner.version(actor_id.lower())

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id.lower(), after=after, upto=upto, limit=limit, reverse=reverse)


class TrimsSlotNames(StoreWrapper):
    caught_by = "store.names#state"

    async def load(self, kind: str, name: str) -> Slot | None:
        return await self.inner.load(kind, name.strip())

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        return await self.inner.save(kind, name.strip(), value, expected=expected)


class OrdersByActor(StoreWrapper):
    caught_by = ("store.feed.order#resume", "store.feed.order")

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page = await self.inner.feed(after=after, upto=upto, limit=limit)
        return Page(sorted(page.records, key=lambda r: (r.actor_id, r.version)), page.more)


class SkipsOneOnResume(StoreWrapper):
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
    caught_by = "store.feed.complete#tasks"

    class tail_class(TailWrapper):  # noqa: N801
        async def page(self, limit: int) -> Sequence[Stored]:
            page = await self.inner.page(limit)
            return page[1:] if len(page) > 3 else page


class RepeatsAtTheSeam(_TailMutant):
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
    caught_by = "store.subscribe.seam#cancelled"

    class tail_class(TailWrapper):  # noqa: N801
        async def page(self, limit: int) -> Sequence[Stored]:
            page = await self.inner.page(limit)
            await asyncio.sleep(0)
            return page
