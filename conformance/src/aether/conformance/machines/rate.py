"""How many of the broken backends the machines alone find out, over several seeds.

The model is the only reference and the backend that is broken, so no server is needed and a run takes minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aether.conformance.context import Server
from aether.conformance.machines.bench import Bench, play
from aether.conformance.machines.bus import BusGame
from aether.conformance.machines.register import RegisterGame
from aether.conformance.machines.store import StoreGame
from aether.conformance.violations import Violation
from aether.conformance.wrappers import BusWrapper, StoreWrapper
from aether.conformance.zoo import DriverMutant, registry_with
from aether.core.registry import Registry, default_registry
from aether.memory.testing import MemoryHarness

SEEDS = tuple(range(8))
GAMES = 40
"""As many as a usual run of the suite plays."""

DEADLINE = 0.5
"""Nothing in memory takes as long; a mutant that never answers is found out sooner."""


def machine_for(mutant: DriverMutant) -> type[StoreGame] | type[BusGame] | type[RegisterGame]:
    """The machine that looks at what a mutant breaks."""
    if issubclass(mutant, StoreWrapper):
        return StoreGame
    return BusGame if issubclass(mutant, BusWrapper) else RegisterGame


def killed(mutant: DriverMutant, seed: int, *, games: int = GAMES) -> bool:
    """Whether the machine finds the mutant out with this seed."""
    game = machine_for(mutant)
    with bench_of(registry_with(mutant), seed=seed, games=games) as bench:
        try:
            play(bench, game)
        except Violation:
            return True
    return False


@contextmanager
def bench_of(registry: Registry, *, seed: int, games: int = GAMES) -> Iterator[Bench]:
    """A bench on which memory, as a registry opens it, plays against the model. Nothing is made shorter."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda *_: None)  # what mutants leave behind is not the question here
        yield Bench(
            run=runner.run,
            candidate=runner.run(_server(registry)),
            references=(runner.run(_server(default_registry())),),
            deadline=DEADLINE,
            games=games,
            seed=seed,
            shrink_seconds=0,
        )


async def _server(registry: Registry) -> Server:
    harness = MemoryHarness()
    server = Server(harness, await harness.start(), registry, 1.0)
    server.features = default_registry().backend("memory").info.features
    return server
