"""From a URL to a database, shared by what one opening of the URL makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from aether.core.errors import BackendUnusable
from aether.core.scope import Scope
from aether.core.url import BackendURL
from aether.sql.database import EVERY, POLL, Database
from aether.sql.wake import watches

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
    if url.scheme in ("mysql", "mariadb"):
        with _needs("asyncmy", extra="mysql"):
            from aether.sql.mysql import Mysql

        return Mysql(url, scope, engine)
    with _needs("asyncpg", extra="postgresql"):
        from aether.sql.postgresql import Postgres

    return Postgres(url, scope, engine)


def pace(url: BackendURL) -> float:
    """Seconds between two looks of those who wait, in the database of this URL."""
    told = url.scheme == "postgresql" or (url.scheme == "sqlite" and watches())
    return EVERY if told else POLL


@contextmanager
def _needs(client: str, *, extra: str) -> Iterator[None]:
    """Say what to install where an import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != client:
            raise
        raise BackendUnusable(f'{client} is not installed; run: pip install "aether-sql[{extra}]"') from error
