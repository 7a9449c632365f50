"""Following the stream: pages up to its end, then a pull consumer for what comes.

The consumer is ephemeral and starts at an exact sequence, so there is no seam, and losing it (a restart, a new leader,
a silence) costs nothing: the tail goes on with pages from where it was, then makes a new one. It pulls, because
a push consumer drops beyond its pending limits, and an ordered one starts again from the first message when its server
restarts before the first delivery.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import msgspec

from aether.core.errors import CorruptEvent, StaleRead, StoreIdentityChanged, Unavailable
from aether.core.event import new_id
from aether.core.spi import Page, Stored
from aether.nats.commits import INDEX_BITS, decode_commit, sequence_of
from aether.nats.connection import ApiError, NoReply
from aether.nats.log import EventLog
from aether.nats.reader import Reader
from nats.aio.msg import Msg

_SECOND = 1_000_000_000  # the server counts in nanoseconds
_PULL_SECONDS = 30
_HEARTBEAT_SECONDS = 2
_SILENCE_SECONDS = 5.0  # more than two heartbeats: the consumer is gone
_FORGET_SECONDS = 60  # the server drops a consumer that nobody pulls from; the next pull makes a new one
_PULL_ROOM = 1 << 16
_RETRY_SECONDS = 0.1
_PAGE_COMMITS = 4000  # of the past; with large ones a page ends at 2 MiB, and there are two of them at most
_PAGE_BYTES = 2 << 20
_TURNS = 2  # of the event loop, until the question is sent
_PULL_AGAIN = ("404", "408")  # nothing there, or the pull has expired


class JetStreamTail:
    """A `Tail` of one stream."""

    def __init__(self, log: EventLog, reader: Reader, after: int) -> None:
        self._log = log
        self._reader = reader
        self._after = after
        self._end = after
        self._ready: deque[Stored] = deque()
        self._ahead: asyncio.Task[Page] | None = None
        self._half = -1
        """With how many events left of a page of the past the next one is asked for, -1 if it is not."""

        self._wake = asyncio.Event()
        self._consumer: str | None = None
        self._subscription = AsyncExitStack()
        self._inbox = ""
        self._next = 0
        self._pulled = 0
        self._lost = False
        self._delivered: Stored | None = None
        self._suspicious = False
        self._forget: Callable[[], None] | None = None

    # --- Life ---

    async def open(self) -> None:
        """Nothing is needed until there is something to follow."""
        self._forget = self._log.connection.on_disconnect(self._lose)

    async def close(self) -> None:
        """Drop the consumer."""
        if self._forget is not None:
            self._forget()
        await self._drop()

    # --- Reading ---

    async def page(self, limit: int) -> Sequence[Stored]:
        """See `Tail.page`."""
        while True:
            try:
                page = await self._live(limit) if self._consumer else await self._catch_up(limit)
            except (Unavailable, StaleRead, NoReply, ApiError):
                if self._log.connection.closed:
                    raise
                self._lose()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if page:
                self._after = page[-1].position
                self._delivered = page[-1]
                self._log.note(sequence_of(self._after))
                return page

    async def _catch_up(self, limit: int) -> Sequence[Stored]:
        await self._log.ready()
        await self._check_history()
        if self._ready:
            return await self._taken_ahead(limit)
        if self._after >= self._end:
            last = await self._log.last(self._log.subjects)
            if last is not None:
                self._end = last.sequence << INDEX_BITS | len(last.events) - 1
        if self._after >= self._end:
            await self._make_consumer()
            return ()
        page = await self._past()
        if self._suspicious:  # what was asked across a loss may be of another history
            return ()
        self._ready.extend(page.records)
        self._half = len(page.records) // 2 if page.more else -1
        return await self._taken_ahead(limit)

    async def _past(self) -> Page:
        """The next page of the past, which may be on its way."""
        ahead = self._ahead
        if ahead is None:
            return await self._ask(self._after)
        await asyncio.wait([ahead])
        self._ahead = None
        if ahead.cancelled():  # with what was lost
            return Page((), more=True)
        return ahead.result()

    def _ask(self, after: int) -> Coroutine[Any, Any, Page]:
        # More than was asked for: what is cut off would have to be read again, a whole commit for each event.
        return self._reader.past(after=after, upto=self._end, commits=_PAGE_COMMITS, size=_PAGE_BYTES)

    async def _stop_looking(self) -> None:
        ahead, self._ahead = self._ahead, None
        self._half = -1
        if ahead is not None:
            ahead.cancel()
            await asyncio.wait([ahead])

    async def _taken_ahead(self, limit: int) -> Sequence[Stored]:
        """What is ready; the server works on the next page while the second half of this one is consumed."""
        if 0 < len(self._ready) - limit <= self._half:
            self._half = -1
            self._ahead = asyncio.get_running_loop().create_task(self._ask(self._ready[-1].position))
            self._ahead.add_done_callback(_heard)
            for _ in range(_TURNS):
                await asyncio.sleep(0)  # before anything is taken: a wait that is cancelled loses nothing
        return self._taken(limit)

    async def _check_history(self) -> None:
        """After a loss, make sure that what was delivered last still stands there: the stream may be restored."""
        delivered = self._delivered
        if self._suspicious and delivered is not None:
            place = delivered.position
            page = await self._reader.feed(after=place - 1, upto=place, limit=1)
            if not page.records or page.records[0].data != delivered.data:
                raise StoreIdentityChanged(place, "another event stands there, or none")
        if self._suspicious:
            self._ready.clear()
            await self._stop_looking()
        self._suspicious = False

    async def _live(self, limit: int) -> Sequence[Stored]:
        """What the consumer has delivered; waits for it."""
        if not self._ready:
            self._wake.clear()  # before anything is awaited, or what arrives meanwhile would not end the wait
            if self._lost:
                await self._drop()
                return ()
            if self._pulled == 0:
                await self._pull(limit)
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                self._lose()
        return self._taken(limit)

    def _taken(self, limit: int) -> Sequence[Stored]:
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    # --- The consumer ---

    async def _make_consumer(self) -> None:
        name = "aether-" + new_id()
        self._lost = False
        self._next = sequence_of(self._after) + 1
        connection = self._log.connection
        # A subscription of its own, because what is pulled arrives under its own subject, not under the inbox's.
        self._inbox = connection.client.new_inbox()
        await self._subscription.enter_async_context(connection.subscribe(self._inbox, self._take))
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next,
            "ack_policy": "none",
            "max_deliver": -1,
            "replay_policy": "instant",
            "inactive_threshold": _FORGET_SECONDS * _SECOND,
            "mem_storage": True,
            "num_replicas": 1,
        }
        request = {"stream_name": self._log.stream, "config": config, "action": "create"}
        subject = f"$JS.API.CONSUMER.CREATE.{self._log.stream}.{name}"
        try:
            await connection.js_api(subject, request, timeout=self._log.timeout)
        except BaseException:
            await self._drop()
            raise
        self._consumer = name

    async def _pull(self, limit: int) -> None:
        request = {
            "batch": limit,
            # At least one message of any size, and not much more: many tails may share a connection.
            "max_bytes": self._log.connection.max_payload + _PULL_ROOM,
            "expires": _PULL_SECONDS * _SECOND,
            "idle_heartbeat": _HEARTBEAT_SECONDS * _SECOND,
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._log.stream}.{self._consumer}"
        payload = msgspec.json.encode(request)
        self._pulled = limit
        try:
            await self._log.connection.publish(subject, payload, reply=self._inbox)
        except BaseException:
            self._pulled = 0
            raise

    def _take(self, message: Msg) -> None:
        """Called for every message of the subscription, in order."""
        status = (message.headers or {}).get("Status")
        if status is None:
            sequence = _sequence(message.reply)
            if self._lost:
                return
            try:
                commit = decode_commit(message.data, sequence)
            except CorruptEvent:
                commit = None
            if commit is None or sequence != self._next:
                self._lose()  # damaged, or something is missing in between: reading it as a page says what it is
                return
            self._next += 1
            self._pulled -= 1
            self._ready.extend(commit.records())
        elif status in _PULL_AGAIN:
            self._pulled = 0
        elif status != "100":
            self._lose()
        self._wake.set()

    def _lose(self) -> None:
        self._lost = True
        self._suspicious = True
        self._log.doubt()
        self._wake.set()

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._ready.clear()
        await self._stop_looking()
        self._pulled = 0
        self._end = self._after
        await self._subscription.aclose()
        if consumer is not None:
            with suppress(Unavailable):  # best effort: the server forgets the consumer by itself
                await self._log.connection.publish(f"$JS.API.CONSUMER.DELETE.{self._log.stream}.{consumer}", b"")


def _heard(task: asyncio.Task[Page]) -> None:
    if not task.cancelled():
        task.exception()  # nobody may be left to hear of it


def _sequence(reply: str) -> int:
    """The stream sequence in a delivery's reply subject, which has 9 tokens, or 11 and more since ADR-15."""
    tokens = reply.split(".")
    return int(tokens[5 if len(tokens) == 9 else 7])
