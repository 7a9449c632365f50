"""What a leader has to do next: pure functions of the membership, and of what was seen of the nodes' leases.

**No shard is ever owned by two live nodes**, because of these, each of which is a function below:

* `over`: an incarnation has ended only when the register says so, by a fact that nothing undoes: its lease was given
  back or replaced by compare-and-set, or a later attempt holds it, which had to wait.
* `expired`: a lease is replaced when it has stood still for its whole ttl on our own clock. Its holder stopped owning
  a margin of a tenth before.
* `acknowledged`: a shard that was revoked from a living node is free when that very incarnation has said that it
  applied the revocation.
* `moves`: only free shards are assigned, and those of which the heir was named when they were revoked go to the heir,
  who needs the acknowledgement to own them, but not the leader. The fold refuses everything else.

Whatever was seen may be stale: all of these facts stay true once they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from aether.core.cluster.membership import (
    Change,
    ClusterState,
    Member,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    ShardsMoved,
    apply,
)
from aether.core.cluster.nodes import Track, profile_of
from aether.core.cluster.plan import plan
from aether.core.lease import Lease

_GRACE = 0.5  # of the ttl, on top of a whole one, behind an outage of the observer itself


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How a leader goes about its duties."""

    wave: float = 0.1
    """The part of all shards that may be on the move between live nodes at once: only they are dark meanwhile."""

    debounce: float = 0.1
    """Seconds that a join is held back, so that many nodes that start together cause one move."""

    brake: float = 0.5
    """The part of the members that may be reaped within one ttl. More at once look like a mistake of the observer."""

    def __post_init__(self) -> None:
        for name in ("wave", "brake"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a part, above 0 and up to 1, not {getattr(self, name)!r}")
        if not 0 <= self.debounce < math.inf:
            raise ValueError(f"debounce is a number of seconds from 0 on, not {self.debounce!r}")


Leases = Mapping[str, Track]


def over(member: Member, lease: Lease | None) -> bool:
    """Whether the register says that this incarnation has ended for good."""
    if lease is None:
        return False
    return lease.token > member.incarnation or (lease.token == member.incarnation and not lease.holder)


def acknowledged(member: Member, lease: Lease | None) -> int:
    """The version up to which this incarnation has given up what was revoked from it, 0 if it does not say."""
    profile = profile_of(lease)
    if lease is None or profile is None or (lease.holder, lease.token) != (member.holder, member.incarnation):
        return 0
    return profile.applied


def expires(member: Member, track: Track, *, ttl: float, resumed: float) -> float:
    """When the lease will have stood still for long enough to be replaced; never while it cannot be read.

    A lease that somebody else holds, or that is missing, is not the member's: the register has lost data. The member
    cannot have renewed since, so that time counts, however often the other renews.
    """
    seen = track.sighting
    if seen.lease is None and seen.revision:
        return math.inf
    ttl = ttl if seen.lease is None else max(ttl, seen.lease.ttl)
    since = seen.since if seen.holder == member.holder else track.held_since
    return since + ttl if since > resumed else resumed + ttl * (1 + _GRACE)


def expired(state: ClusterState, leases: Leases, *, now: float, ttl: float, resumed: float) -> list[str]:
    """The members whose leases may be replaced, those that stood still for the longest first."""
    times = {
        node: expires(member, leases[node], ttl=ttl, resumed=resumed)
        for node, member in state.members.items()
        if node in leases and not over(member, leases[node].lease)
    }
    return sorted((node for node, time in times.items() if time <= now), key=lambda node: (times[node], node))


def braked(nodes: Sequence[str], *, members: int, recent: int, brake: float) -> list[str]:
    """As many of the nodes as may be reaped when `recent` were within the last ttl, of `members` and those."""
    allowed = math.ceil((members + recent) * brake) - recent
    return list(nodes[: max(allowed, 0)])


def left(state: ClusterState, leases: Leases) -> list[Change]:
    """The departures that the register has made facts."""
    changes: list[Change] = []
    for node, member in state.members.items():
        lease = leases[node].lease if node in leases else None
        if over(member, lease):
            changes.append(MemberLeft(state.term, node, member.incarnation, _reason(member, lease)))
    return changes


def _reason(member: Member, lease: Lease | None) -> str:
    if lease is not None and lease.token > member.incarnation:
        return "replaced"
    if lease is not None and "reaped" in lease.meta:
        return "expired"
    return "left" if member.draining else "stopped"


def _candidate(state: ClusterState, node: str, track: Track) -> Member | None:
    """The member that the holder of a lease wants to be, None if it cannot be one."""
    profile, lease = profile_of(track.lease), track.lease
    if profile is None or lease is None or (profile.shards, profile.hash) != (state.shards, state.hash):
        return None
    return Member(node, lease.token, lease.holder, profile.inbox, profile.weight, profile.meta, profile.draining)


def joined(state: ClusterState, leases: Leases, *, now: float, debounce: float) -> tuple[list[Change], float]:
    """The nodes that may join now, and the time at which that should be asked again.

    A node with another number of shards, or another hash, is not let in.
    """
    waiting: list[Change] = []
    first = math.inf
    for node, track in leases.items():
        member = _candidate(state, node, track)
        if member is not None and node not in state.members and member.incarnation > state.incarnation(node):
            waiting.append(MemberJoined(state.term, member))
            first = min(first, track.held_since)
    if not waiting or now >= first + debounce:
        return waiting, math.inf
    return [], first + debounce


def changed(state: ClusterState, leases: Leases) -> list[Change]:
    """The members that say something else of themselves than the history does."""
    changes: list[Change] = []
    for node, member in state.members.items():
        found = _candidate(state, node, leases[node]) if node in leases else None
        if found is not None and found != member and _same_incarnation(found, member):
            changes.append(MemberChanged(state.term, found))
    return changes


def _same_incarnation(one: Member, other: Member) -> bool:
    return (one.incarnation, one.holder) == (other.incarnation, other.holder)


def moves(state: ClusterState, leases: Leases, *, before: Sequence[str], wave: float) -> ShardsMoved | None:
    """The next step towards the plan, None when everything is as planned.

    `before` are the owners before the departures of this very step: a node that was replaced by its own next start
    gets its shards back. Of shards on living nodes at most the part `wave` is on the move at once. What has an heir
    is the heir's already, for the plan, too: it may be in use there.
    """
    weights = {node: member.weight for node, member in state.members.items() if not member.draining}
    owners, heirs = state.owners, state.heirs
    freed = [shard for shard, at in state.revoking.items() if _acknowledged(state, leases, owners[shard]) >= at]
    targets = plan(weights, [_planned(state, shard, before[shard]) for shard in range(state.shards)])
    free = [shard for shard, owner in enumerate(owners) if not owner] + freed
    away = [
        shard
        for shard, owner in enumerate(owners)
        if owner and targets[shard] and owner != targets[shard] and shard not in state.revoking
    ]
    room = max(1, int(state.shards * wave)) - (len(state.revoking) - len(freed))
    away = away[: max(room, 0)]
    step = ShardsMoved(
        state.term,
        release=_by_node((owners[shard], shard) for shard in freed),
        assign=_by_node((to, shard) for shard in sorted(free) if (to := heirs.get(shard) or targets[shard])),
        revoke=_by_node((owners[shard], shard) for shard in away),
        heirs=_by_node((targets[shard], shard) for shard in away),
    )
    return step if step.release or step.assign or step.revoke else None


def _planned(state: ClusterState, shard: int, before: str) -> str:
    """Who has the shard, or will have it whatever happens; or had it before this step."""
    if shard in state.revoking:
        return state.heirs.get(shard, "")
    return state.owners[shard] or before


def _acknowledged(state: ClusterState, leases: Leases, node: str) -> int:
    return acknowledged(state.members[node], leases[node].lease) if node in leases else 0


def _by_node(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    shards: dict[str, list[int]] = {}
    for node, shard in pairs:
        shards.setdefault(node, []).append(shard)
    return shards


class Due(NamedTuple):
    """What is to be appended now, as one commit, and when to ask again at the latest if nothing happens."""

    changes: list[Change]
    again: float


def due(state: ClusterState, leases: Leases, rules: Rules, *, now: float) -> Due:
    """Departures, arrivals and news of members, then the moves that follow from them: one commit."""
    before = state.owners
    changes: list[Change] = []

    def add(more: list[Change]) -> None:
        nonlocal state
        for change in more:
            state = apply(state, change)
            changes.append(change)

    add(left(state, leases))
    arrivals, again = joined(state, leases, now=now, debounce=rules.debounce)
    add(arrivals)
    add(changed(state, leases))
    step = moves(state, leases, before=before, wave=rules.wave)
    if step is not None:
        add([step])
    return Due(changes, again)
