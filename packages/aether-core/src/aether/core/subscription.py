"""Following a store: what is stored, then what is appended, through one iterator."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aether.core._ahead import TURNS
from aether.core.encoding import AT_ONCE, decode_event
from aether.core.errors import Closed, CorruptEvent
from aether.core.event import Event, Position
from aether.core.filters import EventFilter
from aether.core.spi import Stored, Tail

if TYPE_CHECKING:
    from aether.core.store import EventStore


_WORTH_IT = 0.0005  # seconds: a page that comes sooner is had for less than a task and some turns of the event loop


class Subscription:
    """An endless iterator over `(position, event)`.

    It pulls, and never holds more than `buffer` events, so a slow consumer slows nobody and loses nothing. While it
    catches up, the next page is on its way before the last one is consumed. A cancelled wait loses nothing either;
    iterate again.
    """

    def __init__(self, store: EventStore, after: Position, wanted: EventFilter, buffer: int) -> None:
        self._store = store
        self._after = after
        self._wanted = wanted
        self._buffer = buffer
        self._waiting: deque[Stored] = deque()
        self._ahead: asyncio.Task[Sequence[Stored]] | None = None
        self._more = False
        """Whether the last page was a full one, so there is more, or very nearly, and took its time."""

        self._passed: Stored | None = None
        self._position = after
        self._asked = buffer
        self._slow = False
        self._manager: AbstractAsyncContextManager[Tail] | None = None
        self._tail: Tail | None = None
        self._wait: asyncio.Timeout | None = None
        self._left = False
        self._identity = ""

    @property
    def position(self) -> Position:
        """Behind the last event that was delivered or filtered out. Go on from here after a restart."""
        if self._passed is not None:
            event_id = decode_event(self._passed).id
            self._position = Position.at(self._identity, self._passed.position, event_id)
            self._passed = None
        return self._position

    @property
    def buffered(self) -> int:
        """How many events are held and not delivered yet."""
        ahead = self._ahead
        arrived = ahead is not None and ahead.done() and not ahead.cancelled() and ahead.exception() is None
        return len(self._waiting) + (len(ahead.result()) if ahead is not None and arrived else 0)

    async def __aenter__(self) -> Self:
        if self._manager is not None:
            raise RuntimeError("a subscription is entered once; call subscribe() again")
        self._identity = self._store.identity
        order = await self._store._resume(self._after)
        manager = self._store._live().tail(after=order)
        self._tail = await manager.__aenter__()
        self._manager = manager
        self._store._subscriptions.add(self)
        if not self._store.opened:  # closed meanwhile, without seeing this one
            await self._leave()
            raise Closed("the subscription")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        if self._left:
            return
        self._left = True
        self._store._subscriptions.discard(self)
        if self._wait is not None:
            self._wait.reschedule(asyncio.get_running_loop().time())
        try:
            if self._ahead is not None:
                self._ahead.cancel()
                await asyncio.wait([self._ahead])
        finally:
            if self._manager is not None:
                await self._manager.__aexit__(None, None, None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Position, Event]:
        while True:
            while self._waiting:
                if self._more and 4 * len(self._waiting) <= self._buffer:
                    await self._look_ahead(self._buffer - len(self._waiting))
                    continue  # behind an await, where everything may be otherwise
                stored = self._waiting[0]
                event = self._wanted.decode(stored)
                self._waiting.popleft()
                if event is None:
                    self._passed = stored
                    continue
                self._passed = None
                self._position = Position.at(self._identity, stored.position, event.id)
                return self._position, event
            self._waiting.extend(await self._page())

    async def batch(self) -> list[tuple[Position, Event]]:
        """Wait until there is something more, and return what is wanted of it: up to `buffer` events, perhaps none.

        `position` is behind all of it, so who goes on in batches can keep that, also where nothing was wanted.
        """
        if not self._waiting:
            self._waiting.extend(await self._page())
        if self._more:
            await self._look_ahead(self._buffer)
        found: list[tuple[Position, Event]] = []
        waiting, wanted, identity = self._waiting, self._wanted, self._identity
        passed: Stored | None = None
        try:
            while waiting:
                part = list(islice(waiting, AT_ONCE))
                for stored, event in zip(part, wanted.decode_all(part), strict=True):
                    waiting.popleft()
                    if event is None:
                        passed = stored
                    else:
                        passed = None
                        found.append((Position.at(identity, stored.position, event.id), event))
        except CorruptEvent:
            if not (found or passed):
                raise
            # What is in front of it first; it is raised by the next call.
        self._passed = passed
        if found:
            self._position = found[-1][0]
        return found

    async def _look_ahead(self, room: int) -> None:
        """Ask for the next page, and return before it is there: the server works while this one is consumed."""
        self._more = False
        if self._left or self._tail is None or self._ahead is not None:
            return
        self._asked = room
        self._ahead = asyncio.get_running_loop().create_task(self._ask(self._tail, room))
        self._ahead.add_done_callback(_heard)
        try:
            for _ in range(TURNS):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._ahead.cancel()  # nothing is consumed now
            raise

    async def _page(self) -> Sequence[Stored]:
        if self._left or self._tail is None:
            raise Closed("the subscription", never_opened=not self._left)
        if self._wait is not None:
            raise RuntimeError("two tasks iterate over one subscription; give each its own")
        try:
            async with asyncio.timeout(None) as self._wait:  # closing reschedules it to now, which ends the wait
                page = await self._next_page(self._tail)
        except TimeoutError:
            if self._left:
                raise Closed("the subscription") from None
            raise
        finally:
            self._wait = None
        self._more = self._slow and len(page) >= self._asked
        return page

    async def _next_page(self, tail: Tail) -> Sequence[Stored]:
        ahead = self._ahead
        if ahead is not None:
            await asyncio.wait([ahead])
            if self._left:
                raise Closed("the subscription")
            self._ahead = None
            if not ahead.cancelled():
                return ahead.result()
        self._asked = self._buffer
        return await self._ask(tail, self._buffer)

    async def _ask(self, tail: Tail, limit: int) -> Sequence[Stored]:
        clock = asyncio.get_running_loop().time
        start = clock()
        page = await tail.page(limit)
        self._slow = clock() - start >= _WORTH_IT
        return page


def _heard(task: asyncio.Task[Sequence[Stored]]) -> None:
    if not task.cancelled():
        task.exception()  # nobody may be left to hear of it
