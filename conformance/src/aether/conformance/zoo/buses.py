"""Buses that lose, repeat, or tell too early that they are ready."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import ClassVar

import msgspec

from aether.conformance.wrappers import BusWrapper
from aether.core import Feature, Unavailable
from aether.core.spi import (
    BusDriver,
    BusFilter,
    Message,
    Sink,
)


class LosesEveryHundredth(BusWrapper):
    """Loses one event of a hundred."""

    caught_by = ("bus.order", "bus.overflow#publisher")

    calls = count(1)

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        return 1 if next(self.calls) % 100 == 0 else await self.inner.publish(message, count=count)


class DeliversTwice(BusWrapper):
    """Sends again what was sent, as if the answer were lost."""

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
    """Everybody who names a queue gets everything."""

    caught_by = "bus.queue"

    def queue(self, queue: str | None) -> str | None:
        return None


class SeesNoOtherNamespace(_SinkMutant):
    """Takes `>` for one token."""

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
    """Claims NO_RESPONDERS and does not know how many there are."""

    caught_by = "bus.request#nobody"

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        await self.inner.publish(message)
        return None


class SendsSomeLater(BusWrapper):
    """What found the connection busy is sent by a task, behind what comes after it."""

    caught_by = "bus.order"
    unseen = "games publish one event after the other"

    def __init__(self, inner: BusDriver) -> None:
        super().__init__(inner)
        self.calls = count(1)
        self.late: set[asyncio.Task[int | None]] = set()

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        if next(self.calls) % 50:
            return await self.inner.publish(message, count=count)
        self.late.add(asyncio.create_task(self.inner.publish(message)))
        return 1

    async def close(self) -> None:
        await asyncio.gather(*self.late)
        await self.inner.close()


class RetainsTheLast(BusWrapper):
    """A subscription begins with what was published last, as retained messages of other brokers do."""

    caught_by = "bus.deliver#late"

    last: ClassVar[dict[str, Message]] = {}

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        self.last[message.namespace] = message
        return await self.inner.publish(message, count=count)

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        async with self.inner.subscribe(wanted, queue=queue, sink=sink):
            if wanted.namespaces in self.last:
                sink.deliver(self.last[wanted.namespaces])
            yield


class ComposesAccents(BusWrapper):
    """Hands texts through a layer that normalises them."""

    caught_by = "bus.deliver#names"

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        data = unicodedata.normalize("NFC", message.data.decode()).encode()
        return await self.inner.publish(msgspec.structs.replace(message, data=data), count=count)


class CutsLongMessages(BusWrapper):
    """Declares the size that the server should have, not the one that it has."""

    caught_by = "bus.deliver#large"
    unseen = "only sizes near the limit show it"

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        return await self.inner.publish(msgspec.structs.replace(message, data=message.data[:65_535]), count=count)


class KnowsOneTokenOfNamespaces(BusWrapper):
    """Takes what is in front of the first dot for the namespace."""

    caught_by = "bus.namespace"

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        first = message.namespace if message.namespace.startswith("_") else message.namespace.partition(".")[0]
        return await self.inner.publish(msgspec.structs.replace(message, namespace=first), count=count)


class CountsItsOwnSubscribers(BusWrapper):
    """Says that nobody listens when nobody does on the same connection."""

    caught_by: str | tuple[str, ...] = ("bus.request", "bus.request#timeout")

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        await self.inner.publish(message, count=count)
        return 0 if count else None


class CountsWithoutTheClaim(CountsItsOwnSubscribers):
    """Does not claim NO_RESPONDERS, and answers as if it did."""

    caught_by = "bus.request#unclaimed"

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset()


class KeepsLeftMembers(BusWrapper):
    """Who has left a queue still gets its share."""

    caught_by = "bus.queue#member"
    unseen = "a machine compares the union of a queue's members"

    def __init__(self, inner: BusDriver) -> None:
        super().__init__(inner)
        self.kept = AsyncExitStack()

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        subscription = self.inner.subscribe(wanted, queue=queue, sink=sink)
        if queue is None:
            async with subscription:
                yield
        else:
            await self.kept.enter_async_context(subscription)
            yield

    async def close(self) -> None:
        await self.kept.aclose()
        await self.inner.close()


class OneQueueForAll(_SinkMutant):
    """Whoever names a queue is in the same one."""

    caught_by = "bus.queue"

    def queue(self, queue: str | None) -> str | None:
        return queue and "queue"


class LeavesATaskOfTheBus(BusWrapper):
    """A keep-alive that outlives its connection."""

    caught_by = "bus.close#leaves"
    unseen = "a machine does not count what is left"

    tasks: ClassVar[set[asyncio.Task[bool]]] = set()

    async def open(self) -> None:
        await self.inner.open()
        self.tasks.add(asyncio.create_task(asyncio.Event().wait()))


class LeaksACancelledOpeningOfTheBus(BusWrapper):
    """What it has begun is forgotten when its opening is cancelled."""

    caught_by = "bus.close#opening"
    unseen = "a machine does not count what is left"

    task: asyncio.Task[bool] | None = None

    async def open(self) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        await self.inner.open()
        self.task = task

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
        await self.inner.close()


class BreaksOnCancel(BusWrapper):
    """A cancelled call leaves half a message on the connection, and everybody else's calls fail."""

    caught_by = "bus.close#cancelled"
    unseen = "a machine cancels nothing"

    broken = False

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        if self.broken:
            raise Unavailable("publish", reason="the protocol is out of step")
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.broken = True
            raise
        return await self.inner.publish(message, count=count)
