"""The conformance suite of Aether: rules, cases that check them, and a runner for any backend.

    from aether.conformance import Faults, Harness, conformance

    class MyDbHarness(Harness): ...              # in your package: how to start and stop your server

    TestMyDb = conformance(MyDbHarness)          # in your tests

This module imports neither the core nor a backend, so that a backend's `testing.py` may import it freely.
"""

from __future__ import annotations

from aether.conformance.harness import Fault, Faults, Harness, UrlHarness


def conformance(harness: type[Harness]) -> type:
    """Make a pytest class that runs every case of the suite against a harness. Name it `Test…`."""
    from aether.conformance.pytest_class import make_class

    return make_class(lambda _: harness)


__all__ = ["Fault", "Faults", "Harness", "UrlHarness", "conformance"]
