"""Aether on Redis and Valkey: one server, sentinels, or a cluster.

Open it by URL with `aether.core.open_store("redis://…")`.
Nothing here imports the client library before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aether.redis.store import RedisStore as RedisStore

_HOMES = {
    "RedisStore": "store",
}

__all__ = ["RedisStore"]


def __getattr__(name: str) -> Any:
    # Lazy, because finding the plugin imports this package, and that must not import a client library.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
