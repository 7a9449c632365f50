"""What `cluster.events()` tells: the membership as a node follows it, in order, each with the version that it is of."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from aether.core.cluster.membership import (
    Change,
    ClusterState,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    TermStarted,
)
from aether.core.errors import SlowConsumer


class NodeUp(msgspec.Struct, frozen=True):
    """A node has joined."""

    version: int
    node: str
    incarnation: int
    meta: dict[str, Any] = {}


class NodeChanged(msgspec.Struct, frozen=True):
    """A node has another weight or meta, or is draining."""

    version: int
    node: str
    incarnation: int
    weight: float
    draining: bool
    meta: dict[str, Any] = {}


class NodeSuspect(msgspec.Struct, frozen=True):
    """A node has not renewed its lease for half of its ttl. Only this node's opinion, and only where it may lead."""

    version: int
    node: str
    incarnation: int


class NodeDown(msgspec.Struct, frozen=True):
    """An incarnation of a node is over for good: `left`, `stopped`, `expired` or `replaced`."""

    version: int
    node: str
    incarnation: int
    reason: str


class LeaderChanged(msgspec.Struct, frozen=True):
    """A node leads the cluster; `token` fences all leaders before it."""

    version: int
    node: str
    token: int


class ShardsGained(msgspec.Struct, frozen=True):
    """This node owns more shards."""

    version: int
    shards: frozenset[int]


class ShardsLost(msgspec.Struct, frozen=True):
    """This node owns these shards no longer."""

    version: int
    shards: frozenset[int]


ClusterEvent = NodeUp | NodeChanged | NodeSuspect | NodeDown | LeaderChanged | ShardsGained | ShardsLost


def notice_of(change: Change | None, state: ClusterState) -> ClusterEvent | None:
    """What a change means for users; the moves of shards are told by those who gain and lose them."""
    match change:
        case TermStarted():
            return LeaderChanged(state.version, change.leader, change.term)
        case MemberJoined():
            return NodeUp(state.version, change.member.id, change.member.incarnation, change.member.meta)
        case MemberChanged():
            member = change.member
            return NodeChanged(
                state.version, member.id, member.incarnation, member.weight, member.draining, member.meta
            )
        case MemberLeft():
            return NodeDown(state.version, change.id, change.incarnation, change.reason)
        case _:
            return None


class Notices:
    """Hands every notice to everybody who listens. Who is too slow is told how much is missing."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()
        self._end: Exception | None = None

    def tell(self, notice: ClusterEvent) -> None:
        """Hand it to all who listen now."""
        for listener in self._listeners:
            listener.put(notice)

    def close(self, end: Exception) -> None:
        """Let all iterators raise `end` behind what was told."""
        self._end = end
        for listener in self._listeners:
            listener.arrived.set()

    async def listen(self, first: Callable[[], list[ClusterEvent]], buffer: int) -> AsyncIterator[ClusterEvent]:
        """What is true now, then what is told from now on."""
        listener = _Listener(buffer)
        self._listeners.add(listener)
        try:
            for notice in first():
                yield notice
            while True:
                while listener.waiting:
                    yield listener.waiting.popleft()
                if listener.dropped:
                    dropped, listener.dropped = listener.dropped, 0
                    raise SlowConsumer(dropped=dropped, buffer=buffer)
                if self._end is not None:
                    raise self._end
                listener.arrived.clear()
                await listener.arrived.wait()
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self, buffer: int) -> None:
        self.waiting: deque[ClusterEvent] = deque()
        self.arrived = asyncio.Event()
        self.dropped = 0
        self._buffer = buffer

    def put(self, notice: ClusterEvent) -> None:
        if self.dropped or len(self.waiting) >= self._buffer:
            self.dropped += 1
        else:
            self.waiting.append(notice)
        self.arrived.set()
