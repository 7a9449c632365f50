"""Who has not been heard of for a while: an opinion, for information. Death is a fact, and is found out elsewhere."""

from __future__ import annotations

from typing import NoReturn

from aether.core.clock import Clock
from aether.core.cluster.follower import Follower
from aether.core.cluster.nodes import NodeWatch
from aether.core.cluster.notices import NodeSuspect, Notices

SUSPECT = 0.5
"""Of the ttl, without a renewal: two were due."""


async def suspect(watch: NodeWatch, follower: Follower, notices: Notices, *, clock: Clock, ttl: float) -> NoReturn:
    """Tell of members that have fallen silent, for ever, each of them once per silence."""
    told: set[tuple[str, int]] = set()
    while True:
        state = follower.state
        silent = {
            (node, state.members[node].incarnation)
            for node, seconds in watch.silent().items()
            if node in state.members and seconds > ttl * SUSPECT
        }
        for node, incarnation in sorted(silent - told):
            notices.tell(NodeSuspect(state.version, node, incarnation))
        told = silent
        await clock.sleep(ttl * SUSPECT / 5)
