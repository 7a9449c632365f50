"""From a URL to a database, shared by what one opening of the URL makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from aether.core.errors import BackendUnusable
from aether.core.scope import Scope
from aether.core.url import BackendURL
from aether.sql.database import Database

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Opening = Callable[[], AbstractAsyncContextManager[Database]]


def shared(url: BackendURL, scope: Scope, engine: AsyncEngine | None = None) -> AbstractAsyncContextManager[Database]:
    """The database of a URL: opened for the first of store, bus and register, closed behind the last one."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Database]:
        database = make(url, scope, engine)
        try:
            await database.open()
            yield database
        finally:
            await database.close()

    return scope.share("aether-sql", opened)


def make(url: BackendURL, scope: Scope, engine: AsyncEngine | None = None) -> Database:
    """The database of a URL, not open yet. Raises `InvalidURL`, and `BackendUnusable` where its client is missing."""
    if url.scheme == "sqlite":
        from aether.sql.sqlite import Sqlite

        return Sqlite(url, scope)
    try:
        from aether.sql.postgresql import Postgres
    except ImportError as error:
        raise _client_missing(url, "asyncpg", "postgresql") from error
    return Postgres(url, scope, engine)


def _client_missing(url: BackendURL, client: str, extra: str) -> BackendUnusable:
    return BackendUnusable(f'{url.scheme}:// needs {client}, which is not installed: pip install "aether-sql[{extra}]"')
