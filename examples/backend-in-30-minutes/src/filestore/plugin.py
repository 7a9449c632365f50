"""The hooks of aether-filestore."""

from __future__ import annotations

from aether.core.features import Feature
from aether.core.hookspecs import hookimpl
from aether.core.scope import Scope
from aether.core.spi import SPI_VERSION, BackendInfo, BusDriver, LeaseRegister, StoreDriver
from aether.core.url import BackendURL


@hookimpl
def aether_backend() -> BackendInfo:
    return BackendInfo("aether-filestore", SPI_VERSION, frozenset({Feature.MULTI_ACTOR}), options=("synchronous",))


@hookimpl
def aether_open_store(url: BackendURL, scope: Scope) -> StoreDriver:
    from filestore.backend import FileStore

    return FileStore(url, scope)


@hookimpl
def aether_open_bus(url: BackendURL, scope: Scope) -> BusDriver:
    from aether.core.kit import Bell, PollingBus
    from filestore.backend import FileLog

    return PollingBus(FileLog(url, scope), bell=Bell.shared("filestore bus", url.path))


@hookimpl
def aether_open_election(url: BackendURL, scope: Scope) -> LeaseRegister:
    from aether.core.kit import Bell, StoreRegister
    from filestore.backend import FileStore

    return StoreRegister(FileStore(url, scope), bell=Bell.shared("filestore leases", url.path, scope.namespace))
