"""Broken backends, a few lines each, that prove the suite: each breaks a promise and names the cases that notice.

There are two kinds. A mutant of a driver wraps one, so it breaks whatever backend it is put around. What the facades
of the core promise for every backend no driver can break: those cases are proved by mutants of the core, each of
which replaces one function of it for the duration of a session (`breaks`).

`caught_by` names the case that has to notice, or several of them. `needs_server = True` says that it takes a server
which can be restarted, stopped or shared with other processes: such a mutant is run over the reference.
`found_by` names tests of the core's elections, in virtual time, of which each has to notice. A machine has
to notice a mutant of a driver, too, unless `unseen` says why none can: a race, a fault or a limit is what it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pluggy

from aether.conformance.harness import Harness
from aether.conformance.runner import Session
from aether.conformance.wrappers import BusWrapper, RegisterWrapper, StoreWrapper
from aether.core.hookspecs import PROJECT
from aether.core.registry import Registry

DriverMutant = type[StoreWrapper] | type[BusWrapper] | type[RegisterWrapper]

Broken = Callable[[Any], Any]
"""From a function of the core to what stands in its place."""


@dataclass(frozen=True)
class CoreMutant:
    """One function, method or figure of the core that is another one while the mutant is applied."""

    place: Any
    """The module or class that holds it; where a name was imported, the module that uses it."""

    name: str
    broken: Broken
    caught_by: tuple[str, ...]
    found_by: tuple[str, ...]
    over: DriverMutant | None
    """A driver without which the mistake does not show."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace it in the block."""
        original = vars(self.place)[self.name]
        setattr(self.place, self.name, self.broken(original))
        try:
            yield
        finally:
            setattr(self.place, self.name, original)


Mutant = DriverMutant | CoreMutant


def breaks(
    place: Any,
    name: str,
    *,
    caught_by: str | tuple[str, ...] = (),
    found_by: str = "",
    over: DriverMutant | None = None,
) -> Callable[[Broken], CoreMutant]:
    """Make a mutant of the core out of a function that takes the original and returns what replaces it."""

    def mutant(broken: Broken) -> CoreMutant:
        cases = (caught_by,) if isinstance(caught_by, str) else caught_by
        return CoreMutant(place, name, broken, cases, tuple(found_by.split()), over)

    return mutant


def _everything() -> Iterator[tuple[str, object]]:
    for module in iter_modules(__path__):
        yield from vars(import_module(f"{__name__}.{module.name}")).items()


@cache
def all_mutants() -> dict[str, DriverMutant]:
    """Every mutant of a driver by name."""
    return {name: kind for name, kind in _everything() if isinstance(kind, type) and "caught_by" in vars(kind)}


@cache
def core_mutants() -> dict[str, CoreMutant]:
    """Every mutant of the core by name."""
    return {name: found for name, found in _everything() if isinstance(found, CoreMutant)}


def caught_by(mutant: Mutant) -> tuple[str, ...]:
    """The ids of the cases that notice this mutant."""
    named: str | tuple[str, ...] = vars(mutant)["caught_by"]
    return (named,) if isinstance(named, str) else named


def unseen(mutant: DriverMutant) -> str:
    """Why no machine can notice this mutant; empty if one has to."""
    return "it takes a server" if getattr(mutant, "needs_server", False) else str(getattr(mutant, "unseen", ""))


@contextmanager
def session_with(mutant: Mutant, harness: Harness) -> Iterator[Session]:
    """A session in which the mutant stands in the place of what it breaks."""
    if isinstance(mutant, CoreMutant):
        registry = None if mutant.over is None else registry_with(mutant.over)
        with mutant.applied(), Session(harness, registry=registry) as session:
            yield session
    else:
        with Session(harness, registry=registry_with(mutant)) as session:
            yield session


def registry_with(*mutants: DriverMutant) -> Registry:
    """A registry in which whatever is opened is wrapped by the mutants."""
    wrapper = pluggy.HookimplMarker(PROJECT)(wrapper=True)

    def wrapped(driver: Any, kind: type) -> Any:
        for mutant in mutants:
            driver = mutant(driver) if issubclass(mutant, kind) else driver
        return driver

    class Wraps:
        @wrapper
        def aether_open_store(self) -> Generator[None, Any, Any]:
            return wrapped((yield), StoreWrapper)

        @wrapper
        def aether_open_bus(self) -> Generator[None, Any, Any]:
            return wrapped((yield), BusWrapper)

        @wrapper
        def aether_open_election(self) -> Generator[None, Any, Any]:
            return wrapped((yield), RegisterWrapper)

    registry = Registry()
    registry.observe(Wraps())
    return registry
