"""Queues: of the members of one queue, in all processes, each message goes to whoever claims it first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from aether.core.errors import OutcomeUnknown, Unavailable
from aether.core.filters import EventFilter
from aether.core.names import namespace_matches
from aether.core.spi import BusFilter, Message, Sink
from aether.redis.lines import Line

_CLAIM_MILLISECONDS = 60_000  # twice what a subscriber may sleep before it drops what waits for it
_AT_ONCE = 256


class Member:
    """One subscription that shares."""

    def __init__(self, wanted: BusFilter, sink: Sink) -> None:
        self._namespaces = wanted.namespaces
        self._events = EventFilter(types=wanted.types, actors=wanted.actors)
        self.sink = sink
        self.taken = 0
        """How many messages it has been given: the next goes to the one with the fewest."""

    def wants(self, message: Message) -> bool:
        """Exactly: what is claimed in vain is lost for the others."""
        return (
            namespace_matches(self._namespaces, message.namespace)
            and self._events.wants_type(message.type)
            and self._events.wants_actor(message.actor_id)
        )


class Queue:
    """The members of one queue in this process."""

    def __init__(self, line: Line, claims: bytes) -> None:
        """`claims` is what the keys begin with that say that a message is taken."""
        self.members: list[Member] = []
        self._line = line
        self._claims = claims
        self._waiting: deque[tuple[bytes, Message, list[Member]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def heard(self, member: Member, name: bytes, message: Message) -> None:
        """A message for a member; those of one process hear it one after the other."""
        if not member.wants(message):
            return
        if self._waiting and self._waiting[-1][0] == name:
            self._waiting[-1][2].append(member)
            return
        self._waiting.append((name, message, [member]))
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Claim nothing more. May be called twice."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.cancel()
            await asyncio.wait([worker])

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
                commands = [("SET", self._claims + name, 1, "NX", "PX", _CLAIM_MILLISECONDS) for name, _, _ in batch]
                try:
                    won = await self._line.call("claiming messages of a queue", *commands, writes=True)
                except (Unavailable, OutcomeUnknown):  # at most once: who may have taken them does not ask again
                    for member in self.members:
                        member.sink.interrupted()
                    continue
                for (_, message, wanting), mine in zip(batch, won, strict=True):
                    if mine is not None:
                        self._give(message, wanting)
        finally:
            self._worker = None

    def _give(self, message: Message, wanting: Sequence[Member]) -> None:
        there = [member for member in wanting if member in self.members]
        if there:
            chosen = min(there, key=lambda member: member.taken)
            chosen.taken += 1
            chosen.sink.deliver(message)
