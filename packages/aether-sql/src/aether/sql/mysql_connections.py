"""What is asyncmy's own about the connections of `connections`.

Nothing tells when one has ended, so that is found out by the next call. One that is left in the middle of a
transaction, or of an answer, is dropped: the server rolls back what was not committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from asyncmy.errors import MySQLError
from sqlalchemy.dialects.mysql import asyncmy as dialects
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine

from aether.core.errors import AetherError, OutcomeUnknown, Unavailable
from aether.core.url import BackendURL
from aether.sql.connections import CLOSE_SECONDS, Refused
from aether.sql.database import Row, WrongConnection
from aether.sql.joined import Client

DUPLICATE = 1062
"""A row with this key is there."""

NO_TABLE = (1146, 1049)
"""The table is not there, or its database."""

THERE = (1050, 1061)
"""What a CREATE would make is there."""

_OPTIONS = ("unix_socket", "ssl_ca")

# What a server says when it ends a connection or a statement, or does not know how a commit ended: that is no refusal.
_AMBIGUOUS = frozenset({1026, 1030, 1053, 1105, 1158, 1159, 1160, 1161, 1180, 1317, 1598, 1927, 1969, 3024, 4031})
_ENDING = frozenset({1053, 1158, 1159, 1160, 1161, 1290, 1792, 1836, 1927, 4031})  # use no such connection again
_CONTENT = frozenset({1118, 1153, 1264, 1265, 1366, 1406, 3140})  # one request of a batch may be to blame
_HINTS = {
    1044: "check the rights of the user",
    1045: "check user and password",
    1049: "create the database first",
    1114: "make room on the server; nothing was stored",
    1021: "make room on the server; nothing was stored",
    1142: "check the rights of the user, and the schema that `aether.sql.ddl` prints",
    1146: "check the schema that `aether.sql.ddl` prints",
    1205: "somebody holds the lock for longer than the time-out; try again later",
    1290: "this server is read-only; connect to the primary one",
    1665: "set binlog_format of the server to ROW or MIXED",
    1698: "check user and password",
    1836: "this server is read-only; connect to the primary one",
}

_ERRORS: tuple[type[Exception], ...] = (MySQLError, OSError)

# What is stored must be what was given, whatever the server is set to, and reads must see what was committed last.
_SETTINGS = (
    "SET SESSION autocommit = 1, innodb_lock_wait_timeout = {seconds}, "
    "sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION';"
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
)


class Reply(NamedTuple):
    """What a server answers to one statement."""

    rows: tuple[Row, ...]
    changed: int
    last_id: int


def address_of(url: BackendURL) -> dict[str, Any]:
    """The arguments of `asyncmy.connect` for `mysql://user:password@host:port/database`. Raises `InvalidURL`."""
    if url.variant not in (None, "asyncmy"):
        raise url.error(f"write {url.scheme}://; the client is asyncmy")
    if len(url.hosts) > 1:
        raise url.error("one host is needed; several are what a proxy or a virtual address is for")
    if not url.path.strip("/"):
        raise url.error(f"the database is missing; write {url.scheme}://user:password@host/database")
    try:
        place = sa.make_url(f"mysql+asyncmy://{url.hosts[0] if url.hosts else ''}")
    except (ArgumentError, ValueError) as error:
        raise url.error("the port is a number") from error
    place = place.set(username=url.user, password=url.secret, database=url.path.strip("/"))
    options: dict[str, str] = {
        name: str(url.options[name]) for name in ("unix_socket", "ssl_ca") if name in url.options
    }
    if (authority := options.get("ssl_ca")) is not None and not Path(authority).is_file():
        raise url.error("option 'ssl_ca' names no file")
    arguments = dict(dialects.dialect().create_connect_args(place.update_query_dict(options))[1])
    if url.secret is not None:
        arguments["password"] = url.secret.encode()  # a text would have to be Latin-1
    return {**arguments, "charset": "utf8mb4", "autocommit": True, "program_name": "aether"}


async def from_engine(engine: AsyncEngine) -> Any:
    """A connection that an engine of SQLAlchemy has made, and that its pool then forgets."""
    if engine.dialect.driver != "asyncmy":
        raise WrongConnection("engine", f"one over asyncmy is needed, not over {engine.dialect.driver}")
    proxied = await engine.raw_connection()
    connection: Any = proxied.driver_connection
    proxied.detach()
    if connection.character_set_name() != "utf8mb4":
        await connection.ensure_closed()
        raise WrongConnection("engine", "its connections need the character set utf8mb4")
    return connection


def number_of(error: BaseException | None) -> int:
    """The number that the server gives to an error, 0 if the server has said nothing."""
    number = error.args[0] if isinstance(error, MySQLError) and error.args else 0
    return number if isinstance(number, int) and not 2000 <= number < 3000 else 0  # those are the client's own


CLIENT = Client(
    "mysql",
    "asyncmy",
    in_transaction=lambda connection: bool(connection.get_transaction_status()),
    lacks_table=lambda error: number_of(error) in NO_TABLE,
)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer within the time-out"
    return str(error.args[-1]) if error.args and error.args[-1] else type(error).__name__


class MysqlSession:
    """A `Session` over a connection of asyncmy."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._replies = 0
        self.sent = False
        self.open = False
        """Whether it is in a transaction."""

        self.fresh = True
        """Whether nothing was committed through it yet."""

    @property
    def ended(self) -> bool:
        transport = self._connection._transport
        return transport is None or transport.is_closing()

    def drop(self) -> None:
        transport = self._connection._transport
        if transport is not None:
            transport.abort()  # closing it would wait until a server that is paused has taken what was sent
        self._connection.close()

    async def part(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._connection.ensure_closed()
        except _ERRORS:
            self.drop()

    def leave(self) -> None:
        if self.open:
            self.drop()

    def literal(self, value: str | bytes | int) -> str:
        """A value as it stands in a statement."""
        return str(self._connection.literal(value))

    def literals(self, values: tuple[Any, ...]) -> str:
        """Values with commas between them, as they stand in a statement."""
        return ",".join(map(self.literal, values))

    async def ask(self, sql: str, values: tuple[Any, ...] | None = None) -> list[Reply]:
        """Run statements, with semicolons between them, in one round trip; none behind one that fails."""
        cursor = self._connection.cursor()
        replies: list[Reply] = []
        self._replies = 0
        more = await cursor.execute(sql, values) is not None
        while more:
            replies.append(Reply(tuple(await cursor.fetchall()), cursor.rowcount, cursor.lastrowid))
            self._replies += 1
            more = await cursor.nextset()
        return replies

    async def begin(self, sql: str) -> list[Reply]:
        """Begin a transaction with these statements."""
        self.open = True
        return (await self.ask(f"BEGIN;{sql}"))[1:]

    async def commit(self, *statements: str) -> list[Reply]:
        """Run statements, and commit; in a transaction of their own unless there is one."""
        if not self.open:
            self.open = True
            statements = ("BEGIN", *statements)
        self.sent = True
        try:
            replies = await self.ask(";".join((*statements, "COMMIT")))
        except MySQLError as error:
            if number_of(error) and self._replies < len(statements):
                self.sent = False  # the server came no further than to one of the statements
            raise
        self.open = self.fresh = False
        return replies[:-1]

    async def roll_back(self) -> None:
        """Undo what was done since the transaction began."""
        await self.ask("ROLLBACK")
        self.open = self.sent = False


class MysqlConnector:
    """A `Connector` of asyncmy."""

    errors = _ERRORS
    tells = False

    def __init__(self, connect: Callable[[], Awaitable[Any]], timeout: float) -> None:
        self._connect = connect
        # Waiting for a turn ends with a refusal, not without an answer; the server counts whole seconds.
        self._settings = _SETTINGS.format(seconds=max(1, int(timeout * 0.9)))

    async def open(self) -> MysqlSession:
        return MysqlSession(await self._connect())

    async def prepare(self, session: MysqlSession, _ended: Callable[[], None]) -> None:
        await session.ask(self._settings)

    def ends(self, error: Exception) -> bool:
        number = number_of(error)
        return number in _ENDING or not number

    def refusal(self, what: str, error: Exception) -> AetherError:
        return self.failure(what, error, sent=False)

    def failure(self, what: str, error: Exception, *, sent: bool) -> AetherError:
        number = number_of(error)
        if number and number not in _AMBIGUOUS:
            kind = Refused if number in _CONTENT else Unavailable
            return kind(what, reason=_reason(error), hint=_HINTS.get(number, "try again later"))
        return OutcomeUnknown(what, reason=_reason(error)) if sent else Unavailable(what, reason=_reason(error))
