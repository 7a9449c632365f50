"""Reading ahead: the server works on the next page while the one before it is consumed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from aether.core.spi import Page

if TYPE_CHECKING:
    from aether.core.store import EventStore

TURNS = 2  # of the event loop, until a driver that works in a task of its own has sent its question


class Ahead:
    """At most one page that is on its way. `leave` it, whatever happens."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._task: asyncio.Task[Page] | None = None

    async def begin(self, question: Coroutine[Any, Any, Page]) -> None:
        """Ask, and return before the answer is there."""
        self._task = asyncio.get_running_loop().create_task(question)
        self._store._ahead.add(self._task)
        self._task.add_done_callback(self._ended)
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def _ended(self, task: asyncio.Task[Page]) -> None:
        self._store._ahead.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be left to hear of it

    async def page(self) -> Page:
        """The answer. Raises what the question raised, and `Closed`."""
        task, self._task = self._task, None
        assert task is not None
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
        self._store._live()  # closing it cancels the task
        return task.result()

    def leave(self) -> None:
        """Nobody needs the answer any more."""
        if self._task is not None:
            self._task.cancel()
