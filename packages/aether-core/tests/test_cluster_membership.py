"""The fold of the membership refuses what no sound leader can have written."""

import msgspec
import pytest

from aether.core import CorruptEvent, Event
from aether.core.cluster.membership import (
    EMPTY,
    Change,
    ClusterState,
    Formed,
    Member,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    ShardsMoved,
    TermStarted,
    apply,
    change_of,
    event_of,
    evolve,
    owner_of,
)

A, B = Member("a", 1, "a/1/1"), Member("b", 1, "b/1/1")
HISTORY: list[Change] = [
    Formed(4, "h"),
    TermStarted(1, "a", "a/1/2"),
    MemberJoined(1, A),
    MemberJoined(1, B),
    ShardsMoved(1, assign={"a": [0, 1, 2], "b": [3]}),
    ShardsMoved(1, revoke={"a": [2]}),
]

PROMISED: list[Change] = [*HISTORY[:-1], ShardsMoved(1, revoke={"a": [2]}, heirs={"b": [2]})]


def state_of(changes: list[Change]) -> ClusterState:
    state = EMPTY
    for change in changes:
        state = apply(state, change)
    return state


def test_a_history_comes_back_from_its_events() -> None:
    state = EMPTY
    for number, change in enumerate(HISTORY, 1):
        event = event_of(change, cluster="c", version=number, event_id=f"e{number}")
        assert change_of(event) == change
        state = evolve(state, event)
    assert state == state_of(HISTORY)
    assert state.owners == ("a", "a", "a", "b")
    assert state.revoking == {2: 6}
    stored = msgspec.json.decode(msgspec.json.encode(state))
    assert msgspec.convert(stored, ClusterState, str_keys=True) == state


def test_hand_over() -> None:
    state = apply(state_of(HISTORY), ShardsMoved(1, release={"a": [2]}, assign={"b": [2]}))
    assert state.owners == ("a", "a", "b", "b")
    assert state.revoking == {}


def test_an_heir_owns_from_the_acknowledgement_on() -> None:
    state = state_of(PROMISED)
    assert (state.owners, state.revoking, state.heirs) == (("a", "a", "a", "b"), {2: 6}, {2: "b"})
    asked: list[Member] = []

    def acknowledged(member: Member) -> int:
        asked.append(member)
        return 6

    assert owner_of(state, 2, acknowledged) == "b"
    assert asked == [A]
    assert owner_of(state, 2, lambda _: 5) == ""
    assert owner_of(state_of(HISTORY), 2, lambda _: 6) == ""
    assert [owner_of(state, shard, lambda _: 0) for shard in (0, 3)] == ["a", "b"]
    stored = msgspec.json.decode(msgspec.json.encode(state))
    assert msgspec.convert(stored, ClusterState, str_keys=True) == state
    settled = apply(state, ShardsMoved(1, release={"a": [2]}, assign={"b": [2]}))
    assert (settled.owners, settled.revoking, settled.heirs) == (("a", "a", "b", "b"), {}, {})


def test_what_has_an_heir_is_the_heirs_when_its_owner_leaves() -> None:
    """It may have taken it long ago."""
    state = apply(state_of(PROMISED), MemberLeft(1, "a", 1, "expired"))
    assert (state.owners, state.revoking, state.heirs) == (("", "", "b", "b"), {}, {})


