"""The checkpoint of a running projection, which nobody else moves: it is claimed, and fenced by its token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aether.core._ahead import TURNS
from aether.core.clock import Clock
from aether.core.event import Claim, Position
from aether.core.store import EventStore


class Checkpoint:
    """Where a projection is known to be. It is never moved beyond what was handled, and one move follows another."""

    def __init__(self, store: EventStore, name: str, claim: Claim, *, clock: Clock, moved: Callable[[], None]) -> None:
        self.name = name
        self.saved = claim.position
        self.saved_at = clock.now()
        self._store = store
        self._token = claim.token
        self._clock = clock
        self._moved = moved
        self._saving: asyncio.Task[None] | None = None

    async def save(self, position: Position) -> None:
        """Move it, and return when it is there."""
        await self._ended()
        if position != self.saved:
            await self._save(position)

    async def save_beside(self, position: Position) -> None:
        """Move it while the next events are handled; those come again, if the process ends meanwhile."""
        await self._ended()
        if position != self.saved:
            self._saving = asyncio.get_running_loop().create_task(self._save(position))
            self._saving.add_done_callback(_heard)
            for _ in range(TURNS):  # or it would not be under way before a handler waits for something
                await asyncio.sleep(0)

    async def save_in(self, connection: object, position: Position) -> None:
        """Move it in the caller's transaction; it has `arrived` when that is committed."""
        await self._ended()
        await self._store.save_checkpoint(
            self.name, position, token=self._token, expected=self.saved, connection=connection
        )

    def arrived(self, position: Position) -> None:
        """It is there, for everybody to see."""
        self.saved = position
        self.saved_at = self._clock.now()
        self._moved()

    async def fence(self) -> None:
        """Make sure that it is still ours."""
        await self._ended()
        await self._store.save_checkpoint(self.name, self.saved, token=self._token, expected=self.saved)

    async def leave(self) -> None:
        """Leave no task behind."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.wait([self._saving])

    async def _save(self, position: Position) -> None:
        await self._store.save_checkpoint(self.name, position, token=self._token, expected=self.saved)
        self.arrived(position)

    async def _ended(self) -> None:
        """Wait for the move that is under way, and raise what became of it."""
        saving = self._saving
        if saving is None:
            return
        await asyncio.wait([saving])
        self._saving = None
        saving.result()


def _heard(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # it is raised to whoever moves it next
