"""The tables and the namespace's row in MariaDB and MySQL, and how durable these servers are."""

from __future__ import annotations

import sqlalchemy as sa
from asyncmy.errors import MySQLError
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql import mariadb

from aether.core.errors import BackendUnusable, Unavailable
from aether.core.event import new_id
from aether.core.features import Durability
from aether.sql.database import Home
from aether.sql.mysql_connections import NO_TABLE, THERE, MysqlSession, number_of
from aether.sql.schema import VERSION, SchemaMissing, Tables, check_version, migrations, record_version
from aether.sql.statements import Statements

DIALECT: sa.Dialect = mariadb.loader("asyncmy")()
"""Of all statements but those that make tables: only these differ between the two."""

_MYSQL: sa.Dialect = mysql.dialect()
_PACKET = 9 << 20  # bytes that one statement must be able to have: the largest snapshot, with every byte escaped


class Foundation:
    """The store of a namespace in a database: found, or made."""

    def __init__(self, known: Tables, statements: Statements, namespace: str, *, creates: bool, timeout: float) -> None:
        self._tables = known
        self._statements = statements
        self._namespace = namespace
        self._creates = creates
        self._patience = max(1, int(timeout * 0.9))
        # The locks of a server have one set of names for all of its databases.
        lock = f"CONCAT('aether ', MD5(CONCAT(DATABASE(), '.{known.prefix}')))"
        self._lock = f"SELECT GET_LOCK({lock}, %s)"
        self._unlock = f"SELECT RELEASE_LOCK({lock})"

    async def lay(self, session: MysqlSession) -> tuple[Home, Durability]:
        """Make the tables or bring them up to date, and find or make the namespace."""
        names = "@@version, @@max_allowed_packet, @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite"
        (settings,) = await session.ask(f"SELECT {names}, @@log_bin, @@sync_binlog")
        version, packet, *flushing = settings.rows[0]
        if packet < _PACKET:
            raise BackendUnusable(f"max_allowed_packet of the server is {packet} bytes; set it to 16M at least")
        dialect = DIALECT if "MariaDB" in version else _MYSQL
        return await self.find(session) or await self._make(session, dialect), durability_of(*flushing)

    async def find(self, session: MysqlSession) -> Home | None:
        """The namespace, None if it is not there yet."""
        if await self._schema_version(session) < VERSION:
            return None
        statement = self._statements.namespace
        (found,) = await session.ask(statement.sql, statement.values(name=self._namespace))
        return Home(*found.rows[0]) if found.rows else None

    async def _schema_version(self, session: MysqlSession) -> int:
        statement = self._statements.setting
        try:
            (found,) = await session.ask(statement.sql, statement.values(name="version"))
        except MySQLError as error:
            if number_of(error) not in NO_TABLE:
                raise
            return 0
        return check_version(found.rows[0][0]) if found.rows else 0

    async def _make(self, session: MysqlSession, dialect: sa.Dialect) -> Home:
        # What changes the schema commits by itself, so no transaction keeps others out; this lock does.
        (locked,) = await session.ask(self._lock, (self._patience,))
        if locked.rows[0][0] != 1:
            raise Unavailable("opening the store", reason="another process is making the tables")
        try:
            return await self.find(session) or await self._make_locked(session, dialect)
        finally:
            if not session.ended:
                await session.ask(self._unlock)

    async def _make_locked(self, session: MysqlSession, dialect: sa.Dialect) -> Home:
        found = await self._schema_version(session)
        if found < VERSION:
            if not self._creates:
                raise SchemaMissing(dialect.name, found=found)
            for statement in (*migrations(self._tables, dialect, found), record_version(self._tables, dialect)):
                try:
                    await session.ask(statement)
                except MySQLError as error:
                    if number_of(error) not in THERE:  # made by somebody who was killed in the middle
                        raise
        namespaces = self._tables.name(self._tables.namespaces, dialect)
        await session.ask(
            f"INSERT INTO {namespaces} (ns, name, identity) SELECT coalesce(max(ns), 0) + 1, %s, %s FROM {namespaces}",
            (self._namespace, new_id()),
        )
        home = await self.find(session)
        assert home is not None
        return home


def durability_of(flush: int, doublewrite: object, log_bin: int, sync_binlog: int) -> Durability:
    """What a commit survives with these settings of the server.

    With 0 the log is written once a second, with 2 it is written at each commit but not forced to the disk. After a
    power cut what the binary log has lost is rolled back, and pages that were half written need the doublewrite buffer.
    """
    if flush == 0:
        return Durability.NONE
    forced = flush in (1, 3) and str(doublewrite).upper() not in ("0", "OFF", "DETECT_ONLY")
    return Durability.HOST if forced and (not log_bin or sync_binlog == 1) else Durability.PROCESS
