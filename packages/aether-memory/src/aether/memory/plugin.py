"""The hooks of aether-memory."""

from __future__ import annotations

from aether.core.features import Feature
from aether.core.hookspecs import hookimpl
from aether.core.scope import Scope
from aether.core.spi import SPI_VERSION, BackendInfo, BusDriver, LeaseRegister, StoreDriver
from aether.core.url import BackendURL


@hookimpl
def aether_backend() -> BackendInfo:
    return BackendInfo("aether-memory", SPI_VERSION, frozenset({Feature.MULTI_ACTOR, Feature.NO_RESPONDERS}))


@hookimpl
def aether_open_store(url: BackendURL, scope: Scope) -> StoreDriver:
    from aether.memory.store import MemoryStore

    return MemoryStore.from_url(url, scope)


@hookimpl
def aether_open_bus(url: BackendURL, scope: Scope) -> BusDriver:
    from aether.memory.bus import MemoryBus

    return MemoryBus.from_url(url, scope)


@hookimpl
def aether_open_election(url: BackendURL, scope: Scope) -> LeaseRegister:
    from aether.memory.election import MemoryRegister
    from aether.memory.space import space_of

    return MemoryRegister(space_of(url).namespace(scope.namespace).registers)
