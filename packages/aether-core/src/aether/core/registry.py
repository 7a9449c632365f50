"""Finds the backend that answers a URL: by entry point, importing exactly one, and says what is wrong by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

import msgspec
import pluggy

from aether.core import hookspecs
from aether.core.errors import BackendConflict, BackendNotFound, BackendUnusable
from aether.core.hookspecs import GROUP, PROJECT
from aether.core.scope import Scope
from aether.core.spi import SPI_VERSION, BackendInfo, BusDriver, LeaseRegister, StoreDriver
from aether.core.url import BackendURL

_KNOWN = {
    "mariadb": '"aether-sql[mysql]"',
    "memory": "aether-memory",
    "mysql": '"aether-sql[mysql]"',
    "nats": "aether-nats",
    "postgresql": '"aether-sql[postgresql]"',
    "redis": "aether-redis",
    "rediss": "aether-redis",
    "sqlite": "aether-sql",
    "valkey": "aether-redis",
    "valkeys": "aether-redis",
}
"""Where the schemes of the project's own distributions are found, for the message when they are not installed."""


_HOOKS = {"store": "aether_open_store", "bus": "aether_open_bus", "election": "aether_open_election"}


class Backend(msgspec.Struct, frozen=True):
    """A loaded backend: who it is, and what it says of itself."""

    scheme: str
    source: str
    """Distribution and version, or that it was registered by hand."""

    info: BackendInfo


