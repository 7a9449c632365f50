"""PostgreSQL, by asyncpg.

One statement per batch takes the namespace's advisory lock, draws positions from a sequence, inserts and notifies:
whoever has a position holds the lock until it is visible, so the order of positions is the order of commits. Versions
of actors are remembered; they only grow, so a stale one can cause no gap, only a violation of the unique key, and then
the batch is judged again with the lock held. Readers and listeners have connections of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import asyncpg as dialects
from sqlalchemy.ext.asyncio import AsyncEngine

from aether.core.errors import StoreIdentityChanged, VersionConflict
from aether.core.event import new_id
from aether.core.features import Durability
from aether.core.kit import Batcher, Bell, plan, size_of
from aether.core.scope import Scope
from aether.core.spi import Message, Write
from aether.core.url import BackendURL
from aether.sql.connections import Connections, Line
from aether.sql.database import EVERY, Bells, Commit, Home, Row
from aether.sql.joined import Joined
from aether.sql.options import creates, tables_of
from aether.sql.postgresql_connections import CLIENT, Listener, PgConnector, PgSession, address_of, from_engine
from aether.sql.schema import VERSION, SchemaMissing, Tables, check_version, migrations, record_version
from aether.sql.statements import Statement, Statements

LOCK = 1097162834
"""The first key of the advisory locks, so that they never meet those of an application: "AetR" in ASCII."""

_SCHEMA_LOCK = -1
_MOST_KNOWN = 100_000  # actors whose version is remembered: about 20 MB
_LONG_PLACE = 40  # characters, so that the name of a channel has fewer than 64
_LARGE = 16  # pages behind one with a large event: where one is, more are
_TELLS_COMPRESSION = (14,)  # the first version that can tell whether a value is compressed
_CAREFUL = 16  # batches that take the lock first behind one that lost a race: where one is, more are
_DIALECT: sa.Dialect = dialects.dialect()  # type: ignore[no-untyped-call]

# Not to_regclass(): behind a lock that was waited for it answers from a cache of before.
_HAS_TABLE = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relname = $1 AND (n.nspname = $2 OR $2::text IS NULL AND pg_catalog.pg_table_is_visible(c.oid)))"""


