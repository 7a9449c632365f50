"""Broken backends, a few lines each, that prove the suite: each breaks a promise and names the cases that notice.

A mutant wraps a driver, so it breaks whatever backend it is put around. `caught_by` names the case that has to notice,
or several of them.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pluggy

from aether.conformance.wrappers import BusWrapper, RegisterWrapper, StoreWrapper
from aether.core.hookspecs import PROJECT
from aether.core.registry import Registry

Mutant = type[StoreWrapper] | type[BusWrapper] | type[RegisterWrapper]


@cache
def all_mutants() -> dict[str, Mutant]:
    """Every mutant of the zoo by name."""
    found: dict[str, Mutant] = {}
    for module in iter_modules(__path__):
        for name, kind in vars(import_module(f"{__name__}.{module.name}")).items():
            if isinstance(kind, type) and "caught_by" in vars(kind):
                found[name] = kind
    return found


def caught_by(mutant: Mutant) -> tuple[str, ...]:
    """The ids of the cases that notice this mutant."""
    named: str | tuple[str, ...] = vars(mutant)["caught_by"]
    return (named,) if isinstance(named, str) else named


def registry_with(mutant: Mutant) -> Registry:
    """A registry in which whatever is opened is wrapped by the mutant."""
    wrapper = pluggy.HookimplMarker(PROJECT)(wrapper=True)

    class Wraps:
        @wrapper
        def aether_open_store(self) -> Generator[None, Any, Any]:
            driver = yield
            return mutant(driver) if issubclass(mutant, StoreWrapper) else driver

        @wrapper
        def aether_open_bus(self) -> Generator[None, Any, Any]:
            driver = yield
            return mutant(driver) if issubclass(mutant, BusWrapper) else driver

        @wrapper
        def aether_open_election(self) -> Generator[None, Any, Any]:
            driver = yield
            return mutant(driver) if issubclass(mutant, RegisterWrapper) else driver

    registry = Registry()
    registry.observe(Wraps())
    return registry
