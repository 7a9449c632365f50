"""Clusters under every fault at once, in virtual time: no shard is owned twice, and all of them are owned in the end.

A failure names its seed; the same seed gives the same run, to the last command.
"""

import pytest

from aether.conformance.simulation.clusters import ClusterSimulation, Outcome


def simulate(seed: int, *, seconds: float, losses: bool = False) -> Outcome:
    return ClusterSimulation(seed, losses=losses).run(seconds=seconds)


@pytest.mark.parametrize("seed", [8, 30])
def test_no_shard_is_owned_twice_under_faults(seed: int) -> None:
    """Partitions, crashes, pauses, dead watches, stale servers, lost and late answers, and clocks that differ.

    Together they have more than 200 shards handed over from one living node to another, in both phases.
    """
    outcome = simulate(seed, seconds=45.0)
    assert outcome.moves > 100, f"seed {seed} has become a test of little: {outcome[:4]}"
    assert outcome.commands >= 100, f"seed {seed} has become a test of little: {outcome[:4]}"


@pytest.mark.parametrize("seed", [8, 28, 30])
def test_no_shard_is_owned_twice_in_short_runs(seed: int) -> None:
    """What the zoo's clusters die by: the same, as long as it takes."""
    assert simulate(seed, seconds=8.0).elections > 4


@pytest.mark.parametrize("seed", [101])
def test_no_shard_is_owned_twice_when_the_register_is_wiped(seed: int) -> None:
    outcome = simulate(seed, seconds=40.0, losses=True)
    assert outcome.elections >= 50, f"seed {seed} has become a test of little: {outcome[:4]}"


def test_a_seed_gives_the_same_run() -> None:
    first, again = (simulate(3, seconds=10.0) for _ in range(2))
    assert first == again
    assert len(first.trace) > 50
