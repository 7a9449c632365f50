"""The leader of a cluster: it writes the history that all nodes follow. What it writes is decided in `duties`."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from typing import NoReturn

from aether.core.cluster import duties
from aether.core.cluster.duties import Rules
from aether.core.cluster.follower import PASSING, Follower
from aether.core.cluster.membership import Change, Formed, TermStarted
from aether.core.cluster.nodes import NodeWatch, leader_lease
from aether.core.election import Election
from aether.core.errors import CorruptLease, VersionConflict
from aether.core.lease import RETRY
from aether.core.sharding import HASH
from aether.core.term import Term

_log = logging.getLogger("aether.cluster")
_LONGEST_PAUSE = 1.0  # seconds


class Leader:
    """A candidate for leadership, and what it does once it leads.

    Nothing here has to be trusted with the election: the first act of a term is an append with an expected version,
    and so is every other. A leader that does not know yet that it was replaced fails, reads, and sees the higher term.
    """

    def __init__(
        self,
        election: Election,
        follower: Follower,
        watch: NodeWatch,
        *,
        cluster: str,
        node: str,
        shards: int,
        ttl: float,
        rules: Rules,
    ) -> None:
        self._election = election
        self._clock = election._clock
        self._random = election._random
        self._follower = follower
        self._watch = watch
        self._cluster = cluster
        self._node = node
        self._shards = shards
        self._ttl = ttl
        self._rules = rules
        self._reaped: list[float] = []  # when, within the last ttl
        follower.watchers.append(lambda _change, _state: watch.changed.set())
        self.term: Term | None = None
        """The term while this node leads."""

    async def run(self) -> NoReturn:
        """Campaign and lead, for ever."""
        await self._election.run(leader_lease(self._cluster), self._lead, ttl=self._ttl, floor=self._floor)

    async def _floor(self) -> int:
        with suppress(*PASSING):
            await self._follower.sync()
        return self._follower.state.term

    async def _lead(self, term: Term) -> None:
        self.term = term
        try:
            if await self._begin(term):
                _log.info("cluster %r: %r leads with token %d", self._cluster, self._node, term.token)
                while self._follower.state.term == term.token:
                    await self._step(term)
        finally:
            self.term = None

    async def _begin(self, term: Term) -> bool:
        """The barrier: when this append has succeeded, no append of an older term will. Whether the term has begun."""
        while True:
            try:
                state = await self._follower.sync()
                if state.term >= term.token:
                    return (state.term, state.holder) == (term.token, term.holder)  # its acknowledgement was lost
                first: list[Change] = [] if state.shards else [Formed(self._shards, HASH)]
                await self._append([*first, TermStarted(term.token, self._node, term.holder)])
            except VersionConflict as conflict:
                await self._read(conflict)
            except PASSING:
                await self._pause()
            else:
                return True

    async def _step(self, term: Term) -> None:
        """Append what is due, or replace leases that have run out, or wait until there may be something to do."""
        now = self._clock.now()
        state, tracks = self._follower.state, self._watch.tracks
        due = duties.due(state, tracks, self._rules, now=now)
        if due.changes:
            term.check()
            try:
                await self._append(due.changes)
            except VersionConflict as conflict:
                await self._read(conflict)
            except PASSING:
                await self._pause()
            return
        nodes = duties.expired(state, tracks, now=now, ttl=self._ttl, resumed=self._watch.resumed)
        if allowed := self._allowed(nodes, now):
            await self._reap(term, allowed)
        else:
            await self._rest(due.again)

    async def _append(self, changes: list[Change]) -> None:
        await self._follower.append(changes, ids=lambda: f"{self._random.getrandbits(128):032x}")

    async def _read(self, conflict: VersionConflict) -> None:
        with suppress(*PASSING):
            await self._follower.refused(conflict.current)
            return
        await self._pause()

    # --- Replacing leases ---

    def _allowed(self, nodes: list[str], now: float) -> list[str]:
        self._reaped = [time for time in self._reaped if time > now - self._ttl]
        members = len(self._follower.state.members)
        allowed = duties.braked(nodes, members=members, recent=len(self._reaped), brake=self._rules.brake)
        if len(allowed) < len(nodes):
            _log.warning(
                "cluster %r: %d of %d nodes have not renewed their leases; no more than %d are replaced within %g s",
                self._cluster, len(nodes), members, len(allowed) + len(self._reaped), self._ttl,
            )  # fmt: skip
        return allowed

    async def _reap(self, term: Term, nodes: list[str]) -> None:
        judged = [(node, self._watch.tracks[node], self._follower.state.members[node]) for node in nodes]
        for node, track, member in judged:
            term.check()
            try:
                if await self._watch.reap(node, track, incarnation=member.incarnation):
                    self._reaped.append(self._clock.now())
            except (CorruptLease, *PASSING):
                await self._pause()

    # --- Waiting ---

    async def _rest(self, again: float) -> None:
        """Until membership or leases change, or the next lease runs out. What the brake holds back waits, too."""
        now = self._clock.now()
        tracks = self._watch.tracks
        times = [again, *(time + self._ttl for time in self._reaped)]
        for node, member in self._follower.state.members.items():
            if node in tracks and not duties.over(member, tracks[node].lease):
                times.append(duties.expires(member, tracks[node], ttl=self._ttl, resumed=self._watch.resumed))
        seconds = min((time - now for time in times if now < time < math.inf), default=None)
        with suppress(TimeoutError):
            async with self._clock.timeout(seconds):
                await self._watch.changed.wait()

    async def _pause(self) -> None:
        await self._clock.sleep(min(_LONGEST_PAUSE, self._ttl * RETRY * self._random.uniform(0.5, 1.0)))
