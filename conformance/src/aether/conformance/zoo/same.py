"""Backends whose mistakes no case looks for: machines come upon them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from aether.conformance.wrappers import BusWrapper, RegisterWrapper, StoreWrapper
from aether.core.spi import BusFilter, Page, Sink, StoreDriver


class KeepsLastPages(StoreWrapper):
    """A cache of what stood at the end of an actor, which nobody clears."""

    caught_by = "store.same"

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self._pages: dict[tuple[str, int | None], Page] = {}

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        if not reverse or after or upto is not None:
            return await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        if (actor_id, limit) not in self._pages:
            page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
            self._pages[actor_id, limit] = page
        return self._pages[actor_id, limit]


class FoldsQueues(BusWrapper):
    """Queues whose names look alike are one."""

    caught_by = "bus.same"

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        return self.inner.subscribe(wanted, queue=queue and queue.casefold()[:1], sink=sink)


class TrimsValues(RegisterWrapper):
    """Keeps values as text, without the white space around it."""

    caught_by = "election.register.same"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        return await self.inner.cas(name, value.strip(), expected=expected)
