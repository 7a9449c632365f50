"""What is asyncpg's own about the connections of `connections`, and the one that listens."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import asyncpg as dialects
from sqlalchemy.ext.asyncio import AsyncEngine

from aether.core.errors import AetherError, OutcomeUnknown, Unavailable
from aether.core.url import BackendURL
from aether.sql.connections import CLOSE_SECONDS, Connections, Refused, Work
from aether.sql.database import Bells, WrongConnection
from aether.sql.joined import Client

_log = logging.getLogger("aether.sql")

_BACK_OFF = (0.05, 1.0)  # seconds before a listener connects again, doubled up to the second
_KEEP_ALIVE = 5.0  # seconds of silence behind which a listener asks whether the server is there

ROOM = "SELECT length(repeat('x', 1 << 20))"
"""Once it has freed a large value, a server's C library keeps what is freed, up to twice its size. Before that it gives
back to the system what each query has used: with that, 250 events took a third longer (decision 51)."""

# What a server says when it ends a connection, or does not know how a commit ended: that is no refusal.
_AMBIGUOUS = ("08", "57P01", "57P02", "57P05", "40003", "XX")
# The client's own: it is not connected, or was cut off, which may leave its protocol in the middle of something.
_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_ERRORS: tuple[type[Exception], ...] = (asyncpg.PostgresError, *_LOST)
_CONTENT = ("22", "54")  # the data cannot be stored: one request of a batch may be to blame

CLIENT = Client(
    "postgresql",
    "asyncpg",
    in_transaction=lambda connection: bool(connection.is_in_transaction()),
    lacks_table=lambda error: getattr(error, "sqlstate", None) == asyncpg.UndefinedTableError.sqlstate,
)


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
    if (authority := url.options.get("sslrootcert")) is not None:
        arguments["ssl"] = _trusting(url, str(authority), str(mode or "verify-full"))
    if (size := url.options.get("statement_cache_size")) is not None:
        if not str(size).isdigit():
            raise url.error("option 'statement_cache_size' is a number; 0 is for proxies that share connections")
        arguments["statement_cache_size"] = int(size)
    return arguments


def _trusting(url: BackendURL, authority: str, mode: str) -> ssl.SSLContext:
    """What lets in the servers that an authority vouches for, whose certificate is in a file."""
    if mode not in ("verify-ca", "verify-full"):
        raise url.error("option 'sslrootcert' needs sslmode=verify-full, which is its default, or verify-ca")
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        raise url.error(f"option 'sslrootcert' names no file with certificates: {error}") from error
    context.check_hostname = mode == "verify-full"
    return context


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


class PgSession:
    """A `Session` over a connection of asyncpg."""

    sent = False

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    @property
    def ended(self) -> bool:
        return bool(self.connection.is_closed())

    def drop(self) -> None:
        self.connection.terminate()

    async def part(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.connection.close(timeout=CLOSE_SECONDS)
        except _ERRORS:
            self.drop()

    def leave(self) -> None:
        """A transaction of asyncpg ends with its block."""


class PgConnector:
    """A `Connector` of asyncpg."""

    errors = _ERRORS
    tells = True

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect

    async def open(self) -> PgSession:
        return PgSession(await self._connect())

    async def prepare(self, session: PgSession, ended: Callable[[], None]) -> None:
        session.connection.add_termination_listener(lambda _: ended())
        await session.connection.execute(ROOM)
        # Events come as the bytes that they are: the client would make texts of them, only for us to encode them again.
        await session.connection.set_type_codec(
            "json", schema="pg_catalog", encoder=str.encode, decoder=bytes, format="binary"
        )

    def ends(self, error: Exception) -> bool:
        if isinstance(error, asyncpg.PostgresError):
            return (error.sqlstate or "").startswith(("25", *_AMBIGUOUS))
        return True

    def refusal(self, what: str, error: Exception) -> AetherError:
        state = getattr(error, "sqlstate", None) or ""
        return Unavailable(what, reason=_reason(error), hint=_hint(state))

    def failure(self, what: str, error: Exception, *, sent: bool) -> AetherError:
        if isinstance(error, asyncpg.PostgresError):
            state = error.sqlstate or ""
            if not state.startswith(_AMBIGUOUS):
                kind = Refused if state.startswith(_CONTENT) else Unavailable
                return kind(what, reason=str(error), hint=_hint(state))
        return OutcomeUnknown(what, reason=_reason(error)) if sent else Unavailable(what, reason=_reason(error))


class Listener:
    """Rings bells when the server notifies; connects again by itself, and rings all then."""

    def __init__(self, connections: Connections[PgSession], channels: Mapping[str, str], bells: Bells) -> None:
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
        session = await self._connections.connect("listening")
        session.connection.add_termination_listener(lambda _: self._changed.set())
        try:
            for channel in self._channels:
                await self._ask(session, partial(_listen_to, channel=channel, told=self._told))
            self._bells.ring_all()
            while not (self._closed or session.ended):
                await self._sleep(_KEEP_ALIVE)  # a connection that was cut off says nothing by itself
                await self._ask(session, lambda one: one.connection.execute("SELECT 1"))
        finally:
            session.drop()

    async def _sleep(self, seconds: float) -> None:
        self._changed.clear()
        if not self._closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    async def _ask(self, session: PgSession, work: Work[PgSession, object]) -> None:
        await self._connections.call(session, "listening", work, writes=False, timeout=_KEEP_ALIVE)

    def _told(self, _connection: object, _process: int, channel: str, _payload: object) -> None:
        self._bells.ring(self._channels[channel])


async def _listen_to(session: PgSession, *, channel: str, told: Callable[..., None]) -> None:
    await session.connection.add_listener(channel, told)
