"""The statements that only SQLite has in their form."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from sqlalchemy.dialects import sqlite

from aether.sql.database import Commit
from aether.sql.joined import Client
from aether.sql.schema import Tables

DIALECT = sqlite.dialect()

CLIENT = Client(
    "sqlite",
    "aiosqlite",
    in_transaction=lambda connection: bool(connection.in_transaction),
    # SQLite has no number of its own for it; our statements are sound, so it is what is wrong with one of them.
    lacks_table=lambda error: getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR,
)


class Texts:
    """Made once for each set of tables."""

    def __init__(self, known: Tables) -> None:
        events = known.name(known.events, DIALECT)
        namespaces = known.name(known.namespaces, DIALECT)
        settings = known.name(known.settings, DIALECT)
        messages, claims = known.name(known.messages, DIALECT), known.name(known.claims, DIALECT)
        self.head = f"SELECT coalesce(max(position), 0) FROM {events} WHERE ns = ?"
        self.version = f"SELECT coalesce(max(version), 0) FROM {events} WHERE ns = ? AND actor_id = ?"
        columns = f"INSERT INTO {events} (ns, position, actor_id, version, id, type, event)"
        self.insert = f"{columns} VALUES (?, ?, ?, ?, ?, ?, ?)"
        self.insert_next = (
            f"{columns} SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 "
            f"WHERE (SELECT coalesce(max(position), 0) FROM {events} WHERE ns = ?1) = ?2 - 1"
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


def rows_of(ns: int, first: int, commits: Sequence[Commit]) -> list[tuple[Any, ...]]:
    """The rows of the events of these commits, at positions from `first` on."""
    position = first - 1
    return [
        (ns, position := position + 1, write.actor_id, one.version, one.id, one.type, one.data.decode())
        for commit in commits
        for write in commit
        for one in write.records
    ]