class Postgres:
    """A `Database` on a server."""

    push = True
    every = EVERY
    durability = Durability.NONE
    home: Home

    def __init__(self, url: BackendURL, scope: Scope, engine: AsyncEngine | None = None) -> None:
        self._creates = creates(url)
        self._namespace = scope.namespace
        self._timeout = scope.timeout
        self._tables = tables_of(url)
        self.statements = Statements(self._tables, _DIALECT, windowed=True)
        self._texts: _Texts
        self._bells = Bells()
        address = address_of(url) if engine is None else {}
        connect = partial(asyncpg.connect, **address) if engine is None else partial(from_engine, engine)
        # Behind a proxy that shares connections each transaction may be on another one, and on another server.
        self._shared = address.get("statement_cache_size") == 0
        in_place = engine is None  # what others set may bring time-outs of the client's own
        self._connections = Connections(PgConnector(connect), scope.timeout, self._check, in_place=in_place)
        self._line = Line(self._connections, prepare=self._prepare)
        self._message_line = Line(self._connections)
        self._appends = Batcher(self._flush, what="append", timeout=scope.timeout, size=size_of, leads=in_place)
        self._messages = Batcher(self._flush_messages, what="publish", timeout=scope.timeout, size=_message_size)
        self._listener: Listener | None = None
        self._versions: dict[str, int] = {}
        self._careful = 0
        self._sizes_known = True
        self._large = 0  # pages that are read without a try for small events first

    # --- Life ---

    async def open(self) -> None:
        self.home, self.durability = await self._connections.run("opening the store", self._introduce)
        self._texts = _Texts(self._tables, self.home.ns)

    async def close(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        await self._appends.close()
        await self._messages.close()
        await self._line.close()
        await self._message_line.close()
        await self._connections.close()

    def listen(self, topic: str, bell: Bell) -> None:
        self._bells.add(topic, bell)
        if self._listener is None:
            channels = {self._texts.channels[known]: known for known in (Bells.EVENTS, Bells.LEASES, Bells.MESSAGES)}
            self._listener = Listener(self._connections, channels, self._bells)

    async def _introduce(self, session: PgSession) -> tuple[Home, Durability]:
        connection = session.connection
        self._sizes_known = connection.get_server_version() >= _TELLS_COMPRESSION
        home = await self._find(connection)
        if home is None:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK, _SCHEMA_LOCK)
                home = await self._find(connection) or await self._make(connection)
        (synced,) = await connection.fetchrow("SELECT current_setting('synchronous_commit') <> 'off'")
        (flushed,) = await connection.fetchrow("SELECT current_setting('fsync') = 'on'")
        if not synced:  # the server holds commits back in its memory for up to 600 ms
            return home, Durability.NONE
        return home, Durability.HOST if flushed else Durability.PROCESS

    async def _find(self, connection: asyncpg.Connection) -> Home | None:
        if await self._schema_version(connection) < VERSION:
            return None
        row = await connection.fetchrow(self.statements.namespace.sql, self._namespace)
        return None if row is None else Home(*row)

    async def _schema_version(self, connection: asyncpg.Connection) -> int:
        settings = self._tables.name(self._tables.settings, _DIALECT)
        if not await connection.fetchval(_HAS_TABLE, self._tables.settings.name, self._tables.metadata.schema):
            return 0
        found = await connection.fetchval(f"SELECT value FROM {settings} WHERE name = 'version'")
        return check_version(found) if found else 0

    async def _make(self, connection: asyncpg.Connection) -> Home:
        found = await self._schema_version(connection)
        if found < VERSION:
            if not self._creates:
                raise SchemaMissing("postgresql", found=found)
            for statement in (*migrations(self._tables, _DIALECT, found), record_version(self._tables, _DIALECT)):
                await connection.execute(statement)
        namespaces = self._tables.name(self._tables.namespaces, _DIALECT)
        made = await connection.fetchrow(
            f"INSERT INTO {namespaces} (ns, name, identity) "
            f"SELECT coalesce(max(ns), 0) + 1, $1, $2 FROM {namespaces} RETURNING ns, identity",
            self._namespace,
            new_id(),
        )
        return Home(*made)

    async def _check(self, session: PgSession) -> None:
        """Make sure that a new connection leads to the store that was opened."""
        if hasattr(self, "home"):
            await self._check_home(session.connection)

    async def _check_home(self, connection: asyncpg.Connection) -> None:
        try:
            row = await connection.fetchrow(self.statements.namespace.sql, self._namespace)
        except asyncpg.UndefinedTableError:
            row = None
        if row is None or Home(*row) != self.home:
            raise StoreIdentityChanged(self.home.identity, "another store answers, or none")

    @property
    def losses(self) -> int:
        return self._connections.losses

    async def _prepare(self, session: PgSession) -> None:
        """A new connection for appends: waiting for a turn ends with a refusal, not without an answer."""
        if not self._shared:  # what is set there, others would get
            await session.connection.execute(f"SET {self._patience}")
        self._versions.clear()  # it may lead to a server that took over, and has not everything

    @property
    def _patience(self) -> str:
        return f"lock_timeout = {max(1, int(self._timeout * 900))}"

    # --- Calls ---

    async def fetch(self, what: str, statement: Statement, **values: Any) -> Sequence[Row]:
        if statement.quick is not None and self._sizes_known:
            if not self._large:
                rows = await self._query(what, statement.quick, values)
                if None not in [row[-1] for row in rows]:
                    return rows
                self._large = _LARGE
            else:
                self._large -= 1
        return await self._query(what, statement, values)

    def _query(self, what: str, statement: Statement, values: dict[str, Any]) -> Coroutine[Any, Any, Sequence[Row]]:
        sql, row = statement.sql, statement.values(**values)
        return self._connections.run(what, lambda session: session.connection.fetch(sql, *row))

    # --- Events ---

    def append(self, commit: Commit, *, transaction: object | None) -> Coroutine[Any, Any, int]:
        return self._appends.ask(commit) if transaction is None else self._append_within(transaction, commit)

    async def _append_within(self, transaction: object, commit: Commit) -> int:
        turn = ("SELECT pg_advisory_xact_lock($1, $2)", (LOCK, self.home.ns))
        joined = await Joined.of(transaction, CLIENT, self.statements, self._namespace, self.home, turn=turn)
        conflict = plan([commit], await joined.versions(commit))[0]
        if conflict is not None:
            raise conflict
        rows = await joined.rows(self._texts.insert, _columns(_rows([commit])))
        positions: list[int] = rows[0][0]
        return positions[-1]

    async def _flush(self, commits: Sequence[Commit]) -> Sequence[int | Exception]:
        answers = await self._line.run(
            "append", lambda session: self._store(session.connection, commits), requests=len(commits)
        )
        self._bells.ring(Bells.EVENTS)
        return answers

    async def _store(self, connection: asyncpg.Connection, commits: Sequence[Commit]) -> Sequence[int | Exception]:
        if self._careful == 0 and not self._shared:
            try:
                if len(commits) == len(commits[0]) == 1 and self._foreseen(commits[0][0]):
                    return [await self._store_foreseen(connection, commits[0][0])]
                return await self._store_at_once(connection, commits)
            except asyncpg.UniqueViolationError:
                self._careful = _CAREFUL
        self._careful = max(0, self._careful - 1)
        return await self._store_locked(connection, commits)

    def _foreseen(self, write: Write) -> bool:
        return self._versions.get(write.actor_id) == write.expected

    async def _store_foreseen(self, connection: asyncpg.Connection, write: Write) -> int:
        """What `_store_at_once` would do for the one commit of an actor that nobody else has written to, in short."""
        positions = await self._insert_rows(connection, _rows([[write]]))
        self._versions[write.actor_id] = write.expected + len(write.records)
        return positions[-1]

    async def _store_at_once(
        self, connection: asyncpg.Connection, commits: Sequence[Commit]
    ) -> Sequence[int | Exception]:
        """Judge by what is remembered, and let the unique key find out when that was stale."""
        actors = {write.actor_id for commit in commits for write in commit}
        fresh = {actor for actor in actors if actor not in self._versions}
        await self._recall(connection, fresh)
        while True:
            versions = {actor: self._versions[actor] for actor in actors}
            verdicts = plan(commits, versions)
            doubtful = {one.actor_id for one in verdicts if one is not None} - fresh
            if not doubtful:
                break
            fresh |= doubtful  # somebody else may have appended: a conflict tells the true version
            await self._recall(connection, doubtful)
        answers = await self._insert(connection, commits, verdicts)
        self._versions.update(versions)
        return answers

    async def _store_locked(
        self, connection: asyncpg.Connection, commits: Sequence[Commit]
    ) -> Sequence[int | Exception]:
        """Judge with the lock held: this cannot lose a race."""
        actors = {write.actor_id for commit in commits for write in commit}
        async with connection.transaction():
            if self._shared:
                await connection.execute(f"SET LOCAL {self._patience}")
            await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK, self.home.ns)
            if self._shared:
                await self._check_home(connection)
            await self._recall(connection, actors)
            versions = {actor: self._versions[actor] for actor in actors}
            answers = await self._insert(connection, commits, plan(commits, versions))
        self._versions.update(versions)  # not before it is committed: too high a version would make a gap
        return answers

    async def _recall(self, connection: asyncpg.Connection, actors: Collection[str]) -> None:
        if len(self._versions) > _MOST_KNOWN:
            self._versions.clear()
        if actors:
            found = dict(await connection.fetch(self._texts.versions, self.home.ns, list(actors)))
            self._versions.update((actor, found.get(actor, 0)) for actor in actors)

    async def _insert(
        self,
        connection: asyncpg.Connection,
        commits: Sequence[Commit],
        verdicts: Sequence[VersionConflict | None],
    ) -> Sequence[int | Exception]:
        sound = [commit for commit, conflict in zip(commits, verdicts, strict=True) if conflict is None]
        positions = await self._insert_rows(connection, _rows(sound)) if sound else ()
        answers: list[int | Exception] = []
        end = 0
        for commit, conflict in zip(commits, verdicts, strict=True):
            if conflict is None:
                end += sum(len(write.records) for write in commit)
            answers.append(conflict or positions[end - 1])
        return answers

    async def _insert_rows(self, connection: asyncpg.Connection, rows: Sequence[tuple[Any, ...]]) -> Sequence[int]:
        if len(rows) == 1:
            return (await connection.fetchval(self._texts.insert_one, *rows[0]),)
        positions: Sequence[int] = await connection.fetchval(self._texts.insert, *_columns(rows))
        return positions

    # --- Slots and leases ---

    async def change(
        self, what: str, statement: Statement, *, topic: str | None, transaction: object | None = None, **values: Any
    ) -> bool:
        row = statement.values(**values)
        if transaction is not None:
            joined = await Joined.of(transaction, CLIENT, self.statements, self._namespace, self.home)
            return bool(await joined.run(statement.sql, row))
        sql = f"WITH changed AS ({statement.sql} RETURNING 1) SELECT count(*) FROM changed"
        if topic is not None:
            notify = f"SELECT pg_notify('{self._texts.channels[topic]}', '') FROM changed"
            sql = f"WITH changed AS ({statement.sql} RETURNING 1), told AS ({notify}) SELECT count(*) FROM told"
        changed: int = await self._connections.run(what, lambda one: one.connection.fetchval(sql, *row), writes=True)
        if topic is not None:
            self._bells.ring(topic)
        return bool(changed)

    # --- Messages ---

    async def publish(self, message: Message) -> int:
        return await self._messages.ask(message)

    async def _flush_messages(self, messages: Sequence[Message]) -> Sequence[int | Exception]:
        columns = zip(*((one.namespace, one.type, one.actor_id, one.data) for one in messages), strict=True)
        arguments = [len(messages), *(list(column) for column in columns)]
        last = await self._message_line.run(
            "publish", lambda session: session.connection.fetchval(self._texts.publish, *arguments)
        )
        self._bells.ring(Bells.MESSAGES)
        return range(last - len(messages) + 1, last + 1)

    async def published(self) -> int:
        rows = await self.fetch("subscribe", self.statements.setting, name="published")
        return int(rows[0][0]) if rows else 0

    async def claim(self, queue: str, positions: Sequence[int]) -> Collection[int]:
        rows = await self._connections.run(
            "claim", lambda one: one.connection.fetch(self._texts.claim, queue, list(positions)), writes=True
        )
        return {row[0] for row in rows}

    async def forget(self, upto: int) -> None:
        await self._connections.run("trim", lambda one: one.connection.fetchval(self._texts.forget, upto), writes=True)


