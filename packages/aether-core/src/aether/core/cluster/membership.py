"""The membership of a cluster and its shard map: one event-sourced actor, and the fold of its events.

The leader alone appends to it, with versions; everybody else follows. A leader that was replaced fails on its next
append, because somebody else wrote that version: the fence needs no clock. All nodes see the same history.

What the fold refuses was not written by a sound leader. It raises `CorruptEvent` instead of guessing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from aether.core.errors import CorruptEvent
from aether.core.event import Event
from aether.core.names import RESERVED, check_name

_RETIRED = 1024  # departed nodes of which the last incarnation is remembered


class Formed(msgspec.Struct, frozen=True):
    """The first event: what can never change."""

    shards: int
    hash: str


class TermStarted(msgspec.Struct, frozen=True):
    """The first act of a leader. Behind it no append of an older term succeeds."""

    term: int
    leader: str
    holder: str
    """The attempt that was elected: a leader that does not know whether this was stored finds itself here."""


class Member(msgspec.Struct, frozen=True):
    """A node in the cluster, in one incarnation of it."""

    id: str
    incarnation: int
    """The token of the node's lease: higher for every start of the node."""

    holder: str
    """The attempt that won the lease."""

    inbox: str = ""
    """Where the process hears commands, on the bus."""

    weight: float = 1.0
    meta: dict[str, Any] = {}
    draining: bool = False
    """It gives its shards away, and gets no others."""


class MemberJoined(msgspec.Struct, frozen=True):
    """A node holds its lease and may own shards."""

    term: int
    member: Member


class MemberChanged(msgspec.Struct, frozen=True):
    """A node says something else of itself: its weight, its meta, or that it is draining."""

    term: int
    member: Member


class MemberLeft(msgspec.Struct, frozen=True):
    """An incarnation is over, for good: the register says so. Its shards are free."""

    term: int
    id: str
    incarnation: int
    reason: str
    """`left`, `stopped` (it gave its lease back without having drained), `expired` or `replaced`."""


class ShardsMoved(msgspec.Struct, frozen=True):
    """Steps of any number of shards, by node, in this order: release what was revoked, assign what is free, revoke."""

    term: int
    release: dict[str, list[int]] = {}
    assign: dict[str, list[int]] = {}
    revoke: dict[str, list[int]] = {}
    heirs: dict[str, list[int]] = {}
    """Who gets what is revoked here. An heir owns its shards from the acknowledgement on; it need not be told again."""


Change = Formed | TermStarted | MemberJoined | MemberChanged | MemberLeft | ShardsMoved

TYPES: dict[str, type[Change]] = {
    f"Cluster{kind.__name__}": kind
    for kind in (Formed, TermStarted, MemberJoined, MemberChanged, MemberLeft, ShardsMoved)
}
"""The changes by the type under which they are stored."""


class ClusterState(msgspec.Struct, frozen=True):
    """The membership at one version. Two nodes at one version hold the same."""

    version: int = 0
    shards: int = 0
    hash: str = ""
    term: int = 0
    leader: str = ""
    """The node that began the latest term. Whether it still leads, only it knows."""

    holder: str = ""
    """The attempt by which it was elected."""

    members: dict[str, Member] = {}
    owners: tuple[str, ...] = ()
    """The node of every shard, empty while it is free. A shard of a member is one of its incarnation."""

    revoking: dict[int, int] = {}
    """The shards that their owner has to give up, with the version that said so. It owns them no longer."""

    heirs: dict[int, str] = {}
    """The members that get shards which are being revoked, and may own them by now. Nobody else can get those."""

    retired: dict[str, int] = {}
    """The last incarnation of nodes that left, of the last thousand of them."""

    moved: int = 0
    """The version at which shards were moved last."""

    def incarnation(self, node: str) -> int:
        """The latest incarnation of the node that the history knows, 0 if there was none."""
        member = self.members.get(node)
        return self.retired.get(node, 0) if member is None else member.incarnation


EMPTY = ClusterState()

Acknowledged = Callable[[Member], int]
"""The version up to which this very incarnation has said that it gave up what it had to, 0 if it is not known."""


def owner_of(state: ClusterState, shard: int, acknowledged: Acknowledged) -> str:
    """The node that owns the shard as far as is known, empty while nobody does."""
    at = state.revoking.get(shard)
    if at is None:
        return state.owners[shard]
    heir = state.heirs.get(shard, "")
    return heir if heir and acknowledged(state.members[state.owners[shard]]) >= at else ""


def actor_of(cluster: str) -> str:
    """The actor that the membership of a cluster is the history of."""
    return f"{RESERVED}cluster/{cluster}"


def event_of(change: Change, *, cluster: str, version: int, event_id: str) -> Event:
    """The event that stores a change."""
    data = msgspec.to_builtins(change, str_keys=True)
    return Event(
        type=f"Cluster{type(change).__name__}", actor_id=actor_of(cluster), version=version, data=data, id=event_id
    )


def change_of(event: Event) -> Change | None:
    """The change that an event stores, None for one of a type that this version does not know."""
    kind = TYPES.get(event.type)
    return None if kind is None else msgspec.convert(event.data, kind)


