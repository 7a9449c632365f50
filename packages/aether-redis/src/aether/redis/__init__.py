"""Aether on Redis and Valkey: one server, sentinels, or a cluster.

Open it by URL with `aether.core.open_store("redis://…")`, or give `open_store`, `open_bus` and `open_election` of this
module a `redis.asyncio.Redis` of your own.
Nothing here imports the client library before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aether.redis.clients import open_bus as open_bus
    from aether.redis.clients import open_election as open_election
    from aether.redis.clients import open_store as open_store
    from aether.redis.store import RedisStore as RedisStore

_HOMES = {
    "RedisStore": "store",
    "open_bus": "clients",
    "open_election": "clients",
    "open_store": "clients",
}

__all__ = ["RedisStore", "open_bus", "open_election", "open_store"]


def __getattr__(name: str) -> Any:
    # Lazy, because finding the plugin imports this package, and that must not import a client library.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
