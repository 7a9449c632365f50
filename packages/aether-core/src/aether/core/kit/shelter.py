"""Waiting for a call that its caller's cancellation must not reach, without a task for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Shelter(Generic[Result]):
    """Awaits `work` where its caller stands. When the caller leaves, `begin` is given the rest of it.

    A caller leaves when it is cancelled, and when `set_exception` tells it to. `begin` makes a task of the rest, which
    nobody should cancel. `asyncio.shield` does the same, but with a task for each call and three turns of the event
    loop more: 6 µs, as much as decoding ten events.

    `work` MUST NOT care which task it runs in. `asyncio.timeout` within it would cancel the caller.
    """

    def __init__(
        self, work: Coroutine[Any, Any, Result], begin: Callable[[Coroutine[Any, Any, Result]], object]
    ) -> None:
        self._work = work
        self._begin = begin
        self._stand: _Stand | None = None
        self._error: BaseException | None = None
        self._done = False

    def __await__(self) -> Generator[Any, Any, Result]:
        while True:
            try:
                awaited = self._work.send(None)
            except StopIteration as end:
                self._done = True
                result: Result = end.value
                return result
            except BaseException:
                self._done = True
                raise
            self._stand = None if awaited is None else _Stand(awaited)
            try:
                yield self._stand
                if self._error is not None:
                    raise self._error
            except Exception:
                self._leave(awaited)
                raise
            except asyncio.CancelledError:
                self._leave(awaited)
                raise

    def _leave(self, awaited: asyncio.Future[Any] | None) -> None:
        self._done = True
        self._begin(_rest(self._work, awaited))

    # --- What `Deadlines` asks of a future ---

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the caller, who is running."""
        return asyncio.get_running_loop()

    def done(self) -> bool:
        """Whether the caller waits no more."""
        return self._done

    def set_exception(self, error: Exception) -> None:
        """Let the caller go with this error."""
        self._error = error
        if self._stand is not None:
            self._stand.leave()


async def _rest(work: Coroutine[Any, Any, Result], awaited: asyncio.Future[Any] | None) -> Result:
    return await _Rest(work, awaited)


class _Rest(Generic[Result]):
    """What is left of work that waits for a future. `await work` is refused: somebody awaits it already."""

    def __init__(self, work: Coroutine[Any, Any, Result], awaited: asyncio.Future[Any] | None) -> None:
        self._work = work
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Result]:
        if self._awaited is not None:
            try:
                yield _Stand(self._awaited)
            except asyncio.CancelledError:
                self._awaited.cancel()  # the work hears of it there, as it would have
        result: Result = yield from self._work.__await__()
        return result


class _Stand:
    """Stands for a future before the task that waits: whoever leaves ends the wait, and not the future.

    What a task asks of whatever it is made to wait for is what `asyncio.isfuture` calls compatible with a future.
    """

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future
        self._asyncio_future_blocking = True
        self._left = self._cancelled = False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._future.get_loop()

    def add_done_callback(self, wake: Callable[[Any], object], *, context: Context | None = None) -> None:
        self._wake = wake
        self._context = context
        self._future.add_done_callback(self._woken, context=context)

    def _woken(self, _future: object) -> None:
        if not self._left:
            self._wake(self)

    def leave(self) -> None:
        if not self._left and not self._future.done():
            self._left = True
            self.get_loop().call_soon(self._wake, self, context=self._context)

    def cancel(self, msg: object = None) -> bool:
        if self._left or self._future.done():
            return False  # it is woken already, and is cancelled then
        self._cancelled = True
        self.leave()
        return True

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError
