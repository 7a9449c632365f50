"""`open_store`, `open_bus`, `open_election` and `connect`: from a URL to facades."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aether.core.bus import EventBus
from aether.core.election import Election
from aether.core.errors import FeatureMissing
from aether.core.features import Durability, Feature
from aether.core.names import check_namespace
from aether.core.scope import DEFAULT_TIMEOUT, Scope
from aether.core.store import EventStore
from aether.core.url import BackendURL

if TYPE_CHECKING:
    from aether.core.registry import Registry


class _Opening:
    """One URL, resolved: what the facades of one call have in common."""

    def __init__(
        self,
        url: str,
        namespace: str,
        require: Iterable[Feature],
        timeout: float,
        registry: Registry | None,
        options: dict[str, Any],
    ) -> None:
        # Imported here, because pluggy and importlib.metadata take as long to import as all the rest.
        from aether.core.registry import default_registry

        self.registry = registry or default_registry()
        self.url = BackendURL(url, options)
        self.require = frozenset(require)
        self.timeout = timeout
        if not timeout > 0:
            raise ValueError(f"timeout is a number of seconds above 0, not {timeout!r}")
        self.scope = Scope(check_namespace(namespace), timeout=timeout)
        backend = self.registry.backend(self.url.scheme)
        self.backend = backend.info.name
        # What the backend can never have fails here, before anything is connected.
        if missing := self.require - backend.info.features:
            raise FeatureMissing(self.backend, missing)

    def store(self, require_durability: Durability | None) -> EventStore:
        return EventStore(
            self.registry.open_store(self.url, self.scope),
            namespace=self.scope.namespace,
            backend=self.backend,
            timeout=self.timeout,
            require=self.require & {Feature.MULTI_ACTOR, Feature.CALLER_TRANSACTION},
            require_durability=require_durability,
        )

    def bus(self) -> EventBus:
        return EventBus(
            self.registry.open_bus(self.url, self.scope),
            namespace=self.scope.namespace,
            backend=self.backend,
            timeout=self.timeout,
            require=self.require & {Feature.NO_RESPONDERS},
        )

    def election(self, holder: str | None) -> Election:
        return Election(
            self.registry.open_election(self.url, self.scope),
            namespace=self.scope.namespace,
            backend=self.backend,
            timeout=self.timeout,
            holder=holder,
        )


def open_store(
    url: str,
    *,
    namespace: str = "default",
    require: Iterable[Feature] = (),
    require_durability: Durability | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    registry: Registry | None = None,
    **options: Any,
) -> EventStore:
    """Prepare a store; `async with` opens it.

    `require` and `require_durability` refuse a backend that has less, with `FeatureMissing`. `timeout` is the number
    of seconds that a call may take. `options` are those of the backend, in the URL's query or as keywords.

    Raises `InvalidURL`, `InvalidName`, `BackendNotFound`, `BackendConflict` or `BackendUnusable` at once, and
    `Unavailable` when entered and no server answers.
    """
    return _Opening(url, namespace, require, timeout, registry, options).store(require_durability)


def open_bus(
    url: str,
    *,
    namespace: str = "default",
    require: Iterable[Feature] = (),
    timeout: float = DEFAULT_TIMEOUT,
    registry: Registry | None = None,
    **options: Any,
) -> EventBus:
    """Prepare a bus; `async with` opens it. Arguments and errors are those of `open_store`."""
    return _Opening(url, namespace, require, timeout, registry, options).bus()


def open_election(
    url: str,
    *,
    namespace: str = "default",
    holder: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    registry: Registry | None = None,
    **options: Any,
) -> Election:
    """Prepare an election; `async with` opens it. `holder` names this node to others.

    Arguments and errors are those of `open_store`.
    """
    return _Opening(url, namespace, (), timeout, registry, options).election(holder)


class Connection:
    """A store, a bus and an election of one URL and namespace that share one connection to the backend."""

    def __init__(self, store: EventStore, bus: EventBus, election: Election) -> None:
        self.store = store
        self.bus = bus
        self.election = election
        self._stack = AsyncExitStack()

    async def open(self) -> Self:
        """Open all three; `async with` does it for you."""
        async with AsyncExitStack() as stack:
            for facade in (self.store, self.bus, self.election):
                await stack.enter_async_context(facade)
            self._stack = stack.pop_all()
        return self

    async def close(self) -> None:
        """Close all three. May be called twice."""
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def connect(
    url: str,
    *,
    namespace: str = "default",
    holder: str | None = None,
    require: Iterable[Feature] = (),
    require_durability: Durability | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    registry: Registry | None = None,
    **options: Any,
) -> Connection:
    """Prepare `.store`, `.bus` and `.election` over one shared connection; `async with` opens them.

    Arguments and errors are those of `open_store` and `open_election`.
    """
    opening = _Opening(url, namespace, require, timeout, registry, options)
    return Connection(opening.store(require_durability), opening.bus(), opening.election(holder))
