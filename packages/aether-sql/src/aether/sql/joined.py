"""The caller's own transaction, as a commit joins it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aether.core.errors import Unavailable
from aether.sql.database import Commit, Home, Row, WrongConnection
from aether.sql.statements import Statement, Statements

_WHAT = "connection="
_ELSEWHERE = "it leads to another database than the store's, or to other tables"


class Client(NamedTuple):
    """What a kind of database has to say of the connections of its client."""

    dialect: str
    driver: str
    in_transaction: Callable[[Any], bool]
    """Whether the client's own connection is in a transaction, as the database has told with its last answer."""

    lacks_table: Callable[[Any], bool]
    """Whether an error of the client says that a table is not there."""


class Joined:
    """An `AsyncConnection` of SQLAlchemy that is in a transaction, or the one of an `AsyncSession`.

    Nothing is committed or rolled back here, and an error of the database leaves the transaction as the database left
    it: whoever began it ends it.
    """

    def __init__(self, connection: Any, statements: Statements, ns: int) -> None:
        self._connection = connection
        self._statements = statements
        self._ns = ns

    @classmethod
    async def of(
        cls,
        transaction: object,
        client: Client,
        statements: Statements,
        namespace: str,
        home: Home,
        *,
        turn: tuple[str, tuple[Any, ...]] | None = None,
        lock: str = "",
    ) -> Joined:
        """Join it, and run the statement by which it takes its turn in writing, before it reads anything.

        Where reading the namespace's row is what takes the turn, `lock` is what the query ends with.
        Raises `WrongConnection` if it is no transaction, also for the database, or leads to another database. Where
        the tables are missing there, PostgreSQL has ended the transaction, and it can only be rolled back.
        """
        joined = cls(await _connection_of(transaction, client), statements, home.ns)
        try:
            if turn is not None:
                await joined.rows(*turn)
            found = await joined.rows(statements.namespace.sql + lock, statements.namespace.values(name=namespace))
        except Unavailable as error:
            if client.lacks_table(getattr(error.__cause__, "orig", None)):
                raise WrongConnection(_WHAT, f"{_ELSEWHERE}: none are there; roll it back") from error
            raise
        # Not what SQLAlchemy is set to: in AUTOCOMMIT one may begin a transaction by oneself, and that is one.
        if not client.in_transaction((await joined._connection.get_raw_connection()).driver_connection):
            reason = "it commits each statement by itself, so nothing would be committed together; leave AUTOCOMMIT"
            raise WrongConnection(_WHAT, reason)
        if [tuple(row) for row in found] != [tuple(home)]:
            raise WrongConnection(_WHAT, _ELSEWHERE)
        return joined

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        """Run a query."""
        return await self.rows(statement.sql, statement.values(**values))

    async def rows(self, sql: str, values: tuple[Any, ...]) -> Sequence[Row]:
        """Run a statement that answers with rows."""
        result = await self._run(sql, values)
        return [tuple(row) for row in result.all()] if result.returns_rows else []

    async def run(self, sql: str, values: tuple[Any, ...]) -> int:
        """Run a statement, and return how many rows it changed."""
        result = await self._run(sql, values)
        return int(result.rowcount)

    async def versions(self, commit: Commit) -> dict[str, int]:
        """The versions of the actors of a commit, as this transaction sees them."""
        found: dict[str, int] = {}
        for write in commit:
            rows = await self.fetch(self._statements.version, ns=self._ns, actor_id=write.actor_id)
            found[write.actor_id] = int(rows[0][0] or 0)
        return found

    async def _run(self, sql: str, values: tuple[Any, ...]) -> Any:
        from sqlalchemy.exc import DBAPIError

        try:
            return await self._connection.exec_driver_sql(sql, values)
        except DBAPIError as error:
            reason = str(error.orig)
            raise Unavailable("the caller's transaction", reason=reason, hint="roll it back and try again") from error


async def _connection_of(transaction: object, client: Client) -> Any:
    """The `AsyncConnection` of what a caller has given. Raises `WrongConnection`."""
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    if isinstance(transaction, AsyncSession):
        transaction = await transaction.connection()
    if not isinstance(transaction, AsyncConnection):
        wanted = "an AsyncConnection or AsyncSession of SQLAlchemy"
        raise WrongConnection(_WHAT, f"{wanted} is needed, not {type(transaction).__name__}")
    dialect = transaction.dialect
    if dialect.name.replace("mariadb", "mysql") != client.dialect:  # either leads to servers of both kinds
        raise WrongConnection(_WHAT, f"it leads to {dialect.name}, the store is in {client.dialect}")
    if dialect.driver != client.driver:
        raise WrongConnection(_WHAT, f"one over {client.driver} is needed, not over {dialect.driver}")
    if not transaction.in_transaction():
        raise WrongConnection(_WHAT, "it is in no transaction; begin one by `async with engine.begin()`")
    return transaction
