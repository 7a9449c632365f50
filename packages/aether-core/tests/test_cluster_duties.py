"""What a leader decides, from what it has seen: pure functions."""

import math

import pytest

from aether.core.cluster import duties
from aether.core.cluster.duties import Rules, due
from aether.core.cluster.membership import (
    EMPTY,
    ClusterState,
    Formed,
    Member,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    ShardsMoved,
    TermStarted,
    apply,
)
from aether.core.cluster.nodes import Track
from aether.core.lease import Lease, Sighting

TTL = 10.0
RULES = Rules(wave=0.25, debounce=1.0)


def track(
    node: str, token: int = 1, *, holder: str | None = None, since: float = 0.0, shards: int = 8, **meta
) -> Track:
    said = {"shards": shards, "hash": "h", **meta}
    held = f"{node}/{token}" if holder is None else holder
    lease = Lease(name=node, holder=held, token=token, ttl=TTL, nonce="n", meta=said if held else meta)
    return Track(Sighting(1, lease, since), since)


def member(node: str, incarnation: int = 1, **fields) -> Member:
    return Member(node, incarnation, f"{node}/{incarnation}", **fields)


def state_of(*members: Member, owners: str = "") -> ClusterState:
    changes = [Formed(8, "h"), TermStarted(1, "a", "a/9"), *(MemberJoined(1, one) for one in members)]
    state = EMPTY
    for change in changes:
        state = apply(state, change)
    assign: dict[str, list[int]] = {}
    for shard, owner in enumerate(owners):
        assign.setdefault(owner, []).append(shard)
    return apply(state, ShardsMoved(1, assign=assign)) if owners else state


def test_only_the_register_says_that_somebody_is_gone() -> None:
    one = member("a", 2)
    assert not duties.over(one, None)
    assert not duties.over(one, track("a", 1).lease)
    assert not duties.over(one, track("a", 1, holder="").lease)
    assert not duties.over(one, track("a", 2).lease)
    assert duties.over(one, track("a", 2, holder="").lease)
    assert duties.over(one, track("a", 3).lease)


def test_only_the_very_incarnation_acknowledges() -> None:
    one = member("a", 2)
    assert duties.acknowledged(one, track("a", 2, applied=7).lease) == 7
    assert duties.acknowledged(one, track("a", 3, applied=7).lease) == 0
    assert duties.acknowledged(one, track("a", 2, holder="other", applied=7).lease) == 0
    assert duties.acknowledged(one, track("a", 2, holder="", applied=7).lease) == 0
    assert duties.acknowledged(one, None) == 0


def test_a_lease_expires_when_it_has_stood_still_for_its_own_ttl() -> None:
    one = member("a")
    assert duties.expires(one, track("a", since=5.0), ttl=TTL, resumed=-math.inf) == 15.0
    assert duties.expires(one, track("a", since=5.0), ttl=2.0, resumed=-math.inf) == 15.0
    assert duties.expires(one, Track(Sighting(0, None, 5.0), 5.0), ttl=TTL, resumed=-math.inf) == 15.0


def test_a_lease_that_cannot_be_read_never_expires() -> None:
    assert duties.expires(member("a"), Track(Sighting(4, None, 5.0), 5.0), ttl=TTL, resumed=-math.inf) == math.inf


def test_a_lease_of_somebody_else_counts_from_when_it_was_first_seen() -> None:
    """The register has lost data: however often the other one renews, the member cannot."""
    other = track("a", 1, holder="other", since=9.0)._replace(held_since=3.0)
    assert duties.expires(member("a"), other, ttl=TTL, resumed=-math.inf) == 13.0


def test_behind_an_outage_of_its_own_a_leader_waits_longer() -> None:
    """Whoever was as blind as the leader has a ttl and a half to renew, from when it sees again."""
    assert duties.expires(member("a"), track("a", since=5.0), ttl=TTL, resumed=7.0) == 22.0
    assert duties.expires(member("a"), track("a", since=8.0), ttl=TTL, resumed=7.0) == 18.0
    late = duties.expired(state_of(member("a")), {"a": track("a", since=5.0)}, now=21.0, ttl=TTL, resumed=7.0)
    assert late == []


def test_the_longest_silent_are_reaped_first() -> None:
    state = state_of(member("a"), member("b"), member("c"), member("d"))
    leases = {"a": track("a", since=3.0), "b": track("b", since=1.0), "c": track("c", 1, holder="", since=0.0)}
    assert duties.expired(state, leases, now=13.0, ttl=TTL, resumed=-math.inf) == ["b", "a"]
    assert duties.expired(state, leases, now=12.9, ttl=TTL, resumed=-math.inf) == ["b"]


@pytest.mark.parametrize(
    ("members", "recent", "allowed"), [(1, 0, 1), (2, 0, 1), (3, 0, 2), (4, 0, 2), (4, 1, 2), (3, 2, 1), (4, 4, 0)]
)
def test_no_more_than_half_of_the_members_are_reaped_at_once(members: int, recent: int, allowed: int) -> None:
    nodes = [f"n{n}" for n in range(members)]
    assert len(duties.braked(nodes, members=members, recent=recent, brake=0.5)) == allowed
    assert duties.braked(nodes, members=members, recent=0, brake=1.0) == nodes


def test_a_join_is_held_back_and_then_takes_everybody_who_waits() -> None:
    state = state_of()
    leases = {"a": track("a", since=1.0), "b": track("b", since=1.9)}
    assert due(state, leases, RULES, now=1.9) == ([], 2.0)
    changes, again = due(state, leases, RULES, now=2.0)
    assert [type(change) for change in changes] == [MemberJoined, MemberJoined, ShardsMoved]
    assert again == math.inf


