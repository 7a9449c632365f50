"""Aether on NATS JetStream: store, bus, election, and an embedded server.

Open it by URL with `aether.core.open_store("nats://…")`, or give `open_store`, `open_bus` and `open_election` of this
module a nats-py client of your own. Nothing here imports nats-py before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aether.nats.bus import NatsBus as NatsBus
    from aether.nats.connection import Connection as Connection
    from aether.nats.election import NatsRegister as NatsRegister
    from aether.nats.opening import open_bus as open_bus
    from aether.nats.opening import open_election as open_election
    from aether.nats.opening import open_store as open_store
    from aether.nats.server import NatsCluster as NatsCluster
    from aether.nats.server import NatsServer as NatsServer
    from aether.nats.store import JetStreamStore as JetStreamStore

_HOMES = {
    "Connection": "connection",
    "JetStreamStore": "store",
    "NatsBus": "bus",
    "NatsCluster": "server",
    "NatsRegister": "election",
    "NatsServer": "server",
    "open_bus": "opening",
    "open_election": "opening",
    "open_store": "opening",
}

__all__ = [
    "Connection",
    "JetStreamStore",
    "NatsBus",
    "NatsCluster",
    "NatsRegister",
    "NatsServer",
    "open_bus",
    "open_election",
    "open_store",
]


def __getattr__(name: str) -> Any:
    # Lazy, because finding the plugin imports this package, and that must not import a client library.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
