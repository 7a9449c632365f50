"""Hundreds of elections under every fault at once, in virtual time: no two terms overlap, and tokens increase.

A failure names its seed; the same seed gives the same run, to the last message.
"""

import asyncio
import contextlib
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple

import pytest

TTL = 1.0
HOLDS = (0.3, 3.0, 30.0)  # of the ttl: how long a leader leads before it resigns


class Held(NamedTuple):
    """A term in the time of the world: from the moment when it was known until `valid()` turned false."""

    token: int
    holder: str
    begin: float
    end: float


class Simulation:
    """Candidates that lead for a while and resign, and a nemesis that breaks whatever can break."""

    def __init__(
        self, world: Any, *, skew: float, faults: tuple[str, ...], holds: tuple[float, ...] = HOLDS, candidates: int = 4
    ) -> None:
        self.world = world
        self.skew = skew
        self.faults = faults
        self.holds = holds
        self.random = Random(f"nemesis {world.seed}")
        self.terms: list[Held] = []
        self.stream = [0]  # what is governed: the tokens of the terms that have begun to act
        self.machines = [self._machine(f"m{number}") for number in range(candidates)]

    def _machine(self, name: str) -> Any:
        rate = 1 + self.random.choice([-1, -1, 0, 1, 1]) * self.skew
        machine = self.world.machine(name, rate=rate, offset=self.random.uniform(-1e3, 1e3))
        machine.link.lossy = 0.01
        return machine

    async def run(self, elections: int) -> list[Held]:
        for machine in self.machines:
            machine.start(self._candidate(machine))
        while len(self.terms) < elections:
            await asyncio.sleep(self.random.uniform(0.1, 1.0) * TTL)
            self._strike(self.random.choice(self.faults))
        for machine in self.machines:
            machine.crash()
        await asyncio.sleep(0)
        return self.terms

    async def _floor(self) -> int:
        return self.stream[-1]

    async def _candidate(self, machine: Any) -> None:
        election = await machine.election().open()
        while True:
            term = await election.campaign("x", ttl=TTL, floor=self._floor)
            begin = self.world.time
            if term.token <= self.stream[-1]:  # the first act is an append with an expected version: it has failed
                await term.resign()
                continue
            self.stream.append(term.token)
            try:
                with contextlib.suppress(TimeoutError):
                    async with machine.clock.timeout(machine.random.choice(self.holds) * TTL):
                        await term.lost.wait()
            finally:
                end = min(self.world.time, machine.clock.real(term.deadline))
                self.terms.append(Held(term.token, term.holder, begin, end))
            await term.resign()

    # --- The nemesis ---

    def _strike(self, fault: str) -> None:
        if not self.machines:
            return
        machine = self.random.choice(self.machines)
        victims = self.machines if fault == "outage" else [machine]
        if fault == "crash":
            machine.crash()
            self.machines.remove(machine)
            self._later(lambda: self._restart(machine.name))
        elif fault in ("cut", "outage"):
            self._set(victims, "cut")
        elif fault == "deaf":
            self._set(victims, "deaf")
        elif fault == "late":
            machine.link.fates.append(self.random.uniform(0.0, 2.0) * TTL)
        elif fault == "unanswered":
            machine.link.fates.extend(["unanswered"] * self.random.randint(1, 4))
        elif fault == "wipe":
            self.world.space.registers.clear()
        elif fault == "roll back":
            old = dict(self.world.space.registers)
            self._later(lambda: self.world.space.registers.update(old))

    def _set(self, victims: list[Any], flag: str) -> None:
        for machine in victims:
            setattr(machine.link, flag, True)

        def mend() -> None:
            for machine in victims:
                setattr(machine.link, flag, False)

        self._later(mend)

    def _restart(self, name: str) -> None:
        machine = self._machine(name)
        self.machines.append(machine)
        machine.start(self._candidate(machine))

    def _later(self, mend: Any) -> None:
        asyncio.get_running_loop().call_later(self.random.uniform(0.0, 2.0) * TTL, mend)


FAULTS = ("cut", "crash", "deaf", "outage", "late", "unanswered")
ALL = (*FAULTS, "wipe", "roll back")


def simulate(
    new_world: Any,
    seed: int,
    *,
    skew: float,
    faults: tuple[str, ...],
    elections: int,
    holds: tuple[float, ...] = HOLDS,
    candidates: int = 4,
) -> list[Held]:
    world = new_world(seed)
    simulation = Simulation(world, skew=skew, faults=faults, holds=holds, candidates=candidates)
    return world.run(lambda: simulation.run(elections), limit=1e6)


def overlaps(terms: list[Held]) -> list[tuple[Held, Held]]:
    """The pairs of terms that were valid at one time."""
    ordered = pairwise(sorted(terms, key=lambda term: term.begin))
    return [(earlier, later) for earlier, later in ordered if earlier.end > later.begin + 1e-9]


def check(terms: list[Held], seed: int) -> None:
    assert not overlaps(terms), f"seed {seed}: two terms were valid at one time"
    check_tokens(terms, seed)


def check_tokens(terms: list[Held], seed: int) -> None:
    tokens = [term.token for term in sorted(terms, key=lambda term: term.begin)]
    assert tokens == sorted(set(tokens)), f"seed {seed}: tokens did not increase: {tokens}"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("skew", [0.0, 0.05])
def test_no_overlap_under_faults(new_world, seed: int, skew: float) -> None:
    """Partitions, crashes, dead watches, lost and late answers, and clocks whose rates differ by 5 % each way."""
    check(simulate(new_world, seed, skew=skew, faults=FAULTS, elections=60), seed)


@pytest.mark.parametrize("seed", range(300, 305))
def test_no_overlap_in_a_thousand_short_terms(new_world, seed: int) -> None:
    """Together five thousand: most leaders resign soon, so most elections are between candidates that are all awake."""
    faults = (*FAULTS, "wipe") if seed % 2 else FAULTS
    skew = 0.0 if seed % 2 else 0.05
    holds = (0.0, 0.02, 0.05, 0.1, 1.0)
    terms = simulate(new_world, seed, skew=skew, faults=faults, elections=1000, holds=holds, candidates=3)
    assert len(terms) >= 1000
    check(terms, seed)


@pytest.mark.parametrize("seed", range(100, 104))
def test_no_overlap_when_the_register_is_wiped(new_world, seed: int) -> None:
    """On top of all that. The floor makes up for it."""
    check(simulate(new_world, seed, skew=0.0, faults=(*FAULTS, "wipe"), elections=60), seed)


@pytest.mark.parametrize("seed", range(200, 204))
def test_tokens_increase_when_the_register_is_rolled_back(new_world, seed: int) -> None:
    """Here terms may overlap, about once in a thousand: when the register goes back to exactly the write that a
    candidate saw last before it was cut off. No candidate can tell that from standing still; the fence does."""
    check_tokens(simulate(new_world, seed, skew=0.0, faults=ALL, elections=60), seed)


def test_the_checker_finds_overlaps(new_world) -> None:
    """With clocks that differ by more than the margin allows there are overlaps, and they are found."""
    assert any(overlaps(simulate(new_world, seed, skew=0.15, faults=FAULTS, elections=60)) for seed in range(5))


def test_a_seed_gives_the_same_run(new_world) -> None:
    runs = [simulate(new_world, 7, skew=0.05, faults=ALL, elections=20) for _ in range(2)]
    assert runs[0] == runs[1]