def evolve(state: ClusterState, event: Event) -> ClusterState:
    """The state behind the next event. Raises `CorruptEvent` if no sound leader can have written it."""
    try:
        if event.version != state.version + 1:
            raise ValueError(f"version {state.version + 1} was expected")
        change = change_of(event)
        return _next(state) if change is None else apply(state, change)
    except (ValueError, msgspec.ValidationError) as error:
        raise CorruptEvent(event.actor_id, event.version, None, f"{event.type}: {error}") from error


def apply(state: ClusterState, change: Change) -> ClusterState:
    """The state at the next version. Raises `ValueError` for a change that contradicts the history.

    MUST refuse: a second `Formed`; a term that is not higher than all before; a change of another term than the
    latest; a second incarnation of a node that has not left; a shard that is assigned while it is not free, or to
    nobody; one that is revoked from a node that does not own it, or released without having been revoked; one that
    has an heir and goes to another; an heir of what is not revoked in the same change, or who is not a member.
    """
    match change:
        case Formed():
            return _form(state, change)
        case TermStarted():
            _need(state.shards > 0, "the cluster was not formed")
            _need(change.term > state.term, f"term {change.term} does not follow term {state.term}")
            return _next(state, term=change.term, leader=change.leader, holder=change.holder)
        case _:
            _need(change.term == state.term, f"it is of term {change.term}, the leader's is {state.term}")
    match change:
        case MemberJoined():
            return _join(state, change.member)
        case MemberChanged():
            _same(state, change.member.id, change.member.incarnation)
            _need(change.member.holder == state.members[change.member.id].holder, "another attempt holds its lease")
            return _next(state, members={**state.members, change.member.id: change.member})
        case MemberLeft():
            return _leave(state, change)
        case ShardsMoved():
            return _move(state, change)


def _next(state: ClusterState, **fields: Any) -> ClusterState:
    return msgspec.structs.replace(state, version=state.version + 1, **fields)


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _same(state: ClusterState, node: str, incarnation: int) -> None:
    member = state.members.get(node)
    _need(
        member is not None and member.incarnation == incarnation, f"{node!r} is no member in incarnation {incarnation}"
    )


def _form(state: ClusterState, change: Formed) -> ClusterState:
    _need(state.shards == 0, "the cluster was formed before")
    _need(change.shards > 0, "a cluster has at least one shard")
    return _next(state, shards=change.shards, hash=change.hash, owners=("",) * change.shards)


def _join(state: ClusterState, member: Member) -> ClusterState:
    check_name("node", member.id)
    _need(member.id not in state.members, f"{member.id!r} is a member already")
    _need(
        member.incarnation > state.incarnation(member.id), f"{member.id!r} had incarnation {member.incarnation} before"
    )
    _need(member.weight > 0, "a weight is above 0")
    return _next(state, members={**state.members, member.id: member})


def _leave(state: ClusterState, change: MemberLeft) -> ClusterState:
    """Its shards are free, but for those with an heir: those are the heir's, who may have taken them long ago."""
    _same(state, change.id, change.incarnation)
    retired = {node: last for node, last in state.retired.items() if node != change.id}
    retired[change.id] = change.incarnation
    if len(retired) > _RETIRED:
        del retired[next(iter(retired))]
    return _next(
        state,
        members={node: member for node, member in state.members.items() if node != change.id},
        owners=tuple(
            state.heirs.get(shard, "") if owner == change.id else owner for shard, owner in enumerate(state.owners)
        ),
        revoking={shard: at for shard, at in state.revoking.items() if state.owners[shard] != change.id},
        heirs={
            shard: heir for shard, heir in state.heirs.items() if heir != change.id and state.owners[shard] != change.id
        },
        retired=retired,
    )


def _move(state: ClusterState, change: ShardsMoved) -> ClusterState:
    owners, revoking, heirs = list(state.owners), dict(state.revoking), dict(state.heirs)
    promised: dict[int, str] = {}
    for node, shard in _each(change.release, len(owners)):
        _need(owners[shard] == node and shard in revoking, f"shard {shard} was not revoked from {node!r}")
        owners[shard] = ""
        del revoking[shard]
        if shard in heirs:
            promised[shard] = heirs.pop(shard)
    for node, shard in _each(change.assign, len(owners)):
        _need(node in state.members, f"{node!r} is no member")
        _need(not owners[shard], f"shard {shard} belongs to {owners[shard]!r}")
        owners[shard] = node
    for shard, heir in promised.items():
        _need(owners[shard] == heir, f"shard {shard} is the heir's, {heir!r}")
    for node, shard in _each(change.revoke, len(owners)):
        _need(owners[shard] == node and shard not in revoking, f"shard {shard} is not {node!r}'s to give up")
        revoking[shard] = state.version + 1
    for node, shard in _each(change.heirs, len(owners)):
        _need(node in state.members and node != owners[shard], f"{node!r} cannot be an heir of shard {shard}")
        _need(revoking.get(shard) == state.version + 1, f"shard {shard} is not revoked here")
        _need(shard not in heirs, f"shard {shard} has an heir")
        heirs[shard] = node
    return _next(state, owners=tuple(owners), revoking=revoking, heirs=heirs, moved=state.version + 1)


def _each(shards: dict[str, list[int]], count: int) -> list[tuple[str, int]]:
    pairs = [(node, shard) for node, some in shards.items() for shard in some]
    _need(all(0 <= shard < count for _, shard in pairs), "there is no such shard")
    return pairs