@pytest.mark.parametrize("wrong", [{"shards": 16}, {"hash": "other"}, {"weight": -1}, {"weight": "heavy"}])
def test_a_node_with_other_settings_is_not_let_in(wrong: dict) -> None:
    assert due(state_of(), {"a": track("a", **wrong)}, RULES, now=100.0).changes == []


def test_a_restarted_node_has_its_shards_back_in_one_commit() -> None:
    state = state_of(member("a"), member("b"), owners="aaaabbbb")
    changes, _ = due(state, {"a": track("a", 2), "b": track("b")}, RULES, now=100.0)
    assert changes == [
        MemberLeft(1, "a", 1, "replaced"),
        MemberJoined(1, member("a", 2)),
        ShardsMoved(1, assign={"a": [0, 1, 2, 3]}),
    ]


def test_shards_of_the_departed_are_assigned_at_once() -> None:
    state = state_of(member("a"), member("b"), owners="aaaabbbb")
    gone = track("a", 1, holder="", reaped=1)
    changes, _ = due(state, {"a": gone, "b": track("b")}, RULES, now=0.0)
    assert changes == [MemberLeft(1, "a", 1, "expired"), ShardsMoved(1, assign={"b": [0, 1, 2, 3]})]


def test_living_nodes_hand_over_in_waves_and_only_what_was_acknowledged_is_assigned() -> None:
    state = state_of(member("a"), owners="aaaaaaaa")
    leases = {"a": track("a"), "b": track("b")}
    changes, _ = due(state, leases, RULES, now=100.0)
    for change in changes:
        state = apply(state, change)
    assert len(state.revoking) == 2  # a quarter of eight
    revoked, at = sorted(state.revoking), state.version
    assert due(state, leases, RULES, now=100.0).changes == []
    assert due(state, {**leases, "a": track("a", applied=at - 1)}, RULES, now=100.0).changes == []
    assert due(state, {**leases, "a": track("a", 1, holder="x", applied=at)}, RULES, now=100.0).changes == []
    step = due(state, {**leases, "a": track("a", applied=at)}, RULES, now=100.0).changes[0]
    assert isinstance(step, ShardsMoved)
    assert step.release == {"a": revoked}
    assert step.assign == {"b": revoked}
    assert len(step.revoke["a"]) == 2
    assert step.heirs == {"b": step.revoke["a"]}


def test_an_heir_gets_what_it_was_promised_whatever_the_plan_is_by_then() -> None:
    """It may own it already. That it drains by now, or that there are others, comes after."""
    state = state_of(member("a"), member("b"), member("c"), owners="aaaaabbb")
    leases = {"a": track("a"), "b": track("b"), "c": track("c")}
    (step,) = due(state, leases, RULES, now=0.0).changes
    assert isinstance(step, ShardsMoved)
    assert list(step.heirs) == ["c"]
    promised = step.heirs["c"]
    state = apply(state, step)
    leases |= {"c": track("c", draining=True), "a": track("a", applied=state.version)}
    changes, _ = due(state, leases, RULES, now=0.0)
    for change in changes:
        state = apply(state, change)
    assert [state.owners[shard] for shard in promised] == ["c", "c"]
    (again,) = due(state, leases, RULES, now=0.0).changes
    assert isinstance(again, ShardsMoved)
    assert again.revoke == {"c": promised}


def test_what_an_heir_was_promised_is_its_own_for_the_plan() -> None:
    """Else a node that joins in the middle would get what is the heir's, and the heir something else for it."""
    state = state_of(member("a"), member("b"), member("c"), owners="aaaaabbb")
    leases = {node: track(node) for node in "abc"}
    (step,) = due(state, leases, RULES, now=0.0).changes
    state = apply(state, step)
    _, more = due(state, {**leases, "d": track("d")}, Rules(wave=1.0, debounce=0.0), now=0.0).changes
    assert isinstance(more, ShardsMoved)
    assert list(more.heirs) == ["d"]
    assert {node: len(shards) for node, shards in more.revoke.items()} == {"a": 1, "b": 1}


def test_an_heir_keeps_its_promise_when_the_owner_dies() -> None:
    state = state_of(member("a"), member("b"), member("c"), owners="aaaaabbb")
    leases = {"a": track("a"), "b": track("b"), "c": track("c")}
    (step,) = due(state, leases, RULES, now=0.0).changes
    assert isinstance(step, ShardsMoved)
    state = apply(state, step)
    for change in due(state, {**leases, "a": track("a", 1, holder="")}, RULES, now=0.0).changes:
        state = apply(state, change)
    assert [state.owners[shard] for shard in step.heirs["c"]] == ["c", "c"]
    assert sorted(state.owners) == ["b"] * 4 + ["c"] * 4


def test_who_drains_gives_everything_away_and_gets_nothing() -> None:
    state = state_of(member("a"), member("b"), owners="aaaabbbb")
    leases = {"a": track("a", draining=True), "b": track("b")}
    changes, _ = due(state, leases, RULES, now=0.0)
    assert changes[0] == MemberChanged(1, member("a", draining=True))
    assert isinstance(changes[1], ShardsMoved)
    assert set(changes[1].revoke) == {"a"}
    alone = state_of(member("a", draining=True), owners="aaaaaaaa")
    assert due(alone, {"a": track("a", draining=True)}, RULES, now=0.0).changes == []


def test_nothing_is_due_when_everything_is_as_planned() -> None:
    state = state_of(member("a"), member("b"), owners="aaaabbbb")
    assert due(state, {"a": track("a"), "b": track("b")}, RULES, now=0.0) == ([], math.inf)
