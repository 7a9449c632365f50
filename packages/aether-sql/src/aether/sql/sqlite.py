"""SQLite: one file, embedded, for any number of processes of one machine.

Two threads per opening of a URL, one that writes and one that reads, each with a connection of the standard library:
one hop per batch is what an event loop costs here, and no cancellation reaches a transaction. Writing is
`BEGIN IMMEDIATE`, so the order of positions is the order of commits. Processes take turns by a lock on a file beside
the database.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aether.core.errors import OutcomeUnknown, Unavailable
from aether.core.event import new_id
from aether.core.features import Durability
from aether.core.kit import Batcher, Bell, Deadlines, plan, size_of
from aether.core.scope import Scope
from aether.core.spi import Message, Write
from aether.core.url import BackendURL
from aether.sql.database import EVERY, POLL, Bells, Commit, Home, Row, last_positions
from aether.sql.joined import Joined
from aether.sql.options import creates, tables_of
from aether.sql.schema import VERSION, SchemaMissing, Tables, check_version, migrations, record_version
from aether.sql.sqlite_files import hint, path_of, reason, synchronous_of, use_wal
from aether.sql.sqlite_texts import CLIENT, DIALECT, Texts, rows_of
from aether.sql.statements import PAGE_BYTES, Statement, Statements
from aether.sql.threads import DatabaseThread, FileLock, Memory
from aether.sql.wake import FileWatch, watches

Result = TypeVar("Result")

_FULL = 2  # PRAGMA synchronous: from here on each commit waits for the disk
_MOST_KNOWN = 50_000  # actors whose version is remembered: about 10 MB
_CERTAIN = frozenset(
    getattr(sqlite3, f"SQLITE_{name}")
    for name in ("AUTH", "BUSY", "CANTOPEN", "ERROR", "FULL", "LOCKED", "MISMATCH", "PERM", "READONLY", "TOOBIG")
)
"""Errors of a statement that commits by itself behind which nothing is stored: the mark of a commit is written last."""

_CHUNK = 8  # rows that are fetched before their size is known
_PATIENCE = 0.4  # of the time-out, for the lock between processes, and as much again for SQLite's own


class Sqlite:
    """A `Database` in one file."""

    losses = 0
    durability = Durability.NONE
    home: Home

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        self._url = url
        self._path = path_of(url)
        self._synchronous = synchronous_of(url)
        self._creates = creates(url)
        self._namespace = scope.namespace
        self._timeout = scope.timeout
        self._tables = tables_of(url)
        self.statements = Statements(self._tables, DIALECT, windowed=False)
        self._texts = Texts(self._tables)
        self._appends = Batcher(self._flush, what="append", timeout=scope.timeout, size=size_of, leads=True)
        self._messages = Batcher(self._flush_messages, what="publish", timeout=scope.timeout, size=_message_size)
        self._reads, self._writes = Deadlines(scope.timeout), Deadlines(scope.timeout)
        self._bells = Bells()
        self._lock_path = Path(f"{self._path}.lock")
        self._watch = FileWatch(Path(f"{self._path}-wal"), self._lock_path, self._bells.ring_all)
        self._writer = DatabaseThread("aether-sqlite-writer", lambda: self._connect(writes=True))
        self._reader = DatabaseThread("aether-sqlite-reader", lambda: self._connect(writes=False))
        self._lock: FileLock | None = None
        self._memory: Memory | None = None
        self._head = -1
        self._versions: dict[str, int] = {}

    @property
    def push(self) -> bool:
        return not self._path or watches()

    @property
    def every(self) -> float:
        return EVERY if self.push else POLL

    # --- Life ---

    async def open(self) -> None:
        if not self._path:
            self._memory = Memory.enter(self._writer, self._bells)
            self._writer = self._reader = self._memory.thread
            self._bells = self._memory.shared
        await self._start(self._writer)
        what = "opening the store"
        found = await self._ask(what, self._writer, self._find)
        self.home = found if found is not None else await self._write(what, self._make)
        self.durability = await self._ask(what, self._writer, self._read_durability)
        await self._start(self._reader)

    async def _start(self, thread: DatabaseThread) -> None:
        what = "opening the file"
        try:
            async with asyncio.timeout(self._timeout):
                await thread.start()
        except sqlite3.Error as error:
            raise Unavailable(what, reason=reason(error), hint=hint(error)) from error
        except TimeoutError as error:
            raise Unavailable(what, reason="no answer within the time-out") from error

    async def close(self) -> None:
        await self._watch.close()
        await self._appends.close()
        await self._messages.close()
        memory, self._memory = self._memory, None
        if memory is not None:
            await memory.leave()
        elif self._path:
            await self._reader.stop()
            await self._writer.stop()
        if self._lock is not None:
            self._lock.close()
        self._reads.close()
        self._writes.close()

    def listen(self, topic: str, bell: Bell) -> None:
        self._bells.add(topic, bell)
        if self._path:
            self._watch.start()

    def _connect(self, *, writes: bool) -> sqlite3.Connection:
        place = self._path or ":memory:"
        # What waits for a turn gives up before its caller does: then it is certain that nothing was stored.
        patience = _PATIENCE * self._timeout
        connection = sqlite3.connect(place, timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            if writes and self._path:
                self._lock = FileLock(self._lock_path)
                use_wal(connection, time.monotonic() + self._timeout)
                connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            elif not writes:
                connection.execute("PRAGMA query_only = ON")
        except sqlite3.DatabaseError as error:
            connection.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise self._url.error("this file is no SQLite database") from error
            raise
        return connection

    def _find(self, db: sqlite3.Connection) -> Home | None:
        """The namespace, if nothing has to be made: then opening waits for no other writer."""
        if _schema_version(db, self._tables) < VERSION:
            return None
        namespace = self.statements.namespace
        row = db.execute(namespace.sql, namespace.values(name=self._namespace)).fetchone()
        return None if row is None else Home(*row)

    def _make(self, db: sqlite3.Connection) -> Home:
        """Make the tables or bring them up to date, and make the namespace."""
        found = _schema_version(db, self._tables)
        if found < VERSION:
            if not self._creates:
                raise SchemaMissing("sqlite", found=found)
            for statement in (*migrations(self._tables, DIALECT, found), record_version(self._tables, DIALECT)):
                db.execute(statement)
        home = self._find(db)
        if home is None:
            db.execute(self._texts.new_namespace, (self._namespace, new_id()))
            home = self._find(db)
        assert home is not None
        return home

    def _read_durability(self, db: sqlite3.Connection) -> Durability:
        if not self._path:
            return Durability.NONE
        (level,) = db.execute("PRAGMA synchronous").fetchone()
        return Durability.HOST if level >= _FULL else Durability.PROCESS

    # --- Calls ---

    async def _ask(
        self, what: str, thread: DatabaseThread, work: Callable[[sqlite3.Connection], Result], *, writes: bool = False
    ) -> Result:
        """Run a function in a thread. It stores nothing when SQLite refuses it."""
        answer = thread.submit(work)
        deadlines = self._reads if thread is self._reader else self._writes
        deadlines.watch(answer, TimeoutError)
        try:
            return await answer
        except sqlite3.Error as error:
            raise Unavailable(what, reason=reason(error), hint=hint(error)) from error
        except TimeoutError as error:
            kind = OutcomeUnknown if writes else Unavailable
            raise kind(what, reason="no answer within the time-out") from error
        finally:
            deadlines.tidy()

    def fetch(self, what: str, statement: Statement, **values: Any) -> Coroutine[Any, Any, Sequence[Row]]:
        sql, row = statement.sql, statement.values(**values)
        rows = _page if "limit" in values else sqlite3.Cursor.fetchall
        return self._ask(what, self._reader, lambda db: rows(db.execute(sql, row)))

    async def _write(self, what: str, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run one transaction. What `work` raises rolls it back."""
        deadline = time.monotonic() + _PATIENCE * self._timeout
        return await self._ask(what, self._writer, lambda db: self._transaction(db, what, work, deadline), writes=True)

    def _transaction(
        self, db: sqlite3.Connection, what: str, work: Callable[[sqlite3.Connection], Result], deadline: float
    ) -> Result:
        return self._in_turn(what, deadline, lambda: self._commit(db, what, work))

    def _in_turn(self, what: str, deadline: float, work: Callable[[], Result]) -> Result:
        """Run what writes as the one process that does. Who watches the lock is told of it."""
        lock = self._lock
        if lock is None:
            return work()
        if not lock.take(deadline):
            raise Unavailable(what, reason="another process writes, and gives no turn within the time-out")
        try:
            result = work()
            lock.touch()
            return result
        finally:
            lock.release()

    def _commit(self, db: sqlite3.Connection, what: str, work: Callable[[sqlite3.Connection], Result]) -> Result:
        db.execute("BEGIN IMMEDIATE")
        try:
            result = work(db)
        except BaseException:
            db.rollback()
            raise
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._head = -1
            with suppress(sqlite3.Error):
                db.rollback()
            raise OutcomeUnknown(what, reason=reason(error)) from error
        return result

    # --- Events ---

    def append(self, commit: Commit, *, transaction: object | None) -> Coroutine[Any, Any, int]:
        return self._appends.ask(commit) if transaction is None else self._append_within(transaction, commit)

    async def _append_within(self, transaction: object, commit: Commit) -> int:
        joined = await self._join(transaction)
        versions = await joined.versions(commit)
        conflict = plan([commit], versions)[0]
        if conflict is not None:
            raise conflict
        rows = await joined.fetch(self.statements.head, ns=self.home.ns)
        first = (rows[0][0] if rows else 0) + 1
        events = rows_of(self.home.ns, first, [commit])
        for row in events:
            await joined.run(self._texts.insert, row)
        return first + len(events) - 1

    async def _join(self, transaction: object) -> Joined:
        # A transaction that begins with a read cannot become one that writes once others have written.
        turn = (self._texts.take_turn, (self.home.ns,))
        return await Joined.of(transaction, CLIENT, self.statements, self._namespace, self.home, turn=turn)

    async def _flush(self, commits: Sequence[Commit]) -> Sequence[int | Exception]:
        deadline = time.monotonic() + _PATIENCE * self._timeout
        store = partial(self._store, commits=commits, deadline=deadline)
        answers = await self._ask("append", self._writer, store, writes=True)
        self._bells.ring(Bells.EVENTS)
        return answers

    def _store(
        self, db: sqlite3.Connection, *, commits: Sequence[Commit], deadline: float
    ) -> Sequence[int | Exception]:
        return self._in_turn("append", deadline, lambda: self._store_all(db, commits, deadline))

    def _store_all(
        self, db: sqlite3.Connection, commits: Sequence[Commit], deadline: float
    ) -> Sequence[int | Exception]:
        if len(commits) == len(commits[0]) == len(commits[0][0].records) == 1:
            position = self._store_next(db, commits[0][0])
            if position:
                return (position,)
            if time.monotonic() > deadline:
                raise Unavailable("append", reason="another process writes, and gives no turn within the time-out")
        return self._commit(db, "append", lambda db: self._store_batch(db, commits))

    def _store_next(self, db: sqlite3.Connection, write: Write) -> int:
        """Store a single event by one statement, if nobody else has written since the last time; 0 if somebody has."""
        if self._head < 0 or self._versions.get(write.actor_id) != write.expected:
            return 0
        (one,) = write.records
        row = (self.home.ns, self._head + 1, write.actor_id, one.version, one.id, one.type, one.data.decode())
        try:
            if not db.execute(self._texts.insert_next, row).rowcount:
                return 0
        except sqlite3.IntegrityError:
            return 0
        except sqlite3.Error as error:
            self._head = -1
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _CERTAIN:
                raise
            raise OutcomeUnknown("append", reason=reason(error)) from error
        self._head += 1
        self._versions[write.actor_id] = write.expected + 1
        return self._head

    def _store_batch(self, db: sqlite3.Connection, commits: Sequence[Commit]) -> list[int | Exception]:
        try:
            return self._insert_batch(db, commits)
        except BaseException:
            self._head = -1  # what was remembered may include what is rolled back
            raise

    def _insert_batch(self, db: sqlite3.Connection, commits: Sequence[Commit]) -> list[int | Exception]:
        ns = self.home.ns
        (head,) = db.execute(self._texts.head, (ns,)).fetchone()
        if head != self._head or len(self._versions) > _MOST_KNOWN:  # somebody else has written, or the commit failed
            self._versions.clear()
        for commit in commits:
            for write in commit:
                if write.actor_id not in self._versions:
                    row = db.execute(self._texts.version, (ns, write.actor_id)).fetchone()
                    self._versions[write.actor_id] = row[0]
        verdicts = plan(commits, self._versions)
        sound = [commit for commit, conflict in zip(commits, verdicts, strict=True) if conflict is None]
        rows = rows_of(ns, head + 1, sound)
        db.executemany(self._texts.insert, rows)
        self._head = head + len(rows)
        return last_positions(head + 1, commits, verdicts)

    # --- Slots and leases ---

    async def change(
        self, what: str, statement: Statement, *, topic: str | None, transaction: object | None = None, **values: Any
    ) -> bool:
        row = statement.values(**values)
        if transaction is not None:
            joined = await self._join(transaction)
            return bool(await joined.run(statement.sql, row))

        def changed(db: sqlite3.Connection) -> bool:
            return bool(db.execute(statement.sql, row).rowcount)

        answer = await asyncio.shield(self._write(what, changed))
        if topic is not None:
            self._bells.ring(topic)
        return answer

    # --- Messages ---

    async def publish(self, message: Message) -> int:
        return await self._messages.ask(message)

    async def _flush_messages(self, messages: Sequence[Message]) -> Sequence[int | Exception]:
        def publish(db: sqlite3.Connection) -> list[int | Exception]:
            (last,) = db.execute(self._texts.count, {"count": len(messages)}).fetchone()
            first = int(last) - len(messages) + 1
            rows = [
                (first + index, one.namespace, one.type, one.actor_id, one.data) for index, one in enumerate(messages)
            ]
            db.executemany(self._texts.message, rows)
            return [row[0] for row in rows]

        answers = await self._write("publish", publish)
        self._bells.ring(Bells.MESSAGES)
        return answers

    async def published(self) -> int:
        rows = await self.fetch("subscribe", self.statements.setting, name="published")
        return int(rows[0][0]) if rows else 0

    async def claim(self, queue: str, positions: Sequence[int]) -> Collection[int]:
        def claim(db: sqlite3.Connection) -> list[int]:
            return [one for one in positions if db.execute(self._texts.claim, (one, queue)).rowcount]

        return await asyncio.shield(self._write("claim", claim))

    async def forget(self, upto: int) -> None:
        def forget(db: sqlite3.Connection) -> None:
            for statement in self._texts.forget:
                db.execute(statement, (upto,))

        await asyncio.shield(self._write("trim", forget))


def _page(cursor: sqlite3.Cursor) -> list[Row]:
    """All rows, or those up to the one that reaches `PAGE_BYTES`, by the size of their last column."""
    rows: list[Row] = []
    size = 0
    chunk = _CHUNK
    while part := cursor.fetchmany(chunk):
        rows += part
        if len(part) < chunk:
            break
        size += sum(len(row[-1]) for row in part)
        if size >= PAGE_BYTES:
            break
        chunk = max(1, min(512, (PAGE_BYTES - size) * len(rows) // max(size, 1)))
    cursor.close()
    return rows


def _schema_version(db: sqlite3.Connection, known: Tables) -> int:
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
    if not db.execute(query, (known.settings.name,)).fetchone()[0]:
        return 0
    row = db.execute(f"SELECT value FROM {known.name(known.settings, DIALECT)} WHERE name = 'version'").fetchone()
    return check_version(row[0]) if row else 0


def _message_size(message: Message) -> int:
    return len(message.data)
