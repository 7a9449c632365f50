"""Aether on SQL: SQLite embedded, PostgreSQL for production, MariaDB too, and MySQL, untried.

Open it by URL with `aether.core.open_store("postgresql://…")`, or give `open_store`, `open_bus` and `open_election` of
this module an `AsyncEngine` of your own. `ddl` prints the tables, `tables` gives their metadata to tools.
Nothing here imports SQLAlchemy before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aether.sql.engines import open_bus as open_bus
    from aether.sql.engines import open_election as open_election
    from aether.sql.engines import open_store as open_store
    from aether.sql.schema import Tables as Tables
    from aether.sql.schema import ddl as ddl
    from aether.sql.schema import tables as tables
    from aether.sql.store import SqlStore as SqlStore

_HOMES = {
    "SqlStore": "store",
    "Tables": "schema",
    "ddl": "schema",
    "open_bus": "engines",
    "open_election": "engines",
    "open_store": "engines",
    "tables": "schema",
}

__all__ = ["SqlStore", "Tables", "ddl", "open_bus", "open_election", "open_store", "tables"]


def __getattr__(name: str) -> Any:
    # Lazy, because finding the plugin imports this package, and that must not import a client library.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
