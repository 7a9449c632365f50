"""A backend in one file.

**URL** `filestore:///absolute/path.db`; `?synchronous=normal` is faster and survives less. The directory must exist.

**Guarantees** Events of several actors are one commit. Durability is `HOST`, and `PROCESS` with `synchronous=normal`
or where the file system cannot do write-ahead logging. Any number of processes of one machine share a file.

**Limits** 1 MiB per event and snapshot, 16 MiB and 10,000 events per commit. One writer at a time, a sync per commit.
No network file systems. A file that is deleted under a running process is not noticed.

**Under the hood** One connection per driver, in a thread of its own; each write is one `BEGIN IMMEDIATE` transaction.
Tail, bus and register are those of `aether.core.kit`, which look for what other processes wrote every 100 ms.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, closing
from typing import Any, TypeVar

from aether.core import Durability, Feature, Limits, OutcomeUnknown, Unavailable, VersionConflict, new_id
from aether.core.kit import Bell, Logged, PollingTail
from aether.core.scope import Scope
from aether.core.spi import Message, Page, RevisionConflict, Slot, Stored, Tail, Write
from aether.core.url import BackendURL

Row = TypeVar("Row")
Result = TypeVar("Result")

_PAGE_BYTES = 4 << 20
_SYNCED = 2  # PRAGMA synchronous: FULL; from here on each commit waits for the disk
_LAST = (1 << 63) - 1  # SQLite's largest integer
_APPLICATION_ID = 0x41465331  # in the header of the file: it is ours, in this format

_LIMITS = Limits(
    max_event_bytes=1 << 20, max_commit_bytes=16 << 20, max_commit_events=10_000, max_snapshot_bytes=1 << 20
)

_EVENTS = "SELECT position, actor_id, version, data FROM events WHERE namespace = ?"
_SLOT = "SELECT revision, value FROM slots WHERE namespace = ? AND kind = ? AND name = ?"
_SCHEMA = """
CREATE TABLE stores (namespace TEXT PRIMARY KEY, identity TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    position INTEGER PRIMARY KEY, namespace TEXT NOT NULL, actor_id TEXT NOT NULL, version INTEGER NOT NULL,
    data BLOB NOT NULL, UNIQUE (namespace, actor_id, version));
CREATE INDEX feed ON events (namespace, position);
CREATE TABLE slots (
    namespace TEXT, kind TEXT, name TEXT, revision INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (namespace, kind, name)) WITHOUT ROWID;
CREATE TABLE messages (
    position INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT, type TEXT, actor_id TEXT, data BLOB);
