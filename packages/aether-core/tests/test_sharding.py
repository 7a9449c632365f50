"""Shards: figures that may never change. Clusters and projections are laid out by them."""

from collections import Counter

import pytest

from aether.core.sharding import shard_of


def test_the_shards_of_these_actors_are_fixed_for_ever():
    assert [shard_of(one) for one in ("", "order-1", "order-2", "Zürich 🚲")] == FIXED
    assert shard_of("order-1", 1) == 0


def test_they_are_spread():
    counts = Counter(shard_of(f"order-{number}", 16) for number in range(16_000))
    assert set(counts) == set(range(16))
    assert max(counts.values()) < 1200


def test_none_is_refused():
    with pytest.raises(ValueError, match="1 or more"):
        shard_of("a", 0)


FIXED = [914, 150, 76, 129]