class _Texts:
    """The statements that only PostgreSQL has in this form."""

    def __init__(self, known: Tables, ns: int) -> None:
        def name(table: Any) -> str:
            return known.name(table, _DIALECT)

        place = f"{known.metadata.schema or ''}.{known.prefix}"
        if len(place) > _LONG_PLACE:
            place = f"{blake2b(place.encode(), digest_size=8).hexdigest()}."
        self.channels = {
            Bells.EVENTS: f"{place}events.{ns}",
            Bells.LEASES: f"{place}leases.{ns}",
            Bells.MESSAGES: f"{place}messages",
        }
        sequence = _DIALECT.identifier_preparer.format_sequence(known.sequence)
        self.versions = (
            f"SELECT actor_id, max(version) FROM {name(known.events)} "
            "WHERE ns = $1 AND actor_id = ANY ($2::text[]) GROUP BY actor_id"
        )
        # A statement of its own for one event, without arrays: they cost as much as all the rest of it.
        self.insert_one = f"""
            INSERT INTO {name(known.events)} (ns, position, actor_id, version, id, type, event)
            SELECT {ns}, nextval('{sequence}'), $1::text, $2::bigint, $3::text, $4::text, $5::json
            FROM (SELECT pg_advisory_xact_lock({LOCK}, {ns}) OFFSET 0) AS turn
            RETURNING position, pg_notify('{self.channels[Bells.EVENTS]}', '')"""
        # The lock is the outer side of the join, so it is held before the first position is drawn.
        self.insert = f"""
            WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock({LOCK}, {ns})),
            stored AS (
                INSERT INTO {name(known.events)} (ns, position, actor_id, version, id, type, event)
                SELECT {ns}, nextval('{sequence}'), u.actor_id, u.version, u.id, u.type, u.event::json
                FROM turn, unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[])
                    AS u (actor_id, version, id, type, event)
                RETURNING position)
            SELECT array_agg(position ORDER BY position)
            FROM stored, (SELECT pg_notify('{self.channels[Bells.EVENTS]}', '')) AS told"""
        self.publish = f"""
            WITH counted AS (
                INSERT INTO {name(known.settings)} AS s (name, value) VALUES ('published', ($1::bigint)::text)
                ON CONFLICT (name) DO UPDATE SET value = (s.value::bigint + $1::bigint)::text
                RETURNING value::bigint - $1::bigint AS last),
            stored AS (
                INSERT INTO {name(known.messages)} (position, namespace, type, actor_id, event)
                SELECT counted.last + u.place, u.namespace, u.type, u.actor_id, u.event
                FROM counted, unnest($2::text[], $3::text[], $4::text[], $5::bytea[])
                    WITH ORDINALITY AS u (namespace, type, actor_id, event, place)
                RETURNING position)
            SELECT max(position)
            FROM stored, (SELECT pg_notify('{self.channels[Bells.MESSAGES]}', '')) AS told,
                (SELECT set_config('synchronous_commit', 'off', true)) AS quick"""
        self.claim = (
            f"INSERT INTO {name(known.claims)} (position, queue) SELECT unnest($2::bigint[]), $1 "
            "ON CONFLICT DO NOTHING RETURNING position"
        )
        self.forget = (
            f"WITH gone AS (DELETE FROM {name(known.messages)} WHERE position <= $1), "
            f"free AS (DELETE FROM {name(known.claims)} WHERE position <= $1) SELECT 1"
        )


def _rows(commits: Sequence[Commit]) -> list[tuple[str, int, str, str, str]]:
    """What stands behind the position, of each event."""
    return [
        (write.actor_id, one.version, one.id, one.type, one.data.decode())
        for commit in commits
        for write in commit
        for one in write.records
    ]


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple(map(list, zip(*rows, strict=True)))


def _message_size(message: Message) -> int:
    return len(message.data)
