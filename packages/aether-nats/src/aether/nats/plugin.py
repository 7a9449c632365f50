"""The hooks of aether-nats."""

from __future__ import annotations

from aether.core.features import Feature
from aether.core.hookspecs import hookimpl
from aether.core.scope import Scope
from aether.core.spi import SPI_VERSION, BackendInfo, BusDriver, LeaseRegister, StoreDriver
from aether.core.url import BackendURL

OPTIONS = (
    "creds",
    "inbox_prefix",
    "monitor",
    "name",
    "nkey",
    "password",
    "replicas",
    "tls",
    "tls_ca",
    "tls_cert",
    "tls_hostname",
    "tls_key",
    "token",
    "user",
)


@hookimpl
def aether_backend() -> BackendInfo:
    features = frozenset({Feature.MULTI_ACTOR, Feature.NO_RESPONDERS})
    return BackendInfo("aether-nats", SPI_VERSION, features, OPTIONS)


@hookimpl
def aether_open_store(url: BackendURL, scope: Scope) -> StoreDriver:
    from aether.nats.store import JetStreamStore

    return JetStreamStore(url, scope)


@hookimpl
def aether_open_bus(url: BackendURL, scope: Scope) -> BusDriver:
    from aether.nats.bus import NatsBus

    return NatsBus(url, scope)


@hookimpl
def aether_open_election(url: BackendURL, scope: Scope) -> LeaseRegister:
    from aether.nats.election import NatsRegister

    return NatsRegister(url, scope)
