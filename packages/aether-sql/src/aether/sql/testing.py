"""How the conformance suite runs these backends. Needs `aether-conformance`, and `aether-sql[aiosqlite]` for SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from aether.conformance import Faults, Harness
from aether.core.kit.server import in_thread
from aether.sql.servers import DatabaseServer, MariadbServer, PostgresServer


class SqliteHarness(Harness):
    """A fresh file. It has no server that could be killed, paused or cut off: those faults are not testable."""

    lease = 0.5
    deadline = 20.0  # each commit waits for the disk, and some cases make thousands
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


class ServerHarness(Harness):
    """A fresh server, with the settings that it has by default."""

    lease = 0.5
    deadline = 20.0  # each commit waits for the disk, and some cases make thousands

    def __init__(self, kind: type[DatabaseServer], client: str) -> None:
        self._directory = TemporaryDirectory(prefix="aether-sql-")
        self._server = kind(self._directory.name)
        self._client = client
        self._engine: AsyncEngine | None = None

    async def start(self) -> str:
        await self._server.start()
        self.server = self._server.version
        scheme, _, place = self._server.url.partition(":")
        self._engine = create_async_engine(f"{scheme}+{self._client}:{place}")
        return self._server.url

    async def stop(self) -> None:
        if self._engine is not None:
            await self._engine.dispose()
        await self._server.stop()
        self._directory.cleanup()

    def faults(self) -> Faults:
        return Faults(kill=self._kill, start=self._server.start, pause=self._pause, resume=self._resume, link=True)

    async def _kill(self) -> None:
        await in_thread(self._server.kill)

    async def _pause(self) -> None:
        self._server.pause()

    async def _resume(self) -> None:
        self._server.resume()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[object]:
        assert self._engine is not None
        async with self._engine.begin() as connection:
            yield connection


class PostgresHarness(ServerHarness):
    """PostgreSQL."""

    def __init__(self) -> None:
        super().__init__(PostgresServer, "asyncpg")


class MariadbHarness(ServerHarness):
    """MariaDB."""

    def __init__(self) -> None:
        super().__init__(MariadbServer, "asyncmy")
