"""The tasks of a node: they run for ever, and when one of them fails for good all of them end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from aether.core.clock import Clock
from aether.core.errors import TimedOut


class Crew:
    """Tasks that end together. `failed` is called once, when one of them has raised."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[Any]] = []
        self.failure: BaseException | None = None
        """What the first task that failed has raised."""

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Start a task."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None or self.failure is not None:
            return
        self.failure = error
        for other in self._tasks:
            other.cancel()
        self._failed(error)

    async def stop(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        tasks, self._tasks = self._tasks, []
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def bounded(clock: Clock, what: str, seconds: float) -> AsyncIterator[asyncio.Timeout]:
    """Raise `TimedOut` from a block that takes longer."""
    limit = clock.timeout(seconds)
    try:
        async with limit:
            yield limit
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimedOut(what, timeout=seconds) from None
