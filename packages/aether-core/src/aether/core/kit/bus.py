"""A bus over nothing but a log: one table, or one list, of messages that all processes read."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, Protocol

from aether.core.errors import AetherError, OutcomeUnknown, StaleRead, Unavailable
from aether.core.features import Feature
from aether.core.filters import EventFilter
from aether.core.kit.polling import EVERY, Bell, Poll
from aether.core.names import namespace_matches
from aether.core.spi import BusFilter, Message, Sink

_PAGE = 256  # messages that are read at once

KEEP = 10_000
"""Messages that stay in the log for those who are late, unless a backend says otherwise."""


class Logged(NamedTuple):
    """A message and its place in the log."""

    position: int
    message: Message


class BusLog(Protocol):
    """What `PollingBus` needs of a backend: the last messages of all namespaces of one URL, in one order.

    Positions are 1, 2, 3 … without holes, so that a reader knows how many were trimmed before it came. A position is
    never given twice, not even when nothing is left. No message appears below one that somebody has read.

    Errors are those of `aether.core.spi`: `Unavailable` when certainly nothing was written or for a read without an
    answer, `OutcomeUnknown` when a write may or may not have happened. No retries.
    """

    @property
    def max_message_bytes(self) -> int:
        """The most that `Message.data` may hold."""
        ...

    async def open(self) -> None:
        """Connect and create what is needed. Raises `Unavailable` when no server answers."""
        ...

    async def close(self) -> None:
        """Release everything. May be called twice, and while calls are waiting."""
        ...

    async def put(self, message: Message) -> int:
        """Add a message at the end and return its position. Calls of one log are kept in their order."""
        ...

    async def end(self) -> int:
        """The position of the last message that was ever put, trimmed or not; 0 if there was none."""
        ...

    async def after(self, position: int, limit: int) -> Sequence[Logged]:
        """Up to `limit` of the oldest messages behind `position`, in order; fewer if they have more than a few MiB.

        Empty only when there is none. What was trimmed is left out.
        """
        ...

    async def claim(self, queue: str, positions: Sequence[int]) -> Collection[int]:
        """Take messages for a queue, and return those that nobody had taken for it before.

        MUST give each position of a queue to at most one call, of all processes. `queue` is a text of up to 320
        characters, compared as it is.
        """
        ...

    async def trim(self, upto: int) -> None:
        """Forget the messages up to this position, and what was claimed of them."""
        ...


class _Subscriber:
    """One open subscription. `after` is the end of the log when it began: it wants what came later."""

    def __init__(self, wanted: BusFilter, queue: str | None, sink: Sink, after: int) -> None:
        self.namespaces = wanted.namespaces
        self.events = EventFilter(types=wanted.types, actors=wanted.actors)
        # A namespace pattern has no space, so different pairs never meet.
        self.queue = None if queue is None else f"{wanted.namespaces} {queue}"
        self.sink = sink
        self.after = after
        self.taken = 0
        """How many messages of its queue it has been given: the next goes to the one with the fewest."""

    def wants(self, logged: Logged) -> bool:
        message = logged.message
        return (
            logged.position > self.after
            and namespace_matches(self.namespaces, message.namespace)
            and self.events.wants_type(message.type)
            and self.events.wants_actor(message.actor_id)
        )


class PollingBus:
    """A `BusDriver` over a `BusLog`, which it opens and closes.

    One task reads the log, once for all subscriptions, while there are any. A queue's message goes to the process that
    claims it first, so the work is shared, but not evenly. Every so often a publisher trims the log to the last `keep`
    messages. A reader that is further behind reports to its sinks how many it has missed, wanted or not; behind an
    outage it reports an interruption. NO_RESPONDERS is not there: a log does not know its readers.
    """

    features: frozenset[Feature] = frozenset()

    def __init__(self, log: BusLog, *, bell: Bell | None = None, every: float = EVERY, keep: int = KEEP) -> None:
        """`bell` is shared by the buses of one place; other processes look every `every` seconds."""
        self._log = log
        self._bell = bell or Bell()
        self._poll = Poll(self._bell, every=every, patience=math.inf)
        self._keep = keep
        self._subscribers: list[_Subscriber] = []
        self._reader: asyncio.Task[None] | None = None
        self._position = 0
        self._cut = False
        self._closed = False

    @property
    def max_message_bytes(self) -> int:
        return self._log.max_message_bytes

    async def open(self) -> None:
        await self._log.open()

    async def close(self) -> None:
        self._closed = True
        self._subscribers.clear()
        await self._rest()
        await self._log.close()

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        position = await self._log.put(message)
        self._bell.ring()
        if position % max(1, self._keep // 10) == 0 and position > self._keep:
            with suppress(AetherError):  # the message is out; whoever comes to the next round number trims again
                await self._log.trim(position - self._keep)
        return None

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        subscriber = _Subscriber(wanted, queue, sink, await self._log.end())
        self._join(subscriber)
        try:
            yield
        finally:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)
            if not self._subscribers:
                await self._rest()

    def _join(self, subscriber: _Subscriber) -> None:
        # In a queue it starts level with the others, not with all that they have had.
        members = [one for one in self._subscribers if one.queue == subscriber.queue is not None]
        subscriber.taken = min((one.taken for one in members), default=0)
        self._subscribers.append(subscriber)
        if self._reader is None and not self._closed:
            self._position, self._cut = subscriber.after, False
            self._reader = asyncio.create_task(self._read())
            self._reader.add_done_callback(_complain)

    async def _rest(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])

    # --- Reading ---

    async def _read(self) -> None:
        while True:
            page = await self._poll.until(self._look)
            self._report_gap(page[0].position)
            self._deliver(page, await self._claim(page))

    async def _look(self) -> Sequence[Logged] | None:
        try:
            if self._cut:  # the log may have lost its end, and give those positions to other messages
                self._position = min(self._position, await self._log.end())
            page = await self._log.after(self._position, _PAGE)
        except (Unavailable, StaleRead):
            self._cut = True
            raise
        if self._cut:
            self._resume()
        return page or None

    def _resume(self) -> None:
        self._cut = False
        for subscriber in self._subscribers:
            subscriber.after = min(subscriber.after, self._position)
            subscriber.sink.interrupted()

    def _report_gap(self, first: int) -> None:
        for subscriber in self._subscribers:
            trimmed = first - 1 - max(self._position, subscriber.after)
            if trimmed > 0:
                subscriber.sink.lost(trimmed)

    async def _claim(self, page: Sequence[Logged]) -> dict[str, Collection[int]]:
        """What of a page each queue gets here."""
        won: dict[str, Collection[int]] = {}
        for queue in {subscriber.queue for subscriber in self._subscribers if subscriber.queue is not None}:
            members = [subscriber for subscriber in self._subscribers if subscriber.queue == queue]
            wanted = [logged.position for logged in page if any(member.wants(logged) for member in members)]
            try:
                won[queue] = await self._log.claim(queue, wanted) if wanted else ()
            except (Unavailable, OutcomeUnknown):  # at most once: who may have taken them does not ask again
                for member in members:
                    member.sink.interrupted()
        return won

    def _deliver(self, page: Sequence[Logged], won: dict[str, Collection[int]]) -> None:
        for logged in page:
            self._position = logged.position
            queues: dict[str, list[_Subscriber]] = {}
            for subscriber in self._subscribers:
                if not subscriber.wants(logged):
                    continue
                if subscriber.queue is None:
                    subscriber.sink.deliver(logged.message)
                elif logged.position in won.get(subscriber.queue, ()):
                    queues.setdefault(subscriber.queue, []).append(subscriber)
            for members in queues.values():
                chosen = min(members, key=lambda member: member.taken)
                chosen.taken += 1
                chosen.sink.deliver(logged.message)


def _complain(reader: asyncio.Task[None]) -> None:
    """Say at once that nothing is read any more: a log raised what it must not raise."""
    if not reader.cancelled() and (error := reader.exception()) is not None:
        context = {"message": "a bus has stopped reading its log", "exception": error, "task": reader}
        reader.get_loop().call_exception_handler(context)
