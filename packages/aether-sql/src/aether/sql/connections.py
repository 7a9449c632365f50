"""Connections to a server that are held for as long as a store is open, whichever client makes them.

A pool's checkout resets a connection each time, which costs as much as a small append. These are never in a
transaction when they are given back, so there is nothing to reset; one that was left in the middle of a call, because
of a time-out or a cancelled reader, is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Generic, Protocol, TypeVar

from aether.core.errors import AetherError, Unavailable
from aether.core.kit import Shelter

_log = logging.getLogger("aether.sql")

MOST = 8
"""Connections for reads and single writes; more of them do not make one server faster."""

CLOSE_SECONDS = 2.0
"""The most that a session takes to part in order."""


class Refused(Unavailable):
    """The server did not take the data itself: in a batch, one request is to blame, and the others are not."""


class Apart(Exception):
    """One of several requests was refused; asked one by one, it alone is."""


class Session(Protocol):
    """One connection. Whoever sends something through it does so within `Connections.call`."""

    sent: bool
    """Whether the call that is under way may have committed something."""

    @property
    def ended(self) -> bool:
        """Whether it can be used no more, as far as is known without asking."""
        ...

    def drop(self) -> None:
        """End it at once, without waiting for the server; a call that is under way fails. May be called twice."""
        ...

    async def part(self) -> None:
        """Close it in order, or drop it where the server does not answer within `CLOSE_SECONDS`."""
        ...

    def leave(self) -> None:
        """A call is over, in whatever way: drop it, if it is in the middle of something."""
        ...


Result = TypeVar("Result")
SessionT = TypeVar("SessionT", bound=Session)
Work = Callable[[SessionT], Awaitable[Result]]


class Connector(Protocol[SessionT]):
    """A client, as it is set to lead to one server."""

    errors: tuple[type[Exception], ...]
    """What the client raises, by itself or for the server."""

    tells: bool
    """Whether it tells when a connection has ended; else whoever notices that counts it."""

    async def open(self) -> SessionT:
        """Connect."""
        ...

    async def prepare(self, session: SessionT, ended: Callable[[], None]) -> None:
        """Set up a new connection; where the client tells, `ended` is called when it has ended."""
        ...

    def ends(self, error: Exception) -> bool:
        """Whether nothing more can be asked through a connection behind this error."""
        ...

    def refusal(self, what: str, error: Exception) -> AetherError:
        """The error of the interface for one of `errors` while a connection was made."""
        ...

    def failure(self, what: str, error: Exception, *, sent: bool) -> AetherError:
        """The error of the interface for one of `errors` in a call; `sent` if it may have committed something."""
        ...


class _Calls(Generic[SessionT]):
    """The calls that are under way, with one timer for all of them: it drops the sessions of those that take too long.

    A timer for each would cost as much as the call itself, but for what its client does.
    """

    def __init__(self) -> None:
        self._due: dict[SessionT, float] = {}
        self._alarm: asyncio.TimerHandle | None = None

    def begin(self, session: SessionT, loop: asyncio.AbstractEventLoop, seconds: float) -> float:
        """The time of the loop when the session will be dropped."""
        due = self._due[session] = loop.time() + seconds
        if self._alarm is None or due < self._alarm.when():
            self._set(loop, due)
        return due

    def end(self, session: SessionT) -> None:
        del self._due[session]

    def _set(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        self.close()
        self._alarm = loop.call_at(when, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        now = loop.time()
        left = [due for due in self._due.values() if due > now]
        if left:
            self._set(loop, min(left))
        for session in [session for session, due in self._due.items() if due <= now]:
            try:
                session.drop()
            except Exception:  # noqa: BLE001  (the others have to be dropped, too)
                _log.exception("a connection could not be dropped")

    def close(self) -> None:
        """Give up the timer."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class Connections(Generic[SessionT]):
    """Up to `MOST` connections to one server, each held by one call at a time."""

    def __init__(
        self, connector: Connector[SessionT], timeout: float, check: Work[SessionT, None], *, in_place: bool
    ) -> None:
        """`in_place` if no call of the client cares which task it runs in: those with a time-out of their own do."""
        self._in_place = in_place
        self._closing: asyncio.Task[None] | None = None
        self._connector = connector
        self._timeout = timeout
        self._check = check
        self._idle: list[SessionT] = []
        self._free = asyncio.Semaphore(MOST)
        self._calls: _Calls[SessionT] = _Calls()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.losses = 0
        """How many connections have ended so far, as far as the client has told or anybody has noticed."""

    async def connect(self, what: str) -> SessionT:
        """A new connection, whose owner parts with it. Raises `Unavailable`, and `StoreIdentityChanged`."""
        if self._closed:
            raise Unavailable(what, reason="it is closed")
        connecting = self._begin(self._connect())
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            self._begin(_part_when_there(connecting))
            raise
        except self._connector.errors as error:
            if self._connector.tells:  # but not of one that breaks while it is made
                self.losses += 1
            raise self._connector.refusal(what, error) from error

    async def _connect(self) -> SessionT:
        async with asyncio.timeout(self._timeout):
            session = await self._connector.open()
            try:
                await self._connector.prepare(session, self._ended)
                await self._check(session)
            except BaseException:
                session.drop()
                raise
            return session

    def _ended(self) -> None:
        self.losses += 1

    def noticed(self) -> None:
        """Somebody has found a connection that has ended, and that nobody has found before."""
        if not self._connector.tells:
            self.losses += 1

    async def run(self, what: str, work: Work[SessionT, Result], *, writes: bool = False) -> Result:
        """Lend a connection to a call, which comes to its end also where its caller is cancelled.

        Raises the errors of the interface.
        """
        loop = asyncio.get_running_loop()
        late = None
        if self._in_place and not self._free.locked() and (session := self._take_idle()) is not None:
            late = loop.time() + self._timeout / 2
            await self._free.acquire()  # there is one
            try:
                return await Shelter(self._use_lent(session, what, work, writes=writes), self._begin)
            except Unavailable:
                if writes or not session.ended or loop.time() > late:
                    raise
        return await asyncio.shield(self._begin(self._lend(what, work, late, writes=writes)))

    async def _use_lent(self, session: SessionT, what: str, work: Work[SessionT, Result], *, writes: bool) -> Result:
        try:
            return await self._use(session, what, work, writes=writes)
        finally:
            self._free.release()

    async def _lend(self, what: str, work: Work[SessionT, Result], late: float | None, *, writes: bool) -> Result:
        """Use a connection that is idle, or a new one, as soon as there may be one more.

        One that was idle may have been cut off long ago; asking a second time harms nobody, before it is `late`.
        """
        await self._wait_for_one(what)
        loop = asyncio.get_running_loop()
        late = loop.time() + self._timeout / 2 if late is None else late
        try:
            while (idle := self._take_idle()) is not None:
                try:
                    return await self._use(idle, what, work, writes=writes)
                except Unavailable:
                    if writes or not idle.ended or loop.time() > late:
                        raise
            return await self._use(await self.connect(what), what, work, writes=writes)
        finally:
            self._free.release()

    async def _wait_for_one(self, what: str) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except TimeoutError:
            raise Unavailable(what, reason="all connections are busy") from None

    async def _use(self, session: SessionT, what: str, work: Work[SessionT, Result], *, writes: bool) -> Result:
        try:
            return await self.call(session, what, work, writes=writes)
        finally:
            if self._closed:
                self._begin(session.part())
            elif not session.ended:
                self._idle.append(session)

    def _take_idle(self) -> SessionT | None:
        while self._idle:
            session = self._idle.pop()
            if not session.ended:
                return session
            self.noticed()
        return None

    async def call(
        self,
        session: SessionT,
        what: str,
        work: Work[SessionT, Result],
        *,
        writes: bool,
        timeout: float | None = None,
    ) -> Result:
        """Run one call where no cancellation comes, and drop the connection where it did not come to its end.

        Cancelling a call of a client can send a request to the server through a connection of its own, and hang, too.
        """
        loop = asyncio.get_running_loop()
        due = self._calls.begin(session, loop, self._timeout if timeout is None else timeout)
        session.sent = writes
        try:
            return await work(session)
        except self._connector.errors as error:
            if self._connector.ends(error):
                session.drop()
                self.noticed()
            late = TimeoutError() if loop.time() >= due else error
            raise self._connector.failure(what, late, sent=session.sent) from error
        except AttributeError as error:
            # Where a connection is dropped between two steps of a call, a client reaches for what is gone.
            if not session.ended:
                raise
            lost = TimeoutError() if loop.time() >= due else ConnectionResetError("it was dropped")
            raise self._connector.failure(what, lost, sent=session.sent) from error
        finally:
            self._calls.end(session)
            session.leave()

    def _begin(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_seen)
        return task

    async def close(self) -> None:
        """Close what is idle, and wait for what is being dropped. May be called twice."""
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        while self._idle:
            await self._idle.pop().part()
        async with AsyncExitStack() as all_of_them:  # until nobody has one
            for _ in range(MOST):
                await all_of_them.enter_async_context(self._free)
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._calls.close()


