"""The hooks of aether-sql, for each of its schemes."""

from __future__ import annotations

from aether.core.features import Feature
from aether.core.hookspecs import hookimpl
from aether.core.scope import Scope
from aether.core.spi import SPI_VERSION, BackendInfo, BusDriver, LeaseRegister, StoreDriver
from aether.core.url import BackendURL

_FEATURES = frozenset({Feature.MULTI_ACTOR, Feature.CALLER_TRANSACTION})


class Plugin:
    """One scheme. An object for each, because a plugin is registered once."""

    def __init__(self, *options: str) -> None:
        self._options = ("create", "prefix", *options)

    @hookimpl
    def aether_backend(self) -> BackendInfo:
        return BackendInfo("aether-sql", SPI_VERSION, _FEATURES, self._options)

    @hookimpl
    def aether_open_store(self, url: BackendURL, scope: Scope) -> StoreDriver:
        from aether.sql.store import SqlStore

        return SqlStore(url, scope)

    @hookimpl
    def aether_open_bus(self, url: BackendURL, scope: Scope) -> BusDriver:
        from aether.sql.bus import SqlBus

        return SqlBus(url, scope)

    @hookimpl
    def aether_open_election(self, url: BackendURL, scope: Scope) -> LeaseRegister:
        from aether.sql.election import SqlRegister

        return SqlRegister(url, scope)


sqlite = Plugin("synchronous")
postgresql = Plugin("host", "schema", "sslmode", "sslrootcert", "statement_cache_size")
mysql = Plugin("ssl_ca", "unix_socket")
mariadb = Plugin("ssl_ca", "unix_socket")
