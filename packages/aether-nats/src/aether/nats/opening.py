"""Store, bus and election over a nats-py client of one's own, with its options, callbacks and TLS context.

The client has to be connected; it stays open, and its callbacks stay yours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from aether.core.bus import EventBus
from aether.core.election import Election
from aether.core.features import Durability, Feature
from aether.core.names import check_namespace
from aether.core.scope import DEFAULT_TIMEOUT, Scope
from aether.core.store import EventStore
from aether.core.url import BackendURL
from aether.nats.bus import NatsBus
from aether.nats.connection import Connection
from aether.nats.election import NatsRegister
from aether.nats.store import JetStreamStore
from nats.aio.client import Client

_BACKEND = "aether-nats"
_ANYWHERE = BackendURL("nats://localhost")
_DriverT = TypeVar("_DriverT", JetStreamStore, NatsBus, NatsRegister)


def _over(driver: _DriverT, client: Client, timeout: float) -> _DriverT:
    # Every opening has a connection of its own around the client: an inbox, and an eye on reconnects.
    driver._opening = lambda: Connection.from_client(client, timeout=timeout)
    return driver


def open_store(
    client: Client,
    *,
    namespace: str = "default",
    replicas: int | None = None,
    require: Iterable[Feature] = (),
    require_durability: Durability | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> EventStore:
    """Prepare a store; `async with` opens it."""
    url = BackendURL("nats://localhost", {"replicas": replicas})
    driver = JetStreamStore(url, Scope(check_namespace(namespace), timeout=timeout))
    return EventStore(
        _over(driver, client, timeout),
        namespace=namespace,
        backend=_BACKEND,
        timeout=timeout,
        require=require,
        require_durability=require_durability,
    )


def open_bus(client: Client, *, namespace: str = "default", timeout: float = DEFAULT_TIMEOUT) -> EventBus:
    """Prepare a bus; `async with` opens it."""
    driver = NatsBus(_ANYWHERE, Scope(check_namespace(namespace), timeout=timeout))
    return EventBus(_over(driver, client, timeout), namespace=namespace, backend=_BACKEND, timeout=timeout)


def open_election(
    client: Client,
    *,
    namespace: str = "default",
    holder: str | None = None,
    replicas: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Election:
    """Prepare an election; `async with` opens it."""
    url = BackendURL("nats://localhost", {"replicas": replicas})
    register = NatsRegister(url, Scope(check_namespace(namespace), timeout=timeout))
    return Election(
        _over(register, client, timeout), namespace=namespace, backend=_BACKEND, timeout=timeout, holder=holder
    )
