"""MariaDB and MySQL, by asyncmy.

The row of a namespace counts the positions of its events. The transaction of a batch moves it first and thereby holds
its lock until it commits, so the order of positions is the order of commits. As on PostgreSQL, versions of actors are
remembered, a stale one can cause no gap, only a violation of the unique key, and then the batch is judged again with
the lock held. A batch of actors that are known is one round trip.

Commits are not seen in that order: MariaDB collects what a query may see while transactions end, one at a time, and can
miss one, but see the one behind it that had waited for its lock (1 of 440,000 queries beside four writers, measured). A
page in which something is missing is read again: what ended before that query begins, it sees.

InnoDB shows a commit to others shortly before it is on the disk, unless there is a binary log. What was seen and then
lost in a crash must not give its position to something else, so the first commit of each connection leaves a hole, and
so does each that joins a transaction of the caller, of whose connection nothing is known.

Nothing notifies: readers look every 20 ms. A message of the bus waits for the disk as an event does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import asyncmy
from asyncmy.errors import MySQLError
from sqlalchemy.ext.asyncio import AsyncEngine

from aether.core.errors import StoreIdentityChanged, Unavailable, VersionConflict
from aether.core.features import Durability
from aether.core.kit import Batcher, Bell, plan, size_of
from aether.core.scope import Scope
from aether.core.spi import Message
from aether.core.url import BackendURL
from aether.sql.connections import Connections, Line
from aether.sql.database import POLL, Bells, Commit, Home, Row, last_positions
from aether.sql.joined import Joined
from aether.sql.mysql_connections import (
    CLIENT,
    DUPLICATE,
    MysqlConnector,
    MysqlSession,
    address_of,
    from_engine,
    number_of,
)
from aether.sql.mysql_schema import DIALECT, Foundation
from aether.sql.options import creates, tables_of
from aether.sql.schema import Tables
from aether.sql.statements import Counted, Statement, Statements

Part = TypeVar("Part")

HOLE = 1 << 20
"""Positions that stay free behind those that a crash may have taken back: more than all writers have under way."""

_MOST_KNOWN = 100_000  # actors whose version is remembered: about 20 MB
_CAREFUL = 16  # batches that take the lock first behind one that lost a race: where one is, more are
_AT_ONCE = 250  # actors that one query asks about
_CHUNK = 4 << 20  # characters behind which rows go into another statement


class Mysql:
    """A `Database` on a server of either kind."""

    push = False
    every = POLL
    durability = Durability.NONE
    home: Home

    def __init__(self, url: BackendURL, scope: Scope, engine: AsyncEngine | None = None) -> None:
        self._namespace = scope.namespace
        known = tables_of(url)
        self.statements = Statements(known, DIALECT, windowed=True)
        self._texts = _Texts(known)
        self._foundation = Foundation(
            known, self.statements, scope.namespace, creates=creates(url), timeout=scope.timeout
        )
        self._bells = Bells()
        connect = partial(asyncmy.connect, **address_of(url)) if engine is None else partial(from_engine, engine)
        connector = MysqlConnector(connect, scope.timeout)
        in_place = engine is None  # what others set may bring time-outs of the client's own
        self._connections = Connections(connector, scope.timeout, self._check, in_place=in_place)
        # A call commits by `MysqlSession.commit`, which knows whether anything was sent, and in no other way.
        self._line = Line(self._connections, writes=False)
        self._message_line = Line(self._connections, writes=False)
        self._appends = Batcher(self._flush, what="append", timeout=scope.timeout, size=size_of, leads=in_place)
        self._messages = Batcher(self._flush_messages, what="publish", timeout=scope.timeout, size=_message_size)
        self._versions: dict[str, int] = {}
        self._careful = 0

    # --- Life ---

    async def open(self) -> None:
        self.home, self.durability = await self._connections.run("opening the store", self._foundation.lay)

    async def close(self) -> None:
        await self._appends.close()
        await self._messages.close()
        await self._line.close()
        await self._message_line.close()
        await self._connections.close()

    def listen(self, topic: str, bell: Bell) -> None:
        self._bells.add(topic, bell)

    async def _check(self, session: MysqlSession) -> None:
        """Make sure that a new connection leads to the store that was opened."""
        if hasattr(self, "home") and await self._foundation.find(session) != self.home:
            raise StoreIdentityChanged(self.home.identity, "another store answers, or none")

    @property
    def losses(self) -> int:
        return self._connections.losses

    # --- Calls ---

    async def fetch(self, what: str, statement: Statement, **values: Any) -> Sequence[Row]:
        row = statement.values(**values)

        async def query(session: MysqlSession) -> Sequence[Row]:
            (found,) = await session.ask(statement.sql, row)
            if statement.counted is not None and _has_holes(found.rows, statement.counted, values["after"]):
                (found,) = await session.ask(statement.sql, row)
            return found.rows

        return await self._connections.run(what, query)

    # --- Events ---

    def append(self, commit: Commit, *, transaction: object | None) -> Coroutine[Any, Any, int]:
        return self._appends.ask(commit) if transaction is None else self._append_within(transaction, commit)

    async def _append_within(self, transaction: object, commit: Commit) -> int:
        joined = await self._join(transaction)
        versions: dict[str, int] = {}
        for write in commit:
            # Reads that lock see what was committed last, not what the caller's transaction saw at its beginning.
            rows = await joined.rows(self._texts.locked_version, (self.home.ns, write.actor_id))
            versions[write.actor_id] = rows[0][0] if rows else 0
        conflict = plan([commit], versions)[0]
        if conflict is not None:
            raise conflict
        count = sum(len(write.records) for write in commit)
        await joined.run(self._texts.move, (count + HOLE, self.home.ns))
        rows = await joined.rows(self._texts.head, (self.home.ns,))
        last: int = rows[0][0]
        rows = [(self.home.ns, position, *row) for position, row in enumerate(_rows([commit]), last - count + 1)]
        for part in _parts(rows, lambda row: 2 * len(row[-1])):
            marks = ",".join(["(%s,%s,%s,%s,%s,%s,%s)"] * len(part))
            await joined.run(self._texts.insert + marks, tuple(value for row in part for value in row))
        return last

    async def _join(self, transaction: object) -> Joined:
        """Join the caller's transaction and take the namespace's turn."""
        return await Joined.of(transaction, CLIENT, self.statements, self._namespace, self.home, lock=" FOR UPDATE")

    async def _flush(self, commits: Sequence[Commit]) -> Sequence[int | Exception]:
        answers = await self._line.run("append", lambda session: self._store(session, commits), requests=len(commits))
        self._bells.ring(Bells.EVENTS)
        return answers

    async def _store(self, session: MysqlSession, commits: Sequence[Commit]) -> Sequence[int | Exception]:
        if session.fresh:
            self._versions.clear()  # it may lead to a server that took over, and has not everything
        if self._careful == 0:
            try:
                return await self._store_at_once(session, commits)
            except MySQLError as error:
                if number_of(error) != DUPLICATE:
                    raise
            self._careful = _CAREFUL
            await session.roll_back()
        self._careful -= 1
        return await self._store_locked(session, commits)

    async def _store_at_once(self, session: MysqlSession, commits: Sequence[Commit]) -> Sequence[int | Exception]:
        """Judge by what is remembered, and let the unique key find out when that was stale."""
        actors = {write.actor_id for commit in commits for write in commit}
        fresh = {actor for actor in actors if actor not in self._versions}
        await self._recall(session, fresh)
        while True:
            versions = {actor: self._versions[actor] for actor in actors}
            verdicts = plan(commits, versions)
            doubtful = {one.actor_id for one in verdicts if one is not None} - fresh
            if not doubtful:
                break
            fresh |= doubtful  # somebody else may have appended: a conflict tells the true version
            await self._recall(session, doubtful)
        return await self._insert(session, commits, verdicts, versions)

    async def _store_locked(self, session: MysqlSession, commits: Sequence[Commit]) -> Sequence[int | Exception]:
        """Judge with the lock held: this cannot lose a race."""
        actors = {write.actor_id for commit in commits for write in commit}
        await session.begin(self._texts.head % self.home.ns)
        await self._recall(session, actors)
        versions = {actor: self._versions[actor] for actor in actors}
        return await self._insert(session, commits, plan(commits, versions), versions)

    async def _recall(self, session: MysqlSession, actors: Collection[str]) -> None:
        if len(self._versions) > _MOST_KNOWN:
            self._versions.clear()
        names = [session.literal(actor) for actor in actors]
        for start in range(0, len(names), _AT_ONCE):
            queries = [
                self._texts.version.format(ns=self.home.ns, actor=one) for one in names[start : start + _AT_ONCE]
            ]
            (found,) = await session.ask(" UNION ALL ".join(queries))
            self._versions.update((row[0], row[1] or 0) for row in found.rows)

    async def _insert(
        self,
        session: MysqlSession,
        commits: Sequence[Commit],
        verdicts: Sequence[VersionConflict | None],
        versions: dict[str, int],
    ) -> Sequence[int | Exception]:
        sound = [commit for commit, conflict in zip(commits, verdicts, strict=True) if conflict is None]
        if not sound:
            if session.open:
                await session.roll_back()
            return [conflict for conflict in verdicts if conflict is not None]
        rows = _rows(sound)
        last = await self._commit(session, rows)
        self._versions.update(versions)  # not before it is committed: too high a version would make a gap
        return last_positions(last - len(rows) + 1, commits, verdicts)

    async def _commit(self, session: MysqlSession, rows: Sequence[tuple[Any, ...]]) -> int:
        ns, count = self.home.ns, len(rows)
        move = self._texts.move % (count + (HOLE if session.fresh else 0), ns)
        return await _store_behind(session, move, self._texts.insert, rows, prefix=f"{ns},")

    # --- Slots and leases ---

    async def change(
        self, what: str, statement: Statement, *, topic: str | None, transaction: object | None = None, **values: Any
    ) -> bool:
        row = statement.values(**values)
        if transaction is not None:
            return await _joined_change(await self._join(transaction), statement.sql, row)

        async def changed(session: MysqlSession) -> bool:
            try:
                (reply,) = await session.ask(statement.sql, row)
            except MySQLError as error:
                if number_of(error) != DUPLICATE:
                    raise
                return False
            return bool(reply.changed)

        answer = await self._connections.run(what, changed, writes=True)
        if topic is not None:
            self._bells.ring(topic)
        return answer

    # --- Messages ---

    async def publish(self, message: Message) -> int:
        return await self._messages.ask(message)

    async def _flush_messages(self, messages: Sequence[Message]) -> Sequence[int | Exception]:
        rows = [(one.namespace, one.type, one.actor_id, one.data) for one in messages]
        count = self._texts.count.format(count=len(rows))

        async def publish(session: MysqlSession) -> int:
            return await _store_behind(session, count, self._texts.message, rows)

        last = await self._message_line.run("publish", publish, requests=len(rows))
        self._bells.ring(Bells.MESSAGES)
        return range(last - len(rows) + 1, last + 1)

    async def published(self) -> int:
        rows = await self.fetch("subscribe", self.statements.setting, name="published")
        return int(rows[0][0]) if rows else 0

    async def claim(self, queue: str, positions: Sequence[int]) -> Collection[int]:
        async def claim(session: MysqlSession) -> Collection[int]:
            left = sorted(positions)  # in one order, so that nobody waits in a circle
            while left and not await self._claim_all(session, queue, left):
                # Whoever was first has taken one at least, so this comes to an end.
                taken = self._texts.claimed.format(queue=session.literal(queue), positions=",".join(map(str, left)))
                (found,) = await session.ask(taken)
                left = sorted(set(left) - {row[0] for row in found.rows})
            return left

        return await self._connections.run("claim", claim, writes=True)

    async def _claim_all(self, session: MysqlSession, queue: str, positions: Sequence[int]) -> bool:
        values = [f"({session.literals((position, queue))})" for position in positions]
        try:
            await session.ask(self._texts.claim + ",".join(values))
        except MySQLError as error:
            if number_of(error) != DUPLICATE:
                raise
            return False
        return True

    async def forget(self, upto: int) -> None:
        await self._connections.run("trim", lambda session: session.ask(self._texts.forget % (upto, upto)), writes=True)


class _Texts:
    """The statements that only these servers have in this form."""

    def __init__(self, known: Tables) -> None:
        def name(table: Any) -> str:
            return known.name(table, DIALECT)

        self.head = f"SELECT head FROM {name(known.namespaces)} WHERE ns = %s FOR UPDATE"
        self.move = f"UPDATE {name(known.namespaces)} SET head = LAST_INSERT_ID(head + %s) WHERE ns = %s"
        # For one actor that is a look at the end of an index; GROUP BY for many may read all of the namespace.
        self.version = (
            f"SELECT {{actor}}, max(version) FROM {name(known.events)} WHERE ns = {{ns}} AND actor_id = {{actor}}"
        )
        self.locked_version = (
            f"SELECT version FROM {name(known.events)} FORCE INDEX ({known.actors.name}) "
            "WHERE ns = %s AND actor_id = %s ORDER BY version DESC LIMIT 1 FOR UPDATE"
        )
        self.insert = f"INSERT INTO {name(known.events)} (ns, `position`, actor_id, version, id, type, event) VALUES "
        self.count = (
            f"INSERT INTO {name(known.settings)} (name, value) VALUES ('published', LAST_INSERT_ID({{count}})) "
            "ON DUPLICATE KEY UPDATE value = LAST_INSERT_ID(CAST(value AS UNSIGNED) + {count})"
        )
        self.message = f"INSERT INTO {name(known.messages)} (`position`, namespace, type, actor_id, event) VALUES "
        self.claim = f"INSERT INTO {name(known.claims)} (`position`, queue) VALUES "
        self.claimed = (
            f"SELECT `position` FROM {name(known.claims)} WHERE queue = {{queue}} AND `position` IN ({{positions}})"
        )
        self.forget = ";".join(
            f"DELETE FROM {name(table)} WHERE `position` <= %s" for table in (known.messages, known.claims)
        )


def _rows(commits: Sequence[Commit]) -> list[tuple[Any, ...]]:
    """The events of commits, without namespace and position."""
    return [
        (write.actor_id, one.version, one.id, one.type, one.data.decode())
        for commit in commits
        for write in commit
        for one in write.records
    ]


async def _store_behind(
    session: MysqlSession, count: str, insert: str, rows: Sequence[tuple[Any, ...]], *, prefix: str = ""
) -> int:
    """Move a counter, insert rows at the positions that it has passed, and commit; return the last position.

    As a rule that is one round trip: `LAST_INSERT_ID()` gives what `count` has set by `LAST_INSERT_ID(…)`.
    """
    values = [
        f"({prefix}LAST_INSERT_ID()-{len(rows) - place},{session.literals(row)})" for place, row in enumerate(rows, 1)
    ]
    first, *others = [insert + ",".join(part) for part in _parts(values, len)]
    if not others:
        return (await session.commit(count, first))[-2].last_id
    (counted,) = await (session.ask(count) if session.open else session.begin(count))
    for statement in (first, *others[:-1]):
        await session.ask(statement)
    await session.commit(others[-1])
    return counted.last_id


def _has_holes(rows: Sequence[Row], counted: Counted, after: int) -> bool:
    """Whether numbers are missing between those of a page, or in front of it where it goes upwards."""
    if not rows:
        return False
    first, last = rows[0][counted.column], rows[-1][counted.column]
    return abs(last - first) + 1 != len(rows) or not (counted.backwards or first == after + 1)


def _parts(rows: Sequence[Part], size: Callable[[Part], int]) -> Iterator[Sequence[Part]]:
    """Rows for one statement each, which are together not much larger than `_CHUNK`."""
    start = total = 0
    for end, row in enumerate(rows, 1):
        total += size(row)
        if total >= _CHUNK or end == len(rows):
            yield rows[start:end]
            start, total = end, 0


async def _joined_change(joined: Joined, sql: str, row: tuple[Any, ...]) -> bool:
    try:
        return bool(await joined.run(sql, row))
    except Unavailable as error:
        if number_of(getattr(error.__cause__, "orig", None)) != DUPLICATE:  # that undoes its statement alone
            raise
        return False


def _message_size(message: Message) -> int:
    return len(message.data)
