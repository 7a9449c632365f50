"""How the conformance suite runs these backends. Needs `aether-conformance`, and `aether-sql[aiosqlite]` for SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory

from aether.conformance import Harness
from sqlalchemy.ext.asyncio import create_async_engine


class SqliteHarness(Harness):
    """A fresh file. It has no server that could be killed, paused or cut off: those faults are not testable."""

    lease = 0.5
    server = f"SQLite {sqlite3.sqlite_version}"

    async def start(self) -> str:
        self._directory = TemporaryDirectory(prefix="aether-sqlite-")
        self._engine = create_async_engine(f"sqlite+aiosqlite:///{self._directory.name}/events.db")
        return f"sqlite:///{self._directory.name}/events.db"

    async def stop(self) -> None:
        await self._engine.dispose()
        self._directory.cleanup()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[object]:
        async with self._engine.begin() as connection:
            yield connection
