"""Clusters of real processes: the short form of `make torture`; and its checkers, seen to find something."""

import asyncio

import pytest

from aether.conformance.torture import checks
from aether.conformance.torture.clusters import Torture
from aether.core import CorruptEvent, Event
from aether.core.cluster.membership import Formed, TermStarted, event_of
from aether.nats.testing import NatsHarness


def owns(at: float, shards: list[int], *, until: float, holder: str = "a/1/1", token: int = 1) -> checks.Line:
    return {"what": "owns", "at": at, "shards": shards, "until": until, "holder": holder, "token": token}


def test_a_cluster_survives() -> None:
    torture = Torture(NatsHarness(), nodes=3, ttl=1.0, seed=5, bound=60.0)
    result = asyncio.run(torture.run(faults=6))

    assert result.sound, result
    assert sum(result.faults.values()) >= 6
    assert result.terms >= 1
    assert result.intervals >= 64
    assert result.answered > 0


def test_intervals_end_with_what_was_given_up_and_with_the_lease() -> None:
    history = [owns(1, [1, 2], until=5), owns(2, [2], until=5), owns(4, [2], until=8), owns(9, [2], until=12)]

    assert sorted(checks.intervals(history)) == [
        (1, 1, 2, "a/1/1"),
        (2, 1, 8, "a/1/1"),
        (2, 9, 12, "a/1/1"),
    ]


@pytest.mark.parametrize(("begin", "found"), [(2.5, 1), (5.0, 0), (4.9, 1), (6.0, 0)])
def test_overlaps_are_found(begin: float, found: int) -> None:
    first = [owns(1, [1], until=5)]
    second = [owns(begin, [1, 2], until=9, holder="b/1/1")]

    assert len(checks.overlaps([first, second])) == found


def test_a_token_that_two_attempts_held_is_found() -> None:
    histories = [[owns(1, [], until=5)], [owns(9, [], until=12, holder="a/2/1")]]

    assert len(checks.duplicate_tokens(histories)) == 1
    assert checks.duplicate_tokens([histories[0], [owns(9, [], until=12, holder="a/2/1", token=2)]]) == []


def test_a_stale_write_that_was_accepted_is_found() -> None:
    changes = [Formed(4, "h"), TermStarted(2, "b", "b/1/1"), TermStarted(1, "a", "a/1/1")]
    events = [event_of(one, cluster="c", version=n, event_id=f"e{n}") for n, one in enumerate(changes, 1)]

    assert checks.replay(events[:2])[1:] == (1, 0)
    with pytest.raises(CorruptEvent, match="does not follow"):
        checks.replay(events)


def test_commands_that_were_executed_twice_or_lost_are_found() -> None:
    stored = [
        Event(type="Counted", actor_id="x", version=version, metadata={"causationid": cause})
        for version, cause in enumerate(("one", "two", "two"), 1)
    ]
    answered = [{"what": "answered", "at": 1, "id": name, "actor": "x", "versions": [1]} for name in ("one", "gone")]

    wrong = checks.commands([answered], stored)
    assert [text.split()[0] for text in wrong] == ["two", "gone"]
