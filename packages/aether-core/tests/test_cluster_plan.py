"""The shard plan: as even as it can be, and nothing moves that need not."""

from collections import Counter
from random import Random

from aether.core.cluster.plan import plan, shares

SHARDS = 1024


def spread(weights: dict[str, float], owners: list[str]) -> int:
    held = Counter(owners)
    return max(held[node] for node in weights) - min(held[node] for node in weights)


def test_300_random_changes_between_2_and_120_nodes() -> None:
    """Spread at most one shard, and as many moves as the new shares make necessary, not one more."""
    random = Random(1)
    nodes, owners, moves = [f"n{n}" for n in range(3)], [""] * SHARDS, 0
    owners = plan(dict.fromkeys(nodes, 1.0), owners)
    for number in range(3, 303):
        if len(nodes) < 120 and (len(nodes) == 2 or random.random() < 0.6):
            nodes.append(f"n{number}")
        else:
            nodes.remove(random.choice(nodes))
        weights = dict.fromkeys(nodes, 1.0)
        before, owners = owners, plan(weights, owners)
        held = Counter(before)
        least = sum(max(0, share - held[node]) for node, share in shares(weights, before).items())
        moved = sum(one != other for one, other in zip(before, owners, strict=True))
        assert spread(weights, owners) <= 1
        assert moved == least
        assert all(one == other for one, other in zip(before, owners, strict=True) if one in weights) or moved
        moves += moved
    assert moves > 3000


def test_three_to_four_and_back_moves_a_quarter() -> None:
    three = plan(dict.fromkeys("abc", 1.0), [""] * SHARDS)
    four = plan(dict.fromkeys("abcd", 1.0), three)
    assert sorted(Counter(four).values()) == [256] * 4
    assert {new for old, new in zip(three, four, strict=True) if old != new} == {"d"}
    back = plan(dict.fromkeys("abc", 1.0), four)
    assert {old for old, new in zip(four, back, strict=True) if old != new} == {"d"}


def test_weights_are_shares() -> None:
    random = Random(2)
    for _ in range(50):
        weights = {f"n{n}": random.choice([0.5, 1.0, 2.0, 3.7]) for n in range(random.randint(1, 20))}
        owners = plan(weights, [random.choice(["", "gone", *weights]) for _ in range(SHARDS)])
        held, total = Counter(owners), sum(weights.values())
        assert set(owners) <= set(weights)
        assert all(abs(held[node] - SHARDS * weight / total) < 1 for node, weight in weights.items())


def test_the_plan_depends_on_nothing_else() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 1.0}
    first = plan(weights, ["b"] * 100)
    assert first == plan(dict(reversed(weights.items())), ["b"] * 100)
    assert plan(weights, first) == first
    assert plan({}, ["a", "b"]) == ["", ""]
    assert plan({"a": 1.0}, ["", "x"]) == ["a", "a"]
