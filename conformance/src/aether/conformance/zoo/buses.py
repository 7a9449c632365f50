"""Buses that lose, repeat, or tell too early that they are ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import msgspec

from aether.conformance.wrappers import BusWrapper
from aether.core.spi import (
    BusFilter,
    Message,
    Sink,
)


class LosesEveryTenth(BusWrapper):
    caught_by = "bus.order"

    calls = count(1)

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        return 1 if next(self.calls) % 100 == 0 else await self.inner.publish(message, count=count)


class DeliversTwice(BusWrapper):
    caught_by = "bus.deliver"

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        await self.inner.publish(message, count=count)
        return await self.inner.publish(message, count=count)


class _SinkMutant(BusWrapper):
    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> object:  # type: ignore[override]
        return self.inner.subscribe(self.wanted(wanted), queue=self.queue(queue), sink=self.sink(sink))

    def wanted(self, wanted: BusFilter) -> BusFilter:
        return wanted

    def queue(self, queue: str | None) -> str | None:
        return queue

    def sink(self, sink: Sink) -> Sink:
        return sink


class FiltersByPrefix(_SinkMutant):
    """Only the part in front of the first wildcard counts, and it has to be followed by something."""

    caught_by = "bus.filter"

    def wanted(self, wanted: BusFilter) -> BusFilter:
        return msgspec.structs.replace(wanted, actors=wanted.actors and wanted.actors.replace("*", "*-"))


class IgnoresQueues(_SinkMutant):
    caught_by = "bus.queue"

    def queue(self, queue: str | None) -> str | None:
        return None


class SeesNoOtherNamespace(_SinkMutant):
    caught_by = "bus.namespace#across"

    def wanted(self, wanted: BusFilter) -> BusFilter:
        return msgspec.structs.replace(wanted, namespaces=wanted.namespaces.replace(">", "*"))


class SubscribesLater(BusWrapper):
    """Returns before the server knows of the subscription."""

    caught_by = "bus.ready"

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        async def hold() -> None:
            async with self.inner.subscribe(wanted, queue=queue, sink=sink):
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


class NeverCounts(BusWrapper):
    caught_by = "bus.request#nobody"

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        await self.inner.publish(message)
        return None
