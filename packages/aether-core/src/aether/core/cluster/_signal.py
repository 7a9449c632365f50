"""Waking whoever waits for a change."""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes everybody who waits at the moment. Look first, then wait, with no `await` in between: nothing is missed."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def set(self) -> None:
        """Wake all who wait now."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self) -> None:
        """Wait until `set` is called."""
        await self._next.wait()
