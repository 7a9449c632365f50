"""Giving up on calls that take too long, without a timer for each of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

Late = Callable[[], Exception]


class Pending(Protocol):
    """What ends in time or fails: a future, or a `Shelter`."""

    def get_loop(self) -> asyncio.AbstractEventLoop: ...

    def done(self) -> bool: ...

    def set_exception(self, error: Exception, /) -> None: ...


class Deadlines:
    """Fails futures that are not done in time. All have the same time, so they expire in the order in which they came.

    They should be done in that order, too: a result is kept until all before it are done. What overtakes, like reads
    that do not wait for a slow write, needs `Deadlines` of its own.

    `asyncio.timeout` around each would cost as much as encoding two events.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._watched: deque[tuple[Pending, float, Late]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    def watch(self, future: Pending, late: Late) -> None:
        """From now on it has this many seconds; then it fails with what `late` makes. Call `tidy` once it is done."""
        loop = future.get_loop()
        deadline = loop.time() + self._seconds
        self._watched.append((future, deadline, late))
        if self._alarm is None:
            self._alarm = loop.call_at(deadline, self._expire, loop)

    def tidy(self) -> None:
        """Forget what is done, with its result."""
        while self._watched and self._watched[0][0].done():
            self._watched.popleft()

    def close(self) -> None:
        """Give up the timer, unless something is still waiting. May be called twice."""
        self.tidy()
        if self._alarm is not None and not self._watched:
            self._alarm.cancel()
            self._alarm = None

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._watched and (self._watched[0][0].done() or self._watched[0][1] <= now):
            future, _, late = self._watched.popleft()
            if not future.done():
                future.set_exception(late())
        self._alarm = loop.call_at(self._watched[0][1], self._expire, loop) if self._watched else None