def test_an_heir_that_leaves_inherits_nothing() -> None:
    state = apply(state_of(PROMISED), MemberLeft(1, "b", 1, "expired"))
    assert (state.owners, state.revoking, state.heirs) == (("a", "a", "a", ""), {2: 6}, {})
    state = apply(state, MemberJoined(1, Member("b", 2, "b/2/1")))
    assert owner_of(state, 2, lambda _: 6) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (ShardsMoved(1, release={"a": [2]}), "the heir's, 'b'"),
        (ShardsMoved(1, release={"a": [2]}, assign={"a": [2]}), "the heir's, 'b'"),
        (ShardsMoved(1, revoke={"a": [0]}, heirs={"c": [0]}), "'c' cannot be an heir"),
        (ShardsMoved(1, revoke={"a": [0]}, heirs={"a": [0]}), "'a' cannot be an heir"),
        (ShardsMoved(1, revoke={"a": [0]}, heirs={"b": [0, 0]}), "shard 0 has an heir"),
        (ShardsMoved(1, heirs={"b": [0]}), "shard 0 is not revoked here"),
        (ShardsMoved(1, heirs={"b": [2]}), "shard 2 is not revoked here"),
        (ShardsMoved(1, heirs={"b": [4]}), "no such shard"),
    ],
)
def test_a_promise_is_kept(change: Change, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        apply(state_of(PROMISED), change)


def test_who_leaves_frees_its_shards_and_is_remembered() -> None:
    state = apply(state_of(HISTORY), MemberLeft(1, "a", 1, "expired"))
    assert state.owners == ("", "", "", "b")
    assert state.revoking == {}
    assert state.incarnation("a") == 1
    assert state.incarnation("c") == 0
    apply(state, MemberJoined(1, Member("a", 2, "a/2/1")))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Formed(8, "h"), "formed before"),
        (TermStarted(1, "b", "b"), "does not follow"),
        (MemberJoined(2, Member("c", 1, "c")), "the leader's is 1"),
        (MemberJoined(1, A), "member already"),
        (MemberLeft(1, "a", 2, "left"), "no member in incarnation 2"),
        (MemberLeft(1, "c", 1, "left"), "no member"),
        (MemberChanged(1, Member("a", 2, "a/1/1")), "no member in incarnation 2"),
        (MemberChanged(1, Member("a", 1, "a/2/1")), "another attempt"),
        (ShardsMoved(1, assign={"b": [0]}), "belongs to 'a'"),
        (ShardsMoved(1, assign={"b": [2]}), "belongs to 'a'"),
        (ShardsMoved(1, release={"a": [0]}), "was not revoked"),
        (ShardsMoved(1, release={"b": [2]}), "was not revoked"),
        (ShardsMoved(1, release={"a": [2]}, assign={"c": [2]}), "no member"),
        (ShardsMoved(1, revoke={"b": [0]}), "to give up"),
        (ShardsMoved(1, revoke={"a": [2]}), "to give up"),
        (ShardsMoved(1, revoke={"a": [4]}), "no such shard"),
    ],
)
def test_refused(change: Change, reason: str) -> None:
    state = state_of(HISTORY)
    event = event_of(change, cluster="c", version=state.version + 1, event_id="e")
    with pytest.raises(CorruptEvent, match=reason):
        evolve(state, event)


def test_a_returning_node_needs_a_higher_incarnation() -> None:
    state = apply(state_of(HISTORY), MemberLeft(1, "a", 1, "left"))
    with pytest.raises(ValueError, match="had incarnation 1 before"):
        apply(state, MemberJoined(1, A))


def test_versions_are_without_holes_and_damage_is_not_guessed_at() -> None:
    state = state_of(HISTORY)
    with pytest.raises(CorruptEvent, match="version 7 was expected"):
        evolve(state, event_of(TermStarted(2, "b", "b"), cluster="c", version=8, event_id="e"))
    with pytest.raises(CorruptEvent, match="term"):
        evolve(state, Event(type="ClusterTermStarted", actor_id="aether/cluster/c", version=7, data={"term": "two"}))


def test_what_a_later_version_of_the_code_wrote_is_passed_over() -> None:
    state = evolve(state_of(HISTORY), Event(type="ClusterFoo", actor_id="aether/cluster/c", version=7))
    assert state == msgspec.structs.replace(state_of(HISTORY), version=7)


def test_the_departed_are_forgotten_in_the_end() -> None:
    state = state_of(HISTORY[:2])
    for number in range(1100):
        node = f"n{number}"
        state = apply(apply(state, MemberJoined(1, Member(node, 1, node))), MemberLeft(1, node, 1, "left"))
    assert len(state.retired) == 1024
    assert state.incarnation("n1099") == 1
