"""Store, bus and election over a client of one's own: its address, its credentials, and its TLS.

    client = redis.asyncio.Redis(host=…, credential_provider=…, ssl=True, ssl_ca_certs=…)
    async with open_store(client, namespace="shop") as store: ...

Connections are made as those of the client's pool are, but beside it, because they block and are shared, and without
its retries and time-outs. The client stays yours.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, TypeVar

from aether.core.bus import EventBus
from aether.core.election import Election
from aether.core.features import Durability, Feature
from aether.core.names import check_namespace
from aether.core.scope import DEFAULT_TIMEOUT, Scope
from aether.core.store import EventStore
from aether.core.url import BackendURL
from aether.redis.bus import RedisBus
from aether.redis.election import RedisRegister
from aether.redis.opening import sharing
from aether.redis.options import DEFAULT_PORT, Address, read_options
from aether.redis.places import connection_arguments
from aether.redis.store import RedisStore
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

_BACKEND = "aether-redis"
_DriverT = TypeVar("_DriverT", RedisStore, RedisBus, RedisRegister)


def _over(
    kind: type[_DriverT],
    client: Redis,
    namespace: str,
    timeout: float,
    wait_replicas: int = 0,
    eviction: str = "refuse",
) -> _DriverT:
    url = BackendURL("redis://", {"wait_replicas": wait_replicas, "eviction": eviction})
    scope = Scope(check_namespace(namespace), timeout=timeout)
    pool = client.connection_pool
    known: dict[str, Any] = dict(pool.connection_kwargs)
    if "connection_pool" in known:
        raise url.error("a client of sentinels finds its server by its own pool; write redis+sentinel://")
    path = known.get("path")
    seed = Address(path, 0) if path else Address(known.get("host", "localhost"), int(known.get("port", DEFAULT_PORT)))
    arguments = {name: value for name, value in known.items() if "maint" not in name} | connection_arguments(timeout)

    def make(address: Address) -> AbstractConnection:
        place: dict[str, Any] = {"host": address.host, "port": address.port} if address.port else {"path": address.host}
        connection: AbstractConnection = pool.connection_class(**{**arguments, **place})
        return connection

    options = read_options(url)._replace(seeds=(seed,), db=int(known.get("db") or 0))
    driver = kind(url, scope)
    driver.opening = partial(sharing, options, scope, make)
    return driver


def open_store(
    client: Redis,
    *,
    namespace: str = "default",
    wait_replicas: int = 0,
    eviction: str = "refuse",
    require: Iterable[Feature] = (),
    require_durability: Durability | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> EventStore:
    """Prepare a store; `async with` opens it."""
    return EventStore(
        _over(RedisStore, client, namespace, timeout, wait_replicas, eviction),
        namespace=namespace,
        backend=_BACKEND,
        timeout=timeout,
        require=require,
        require_durability=require_durability,
    )


def open_bus(client: Redis, *, namespace: str = "default", timeout: float = DEFAULT_TIMEOUT) -> EventBus:
    """Prepare a bus; `async with` opens it."""
    driver = _over(RedisBus, client, namespace, timeout)
    return EventBus(driver, namespace=namespace, backend=_BACKEND, timeout=timeout)


def open_election(
    client: Redis, *, namespace: str = "default", holder: str | None = None, timeout: float = DEFAULT_TIMEOUT
) -> Election:
    """Prepare an election; `async with` opens it."""
    register = _over(RedisRegister, client, namespace, timeout)
    return Election(register, namespace=namespace, backend=_BACKEND, timeout=timeout, holder=holder)
