"""Noticing at once that another process has written to a file, where the system tells (Linux, by inotify)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

try:
    from asyncinotify import Inotify, Mask
except (ImportError, OSError):  # another system, or a C library without it
    Inotify = None  # type: ignore[assignment,misc]

_log = logging.getLogger("aether.sql")


def watches() -> bool:
    """Whether this system tells of files that are written to."""
    return Inotify is not None


class FileWatch:
    """Calls a function whenever a file is written to."""

    def __init__(self, path: Path, changed: Callable[[], None]) -> None:
        self._path = path
        self._changed = changed
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if it has not begun yet. Where no more watches are allowed, nothing is ever told."""
        if Inotify is None or self._task is not None:
            return
        notify = Inotify()
        try:
            notify.add_watch(self._path, Mask.MODIFY)
        except OSError as error:
            notify.close()
            _log.warning("%s cannot be watched (%s): what other processes write is noticed late", self._path, error)
            return
        self._task = asyncio.get_running_loop().create_task(self._follow(notify))

    async def close(self) -> None:
        """End. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self, notify: Inotify) -> None:
        with notify:
            async for _ in notify:
                self._changed()
