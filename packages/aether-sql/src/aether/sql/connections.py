"""Connections of asyncpg, made by an engine of SQLAlchemy and then held.

A pool's checkout resets a connection each time, which costs as much as a small append. These are never in a
transaction when they are given back, so there is nothing to reset; one that was left in the middle of a call, because
of a time-out or a cancelled reader, is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
from aether.core.errors import AetherError, OutcomeUnknown, Unavailable
from aether.core.url import BackendURL
from aether.sql.database import Bells
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

Result = TypeVar("Result")
Work = Callable[[asyncpg.Connection], Awaitable[Result]]

_log = logging.getLogger("aether.sql")

_MOST = 8  # connections for reads and single writes; more of them do not make one server faster
_BACK_OFF = (0.05, 1.0)  # seconds before a listener connects again, doubled up to the second
_KEEP_ALIVE = 5.0  # seconds of silence behind which a listener asks whether the server is there
_CLOSE_SECONDS = 2.0

# What a server says when it ends a connection, or does not know how a commit ended: that is no refusal.
_AMBIGUOUS = ("08", "57P01", "57P02", "57P05", "40003", "XX")
_CONTENT = ("22", "54")  # the data cannot be stored: one request of a batch may be to blame


class Refused(Unavailable):
    """The server did not take the data itself: in a batch, one request is to blame, and the others are not."""


def engine_of(url: BackendURL) -> AsyncEngine:
    """An engine for `postgresql://user:password@host:port/database`, which makes connections and keeps none."""
    if url.variant not in (None, "asyncpg"):
        raise url.error("write postgresql://; the client is asyncpg")
    if len(url.hosts) > 1:
        raise url.error("one host is needed; several are what a proxy or a virtual address is for")
    host, _, port = url.hosts[0].rpartition(":") if url.hosts and url.hosts[0][-1] != "]" else ("", "", "")
    if url.hosts and not host:
        host, port = url.hosts[0], ""
    if port and not port.isdigit():
        raise url.error(f"the port is a number, not {port!r}")
    arguments: dict[str, Any] = {"server_settings": {"application_name": "aether"}}
    if (mode := url.options.get("sslmode")) is not None:
        arguments["ssl"] = mode
    if (size := url.options.get("statement_cache_size")) is not None:
        arguments["statement_cache_size"] = int(size)
    place = sa.URL.create(
        "postgresql+asyncpg",
        username=url.user,
        password=url.secret,
        host=url.options.get("host") or host.strip("[]") or None,
        port=int(port) if port else None,
        database=url.path.strip("/") or None,
    )
    return create_async_engine(place, poolclass=NullPool, connect_args=arguments)


def failure(what: str, error: Exception, *, writes: bool) -> AetherError:
    """The error of the interface for one of the client's, behind a call that was sent."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if not state.startswith(_AMBIGUOUS):
            kind = Refused if state.startswith(_CONTENT) else Unavailable
            return kind(what, reason=str(error), hint=_hint(state))
    reason = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        reason = "no answer within the time-out"
    return OutcomeUnknown(what, reason=reason) if writes else Unavailable(what, reason=reason)


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

    def __init__(self, engine: AsyncEngine, timeout: float, check: Callable[[asyncpg.Connection], Awaitable[None]]):
        self._engine = engine
        self._timeout = timeout
        self._check = check
        self._idle: list[asyncpg.Connection] = []
        self._free = asyncio.Semaphore(_MOST)
        self._closed = False

    async def connect(self, what: str) -> asyncpg.Connection:
        """A new connection, whose owner closes it. Raises `Unavailable`, and `StoreIdentityChanged`."""
        if self._closed:
            raise Unavailable(what, reason="it is closed")
        try:
            async with asyncio.timeout(self._timeout):
                return await self._connect()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            state = getattr(error, "sqlstate", None) or ""
            reason = str(error) or type(error).__name__
            if isinstance(error, TimeoutError):
                reason = "no server answers within the time-out"
            raise Unavailable(what, reason=reason, hint=_hint(state)) from error

    async def _connect(self) -> asyncpg.Connection:
        proxied = await self._engine.raw_connection()
        connection = proxied.driver_connection
        assert connection is not None
        proxied.detach()
        try:
            await self._check(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def run(self, what: str, work: Work[Result], *, writes: bool = False) -> Result:
        """Lend a connection to a call. Raises the errors of the interface."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except TimeoutError:
            raise Unavailable(what, reason="all connections are busy") from None
        try:
            connection = await self._take(what)
            try:
                return await call(connection, what, work, timeout=self._timeout, writes=writes)
            finally:
                if self._closed or connection.is_closed():
                    connection.terminate()
                else:
                    self._idle.append(connection)
        finally:
            self._free.release()

    async def _take(self, what: str) -> asyncpg.Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await self.connect(what)

    async def close(self) -> None:
        """Close what is idle; what is lent is dropped when it comes back. May be called twice."""
        self._closed = True
        while self._idle:
            await part(self._idle.pop())
        await self._engine.dispose()


async def call(
    connection: asyncpg.Connection, what: str, work: Work[Result], *, timeout: float, writes: bool
) -> Result:
    """Run one call, and drop the connection where it did not come to its end."""
    try:
        async with asyncio.timeout(timeout):
            return await work(connection)
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "").startswith(("25", *_AMBIGUOUS)):
            connection.terminate()
        found = failure(what, error, writes=writes)
        raise found from error
    except (asyncpg.InterfaceError, OSError) as error:
        connection.terminate()
        raise failure(what, error, writes=writes) from error
    except asyncio.CancelledError:
        connection.terminate()
        raise


async def part(connection: asyncpg.Connection) -> None:
    """Close a connection in order, or drop it where the server does not answer."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await connection.close(timeout=_CLOSE_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()


class Line:
    """One connection for the calls of one batcher, which come one after the other; made again when it is lost."""

    def __init__(self, connections: Connections, timeout: float, settings: str = "") -> None:
        self._connections = connections
        self._timeout = timeout
        self._settings = settings
        self._connection: asyncpg.Connection | None = None

    async def run(self, what: str, work: Work[Result]) -> Result:
        """Run a call that writes."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connections.connect(what)
            # Waiting for a turn ends with a refusal, not without an answer.
            settings = f"SET lock_timeout = {max(1, int(self._timeout * 900))}; {self._settings}"
            await self._call(what, lambda connection: connection.execute(settings), writes=False)
        return await self._call(what, work, writes=True)

    async def _call(self, what: str, work: Work[Result], *, writes: bool) -> Result:
        assert self._connection is not None
        return await call(self._connection, what, work, timeout=self._timeout, writes=writes)

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
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """End. May be called twice."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        pause = _BACK_OFF[0]
        while True:
            try:
                await self._listen()
                pause = _BACK_OFF[0]
            except AetherError as error:
                _log.debug("the listener is gone: %s", error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _BACK_OFF[1])

    async def _listen(self) -> None:
        connection = await self._connections.connect("listening")
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        try:
            for channel in self._channels:
                await self._ask(connection, partial(_listen_to, channel=channel, told=self._told))
            self._bells.ring_all()
            while not ended.is_set():  # a connection that was cut off says nothing by itself
                with suppress(TimeoutError):
                    async with asyncio.timeout(_KEEP_ALIVE):
                        await ended.wait()
                await self._ask(connection, lambda one: one.execute("SELECT 1"))
        finally:
            connection.terminate()

    @staticmethod
    async def _ask(connection: asyncpg.Connection, work: Work[object]) -> None:
        await call(connection, "listening", work, timeout=_KEEP_ALIVE, writes=False)

    def _told(self, _connection: object, _process: int, channel: str, _payload: object) -> None:
        self._bells.ring(self._channels[channel])


async def _listen_to(connection: asyncpg.Connection, *, channel: str, told: Callable[..., None]) -> None:
    await connection.add_listener(channel, told)
