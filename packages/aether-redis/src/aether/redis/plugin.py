"""The hooks of aether-redis, for each of its schemes."""

from __future__ import annotations

from aether.core.features import Feature
from aether.core.hookspecs import hookimpl
from aether.core.scope import Scope
from aether.core.spi import SPI_VERSION, BackendInfo, BusDriver, LeaseRegister, StoreDriver
from aether.core.url import BackendURL

OPTIONS = (
    "db",
    "eviction",
    "password",
    "sentinel_password",
    "sentinel_user",
    "tls",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "user",
    "wait_replicas",
)

_FEATURES = frozenset({Feature.MULTI_ACTOR, Feature.NO_RESPONDERS})


class Plugin:
    """One scheme. An object for each, because a plugin is registered once."""

    @hookimpl
    def aether_backend(self) -> BackendInfo:
        return BackendInfo("aether-redis", SPI_VERSION, _FEATURES, OPTIONS)

    @hookimpl
    def aether_open_store(self, url: BackendURL, scope: Scope) -> StoreDriver:
        from aether.redis.store import RedisStore

        return RedisStore(url, scope)

    @hookimpl
    def aether_open_bus(self, url: BackendURL, scope: Scope) -> BusDriver:
        from aether.redis.bus import RedisBus

        return RedisBus(url, scope)

    @hookimpl
    def aether_open_election(self, url: BackendURL, scope: Scope) -> LeaseRegister:
        from aether.redis.election import RedisRegister

        return RedisRegister(url, scope)


redis = Plugin()
rediss = Plugin()
valkey = Plugin()
valkeys = Plugin()
