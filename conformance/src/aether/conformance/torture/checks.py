"""What must be true of the histories of a tortured cluster, and of what its store holds in the end."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from aether.core.cluster.membership import EMPTY, ClusterState, MemberJoined, TermStarted, change_of, evolve
from aether.core.event import Event

Line = dict[str, Any]


class Owned(NamedTuple):
    """A shard in the hands of one incarnation of a node, on the clock that all processes of the machine share."""

    shard: int
    begin: float
    end: float
    holder: str


def intervals(history: list[Line]) -> list[Owned]:
    """What one process believed to own, and for how long; a belief ends with its lease at the latest."""
    found: list[Owned] = []
    held: dict[int, float] = {}
    holder, until = "", 0.0

    def end(shards: set[int], at: float) -> None:
        for shard in shards:
            begin = held.pop(shard)
            if min(at, until) > begin:
                found.append(Owned(shard, begin, min(at, until), holder))

    for line in history:
        if line["what"] != "owns":
            continue
        now = set(line["shards"])
        if line["holder"] != holder or line["at"] > until:  # another lease, or one that had run out meanwhile
            end(set(held), line["at"])
        end(set(held) - now, line["at"])
        holder, until = line["holder"], line["until"]
        for shard in now - set(held):
            held[shard] = line["at"]
    end(set(held), float("inf"))
    return found


def overlaps(histories: list[list[Line]]) -> list[tuple[Owned, Owned]]:
    """The pairs of intervals in which two incarnations owned one shard."""
    by_shard: dict[int, list[Owned]] = defaultdict(list)
    for history in histories:
        for owned in intervals(history):
            by_shard[owned.shard].append(owned)
    found: list[tuple[Owned, Owned]] = []
    for some in by_shard.values():
        some.sort(key=lambda owned: owned.begin)
        latest = some[0]
        for owned in some[1:]:
            if owned.begin < latest.end and owned.holder != latest.holder:
                found.append((latest, owned))
            latest = max(latest, owned, key=lambda one: one.end)
    return found


def duplicate_tokens(histories: list[list[Line]]) -> list[str]:
    """The nodes and tokens that two attempts have held."""
    holders: dict[tuple[str, int], set[str]] = defaultdict(set)
    for history in histories:
        for line in history:
            if line["what"] == "owns" and line["token"]:
                holders[line["holder"].partition("/")[0], line["token"]].add(line["holder"])
    return [f"{key}: {sorted(some)}" for key, some in holders.items() if len(some) > 1]


def replay(events: list[Event]) -> tuple[ClusterState, int, int]:
    """The membership, the terms of leaders and the incarnations of nodes; raises where a stale write was accepted."""
    state, terms, incarnations = EMPTY, 0, 0
    for event in events:
        state = evolve(state, event)
        change = change_of(event)
        terms += isinstance(change, TermStarted)
        incarnations += isinstance(change, MemberJoined)
    return state, terms, incarnations


def commands(histories: list[list[Line]], events: list[Event]) -> list[str]:
    """Commands that were executed twice, or answered with what is not stored."""
    stored: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for event in events:
        stored[event.metadata["causationid"]].append((event.actor_id, event.version))
    wrong = [f"{command} has caused {caused}" for command, caused in stored.items() if len(caused) > 1]
    for history in histories:
        for line in history:
            if line["what"] == "answered":
                answered = [(line["actor"], version) for version in line["versions"]]
                if stored.get(line["id"]) != answered:
                    wrong.append(f"{line['id']} was answered with {answered}, stored is {stored.get(line['id'])}")
    return wrong
