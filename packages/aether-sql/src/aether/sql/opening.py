"""From a URL to a database, shared by what one opening of the URL makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

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
    """The database of a URL, not open yet. Raises `InvalidURL`."""
    if url.scheme == "sqlite":
        from aether.sql.sqlite import Sqlite

        return Sqlite(url, scope)
    from aether.sql.postgresql import Postgres

    return Postgres(url, scope, engine)
