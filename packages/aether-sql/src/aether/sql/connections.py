"""Connections to a server that are held for as long as a store is open, whichever client makes them.

A pool's checkout resets a connection each time, which costs as much as a small append. These are never in a
transaction when they are given back, so there is nothing to reset; one that was left in the middle of a call, because
of a time-out or a cancelled reader, is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from aether.core.errors import AetherError, Unavailable

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


class Connections(Generic[SessionT]):
    """Up to `MOST` connections to one server, each held by one call at a time."""

    def __init__(self, connector: Connector[SessionT], timeout: float, check: Work[SessionT, None]) -> None:
        self._connector = connector
        self._timeout = timeout
        self._check = check
        self._idle: list[SessionT] = []
        self._free = asyncio.Semaphore(MOST)
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
        """Lend a connection to a call, in a task that nobody cancels. Raises the errors of the interface."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._begin(self._answer(answer, what, work, writes=writes))
        return await answer

    async def _answer(
        self, answer: asyncio.Future[Result], what: str, work: Work[SessionT, Result], *, writes: bool
    ) -> None:
        """What `shield` would do, one turn of the event loop earlier."""
        try:
            result = await self._lend(what, work, writes=writes)
        except Exception as error:  # noqa: BLE001  (it goes to whoever has asked)
            if not answer.done():
                answer.set_exception(error)
        except BaseException:
            answer.cancel()
            raise
        else:
            if not answer.done():
                answer.set_result(result)

    async def _lend(self, what: str, work: Work[SessionT, Result], *, writes: bool) -> Result:
        if self._free.locked():
            await self._wait_for_one(what)
        else:
            await self._free.acquire()
        late = asyncio.get_running_loop().time() + self._timeout / 2
        try:
            if not writes:
                # A connection that was idle may have been cut off long ago; asking a second time harms nobody.
                while (idle := self._take_idle()) is not None:
                    try:
                        return await self._use(idle, what, work, writes=False)
                    except Unavailable:
                        if not idle.ended or asyncio.get_running_loop().time() > late:
                            raise
            session = self._take_idle() or await self.connect(what)
            return await self._use(session, what, work, writes=writes)
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
                await session.part()
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
        """Run one call in a task that is not cancelled, and drop the connection where it did not come to its end.

        Cancelling a call of a client can send a request to the server through a connection of its own, and hang, too.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(self._timeout if timeout is None else timeout, session.drop)
        session.sent = writes
        try:
            return await work(session)
        except self._connector.errors as error:
            if self._connector.ends(error):
                session.drop()
                self.noticed()
            late = TimeoutError() if loop.time() >= deadline.when() else error
            raise self._connector.failure(what, late, sent=session.sent) from error
        except AttributeError as error:
            # Where a connection is dropped between two steps of a call, a client reaches for what is gone.
            if not session.ended:
                raise
            lost = TimeoutError() if loop.time() >= deadline.when() else ConnectionResetError("it was dropped")
            raise self._connector.failure(what, lost, sent=session.sent) from error
        finally:
            deadline.cancel()
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
        while self._idle:
            await self._idle.pop().part()
        while self._tasks:
            await asyncio.wait(self._tasks)


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

    async def run(self, what: str, work: Work[SessionT, Result]) -> Result:
        """Run a call that writes."""
        if self._session is not None and self._session.ended:
            self._connections.noticed()
            self._session = None
        if self._session is None:
            self._session = await self._connect(what)
        session = self._session
        try:
            return await self._connections.call(session, what, work, writes=self._writes)
        finally:
            if session.ended:  # by what has happened just now, and that is counted
                self._session = None

    async def run_batch(self, count: int, what: str, work: Work[SessionT, Result]) -> Result:
        """Run a call of several requests; raises `Apart` where the server has refused the data of one of them."""
        try:
            return await self.run(what, work)
        except Refused as error:
            if count == 1:
                raise
            raise Apart from error

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
