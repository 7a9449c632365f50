"""An event loop whose time passes only when there is nothing to do, and processes in it that can be stopped."""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable
from typing import Any

_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)

_Entry = tuple[list[asyncio.Handle], Callable[..., object], tuple[Any, ...], contextvars.Context]


class Process:
    """What is stopped as one: every task and callback that was begun in it, and what those begin.

    As with SIGSTOP, nothing of it runs until it goes on, and then everything that has come due meanwhile does. A
    process that is never continued is one that was killed: not even a `finally` runs.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._due: list[_Entry] = []
        self.stopped = False

    def start(self, work: Any) -> asyncio.Task[Any]:
        """Begin a task in this process."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        return self._loop.create_task(work, context=context)

    def run(
        self,
        cell: list[asyncio.Handle],
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
    ) -> None:
        """Call back now, or when the process goes on, unless it was cancelled by then."""
        if cell[0].cancelled():
            return
        if self.stopped:
            self._due.append((cell, callback, args, context))
        else:
            callback(*args)

    def go_on(self) -> None:
        """Let it run again, with what has come due meanwhile in that order."""
        self.stopped = False
        due, self._due = self._due, []
        for entry in due:
            asyncio.SelectorEventLoop.call_soon(self._loop, self.run, *entry, context=entry[3])


class _Selector(selectors.SelectSelector):
    """Instead of waiting, it lets the loop's time pass."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits for something that will never happen")
            # Each turn of the loop takes a nanosecond, or rounding could leave a timer for ever before its time.
            self.loop.advance(max(timeout, 1e-9))
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when there is nothing to do."""

    def __init__(self) -> None:
        self._time = 0.0
        self.passing: list[Callable[[], None]] = []
        """Called before time passes: what is true then has been true, and goes on to be."""

        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self._time

    def advance(self, seconds: float) -> None:
        """Let time pass at once, as a blocking call does."""
        for look in self.passing:
            look()
        self._time += seconds

    # The types of asyncio's stubs tie arguments to the callback; here they are passed on as they are.

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        context = contextvars.copy_context() if context is None else context
        process = context.get(_process)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        cell: list[asyncio.Handle] = []
        cell.append(super().call_soon(process.run, cell, callback, args, context, context=context))
        return cell[0]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        context = contextvars.copy_context() if context is None else context
        process = context.get(_process)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        cell: list[asyncio.Handle] = []
        handle = super().call_at(when, process.run, cell, callback, args, context, context=context)
        cell.append(handle)
        return handle

    def outside(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Call back after so many seconds, whatever becomes of the process that asks for it: the network goes on."""
        super().call_at(self._time + seconds, callback, *args, context=contextvars.Context())
