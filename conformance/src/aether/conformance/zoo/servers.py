"""Backends that are sound until their server is restarted, stopped, or shared with other processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aether.conformance.wrappers import BusWrapper, StoreWrapper
from aether.conformance.zoo.registers import KeepsRecordsInTheHandle
from aether.conformance.zoo.stores_reading import RepeatsAtTheSeam
from aether.conformance.zoo.stores_state import KeepsSlotsInTheHandle
from aether.conformance.zoo.stores_writing import TearsCommits
from aether.core import OutcomeUnknown, Unavailable
from aether.core.spi import BusFilter, Message, Sink, Write


class AcknowledgesWhatFailed(StoreWrapper):
    """Sends without waiting for the answer: a lost one counts as a good one."""

    caught_by = ("store.append.unknown#restart", "store.append.unknown#pause")
    needs_server = True

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        try:
            return await self.inner.append(writes)
        except (OutcomeUnknown, Unavailable):
            return 1


class IsKilledInTheMiddle(TearsCommits):
    """Each event is a transaction of its own, and the server may die between two of them."""

    caught_by = "store.append.atomic#restart"
    needs_server = True


class CheckpointsInMemory(KeepsSlotsInTheHandle):
    """What counts as kept is not on any disk."""

    caught_by = "store.durability#restart"
    needs_server = True


class RepeatsBehindTheRestart(RepeatsAtTheSeam):
    """Takes up a page that was delivered once more."""

    caught_by = "store.subscribe.seam#restart"
    needs_server = True


class RepeatsAcrossProcesses(RepeatsAtTheSeam):
    """What another process writes may come with the page before, and again."""

    caught_by = "store.feed.complete"
    needs_server = True


class NeverReportsAnInterruption(BusWrapper):
    """Subscribes again in silence."""

    caught_by = "bus.reconnect"
    needs_server = True

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        async with self.inner.subscribe(wanted, queue=queue, sink=_Silent(sink)):
            yield


class _Silent:
    def __init__(self, inner: Sink) -> None:
        self.deliver = inner.deliver
        self.lost = inner.lost

    def interrupted(self) -> None:
        """Tells nobody."""


class StaysSilent(BusWrapper):
    """Connects again, and does not subscribe again."""

    caught_by = "bus.reconnect"
    needs_server = True

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        async with self.inner.subscribe(wanted, queue=queue, sink=_Gone(sink)):
            yield


class _Gone:
    def __init__(self, inner: Sink) -> None:
        self._inner = inner
        self._gone = False
        self.lost = inner.lost

    def deliver(self, message: Message) -> None:
        if not self._gone:
            self._inner.deliver(message)

    def interrupted(self) -> None:
        self._gone = True
        self._inner.interrupted()


class RecordsInMemory(KeepsRecordsInTheHandle):
    """What counts as kept is not on any disk."""

    caught_by = ("election.register.revision#restart", "election.token#restart")
    needs_server = True
