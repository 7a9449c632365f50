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
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.dialects import sqlite

from aether.core.errors import OutcomeUnknown, Unavailable
from aether.core.event import new_id
from aether.core.features import Durability
from aether.core.kit import Batcher, Bell, plan, size_of
from aether.core.scope import Scope
from aether.core.spi import Message
from aether.core.url import BackendURL
from aether.sql.database import EVERY, Bells, Commit, Home, Row, last_positions
from aether.sql.joined import Joined
from aether.sql.options import creates, tables_of
from aether.sql.schema import VERSION, SchemaMissing, Tables, check_version, migrations, record_version
from aether.sql.statements import PAGE_BYTES, Statement, Statements
from aether.sql.threads import DatabaseThread, FileLock
from aether.sql.wake import FileWatch

Result = TypeVar("Result")

_FULL = 2  # PRAGMA synchronous: from here on each commit waits for the disk
_MOST_KNOWN = 50_000  # actors whose version is remembered: about 10 MB
_CHUNK = 8  # rows that are fetched before their size is known
_PAUSE = 0.005
_DIALECT = sqlite.dialect()


class Sqlite:
    """A `Database` in one file."""

    every = EVERY
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
        self.statements = Statements(self._tables, _DIALECT, windowed=False)
        self._texts = _Texts(self._tables)
        self._appends = Batcher(self._flush, what="append", timeout=scope.timeout, size=size_of)
        self._messages = Batcher(self._flush_messages, what="publish", timeout=scope.timeout, size=_message_size)
        self._bells = Bells()
        self._lock_path = Path(f"{self._path}.lock")
        self._watch = FileWatch(Path(f"{self._path}-wal"), self._lock_path, self._bells.ring_all)
        self._writer = DatabaseThread("aether-sqlite-writer", lambda: self._connect(writes=True))
        self._reader = DatabaseThread("aether-sqlite-reader", lambda: self._connect(writes=False))
        self._lock: FileLock | None = None
        self._head = -1
        self._versions: dict[str, int] = {}

    @property
    def push(self) -> bool:
        return self._watch.works

    # --- Life ---

    async def open(self) -> None:
        await self._guard("opening the file", self._writer.start())
        self.home, self.durability = await self._write("opening the store", self._introduce)
        await self._guard("opening the file", self._reader.start())

    async def close(self) -> None:
        await self._watch.close()
        await self._appends.close()
        await self._messages.close()
        await self._reader.stop()
        await self._writer.stop()
        if self._lock is not None:
            self._lock.close()

    def listen(self, topic: str, bell: Bell) -> None:
        self._bells.add(topic, bell)
        self._watch.start()

    def _connect(self, *, writes: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=self._timeout, isolation_level=None)
        try:
            if writes:
                self._lock = FileLock(self._lock_path)
                _use_wal(connection, time.monotonic() + self._timeout)
                connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            else:
                connection.execute("PRAGMA query_only = ON")
        except sqlite3.DatabaseError as error:
            connection.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise self._url.error("this file is no SQLite database") from error
            raise
        return connection

    def _introduce(self, db: sqlite3.Connection) -> tuple[Home, Durability]:
        """Make the tables or bring them up to date, and find or make the namespace."""
        found = _schema_version(db, self._tables)
        if found < VERSION:
            if not self._creates:
                raise SchemaMissing("sqlite", found=found)
            for statement in (*migrations(self._tables, _DIALECT, found), record_version(self._tables, _DIALECT)):
                db.execute(statement)
        namespace = self.statements.namespace
        row = db.execute(namespace.sql, namespace.values(name=self._namespace)).fetchone()
        if row is None:
            db.execute(self._texts.new_namespace, (self._namespace, new_id()))
            row = db.execute(namespace.sql, namespace.values(name=self._namespace)).fetchone()
        (level,) = db.execute("PRAGMA synchronous").fetchone()
        return Home(*row), Durability.HOST if level >= _FULL else Durability.PROCESS

    # --- Calls ---

    async def _guard(self, what: str, call: Awaitable[Result]) -> Result:
        """Translate the errors of a call that stores nothing when it fails."""
        try:
            async with asyncio.timeout(2 * self._timeout):
                return await call
        except sqlite3.Error as error:
            raise Unavailable(what, reason=_reason(error), hint=_hint(error)) from error
        except TimeoutError as error:
            raise Unavailable(what, reason="no turn within the time-out") from error

    async def fetch(self, what: str, statement: Statement, **values: Any) -> Sequence[Row]:
        row = statement.values(**values)
        return await self._guard(what, self._reader.submit(lambda db: _page(db.execute(statement.sql, row))))

    async def _write(self, what: str, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run one transaction. What `work` raises rolls it back."""
        deadline = time.monotonic() + self._timeout
        submitted = self._writer.submit(lambda db: self._transaction(db, what, work, deadline))
        return await self._guard(what, submitted)

    def _transaction(
        self, db: sqlite3.Connection, what: str, work: Callable[[sqlite3.Connection], Result], deadline: float
    ) -> Result:
        assert self._lock is not None
        with self._lock.held(deadline) as held:
            if not held:
                raise Unavailable(what, reason="another process writes, and gives no turn within the time-out")
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db)
            except BaseException:
                db.rollback()
                raise
            try:
                db.execute("COMMIT")
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):
                    db.rollback()
                raise OutcomeUnknown(what, reason=_reason(error)) from error
            self._lock.touch()
            return result

    # --- Events ---

    async def append(self, commit: Commit, *, transaction: object | None) -> int:
        if transaction is None:
            return await self._appends.ask(commit)
        joined = await Joined.of(transaction, "sqlite", self.statements, self._namespace, self.home)
        # A transaction that begins with a read could not become one that writes once others have written.
        await joined.run(self._texts.take_turn, (self.home.ns,))
        versions = await joined.versions(commit)
        conflict = plan([commit], versions)[0]
        if conflict is not None:
            raise conflict
        rows = await joined.fetch(self.statements.head, ns=self.home.ns)
        first = (rows[0][0] if rows else 0) + 1
        events = _rows(self.home.ns, first, [commit])
        for row in events:
            await joined.run(self._texts.insert, row)
        return first + len(events) - 1

    async def _flush(self, commits: Sequence[Commit]) -> Sequence[int | Exception]:
        answers = await self._write("append", lambda db: self._store(db, commits))
        self._bells.ring(Bells.EVENTS)
        return answers

    def _store(self, db: sqlite3.Connection, commits: Sequence[Commit]) -> list[int | Exception]:
        try:
            return self._store_all(db, commits)
        except BaseException:
            self._head = -1  # what was remembered may include what is rolled back
            raise

    def _store_all(self, db: sqlite3.Connection, commits: Sequence[Commit]) -> list[int | Exception]:
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
        rows = _rows(ns, head + 1, sound)
        db.executemany(self._texts.insert, rows)
        self._head = head + len(rows)
        return last_positions(head + 1, commits, verdicts)

    # --- Slots and leases ---

    async def change(
        self, what: str, statement: Statement, *, topic: str | None, transaction: object | None = None, **values: Any
    ) -> bool:
        row = statement.values(**values)
        if transaction is not None:
            joined = await Joined.of(transaction, "sqlite", self.statements, self._namespace, self.home)
            await joined.run(self._texts.take_turn, (self.home.ns,))
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


class _Texts:
    """The statements that only SQLite has in this form."""

    def __init__(self, known: Tables) -> None:
        events = known.name(known.events, _DIALECT)
        namespaces = known.name(known.namespaces, _DIALECT)
        settings = known.name(known.settings, _DIALECT)
        messages, claims = known.name(known.messages, _DIALECT), known.name(known.claims, _DIALECT)
        self.head = f"SELECT coalesce(max(position), 0) FROM {events} WHERE ns = ?"
        self.version = f"SELECT coalesce(max(version), 0) FROM {events} WHERE ns = ? AND actor_id = ?"
        self.insert = (
            f"INSERT INTO {events} (ns, position, actor_id, version, id, type, event) VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        self.new_namespace = (
            f"INSERT INTO {namespaces} (ns, name, identity) SELECT coalesce(max(ns), 0) + 1, ?, ? FROM {namespaces}"
        )
        self.take_turn = f"UPDATE {namespaces} SET head = head WHERE ns = ?"
        self.count = (
            f"INSERT INTO {settings} (name, value) VALUES ('published', :count) ON CONFLICT (name) "
            "DO UPDATE SET value = CAST(value AS INTEGER) + :count RETURNING value"
        )
        self.message = f"INSERT INTO {messages} (position, namespace, type, actor_id, event) VALUES (?, ?, ?, ?, ?)"
        self.claim = f"INSERT OR IGNORE INTO {claims} (position, queue) VALUES (?, ?)"
        self.forget = tuple(f"DELETE FROM {name} WHERE position <= ?" for name in (messages, claims))


def _rows(ns: int, first: int, commits: Sequence[Commit]) -> list[tuple[Any, ...]]:
    """The rows of the events of these commits, at positions from `first` on."""
    position = first - 1
    return [
        (ns, position := position + 1, write.actor_id, one.version, one.id, one.type, one.data.decode())
        for commit in commits
        for write in commit
        for one in write.records
    ]


def _page(cursor: sqlite3.Cursor) -> list[Row]:
    """All rows, or those up to the one that reaches `PAGE_BYTES`, by the size of their last column."""
    rows: list[Row] = []
    size = 0
    chunk = _CHUNK
    while part := cursor.fetchmany(chunk):
        rows += part
        if not isinstance(part[-1][-1], bytes):
            chunk = 512
            continue
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
    row = db.execute(f"SELECT value FROM {known.name(known.settings, _DIALECT)} WHERE name = 'version'").fetchone()
    return check_version(row[0]) if row else 0


def _use_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Write ahead, where the file system can; else readers and writers wait for each other."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # For the first two processes of a new file SQLite does not wait here: one is refused.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _reason(error: sqlite3.Error) -> str:
    return str(error) or type(error).__name__


def _hint(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return "make room on the disk; nothing was stored"
    if code == sqlite3.SQLITE_CANTOPEN:
        return "the directory has to exist and to be writable"
    if code == sqlite3.SQLITE_READONLY:
        return "the file and its directory have to be writable"
    if code == sqlite3.SQLITE_CORRUPT:
        return "the file is damaged; restore it from a backup"
    return "try again later"


def path_of(url: BackendURL) -> str:
    """The file of `sqlite:///relative.db` or `sqlite:////absolute.db`. Raises `InvalidURL`."""
    if url.hosts or url.user is not None or not url.path.strip("/"):
        raise url.error("write sqlite:///relative/file.db or sqlite:////absolute/file.db")
    return url.path.removeprefix("/")


def synchronous_of(url: BackendURL) -> str:
    """`full`, which waits for the disk, or `normal`, which survives a crash of the process only."""
    level = str(url.options.get("synchronous", "full")).lower()
    if level not in ("full", "normal"):
        raise url.error("option 'synchronous' is full or normal")
    return level


def _message_size(message: Message) -> int:
    return len(message.data)
