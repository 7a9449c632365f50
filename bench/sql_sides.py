"""What the SQL stores are compared with: the drivers doing the same shape of work, and the `eventsourcing` library."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import asyncpg
from against_peer import Order
from eventsourcing.application import Application
from workload import DATA, events

from aether.core.encoding import encode_event
from aether.sql import schema
from aether.sql.postgresql_connections import ROOM

Columns = Sequence[Sequence[Any]]
_PAGE = 1000
_names = itertools.count()


def rows_of(actor_ids: Sequence[str], version: int, count: int) -> list[tuple[Any, ...]]:
    """What a commit of `count` events of each actor puts into the columns behind the position."""
    return [
        (one.actor_id, one.version, one.id, one.type, encode_event(one).decode())
        for actor_id in actor_ids
        for one in events(actor_id, version, count)
    ]


class Raw(Protocol):
    """A driver. Its appends go to tables of their own, with our columns and keys; it reads what we wrote."""

    name: str

    async def append(self, actor_ids: Sequence[str], *, commits: int, size: int) -> float:
        """Commit `size` events of each actor `commits` times, and return the events per second."""
        ...

    async def read(self, ns: int, actor_id: str) -> int:
        """Fetch all events of an actor, and return how many they are."""
        ...

    async def feed(self, ns: int) -> int:
        """Fetch all events of a namespace, and return how many they are."""
        ...

    async def plan_reads(self) -> None:
        """Whatever a database wants to know before it reads. Called once there is something to read."""
        ...

    async def close(self) -> None: ...


_ROWS = "SELECT position, actor_id, version, event FROM aether_events WHERE ns = ?"


class RawSqlite:
    """`sqlite3` where the caller stands, which blocks an event loop."""

    name = "sqlite3"

    def __init__(self, directory: Path) -> None:
        self.own = self._connect(directory / "raw.db")
        self.own.executescript(schema.ddl("sqlite"))
        self.ours = self._connect(directory / "events.db")
        self.position = 0

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    async def append(self, actor_ids: Sequence[str], *, commits: int, size: int) -> float:
        todo = []
        for number in range(commits):
            rows = rows_of(actor_ids, 1 + size * number, size)
            todo.append([(1, self.position + place, *row) for place, row in enumerate(rows, 1)])
            self.position += len(rows)
        insert = "INSERT INTO aether_events (ns, position, actor_id, version, id, type, event) VALUES (?,?,?,?,?,?,?)"
        db = self.own
        start = time.perf_counter()
        for batch in todo:
            if len(batch) == 1:
                db.execute(insert, batch[0])
            else:
                db.execute("BEGIN IMMEDIATE")
                db.executemany(insert, batch)
                db.execute("COMMIT")
        seconds = time.perf_counter() - start
        (stored,) = db.execute("SELECT count(*) FROM aether_events").fetchone()
        assert stored == self.position
        return commits * size * len(actor_ids) / seconds

    async def read(self, ns: int, actor_id: str) -> int:
        query = f"{_ROWS} AND actor_id = ? ORDER BY version"
        return len(self.ours.execute(query, (ns, actor_id)).fetchall())

    async def feed(self, ns: int) -> int:
        query = f"{_ROWS} AND position > ? ORDER BY position LIMIT {_PAGE}"
        found, position = 0, 0
        while page := self.ours.execute(query, (ns, position)).fetchall():
            found += len(page)
            position = page[-1][0]
        return found

    async def plan_reads(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        self.own.close()
        self.ours.close()


class RawPostgres:
    """asyncpg on one held connection, with prepared statements that commit by themselves."""

    name = "asyncpg"

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> None:
        self.db: asyncpg.Connection = await asyncpg.connect(self.url)
        await self.db.execute(ROOM)  # or ours alone would have it
        await self.db.execute(schema.ddl("postgresql", prefix="raw_"))
        into = "INSERT INTO raw_events (ns, position, actor_id, version, id, type, event)"
        self.one = await self.db.prepare(f"{into} VALUES (1, nextval('raw_position'), $1, $2, $3, $4, $5)")
        self.many = await self.db.prepare(
            f"{into} SELECT 1, nextval('raw_position'), u.actor_id, u.version, u.id, u.type, u.event::json "
            "FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[]) "
            "AS u (actor_id, version, id, type, event)"
        )
        self.stored = 0

    async def plan_reads(self) -> None:
        """Let the planner know the tables as they are, as autovacuum does sooner or later."""
        await self.db.execute("ANALYZE aether_events")
        columns = "SELECT position, actor_id, version, event::text FROM aether_events"
        self.of_actor = await self.db.prepare(f"{columns} WHERE ns = $1 AND actor_id = $2 ORDER BY version")
        self.behind = await self.db.prepare(
            f"{columns} WHERE ns = $1 AND position > $2 ORDER BY position LIMIT {_PAGE}"
        )

    async def append(self, actor_ids: Sequence[str], *, commits: int, size: int) -> float:
        todo = [rows_of(actor_ids, 1 + size * number, size) for number in range(commits)]
        columns = [[list(column) for column in zip(*rows, strict=True)] for rows in todo]
        start = time.perf_counter()
        if size * len(actor_ids) == 1:
            for (row,) in todo:
                await self.one.fetchval(*row)
        else:
            for batch in columns:
                await self.many.fetchval(*batch)
        seconds = time.perf_counter() - start
        self.stored += commits * size * len(actor_ids)
        assert await self.db.fetchval("SELECT count(*) FROM raw_events") == self.stored
        return commits * size * len(actor_ids) / seconds

    async def read(self, ns: int, actor_id: str) -> int:
        return len(await self.of_actor.fetch(ns, actor_id))

    async def feed(self, ns: int) -> int:
        found, position = 0, 0
        while page := await self.behind.fetch(ns, position):
            found += len(page)
            position = page[-1][0]
        return found

    async def close(self) -> None:
        await self.db.close()


class Shop(Application[UUID]):
    """The application that the library's documentation begins with, with longer sections of its log."""

    log_section_size = _PAGE


