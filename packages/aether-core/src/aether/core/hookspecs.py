"""The hooks through which a backend is found, called at open time only.

They are sync and do no I/O: an `async def` hook would run outside of pluggy's wrappers, and its coroutine would count
as an answer even if it returned None. The drivers that they return are not started; the core calls their `open()`.
"""

from __future__ import annotations

import pluggy

from aether.core.scope import Scope
from aether.core.spi import BackendInfo, BusDriver, LeaseRegister, StoreDriver
from aether.core.url import BackendURL

PROJECT = "aether"
GROUP = "aether.backends"
"""The entry-point group. The name of an entry point is the URL scheme that it answers."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def aether_backend() -> BackendInfo | None:
    """Return name, interface version and features. MUST NOT import a client library or do I/O."""


@hookspec(firstresult=True)
def aether_open_store(url: BackendURL, scope: Scope) -> StoreDriver | None:
    """Return a store driver that is not open yet. MUST NOT do I/O."""


@hookspec(firstresult=True)
def aether_open_bus(url: BackendURL, scope: Scope) -> BusDriver | None:
    """Return a bus driver that is not open yet. MUST NOT do I/O."""


@hookspec(firstresult=True)
def aether_open_election(url: BackendURL, scope: Scope) -> LeaseRegister | None:
    """Return a lease register that is not open yet. MUST NOT do I/O."""