async def _part_when_there(connecting: asyncio.Task[SessionT]) -> None:
    await asyncio.wait([connecting])
    if not connecting.cancelled() and connecting.exception() is None:
        await connecting.result().part()


def _seen(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear of its error."""
    if not task.cancelled():
        task.exception()


class Line(Generic[SessionT]):
    """One connection for the calls of one batcher, which come one after the other; made again when it is lost."""

    def __init__(
        self, connections: Connections[SessionT], *, prepare: Work[SessionT, None] | None = None, writes: bool = True
    ) -> None:
        """`prepare` is the first call of each connection. Without `writes` sessions say by themselves what was sent."""
        self._connections = connections
        self._prepare = prepare
        self._writes = writes
        self._session: SessionT | None = None

    async def run(self, what: str, work: Work[SessionT, Result], *, requests: int = 1) -> Result:
        """Run a call that writes. Raises `Apart` where the server has refused the data of one of several requests."""
        if self._session is not None and self._session.ended:
            self._connections.noticed()
            self._session = None
        if self._session is None:
            self._session = await self._connect(what)
        session = self._session
        try:
            return await self._connections.call(session, what, work, writes=self._writes)
        except Refused as error:
            if requests == 1:
                raise
            raise Apart from error
        finally:
            if session.ended:  # by what has happened just now, and that is counted
                self._session = None

    async def _connect(self, what: str) -> SessionT:
        session = await self._connections.connect(what)
        if self._prepare is not None:
            try:
                await self._connections.call(session, what, self._prepare, writes=False)
            except BaseException:
                session.drop()
                raise
        return session

    async def close(self) -> None:
        """May be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.part()
