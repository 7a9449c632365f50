"""Noticing at once that another process has written to a file, where the system tells (Linux, by inotify)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

try:
    from asyncinotify import Inotify, Mask
except (ImportError, OSError):  # another system, or a C library without it
    Inotify = None  # type: ignore[assignment,misc]


class FileWatch:
    """Calls a function whenever a file is written to."""

    def __init__(self, path: Path, changed: Callable[[], None]) -> None:
        self._path = path
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self.works = Inotify is not None

    def start(self) -> None:
        """Begin, if it has not begun yet."""
        if self.works and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """End. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self) -> None:
        with suppress(OSError), Inotify() as notify:  # no more watches are allowed: polling has to do
            notify.add_watch(self._path, Mask.MODIFY)
            self._changed()
            async for _ in notify:
                self._changed()
