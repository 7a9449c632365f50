"""Store, bus and election over an engine of one's own: its address, its credentials, TLS and events.

    engine = create_async_engine("postgresql+asyncpg://…", connect_args={"ssl": context})
    async with open_store(engine, namespace="shop") as store: ...

Connections are made by the engine and then taken out of its pool, for as long as the store is open: one for appends,
one for publishing, one that listens, and up to eight for the rest, each when it is needed first. The engine stays
yours. Of an engine for SQLite only the file's name is taken; one in memory does not share its memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy.ext.asyncio import AsyncEngine

from aether.core.bus import EventBus
from aether.core.election import Election
from aether.core.features import Durability, Feature
from aether.core.names import check_namespace
from aether.core.scope import DEFAULT_TIMEOUT, Scope
from aether.core.store import EventStore
from aether.core.url import BackendURL
from aether.sql.bus import SqlBus
from aether.sql.database import WrongConnection
from aether.sql.election import SqlRegister
from aether.sql.opening import shared
from aether.sql.schema import PREFIX
from aether.sql.store import SqlStore

_BACKEND = "aether-sql"
_DriverT = TypeVar("_DriverT", SqlStore, SqlBus, SqlRegister)


def _over(
    kind: type[_DriverT],
    engine: AsyncEngine,
    namespace: str,
    timeout: float,
    prefix: str,
    schema: str | None,
    create: bool,
) -> _DriverT:
    options: dict[str, Any] = {"prefix": prefix, "create": str(create).lower()}
    if schema is not None:
        options["schema"] = schema
    place = engine.url
    dialect = place.get_backend_name()
    if dialect == "sqlite" and "uri" in place.query:
        raise WrongConnection("engine", "one with the name of a file is needed, not with a URI of SQLite")
    path = f"/{quote(place.database)}" if place.database and dialect == "sqlite" else ""
    url = BackendURL(f"{dialect}://{path}", options)
    scope = Scope(check_namespace(namespace), timeout=timeout)
    driver = kind(url, scope)
    driver.opening = partial(shared, url, scope, engine)
    return driver


def open_store(
    engine: AsyncEngine,
    *,
    namespace: str = "default",
    prefix: str = PREFIX,
    schema: str | None = None,
    create: bool = True,
    require: Iterable[Feature] = (),
    require_durability: Durability | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> EventStore:
    """Prepare a store; `async with` opens it."""
    return EventStore(
        _over(SqlStore, engine, namespace, timeout, prefix, schema, create),
        namespace=namespace,
        backend=_BACKEND,
        timeout=timeout,
        require=require,
        require_durability=require_durability,
    )


def open_bus(
    engine: AsyncEngine,
    *,
    namespace: str = "default",
    prefix: str = PREFIX,
    schema: str | None = None,
    create: bool = True,
    timeout: float = DEFAULT_TIMEOUT,
) -> EventBus:
    """Prepare a bus; `async with` opens it."""
    driver = _over(SqlBus, engine, namespace, timeout, prefix, schema, create)
    return EventBus(driver, namespace=namespace, backend=_BACKEND, timeout=timeout)


def open_election(
    engine: AsyncEngine,
    *,
    namespace: str = "default",
    prefix: str = PREFIX,
    schema: str | None = None,
    create: bool = True,
    holder: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Election:
    """Prepare an election; `async with` opens it."""
    register = _over(SqlRegister, engine, namespace, timeout, prefix, schema, create)
    return Election(register, namespace=namespace, backend=_BACKEND, timeout=timeout, holder=holder)
