"""Connections of asyncmy that are held for as long as a store is open, by the rules of `connections`.

Nothing tells when one has ended, so that is found out by the next call. One that is left in the middle of a
transaction, or of an answer, is dropped: the server rolls back what was not committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from asyncmy.errors import MySQLError
from sqlalchemy.dialects.mysql import asyncmy as dialects
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine

from aether.core.errors import AetherError, OutcomeUnknown, Unavailable
from aether.core.url import BackendURL
from aether.sql.database import Row, WrongConnection
from aether.sql.joined import Client

Result = TypeVar("Result")

DUPLICATE = 1062
"""A row with this key is there."""

NO_TABLE = (1146, 1049)
"""The table is not there, or its database."""

THERE = (1050, 1061)
"""What a CREATE would make is there."""

_OPTIONS = ("unix_socket", "ssl_ca")
_MOST = 8  # connections for reads and single writes; more of them do not make one server faster
_CLOSE_SECONDS = 2.0

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

# What is stored must be what was given, whatever the server is set to, and reads must see what was committed last.
_SETTINGS = (
    "SET SESSION autocommit = 1, innodb_lock_wait_timeout = {seconds}, "
    "sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION';"
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
)


class Refused(Unavailable):
    """The server did not take the data itself: in a batch, one request is to blame, and the others are not."""


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


def failure(what: str, error: Exception, *, sent: bool) -> AetherError:
    """The error of the interface for one of the client's; `sent` if a commit may have reached the server."""
    number = number_of(error)
    if number and number not in _AMBIGUOUS:
        kind = Refused if number in _CONTENT else Unavailable
        return kind(what, reason=_reason(error), hint=_HINTS.get(number, "try again later"))
    return OutcomeUnknown(what, reason=_reason(error)) if sent else Unavailable(what, reason=_reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer within the time-out"
    return str(error.args[-1]) if error.args and error.args[-1] else type(error).__name__


class Session:
    """One connection. Whoever sends statements through it does so within `call`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._replies = 0
        self.sent = False
        """Whether the call that is under way may have committed something."""

        self.open = False
        """Whether it is in a transaction."""

        self.fresh = True
        """Whether nothing was committed through it yet."""

    @property
    def ended(self) -> bool:
        """Whether it can be used no more, as far as is known without asking."""
        transport = self._connection._transport
        return transport is None or transport.is_closing()

    def drop(self) -> None:
        """End it at once; a call that is under way fails."""
        transport = self._connection._transport
        if transport is not None:
            transport.abort()  # closing it would wait until a server that is paused has taken what was sent
        self._connection.close()

    async def part(self) -> None:
        """Close it in order, or drop it where the server does not answer."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._connection.ensure_closed()
        except (MySQLError, OSError):
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


Work = Callable[[Session], Awaitable[Result]]


class Connections:
    """Up to eight connections to one server, each held by one call at a time."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], timeout: float, check: Work[None]) -> None:
        self._open = connect
        self._timeout = timeout
        self._check = check
        self._idle: list[Session] = []
        self._free = asyncio.Semaphore(_MOST)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.losses = 0
        """How many connections were lost so far, as far as anybody has noticed."""

    async def connect(self, what: str) -> Session:
        """A new connection, whose owner closes it. Raises `Unavailable`, and `StoreIdentityChanged`."""
        if self._closed:
            raise Unavailable(what, reason="it is closed")
        connecting = self._begin(self._connect())
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            self._begin(_part_when_there(connecting))
            raise
        except (MySQLError, OSError) as error:
            raise failure(what, error, sent=False) from error

    async def _connect(self) -> Session:
        async with asyncio.timeout(self._timeout):
            session = Session(await self._open())
            try:
                # Waiting for a turn ends with a refusal, not without an answer; the server counts whole seconds.
                await session.ask(_SETTINGS.format(seconds=max(1, int(self._timeout * 0.9))))
                await self._check(session)
            except BaseException:
                session.drop()
                raise
            return session

    async def run(self, what: str, work: Work[Result], *, writes: bool = False) -> Result:
        """Lend a connection to a call, in a task that nobody cancels. Raises the errors of the interface."""
        return await asyncio.shield(self._begin(self._lend(what, work, writes=writes)))

    async def _lend(self, what: str, work: Work[Result], *, writes: bool) -> Result:
        try:
            async with asyncio.timeout(self._timeout) if self._free.locked() else nullcontext():
                await self._free.acquire()
        except TimeoutError:
            raise Unavailable(what, reason="all connections are busy") from None
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

    async def _use(self, session: Session, what: str, work: Work[Result], *, writes: bool) -> Result:
        try:
            return await self.call(session, what, work, writes=writes)
        finally:
            if self._closed:
                await session.part()
            elif not session.ended:
                self._idle.append(session)

    def _take_idle(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if not session.ended:
                return session
            self.losses += 1
        return None

    async def call(self, session: Session, what: str, work: Work[Result], *, writes: bool) -> Result:
        """Run one call in a task that is not cancelled, and drop the connection where it did not come to its end."""
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(self._timeout, session.drop)
        session.sent = writes
        try:
            return await work(session)
        except (MySQLError, OSError) as error:
            number = number_of(error)
            if number in _ENDING or not number:
                session.drop()
                self.losses += 1
            late = TimeoutError() if loop.time() >= deadline.when() else error
            raise failure(what, late, sent=session.sent) from error
        finally:
            deadline.cancel()
            if session.open:
                session.drop()

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


async def _part_when_there(connecting: asyncio.Task[Session]) -> None:
    await asyncio.wait([connecting])
    if not connecting.cancelled() and connecting.exception() is None:
        await connecting.result().part()


def _seen(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear of its error."""
    if not task.cancelled():
        task.exception()


class Line:
    """One connection for the calls of one batcher, which come one after the other; made again when it is lost."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._session: Session | None = None

    async def run(self, what: str, work: Work[Result]) -> Result:
        """Run a call, which commits by `Session.commit` and in no other way."""
        if self._session is not None and self._session.ended:
            self._connections.losses += 1
            self._session = None
        if self._session is None:
            self._session = await self._connections.connect(what)
        try:
            return await self._connections.call(self._session, what, work, writes=False)
        finally:
            if self._session.ended:  # by what has happened just now, and that is counted
                self._session = None

    async def close(self) -> None:
        """May be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.part()
