"""Following the stream: one blocking read for all tails of a store.

It reads what is appended as soon as it is there, into a ring of the latest events. A tail that is further behind reads
pages until it comes to the ring, so there is no seam: both are the one stream, and each checks what it goes on from.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from aether.core.errors import AetherError, Unavailable
from aether.core.spi import Stored
from aether.redis.history import History
from aether.redis.lines import Line
from aether.redis.reader import PAGE_BYTES, Reader, stored
from aether.redis.space import Space

_BLOCK_SECONDS = 1.0
"""How long one read waits; a server that has not even answered with nothing long after that is gone."""

_SILENCE_SECONDS = 3.0
_RING_EVENTS = 512
_READ_EVENTS = 256
_BACK_OFF = (0.02, 0.5)  # seconds before it asks again, doubled up to the second
_PATIENCE = 30.0  # seconds of nothing but failures, after which a tail gives up
_ALL = (1 << 64) - 1  # the highest stamp: behind every entry of a position


class Follower:
    """What is appended to one store, for all of its tails."""

    def __init__(self, line: Line, space: Space, history: History, reader: Reader) -> None:
        """`line` is its own: a blocking read holds it up."""
        self._line = line
        self._space = space
        self._history = history
        self._reader = reader
        self._ring: deque[Stored] = deque()
        self._bytes = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._tails = 0
        self.end = 0
        """The position up to which it has read."""

        self.failure: AetherError | None = None

    # --- Life ---

    def join(self) -> None:
        """One tail more; the first one starts it."""
        self._tails += 1

    async def leave(self) -> None:
        """One tail less; with the last one it ends."""
        self._tails -= 1
        if self._tails == 0:
            await self.close()

    async def start(self) -> None:
        """Begin at the present end, unless it runs already. Raises `Unavailable`."""
        if self._task is not None and self._task.done():
            self._task.result()  # raises what it has ended with, if that is no failure that it knows
        if self._task is None:
            last = await self._reader.head()
            if self._task is None and self._tails:
                self.end = 0 if last is None else last.position
                self._task = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """End it. May be called twice."""
        task, self._task = self._task, None
        self.failure = None
        self._ring.clear()
        self._bytes = 0
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    # --- What tails ask ---

    def after(self, position: int, limit: int) -> Sequence[Stored] | None:
        """Up to `limit` events behind a position; None where the ring does not reach back so far."""
        behind = self.end - position
        if behind <= 0:
            return ()
        if behind > len(self._ring):
            return None
        start = len(self._ring) - behind
        return [self._ring[place] for place in range(start, min(start + limit, len(self._ring)))]

    async def wait(self) -> None:
        """Wait until something has happened. Raises `Unavailable` once nothing but failures have for a while."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    # --- The task ---

    async def _follow(self) -> None:
        clock = asyncio.get_running_loop().time
        healthy, pause = clock(), _BACK_OFF[0]
        try:
            while True:
                try:
                    rows = await self._read()
                    healthy, pause = clock(), _BACK_OFF[0]
                except Unavailable as error:
                    if clock() - healthy > _PATIENCE:
                        self._wake(error)  # it goes on, for those who ask again
                        healthy = clock()
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _BACK_OFF[1])
                    continue
                if rows:
                    self._keep(rows)
                    self._wake()
        except AetherError as error:
            self.failure = error  # for all tails, and for good: whoever goes on would go on in another history
        finally:
            self._wake()

    async def _read(self) -> Sequence[Any]:
        count = max(1, min(_READ_EVENTS, PAGE_BYTES // max(1, self._history.largest)))
        command = (
            "XREAD",
            "COUNT",
            count,
            "BLOCK",
            int(_BLOCK_SECONDS * 1000),
            "STREAMS",
            self._space.events,
            f"{self.end}-{_ALL}",
        )
        (reply,) = await self._line.call("following", command, writes=False, timeout=_BLOCK_SECONDS + _SILENCE_SECONDS)
        return reply[0][1] if reply else ()

    def _keep(self, rows: Sequence[Any]) -> None:
        first = self._history.follows(self.end, rows)
        for position, row in enumerate(rows, first):
            one = stored(row, position)
            self._ring.append(one)
            self._bytes += len(one.data)
        self.end = first + len(rows) - 1
        while len(self._ring) > 1 and (len(self._ring) > _RING_EVENTS or self._bytes > PAGE_BYTES):
            self._bytes -= len(self._ring.popleft().data)

    def _wake(self, error: Unavailable | None = None) -> None:
        for waiter in self._waiting:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


class RedisTail:
    """A `Tail` of one store; it holds nothing but a position."""

    def __init__(self, follower: Follower, reader: Reader, after: int) -> None:
        self._follower = follower
        self._reader = reader
        self._after = after

    async def page(self, limit: int) -> Sequence[Stored]:
        """See `Tail.page`. Gives up when the store was `Unavailable` for 30 seconds."""
        clock = asyncio.get_running_loop().time
        healthy, pause = clock(), _BACK_OFF[0]
        while True:
            try:
                page = await self._look(limit)
            except Unavailable:
                if clock() - healthy > _PATIENCE:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, _BACK_OFF[1])
                continue
            if page:
                self._after = page[-1].position
                return page
            await self._follower.wait()
            healthy, pause = clock(), _BACK_OFF[0]

    async def _look(self, limit: int) -> Sequence[Stored]:
        follower = self._follower
        await follower.start()
        if follower.failure is not None:
            raise follower.failure
        page = follower.after(self._after, limit)
        if page is None:
            page = (await self._reader.feed(self._after, follower.end, limit)).records
        return page
