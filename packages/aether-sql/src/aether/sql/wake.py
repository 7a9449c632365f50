"""Noticing at once that another process has committed to a file, where the system tells (Linux, by inotify)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

try:
    from asyncinotify import Inotify, Mask
except (ImportError, OSError):  # another system, or a C library without it
    Inotify = None  # type: ignore[assignment,misc]

_LOOKS = (0.002, 0.01, 0.05, 0.25)  # seconds, one behind the other


class FileWatch:
    """Calls a function whenever somebody has committed to a database of SQLite.

    Our writers write to their lock behind each commit. Of others there is only the write to the log, and that comes
    before the disk is waited for: whoever looks then finds nothing, and has to look again a little later.
    """

    def __init__(self, log: Path, lock: Path, changed: Callable[[], None]) -> None:
        self._log = log
        self._lock = lock
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
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
        if self._timer is not None:
            self._timer.cancel()

    async def _follow(self) -> None:
        with suppress(OSError), Inotify() as notify:  # no more watches are allowed: polling has to do
            log = notify.add_watch(self._log, Mask.MODIFY)
            with suppress(OSError):  # there is no lock where the directory cannot be written to
                notify.add_watch(self._lock, Mask.MODIFY)
            self._changed()
            async for event in notify:
                if event.watch is log:
                    self._look_later(0)
                else:
                    self._changed()

    def _look_later(self, step: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_LOOKS[step], self._look, step)

    def _look(self, step: int) -> None:
        self._timer = None
        self._changed()
        if step + 1 < len(_LOOKS):
            self._look_later(step + 1)
