"""A clock that stands still until it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_FAR = 1e9  # seconds: timers of the loop that only `advance` lets fire


class FakeClock:
    """An `aether.core.clock.Clock` for tests: hand it to `clock=`, and let time pass with `advance`.

    Nobody sleeps: who waits for a minute is woken by `await clock.advance(60)`.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._now = 0.0
        self._timers: list[tuple[float, Callable[[], object]]] = []

    def now(self) -> float:
        """Seconds since it was made."""
        return self._now

    def utc(self) -> datetime:
        """The same as a date: a good `timestamp=` for events."""
        return self._start + timedelta(seconds=self._now)

    async def sleep(self, seconds: float) -> None:
        """Return when it was advanced by so much."""
        if seconds <= 0:
            return await asyncio.sleep(0)
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._at(self._now + seconds, lambda: None if woken.done() else woken.set_result(None))
        return await woken

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        """Limit a block by this clock's time."""
        limit = asyncio.timeout(None)
        if seconds is not None:
            self._at(self._now + seconds, lambda: _expire(limit))
        return limit

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back when it was advanced by so much."""
        handle = asyncio.get_running_loop().call_later(_FAR, lambda: None)

        def fire() -> None:
            if not handle.cancelled():
                handle.cancel()
                callback()

        self._at(self._now + seconds, fire)
        return handle

    async def advance(self, seconds: float) -> None:
        """Let time pass: whatever is due until then happens in order, and what that starts has its turn, too."""
        end = self._now + seconds
        await _settle()
        while due := [timer for timer in self._timers if timer[0] <= end]:
            first = min(due, key=lambda timer: timer[0])
            self._timers.remove(first)
            self._now = max(self._now, first[0])
            first[1]()
            await _settle()
        self._now = end

    def _at(self, when: float, action: Callable[[], object]) -> None:
        self._timers.append((when, action))


def _expire(limit: asyncio.Timeout) -> None:
    try:
        limit.reschedule(asyncio.get_running_loop().time())
    except RuntimeError:
        return  # it was left


async def _settle() -> None:
    """Let tasks run that can; what waits for a server is not waited for."""
    for _ in range(50):
        await asyncio.sleep(0)