class Whole(Shop):
    """Another one, for reading a whole log: on a server it has tables of its own."""


def sqlite_settings(file: Path) -> dict[str, str]:
    """The library's own settings for a file: write-ahead log, and each commit waits for the disk."""
    return {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "SQLITE_DBNAME": str(file),
        "SQLITE_LOCK_TIMEOUT": "60",
    }


def postgres_settings(url: str) -> dict[str, str]:
    """The library's settings for a server, with a connection for each thread."""
    user, _, place = url.removeprefix("postgresql://").partition("@")
    host, _, rest = place.partition(":")
    port, _, database = rest.partition("/")
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": database,
        "POSTGRES_HOST": host,
        "POSTGRES_PORT": port,
        "POSTGRES_USER": user,
        "POSTGRES_PASSWORD": "",
        "POSTGRES_POOL_SIZE": "10",
        "POSTGRES_MAX_OVERFLOW": "60",
    }


class Peer:
    """The library, which has no event loop: sequential work is done in place, concurrent work in threads."""

    name = "eventsourcing"

    def __init__(self, settings: dict[str, str], whole: dict[str, str] | None = None) -> None:
        self.shop = Shop(settings)
        self.whole = Whole(whole or settings)

    def append(self, *, commits: int, size: int) -> float:
        """Save `size` events of one aggregate `commits` times, and return the events per second."""
        order = Order()
        self.shop.save(order)
        start = time.perf_counter()
        self._save(order, commits, size)
        seconds = time.perf_counter() - start
        self._check(order, commits * size)
        return commits * size / seconds

    def append_in_threads(self, threads: int, each: int) -> float:
        """One event per save, an aggregate for each thread."""
        orders = [Order() for _ in range(threads)]
        for order in orders:
            self.shop.save(order)
        with ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            list(pool.map(lambda order: self._save(order, each, 1), orders))
            seconds = time.perf_counter() - start
        for order in orders:
            self._check(order, each)
        return threads * each / seconds

    def _save(self, order: Order, commits: int, size: int) -> None:
        for _ in range(commits):
            for _ in range(size):
                order.add(**DATA)
            self.shop.save(order)

    def _check(self, order: Order, items: int) -> None:
        assert self.shop.repository.get(order.id).items == items

    def fill(self, count: int) -> UUID:
        """An aggregate of `count` events."""
        order = Order()
        self._save(order, 1, count - 1)
        return order.id

    def read(self, aggregate: UUID, count: int) -> None:
        assert self.shop.repository.get(aggregate).items == count - 1

    def fill_whole(self, count: int) -> None:
        for _ in range(count // 100):
            order = Order()
            for _ in range(99):
                order.add(**DATA)
            self.whole.save(order)

    def feed(self) -> int:
        """Decode the whole log."""
        found, position = 0, 1
        while page := self.whole.notification_log.select(start=position, limit=_PAGE):
            for notification in page:
                self.whole.mapper.to_domain_event(notification)
            found += len(page)
            position = page[-1].id + 1
        return found

    def close(self) -> None:
        self.shop.close()
        self.whole.close()
