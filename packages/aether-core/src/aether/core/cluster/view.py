"""A cluster as an operator sees it: as data, and as a table."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from aether.core.cluster.membership import ClusterState
from aether.core.cluster.nodes import Track, profile_of


class MemberView(msgspec.Struct, frozen=True):
    """One node, as far as this one knows."""

    node: str
    incarnation: int
    weight: float
    shards: int
    revoking: int
    """Shards that it has to give up, and that nobody owns meanwhile."""

    draining: bool
    leads: bool
    behind: int | None
    """How many versions of the membership it has not confirmed; None where leases are not watched."""

    silent: float | None
    """Seconds since its lease was renewed, as this node saw it."""

    suspect: bool
    meta: dict[str, Any]


class ClusterView(msgspec.Struct, frozen=True):
    """A cluster at one version of its membership. `str()` gives a table."""

    name: str
    node: str
    """Who looks."""

    version: int
    leader: str
    token: int
    shards: int
    free: int
    """Shards that nobody owns."""

    moved: int
    """The version of the last move of shards."""

    members: tuple[MemberView, ...]

    def __str__(self) -> str:
        head = (
            f"cluster {self.name}: version {self.version}, leader {self.leader or '-'} (token {self.token}), "
            f"{self.shards} shards, {self.free} free, last move at {self.moved}"
        )
        width = max([4, *(len(member.node) for member in self.members)])
        lines = [head, f"  {'node':<{width}}  incarnation  weight  shards  revoking  behind  silent  state"]
        for member in self.members:
            behind = "-" if member.behind is None else str(member.behind)
            silent = "-" if member.silent is None else f"{member.silent:.1f} s"
            lines.append(
                f"  {member.node:<{width}}  {member.incarnation:>11}  {member.weight:>6g}  {member.shards:>6}  "
                f"{member.revoking:>8}  {behind:>6}  {silent:>6}  {_words(member, member.node == self.node)}"
            )
        return "\n".join(lines)


def _words(member: MemberView, here: bool) -> str:
    words = {"leads": member.leads, "here": here, "draining": member.draining, "suspect": member.suspect}
    return ", ".join(word for word, true in words.items() if true) or "up"


def view_of(
    state: ClusterState, tracks: dict[str, Track] | None, *, name: str, node: str, now: float, ttl: float
) -> ClusterView:
    """The view of one node; `tracks` are what it sees of the others' leases, None where it does not look."""
    shards = Counter(state.owners)
    revoking = Counter(state.owners[shard] for shard in state.revoking)
    members = []
    for member in sorted(state.members.values(), key=lambda member: member.id):
        track = None if tracks is None else tracks.get(member.id)
        profile = None if track is None else profile_of(track.lease)
        silent = None if track is None else now - track.sighting.since
        members.append(
            MemberView(
                node=member.id,
                incarnation=member.incarnation,
                weight=member.weight,
                shards=shards[member.id] - revoking[member.id],
                revoking=revoking[member.id],
                draining=member.draining,
                leads=member.id == state.leader,
                behind=None if profile is None else max(state.version - profile.applied, 0),
                silent=silent,
                suspect=silent is not None and silent > ttl / 2,
                meta=member.meta,
            )
        )
    return ClusterView(
        name=name,
        node=node,
        version=state.version,
        leader=state.leader,
        token=state.term,
        shards=state.shards,
        free=shards[""],
        moved=state.moved,
        members=tuple(members),
    )
