"""Time as leases need it: it never steps, and it goes on while the machine sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """A clock, and timers that go by it. A test passes its own and drives whole elections without waiting."""

    def now(self) -> float:
        """Seconds since some moment. MUST never step, and counts the time of a suspended machine if it can."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when `seconds` have passed."""
        ...

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        """Limit a block as `asyncio.timeout` does."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back from the event loop when `seconds` have passed."""
        ...


# On Linux `time.monotonic` stops while the machine is suspended: a laptop or a virtual machine that wakes up would
# believe in a lease that ran out long ago.
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class _SystemClock:
    # The event loop's timers do stop during a suspend. They fire late by that time, so whoever is woken looks at now().

    def now(self) -> float:
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        return asyncio.timeout(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, callback)


SYSTEM_CLOCK: Clock = _SystemClock()
"""The clock of this machine."""
