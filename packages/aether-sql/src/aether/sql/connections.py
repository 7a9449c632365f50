"""Connections of asyncpg that are held for as long as a store is open.

A pool's checkout resets a connection each time, which costs as much as a small append. These are never in a
transaction when they are given back, so there is nothing to reset; one that was left in the middle of a call, because
of a time-out or a cancelled reader, is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import asyncpg as dialects
from sqlalchemy.ext.asyncio import AsyncEngine

from aether.core.errors import AetherError, OutcomeUnknown, Unavailable
from aether.core.url import BackendURL
from aether.sql.database import Bells, WrongConnection

Result = TypeVar("Result")
Connect = Callable[[], Awaitable[asyncpg.Connection]]
Work = Callable[[asyncpg.Connection], Awaitable[Result]]

_log = logging.getLogger("aether.sql")

_MOST = 8  # connections for reads and single writes; more of them do not make one server faster
_BACK_OFF = (0.05, 1.0)  # seconds before a listener connects again, doubled up to the second
_KEEP_ALIVE = 5.0  # seconds of silence behind which a listener asks whether the server is there
_CLOSE_SECONDS = 2.0

# What a server says when it ends a connection, or does not know how a commit ended: that is no refusal.
_AMBIGUOUS = ("08", "57P01", "57P02", "57P05", "40003", "XX")
# The client's own: it is not connected, or was cut off, which may leave its protocol in the middle of something.
_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_CONTENT = ("22", "54")  # the data cannot be stored: one request of a batch may be to blame


class Refused(Unavailable):
    """The server did not take the data itself: in a batch, one request is to blame, and the others are not."""


def address_of(url: BackendURL) -> dict[str, Any]:
    """The arguments of `asyncpg.connect` for `postgresql://user:password@host:port/database`. Raises `InvalidURL`."""
    if url.variant not in (None, "asyncpg"):
        raise url.error("write postgresql://; the client is asyncpg")
    if len(url.hosts) > 1:
        raise url.error("one host is needed; several are what a proxy or a virtual address is for")
    try:
        place = sa.make_url(f"postgresql://{url.hosts[0] if url.hosts else ''}")
    except (sa.exc.ArgumentError, ValueError) as error:
        raise url.error("the port is a number") from error
    place = place.set(
        username=url.user,
        password=url.secret,
        host=url.options.get("host", place.host),  # of a socket's directory, which has no place in front of the path
        database=url.path.strip("/") or None,
    )
    dialect: Any = dialects.dialect
    arguments: dict[str, Any] = dialect().create_connect_args(place)[1]
    arguments["server_settings"] = {"application_name": "aether"}
    if (mode := url.options.get("sslmode")) is not None:
        arguments["ssl"] = mode
    if (size := url.options.get("statement_cache_size")) is not None:
        if not str(size).isdigit():
            raise url.error("option 'statement_cache_size' is a number; 0 is for proxies that share connections")
        arguments["statement_cache_size"] = int(size)
    return arguments


async def from_engine(engine: AsyncEngine) -> asyncpg.Connection:
    """A connection that an engine of SQLAlchemy has made, and that its pool then forgets."""
    dbapi: Any = engine.dialect.dbapi
    try:
        proxied = await engine.raw_connection()
    except dbapi.Error as error:
        raise ConnectionError(str(error)) from error
    connection = proxied.driver_connection
    if not isinstance(connection, asyncpg.Connection):
        raise WrongConnection("engine", f"one over asyncpg is needed, not over {engine.dialect.driver}")
    proxied.detach()
    return connection


def failure(what: str, error: Exception, *, writes: bool) -> AetherError:
    """The error of the interface for one of the client's, behind a call that was sent."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if not state.startswith(_AMBIGUOUS):
            kind = Refused if state.startswith(_CONTENT) else Unavailable
            return kind(what, reason=str(error), hint=_hint(state))
    return OutcomeUnknown(what, reason=_reason(error)) if writes else Unavailable(what, reason=_reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer within the time-out"
    if isinstance(error, ConnectionRefusedError):
        return "no server answers: connection refused"
    return str(error) or type(error).__name__


def _hint(state: str) -> str:
    hints = {
        "28": "check user and password",
        "3D": "create the database first",
        "42": "check the rights of the user, and the schema that `aether.sql.ddl` prints",
        "53": "make room on the server; nothing was stored",
        "25": "this server is read-only; connect to the primary one",
    }
    return hints.get(state[:2], "try again later")


class Connections:
    """Up to eight connections to one server, each held by one call at a time."""

    def __init__(self, connect: Connect, timeout: float, check: Work[None]) -> None:
        self._open = connect
        self._timeout = timeout
        self._check = check
        self._idle: list[asyncpg.Connection] = []
        self._free = asyncio.Semaphore(_MOST)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.losses = 0
        """How many connections have ended so far, in whatever way, or could not be made again."""

    async def connect(self, what: str) -> asyncpg.Connection:
        """A new connection, whose owner gives it to `part`. Raises `Unavailable`, and `StoreIdentityChanged`."""
        if self._closed:
            raise Unavailable(what, reason="it is closed")
        connecting = self._begin(self._connect())
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            self._begin(self._drop_when_there(connecting))
            raise
        except (asyncpg.PostgresError, *_LOST) as error:
            self.losses += 1  # one that breaks while it is made has no listener yet that would count it
            state = getattr(error, "sqlstate", None) or ""
            raise Unavailable(what, reason=_reason(error), hint=_hint(state)) from error

    async def _connect(self) -> asyncpg.Connection:
        async with asyncio.timeout(self._timeout):
            connection = await self._open()
            connection.add_termination_listener(self._ended)
            try:
                await self._check(connection)
            except BaseException:
                connection.terminate()
                raise
            return connection

    def _ended(self, _connection: object) -> None:
        self.losses += 1

    async def _drop_when_there(self, connecting: asyncio.Task[asyncpg.Connection]) -> None:
        await asyncio.wait([connecting])
        if not connecting.cancelled() and connecting.exception() is None:
            await part(connecting.result())

    async def run(self, what: str, work: Work[Result], *, writes: bool = False) -> Result:
        """Lend a connection to a call, in a task that nobody cancels. Raises the errors of the interface."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._begin(self._answer(answer, what, work, writes=writes))
        return await answer

    async def _answer(self, answer: asyncio.Future[Result], what: str, work: Work[Result], *, writes: bool) -> None:
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

    async def _lend(self, what: str, work: Work[Result], *, writes: bool) -> Result:
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
                        if not idle.is_closed() or asyncio.get_running_loop().time() > late:
                            raise
            connection = self._take_idle() or await self.connect(what)
            return await self._use(connection, what, work, writes=writes)
        finally:
            self._free.release()

    async def _wait_for_one(self, what: str) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except TimeoutError:
            raise Unavailable(what, reason="all connections are busy") from None

    async def _use(self, connection: asyncpg.Connection, what: str, work: Work[Result], *, writes: bool) -> Result:
        try:
            return await call(connection, what, work, timeout=self._timeout, writes=writes)
        finally:
            if self._closed:
                await part(connection)
            elif not connection.is_closed():
                self._idle.append(connection)

    def _take_idle(self) -> asyncpg.Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

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
            await part(self._idle.pop())
        while self._tasks:
            await asyncio.wait(self._tasks)


def _seen(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear of its error."""
    if not task.cancelled():
        task.exception()


async def call(
    connection: asyncpg.Connection, what: str, work: Work[Result], *, timeout: float, writes: bool
) -> Result:
    """Run one call in a task that is not cancelled, and drop the connection where it did not come to its end.

    Cancelling a call of asyncpg sends a request to the server through a connection of its own, which can hang, too.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.call_later(timeout, connection.terminate)
    try:
        return await work(connection)
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "").startswith(("25", *_AMBIGUOUS)):
            connection.terminate()
        late = TimeoutError() if loop.time() >= deadline.when() else error
        raise failure(what, late, writes=writes) from error
    except _LOST as error:
        connection.terminate()
        late = TimeoutError() if loop.time() >= deadline.when() else error
        raise failure(what, late, writes=writes) from error
    except AttributeError as error:
        # A connection that is dropped between preparing and executing a statement: asyncpg reaches for what is gone.
        if not connection.is_closed():
            raise
        late = TimeoutError() if loop.time() >= deadline.when() else ConnectionResetError("the connection was dropped")
        raise failure(what, late, writes=writes) from error
    finally:
        deadline.cancel()


async def part(connection: asyncpg.Connection) -> None:
    """Close a connection in order, or drop it where the server does not answer."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await connection.close(timeout=_CLOSE_SECONDS)
    except (asyncpg.PostgresError, *_LOST):
        connection.terminate()


class Line:
    """One connection for the calls of one batcher, which come one after the other; made again when it is lost."""

    def __init__(self, connections: Connections, timeout: float, prepare: Work[Any]) -> None:
        self._connections = connections
        self._timeout = timeout
        self._prepare = prepare
        self._connection: asyncpg.Connection | None = None

    async def run(self, what: str, work: Work[Result]) -> Result:
        """Run a call that writes."""
        if self._connection is None or self._connection.is_closed():
            connection = await self._connections.connect(what)
            try:
                await call(connection, what, self._prepare, timeout=self._timeout, writes=False)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
        return await call(self._connection, what, work, timeout=self._timeout, writes=True)

    async def close(self) -> None:
        """May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await part(connection)


class Listener:
    """Rings bells when the server notifies; connects again by itself, and rings all then."""

    def __init__(self, connections: Connections, channels: Mapping[str, str], bells: Bells) -> None:
        self._connections = connections
        self._channels = channels
        self._bells = bells
        self._changed = asyncio.Event()
        self._closed = False
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """End, behind the call that is under way. May be called twice."""
        self._closed = True
        self._changed.set()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        pause = _BACK_OFF[0]
        while not self._closed:
            try:
                await self._listen()
                pause = _BACK_OFF[0]
            except AetherError as error:
                _log.debug("the listener is gone: %s", error)
                self._connections.losses += 1  # also when it could not even connect
                self._bells.ring_all()
            await self._sleep(pause)
            pause = min(2 * pause, _BACK_OFF[1])

    async def _listen(self) -> None:
        connection = await self._connections.connect("listening")
        connection.add_termination_listener(lambda _: self._changed.set())
        try:
            for channel in self._channels:
                await self._ask(connection, partial(_listen_to, channel=channel, told=self._told))
            self._bells.ring_all()
            while not (self._closed or connection.is_closed()):
                await self._sleep(_KEEP_ALIVE)  # a connection that was cut off says nothing by itself
                await self._ask(connection, lambda one: one.execute("SELECT 1"))
        finally:
            connection.terminate()

    async def _sleep(self, seconds: float) -> None:
        self._changed.clear()
        if not self._closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    async def _ask(self, connection: asyncpg.Connection, work: Work[object]) -> None:
        await call(connection, "listening", work, timeout=_KEEP_ALIVE, writes=False)

    def _told(self, _connection: object, _process: int, channel: str, _payload: object) -> None:
        self._bells.ring(self._channels[channel])


async def _listen_to(connection: asyncpg.Connection, *, channel: str, told: Callable[..., None]) -> None:
    await connection.add_listener(channel, told)