class Registry:
    """The backends of this process. There is one lazily made default; pass your own where you need another."""

    def __init__(self, *, discover: bool = True) -> None:
        self._discover = discover
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._loaded: dict[str, Backend] = {}

    # --- finding ---

    def register(self, scheme: str, plugin: object, *, source: str = "registered by hand") -> Backend:
        """Add a backend without packaging: for tests, notebooks and wrappers. It takes the scheme's place."""
        if scheme in self._loaded:
            self._manager.unregister(name=scheme)
            del self._loaded[scheme]
        return self._add(scheme, plugin, source)

    def observe(self, plugin: object) -> None:
        """Add a plugin that is no backend: its hooks (wrappers, usually) run at every open."""
        self._manager.register(plugin)

    def schemes(self) -> Mapping[str, str]:
        """All schemes that can be opened, and where each comes from. Imports nothing."""
        found = {scheme: backend.source for scheme, backend in self._loaded.items()}
        for point in self._points():
            found.setdefault(point.name, _source(point))
        return dict(sorted(found.items()))

    def backend(self, scheme: str) -> Backend:
        """The backend of a scheme, imported if need be.

        Raises `BackendNotFound`, `BackendConflict` or `BackendUnusable`, each naming who is at fault.
        """
        if scheme in self._loaded:
            return self._loaded[scheme]
        points = [point for point in self._points() if point.name == scheme]
        if not points:
            self._not_found(scheme)
        sources = sorted({_source(point) for point in points})
        if len(sources) > 1:
            raise BackendConflict(
                f"{scheme}:// is claimed by {' and '.join(sources)}; "
                "uninstall one, or register() the one that you want in a Registry of your own"
            )
        try:
            plugin = points[0].load()
        except Exception as error:
            raise BackendUnusable(
                f"{sources[0]} claims {scheme}:// but {points[0].value} does not import: {error}; reinstall it"
            ) from error
        return self._add(scheme, plugin, sources[0])

    def _add(self, scheme: str, plugin: Any, source: str) -> Backend:
        try:
            self._manager.register(plugin, name=scheme)
        except (pluggy.PluginValidationError, ValueError) as error:
            self._forget(scheme, plugin)
            raise BackendUnusable(f"{source} does not fit the hooks of aether-core: {error}") from error
        try:
            info = self._call("aether_backend", scheme)
        except Exception as error:
            self._forget(scheme, plugin)
            raise BackendUnusable(f"{source}: aether_backend() failed: {error}; ask its author") from error
        problem = None
        if not isinstance(info, BackendInfo):
            problem = "has no hook aether_backend that returns a BackendInfo; ask its author"
        elif info.spi != SPI_VERSION:
            older = "aether-core" if info.spi > SPI_VERSION else info.name
            problem = f"speaks backend interface {info.spi}, this core speaks {SPI_VERSION}; upgrade {older}"
        if problem is not None:
            self._forget(scheme, plugin)
            raise BackendUnusable(f"{source} {problem}")
        backend = Backend(scheme, source, info)
        self._loaded[scheme] = backend
        return backend

    def _forget(self, scheme: str, plugin: object) -> None:
        if self._manager.get_plugin(scheme) is not None or self._manager.is_registered(plugin):
            self._manager.unregister(plugin)

    def _points(self) -> Iterable[EntryPoint]:
        return _entry_points() if self._discover else ()

    def _not_found(self, scheme: str) -> NoReturn:
        installed = list(self.schemes())
        listed = ", ".join(installed) if installed else "none"
        near = difflib.get_close_matches(scheme, [*installed, *_KNOWN], n=1)
        hint = ""
        if scheme in _KNOWN:
            hint = f" Install it: pip install {_KNOWN[scheme]}"
        elif near:
            hint = f" Did you mean {near[0]}://?"
        raise BackendNotFound(f"no installed backend answers {scheme}:// (installed: {listed}).{hint}")

    # --- opening ---

    def offers(self, url: BackendURL, scope: Scope) -> frozenset[str]:
        """What can be opened at a URL: some of store, bus and election. Hooks are called, and nothing is opened.

        A hook that fails says nothing: what it was asked for counts as offered, and opening it raises the error.
        """
        backend = self.backend(url.scheme)
        url.check_options(backend.info.options)
        return frozenset(kind for kind, hook in _HOOKS.items() if not self._lacks(hook, url, scope))

    def _lacks(self, hook: str, url: BackendURL, scope: Scope) -> bool:
        try:
            return self._call(hook, url.scheme, url=url, scope=scope) is None
        except Exception:  # noqa: BLE001  (whatever a plugin raises, it has the hook)
            return False

    def open_store(self, url: BackendURL, scope: Scope) -> StoreDriver:
        """Make the store driver that answers a URL."""
        driver: StoreDriver = self._open("store", url, scope, StoreDriver)
        return driver

    def open_bus(self, url: BackendURL, scope: Scope) -> BusDriver:
        """Make the bus driver that answers a URL."""
        driver: BusDriver = self._open("bus", url, scope, BusDriver)
        return driver

    def open_election(self, url: BackendURL, scope: Scope) -> LeaseRegister:
        """Make the lease register that answers a URL."""
        driver: LeaseRegister = self._open("election", url, scope, LeaseRegister)
        return driver

    def _open(self, kind: str, url: BackendURL, scope: Scope, protocol: type) -> Any:
        backend = self.backend(url.scheme)
        url.check_options(backend.info.options)
        driver = self._call(_HOOKS[kind], url.scheme, url=url, scope=scope)
        if driver is None:
            raise BackendUnusable(f"{backend.source} has no {kind}; choose another backend for it")
        driver_type: Any = type(driver)
        missing = sorted(name for name in _members(protocol) if not hasattr(driver_type, name))
        if missing:
            raise BackendUnusable(f"{backend.source}: its {kind} driver lacks {', '.join(missing)}; ask its author")
        return driver

    def _call(self, hook: str, scheme: str, **arguments: object) -> Any:
        others = [self._manager.get_plugin(other) for other in self._loaded if other != scheme]
        caller = self._manager.subset_hook_caller(hook, remove_plugins=others)
        return caller(**arguments)


def _members(protocol: type) -> frozenset[str]:
    return frozenset(name for name in vars(protocol) if not name.startswith("_"))


def _source(point: EntryPoint) -> str:
    dist = point.dist
    return f"{dist.name} {dist.version}" if dist is not None else point.value


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    # Reading the metadata of all distributions takes milliseconds (42 cold, 2.6 warm, measured): once per process.
    return tuple(entry_points(group=GROUP))


@cache
def default_registry() -> Registry:
    """The registry that is used when none is given."""
    return Registry()
