"""Buses that break their promises only while a connection or a server breaks. They take a real server."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from aether.conformance.wrappers import BusWrapper
from aether.core import Unavailable
from aether.core.spi import BusDriver, BusFilter, Message, Sink


class _SinkWrapper:
    def __init__(self, inner: Sink) -> None:
        self.inner = inner

    def deliver(self, message: Message) -> None:
        self.inner.deliver(message)

    def interrupted(self) -> None:
        self.inner.interrupted()

    def lost(self, count: int) -> None:
        self.inner.lost(count)


class HidesInterruptions(BusWrapper):
    """Subscribes again after a loss, and tells nobody."""

    needs_server = True
    caught_by = "bus.reconnect#reset"

    class _Hides(_SinkWrapper):
        def interrupted(self) -> None:
            pass

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        return self.inner.subscribe(wanted, queue=queue, sink=self._Hides(sink))


class DeliversTheLastAgain(BusWrapper):
    """After a loss it begins with what it has delivered last."""

    needs_server = True
    caught_by = "bus.reconnect#gone"

    class _Again(_SinkWrapper):
        last: Message | None = None

        def deliver(self, message: Message) -> None:
            self.last = message
            super().deliver(message)

        def interrupted(self) -> None:
            super().interrupted()
            if self.last is not None:
                super().deliver(self.last)

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        return self.inner.subscribe(wanted, queue=queue, sink=self._Again(sink))


class SendsWhatItRefused(BusWrapper):
    """Keeps the last that it could not send, and sends it when the connection is back."""

    needs_server = True
    caught_by = "bus.order#reset"

    def __init__(self, inner: BusDriver) -> None:
        super().__init__(inner)
        self._kept: list[Message] = []

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        try:
            published = await self.inner.publish(message, count=count)
        except Unavailable:
            self._kept = [message]
            raise
        while self._kept:
            await self.inner.publish(self._kept.pop(0))
        return published
