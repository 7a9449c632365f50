"""Noticing at once that another process has committed to a file, where the system tells (Linux, by inotify)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

try:
    from asyncinotify import Inotify, Mask, Watch
except (ImportError, OSError):  # another system, or a C library without it
    Inotify = None  # type: ignore[assignment,misc]

_LOOKS = (0.002, 0.01, 0.05, 0.25)  # seconds, one behind the other

_log = logging.getLogger("aether.sql")


def watches() -> bool:
    """Whether this system tells of files that are written to."""
    return Inotify is not None


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
        self._step = 0

    def start(self) -> None:
        """Begin, if it has not begun yet. Where no more watches are allowed, nothing is ever told."""
        if Inotify is None or self._task is not None:
            return
        notify = Inotify()
        try:
            log = notify.add_watch(self._log, Mask.MODIFY)
            with suppress(FileNotFoundError):  # there is no lock where the directory cannot be written to
                notify.add_watch(self._lock, Mask.MODIFY)
        except OSError as error:
            notify.close()
            _log.warning("%s cannot be watched (%s): what other processes write is noticed late", self._log, error)
            return
        self._task = asyncio.get_running_loop().create_task(self._follow(notify, log))

    async def close(self) -> None:
        """End. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self._timer is not None:
            self._timer.cancel()

    async def _follow(self, notify: Inotify, log: Watch) -> None:
        with notify:
            self._changed()
            async for event in notify:
                if event.watch is not log:
                    self._changed()
                elif self._timer is None or self._step > 0:
                    self._look_later(0)

    def _look_later(self, step: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._step = step
        self._timer = asyncio.get_running_loop().call_later(_LOOKS[step], self._look)

    def _look(self) -> None:
        self._timer = None
        self._changed()
        if self._step + 1 < len(_LOOKS):
            self._look_later(self._step + 1)
