"""store.same, bus.same and election.register.same: whatever is called, in whatever order, the answers are the same.

The machines are imported when they are played: Hypothesis takes as long to import as all the rest of the suite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aether.conformance.rules import machine

if TYPE_CHECKING:
    from aether.conformance.machines.bench import Bench


@machine("store.same")
def store(bench: Bench) -> None:
    """Any series of calls of a store MUST be answered as the references answer it."""
    from aether.conformance.machines.bench import play
    from aether.conformance.machines.store import StoreGame

    play(bench, StoreGame)


@machine("bus.same")
def bus(bench: Bench) -> None:
    """Any series of calls of a bus MUST be answered as the references answer it, and everybody get the same events."""
    from aether.conformance.machines.bench import play
    from aether.conformance.machines.bus import BusGame

    play(bench, BusGame)


@machine("election.register.same")
def register(bench: Bench) -> None:
    """Any series of calls of a lease register MUST be answered as the references answer it."""
    from aether.conformance.machines.bench import play
    from aether.conformance.machines.register import RegisterGame

    play(bench, RegisterGame)
