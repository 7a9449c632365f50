"""Buses whose drivers break what only a driver's caller can see: claims, bytes, counts, calls of sinks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from threading import Thread

import msgspec

from aether.conformance.wrappers import BusWrapper
from aether.core import Feature, Unavailable
from aether.core.spi import BusFilter, Message, Sink


class ClaimsWhatItsServerMay(BusWrapper):
    """Has a feature that its plugin never spoke of."""

    caught_by = "bus.driver.features"
    unseen = "only claims show it"

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset(Feature)


class SendsJsonAgain(BusWrapper):
    """Decodes messages, and encodes them anew."""

    caught_by = "bus.driver.deliver"
    unseen = "the facade decodes what it gets"

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        data = json.dumps(json.loads(message.data)).encode()
        return await self.inner.publish(msgspec.structs.replace(message, data=data), count=count)


class NamesCountTowardsTheLimit(BusWrapper):
    """Its server's limit holds for the whole message, names included."""

    caught_by = "bus.driver.limits"
    unseen = "only sizes near the limit show it"

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        size = len(message.data) + len(message.type.encode()) + len(message.actor_id.encode())
        if size > self.max_message_bytes + 256:
            raise Unavailable("publish", reason="the server closed the connection: maximum payload exceeded")
        return await self.inner.publish(message, count=count)


class _Around:
    """A sink that is another one."""

    def __init__(self, inner: Sink) -> None:
        self.inner = inner

    def deliver(self, message: Message) -> None:
        self.inner.deliver(message)

    def interrupted(self) -> None:
        self.inner.interrupted()

    def lost(self, count: int) -> None:
        self.inner.lost(count)


class DeliversFromAThread(BusWrapper):
    """Its client library has a thread of its own that calls back."""

    caught_by = "bus.driver.sink"
    unseen = "only the thread shows it"

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        class FromThread(_Around):
            def deliver(self, message: Message) -> None:
                thread = Thread(target=self.inner.deliver, args=(message,))
                thread.start()
                thread.join()

        return self.inner.subscribe(wanted, queue=queue, sink=FromThread(sink))


class ReportsBatchesAsLosses(BusWrapper):
    """Tells its own bookkeeping from losses by a wrong sign."""

    caught_by = "bus.driver.sink#healthy"
    unseen = "it takes more messages in a row than a game publishes"

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        class Reports(_Around):
            seen = 0

            def deliver(self, message: Message) -> None:
                self.seen += 1
                if self.seen % 128 == 0:
                    self.inner.lost(0)
                    self.inner.interrupted()
                self.inner.deliver(message)

        return self.inner.subscribe(wanted, queue=queue, sink=Reports(sink))


class LeavesLater(BusWrapper):
    """Leaving returns before the subscription has ended."""

    caught_by = "bus.driver.sink#left"
    unseen = "it takes a message behind the end of a subscription"

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        entered, leaving = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with self.inner.subscribe(wanted, queue=queue, sink=sink):
                entered.set()
                await leaving.wait()
                for _ in range(20):
                    await self.inner.publish(Message("elsewhere", "Ping", "a", b"{}"))
                    await asyncio.sleep(0)

        self.holding = asyncio.create_task(hold())
        await entered.wait()
        try:
            yield
        finally:
            leaving.set()


class AlwaysCountsOne(BusWrapper):
    """Says that somebody was there, whoever was."""

    caught_by = "bus.driver.count"

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        await self.inner.publish(message)
        return 1


class CountsWithoutTheFeature(BusWrapper):
    """Does not claim it, and does half of it."""

    caught_by = "bus.driver.count#unclaimed"
    unseen = "only a driver that is asked for a count shows it"

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset()


class FailsToLeaveWhenClosed(BusWrapper):
    """Leaving a subscription needs the connection, which is closed already."""

    caught_by = "bus.driver.close"
    unseen = "games leave before they close"

    closed = False

    async def close(self) -> None:
        self.closed = True
        await self.inner.close()

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        async with self.inner.subscribe(wanted, queue=queue, sink=sink):
            yield
            if self.closed:
                raise Unavailable("unsubscribe", reason="the connection is closed")


class ChoosesBeforeItFilters(BusWrapper):
    """A queue gives each message to one of its members, and that one drops it if it wants another type."""

    caught_by = "bus.queue#types"
    unseen = "members of one queue want the same in its games"

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        everything = wanted if queue is None else msgspec.structs.replace(wanted, types=None)
        return self.inner.subscribe(everything, queue=queue, sink=sink)
