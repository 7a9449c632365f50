"""Which node gets which shard: pure functions, the same on every node.

Consistent hashing exists to do without shared state. The shard map *is* shared state, so the plan can look at what it
was before: nobody holds more than one shard above its share, and no shard moves that need not. Hashing only breaks
ties (rendezvous hashing: Thaler and Ravishankar, 1998).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import floor, fsum


def plan(weights: Mapping[str, float], previous: Sequence[str]) -> list[str]:
    """The node of every shard.

    `weights` are the nodes that may hold shards, with weights above 0; `previous` is the node of every shard before,
    empty or unknown where there is none. MUST give each node its share of the shards by weight, rounded up or down
    (for equal weights: at most one shard apart), and MUST move no more shards than any other such plan that rounds
    the same shares up. Depends on nothing but its arguments. Without nodes no shard has one.
    """
    if not weights:
        return [""] * len(previous)
    quotas = shares(weights, previous)
    targets = [owner if owner in quotas else "" for owner in previous]
    held: dict[str, list[int]] = {node: [] for node in quotas}
    for shard, owner in enumerate(targets):
        if owner:
            held[owner].append(shard)
    for node, shards in held.items():
        excess = len(shards) - quotas[node]
        if excess > 0:
            for shard in sorted(shards, key=lambda shard: _rank(shard, node))[:excess]:
                targets[shard] = ""
    room = {node: quota - len(held[node]) for node, quota in quotas.items() if quota > len(held[node])}
    for shard, owner in enumerate(targets):
        if not owner:
            node = max(room, key=lambda node: (_rank(shard, node), node)) if len(room) > 1 else next(iter(room))
            targets[shard] = node
            room[node] -= 1
            if room[node] == 0:
                del room[node]
    return targets


def shares(weights: Mapping[str, float], previous: Sequence[str]) -> dict[str, int]:
    """How many shards each node gets: `len(previous)` in all, by largest remainder.

    Of nodes with equal remainders those are rounded up that hold more than the lower number already.
    """
    total = fsum(weights.values())
    exact = {node: len(previous) * weights[node] / total for node in sorted(weights)}
    quotas = {node: floor(share) for node, share in exact.items()}
    held = dict.fromkeys(exact, 0)
    for owner in previous:
        if owner in held:
            held[owner] += 1
    left = len(previous) - sum(quotas.values())
    first = sorted(exact, key=lambda node: (quotas[node] - exact[node], held[node] <= quotas[node], node))
    for node in first[:left]:
        quotas[node] += 1
    return quotas


@lru_cache(maxsize=1 << 15)  # a hand-over plans several times, between two steps of a few milliseconds
def _rank(shard: int, node: str) -> bytes:
    return blake2b(f"{shard}/{node}".encode(), digest_size=8).digest()
