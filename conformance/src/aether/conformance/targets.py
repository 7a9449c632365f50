"""From what the command is told to a harness."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from operator import attrgetter

from aether.conformance.harness import Harness, UrlHarness
from aether.conformance.violations import SuiteError
from aether.core.errors import AetherError
from aether.core.registry import default_registry
from aether.core.url import BackendURL

GROUP = "aether.conformance"
"""The entry-point group in which installed backends name their harnesses."""


def find_harness(target: str) -> Callable[[], Harness]:
    """What makes the harness of a URL, of an installed backend's name, or of `module:Class`.

    Raises `SuiteError` with the reason when there is none.
    """
    if "://" in target:
        return _of_url(target)
    module, colon, name = target.partition(":")
    try:
        if colon:
            return _checked(attrgetter(name)(import_module(module)), target)
        points = entry_points(group=GROUP)
        if target in points.names:
            return _checked(points[target].load(), target)
    except SuiteError:
        raise
    except (Exception, SystemExit) as error:
        raise SuiteError(f"{target} cannot be loaded: {type(error).__name__}: {error}") from error
    installed = ", ".join(sorted(points.names)) or "none"
    raise SuiteError(
        f"no installed backend has a harness named {target!r} (there are: {installed}); give a URL instead"
    )


def _of_url(url: str) -> Callable[[], Harness]:
    try:
        default_registry().backend(BackendURL(url).scheme)
    except AetherError as error:
        raise SuiteError(str(error)) from error
    return partial(UrlHarness, url)


def _checked(kind: object, target: str) -> type[Harness]:
    if not (isinstance(kind, type) and issubclass(kind, Harness)):
        raise SuiteError(f"{target} is not a class derived from aether.conformance.Harness")
    return kind