CREATE TABLE claims (position INTEGER, queue TEXT, PRIMARY KEY (position, queue)) WITHOUT ROWID;
"""


class Database:
    """One connection in a thread of its own.

    A call is a whole transaction there, which a cancelled caller does not disturb: it ends as if nobody had left.
    """

    def __init__(self, url: BackendURL, timeout: float, *, synchronous: str | None = None) -> None:
        self.url = url
        self.synchronous = synchronous or str(url.options.get("synchronous", "full"))
        if not url.path.strip("/") or url.hosts or url.user is not None:
            raise url.error("write filestore:///absolute/path.db")
        if self.synchronous not in ("full", "normal"):
            raise url.error("synchronous is full or normal")
        self._timeout = timeout
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="filestore")
        await self._call("opening the file", self._connect)

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            closed = thread.submit(self._disconnect)  # behind the calls that are waiting
            await asyncio.shield(asyncio.wrap_future(closed))
            thread.shutdown()

    async def read(self, what: str, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run one query, which sees one state of the file."""
        return await self._call(what, lambda deadline: work(self._ready(deadline)))

    async def write(self, what: str, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run one transaction, alone in the file. What `work` raises rolls it back."""
        return await self._call(what, lambda deadline: _transaction(self._ready(deadline), what, work))

    async def page(self, query: str, row: tuple[object, ...], limit: int) -> Page:
        """Run a query for events."""
        return Page(*await self.read("read", lambda db: _first(db.execute(query, row), limit, Stored)))

    async def introduce(self, namespace: str) -> tuple[str, Durability]:
        """The identity of a namespace's store, made when that is opened first, and what the file survives."""

        def introduced(db: sqlite3.Connection) -> tuple[str, Durability]:
            db.execute("INSERT OR IGNORE INTO stores VALUES (?, ?)", (namespace, new_id()))
            (identity,) = db.execute("SELECT identity FROM stores WHERE namespace = ?", (namespace,)).fetchone()
            (journal,), (level,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous"))
            synced = journal == "wal" and level >= _SYNCED
            return identity, Durability.HOST if synced else Durability.PROCESS

        return await self.write("opening the store", introduced)

    async def _call(self, what: str, work: Callable[[float], Result]) -> Result:
        if self._thread is None:
            raise Unavailable(what, reason="the file is not open")
        deadline = time.monotonic() + self._timeout
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, deadline)
        except sqlite3.Error as error:
            raise Unavailable(what, reason=str(error)) from error

    # --- In the thread ---

    def _connect(self, deadline: float) -> None:
        self._connection = connection = sqlite3.connect(self.url.path, timeout=self._timeout, isolation_level=None)
        try:
            _transaction(connection, "opening the file", self._prepare)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
                raise self.url.error("this file is no database") from error
            raise
        while not _mode_settled(connection) and time.monotonic() < deadline:
            time.sleep(0.005)  # for the first two processes of a new file SQLite does not wait here: one is refused
        connection.execute(f"PRAGMA synchronous = {self.synchronous}")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and found != _APPLICATION_ID:
            raise self.url.error("this file belongs to another program, or to another version of this one")
        if not tables:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")

    def _ready(self, deadline: float) -> sqlite3.Connection:
        """The connection, which waits for other writers no longer than the caller waits."""
        left = deadline - time.monotonic()
        if self._connection is None or left <= 0:
            raise sqlite3.OperationalError("no turn within the time-out")
        self._connection.execute(f"PRAGMA busy_timeout = {1 + int(1000 * left)}")
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _mode_settled(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode != sqlite3.SQLITE_BUSY
    return True


def _transaction(connection: sqlite3.Connection, what: str, work: Callable[[sqlite3.Connection], Result]) -> Result:
    connection.execute("BEGIN IMMEDIATE")  # waits for its turn here, where nothing was written yet
    try:
        result = work(connection)
    except BaseException:
        connection.rollback()
        raise
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        connection.rollback()
        raise OutcomeUnknown(what, reason=str(error)) from error
    return result


def _first(cursor: sqlite3.Cursor, limit: int, row_type: Callable[..., Row]) -> tuple[list[Row], bool]:
    """Up to `limit` rows, or 4 MiB of them, whose last column is data; and whether there are more."""
    rows: list[Row] = []
    size = 0
    with closing(cursor):
        for row in cursor:
            if len(rows) == limit or size >= _PAGE_BYTES:
                return rows, True
            rows.append(row_type(*row))
            size += len(row[-1])
    return rows, False


class FileStore:
    """A `StoreDriver` over one file."""

    identity = ""  # until it is open, as the next one
    durability = Durability.PROCESS
    features = frozenset({Feature.MULTI_ACTOR})
    limits = _LIMITS

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        self._database = Database(url, scope.timeout)
        self._namespace = scope.namespace
        self._bell = Bell.shared("filestore", url.path, scope.namespace)

    async def open(self) -> None:
        await self._database.open()
        self.identity, self.durability = await self._database.introduce(self._namespace)

    async def close(self) -> None:
        await self._database.close()

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        position = await self._database.write("append", lambda db: self._append(db, writes))
        self._bell.ring()
        return position

    def _append(self, db: sqlite3.Connection, writes: Sequence[Write]) -> int:
        for write in writes:
            current = self._version(db, write.actor_id)
            if current != write.expected:
                raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=current)
            rows = [(self._namespace, write.actor_id, record.version, record.data) for record in write.records]
            db.executemany("INSERT INTO events (namespace, actor_id, version, data) VALUES (?, ?, ?, ?)", rows)
        return int(db.execute("SELECT last_insert_rowid()").fetchone()[0])

    def _version(self, db: sqlite3.Connection, actor_id: str) -> int:
        query = "SELECT max(version) FROM events WHERE namespace = ? AND actor_id = ?"
        return int(db.execute(query, (self._namespace, actor_id)).fetchone()[0] or 0)

    async def version(self, actor_id: str) -> int:
        return await self._database.read("version", lambda db: self._version(db, actor_id))

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        order = "DESC" if reverse else "ASC"
        query = f"{_EVENTS} AND actor_id = ? AND version > ? AND version <= ? ORDER BY version {order}"
        row = (self._namespace, actor_id, after, _LAST if upto is None else upto)
        return await self._database.page(query, row, _LAST if limit is None else limit)

    async def head(self) -> Stored | None:
        page = await self._database.page(f"{_EVENTS} ORDER BY position DESC", (self._namespace,), 1)
        return page.records[0] if page.records else None

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        query = f"{_EVENTS} AND position > ? AND position <= ? ORDER BY position"
        return await self._database.page(query, (self._namespace, after, upto), limit)

    def tail(self, *, after: int) -> AbstractAsyncContextManager[Tail]:
        return PollingTail(self, after=after, bell=self._bell)

    async def load(self, kind: str, name: str) -> Slot | None:
        key = (self._namespace, kind, name)
        row = await self._database.read("load", lambda db: db.execute(_SLOT, key).fetchone())
        return None if row is None else Slot(*row)

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        key = (self._namespace, kind, name)
        return await self._database.write("save", lambda db: self._save(db, key, value, expected))

    def _save(self, db: sqlite3.Connection, key: tuple[str, str, str], value: bytes, expected: int) -> int:
        found = db.execute(_SLOT, key).fetchone()
        if expected != (0 if found is None else found[0]):
            raise RevisionConflict
        db.execute("INSERT OR REPLACE INTO slots VALUES (?, ?, ?, ?, ?)", (*key, expected + 1, value))
        return expected + 1


class FileLog:
    """A `BusLog` over a table that all namespaces of the file share. What it loses in a power cut nobody misses."""

    max_message_bytes = 1 << 20

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        self._database = Database(url, scope.timeout, synchronous="normal")

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def put(self, message: Message) -> int:
        statement = "INSERT INTO messages (namespace, type, actor_id, data) VALUES (?, ?, ?, ?)"
        row = (message.namespace, message.type, message.actor_id, message.data)
        return await self._database.write("publish", lambda db: int(db.execute(statement, row).lastrowid or 0))

    async def end(self) -> int:
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'messages'"
        found = await self._database.read("subscribe", lambda db: db.execute(query).fetchone())
        return 0 if found is None else int(found[0])

    async def after(self, position: int, limit: int) -> Sequence[Logged]:
        query = "SELECT position, namespace, type, actor_id, data FROM messages WHERE position > ? ORDER BY position"

        def logged(position: int, *fields: Any) -> Logged:
            return Logged(position, Message(*fields))

        row = (position,)
        rows, _ = await self._database.read("receive", lambda db: _first(db.execute(query, row), limit, logged))
        return rows

    async def claim(self, queue: str, positions: Sequence[int]) -> Collection[int]:
        statement = "INSERT OR IGNORE INTO claims VALUES (?, ?)"

        def claimed(db: sqlite3.Connection) -> set[int]:
            return {position for position in positions if db.execute(statement, (position, queue)).rowcount}

        return await self._database.write("claim", claimed)

    async def trim(self, upto: int) -> None:
        def trimmed(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM messages WHERE position <= ?", (upto,))
            db.execute("DELETE FROM claims WHERE position <= ?", (upto,))

        await self._database.write("trim", trimmed)
