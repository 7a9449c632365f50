"""A node's own place in the cluster: its lease, what it owns, and how it gives up what it has to.

Ownership is a level, not an edge: a node owns a shard while the map says so, to this very incarnation, and its own
lease is valid now. Nothing has to arrive for it to end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec

from aether.core.cluster._signal import Signal
from aether.core.cluster.follower import PASSING, Follower
from aether.core.cluster.membership import Acknowledged, Change, ClusterState, Member, owner_of
from aether.core.cluster.nodes import Profile, check_profile, node_lease
from aether.core.cluster.notices import Notices, ShardsGained, ShardsLost
from aether.core.election import Election
from aether.core.errors import TimedOut
from aether.core.term import Term

_log = logging.getLogger("aether.cluster")

Shards = frozenset[int]
Handler = Callable[[Shards], Awaitable[None]]


def owned_by(state: ClusterState, node: str, *, incarnation: int, holder: str, acknowledged: Acknowledged) -> Shards:
    """The shards that this incarnation may use while its lease is valid.

    Those that are assigned to it and not revoked, and those whose heir it is, as soon as it has been acknowledged that
    they were given up.
    """
    member = state.members.get(node)
    if member is None or (member.incarnation, member.holder) != (incarnation, holder):
        return frozenset()
    inherited = [shard for shard, heir in state.heirs.items() if heir == node]
    return frozenset(
        shard
        for some in ((s for s, owner in enumerate(state.owners) if owner == node), inherited)
        for shard in some
        if owner_of(state, shard, acknowledged) == node
    )


class Presence:
    """This node: one lease after the other, and the shards that go with them."""

    def __init__(
        self,
        election: Election,
        follower: Follower,
        notices: Notices,
        *,
        cluster: str,
        node: str,
        profile: Profile,
        ttl: float,
        drain_timeout: float,
        acknowledged: Acknowledged,
    ) -> None:
        self._acknowledged = acknowledged
        self._election = election
        self._clock = election._clock
        self._follower = follower
        self._notices = notices
        self._cluster = cluster
        self._node = node
        self._ttl = ttl
        self._drain_timeout = drain_timeout
        self._mine: Shards = frozenset()
        self._handled: Shards = frozenset()  # what the handlers were last told of
        self._gone: Shards = frozenset()  # what was lost since, also if it is here again
        self._handling: set[asyncio.Task[None]] = set()
        self.profile = profile
        self.term: Term | None = None
        """The lease while there is one."""

        self.changed = Signal()
        self.gained: list[Handler] = []
        self.lost: list[Handler] = []
        follower.watchers.append(self._follow)

    # --- What it owns ---

    @property
    def shards(self) -> Shards:
        """The shards that this node owns now. No I/O."""
        return self._mine if self.term is not None and self.term.valid() else frozenset()

    def owns(self, shard: int) -> bool:
        """Whether this node owns the shard now. No I/O: the map that it has followed, and its own clock."""
        return shard in self._mine and self.term is not None and self.term.valid()

    @property
    def member(self) -> Member | None:
        """This incarnation as the history knows it, None before it has joined."""
        member, term = self._follower.state.members.get(self._node), self.term
        if member is None or term is None or (member.incarnation, member.holder) != (term.token, term.holder):
            return None
        return member

    def owner_of(self, shard: int) -> str:
        """The node that owns the shard as far as this one knows, empty while nobody does. No I/O."""
        return owner_of(self._follower.state, shard, self._acknowledged)

    def heard(self) -> None:
        """Look again at what was inherited: more has been acknowledged."""
        if self._follower.state.heirs:
            self._refresh(self._follower.state)
            self._follower.changed.set()  # commands wait for that

    def _follow(self, change: Change | None, state: ClusterState) -> None:
        self._refresh(state)

    def _refresh(self, state: ClusterState) -> None:
        term, before = self.term, self._mine
        self._mine = (
            frozenset()
            if term is None
            else owned_by(
                state,
                self._node,
                incarnation=term.token,
                holder=term.holder,
                acknowledged=self._acknowledged,
            )
        )
        self._gone |= before - self._mine
        self.changed.set()

    # --- Its lease ---

    async def keep(self) -> None:
        """Hold a lease, for ever: behind a lost one comes another incarnation, which owns nothing at first."""
        while True:
            term = await self._campaign()
            self.term = term
            term.tell(self._stored)
            self.say(at_once=False)  # something else may have been said during the campaign
            self._refresh(self._follower.state)
            self._follower.hint(leases=True)
            try:
                await term.lost.wait()
            finally:
                self.term = None
                self._refresh(self._follower.state)
                await term.resign()
            _log.warning("cluster %r: node %r has lost its lease and owns nothing now", self._cluster, self._node)

    async def _campaign(self) -> Term:
        name = node_lease(self._cluster, self._node)
        while True:
            meta = msgspec.to_builtins(self.profile)
            with suppress(TimedOut):
                return await self._election.campaign(
                    name, ttl=self._ttl, timeout=2 * self._ttl, floor=self._floor, meta=meta
                )
            _log.warning(
                "cluster %r: another process holds the place of node %r; this one stands by. "
                "Two processes need two names", self._cluster, self._node,
            )  # fmt: skip

    async def _floor(self) -> int:
        with suppress(*PASSING):
            await self._follower.sync()
        return self._follower.state.incarnation(self._node)

    def _stored(self) -> None:
        if not self._election.push:  # nobody is told of changes of the register: say so on the bus
            self._follower.hint(leases=True)

    def say(self, *, at_once: bool = True, **fields: Any) -> None:
        """Say something else of this node, in its lease. Raises `PayloadTooLarge` or `InvalidEvent`."""
        profile = msgspec.structs.replace(self.profile, **fields)
        check_profile(profile)
        if self.term is not None:
            self.term.update(msgspec.to_builtins(profile), at_once=at_once)
        self.profile = profile

    # --- Giving up and taking over ---

    async def hand_over(self) -> None:
        """Tell the handlers what was lost and gained, and acknowledge what was revoked, for ever."""
        while True:
            state, mine = self._follower.state, self.shards
            gone, self._gone = self._gone, frozenset()
            lost = self._handled - (mine - gone)
            if lost:
                self._handled -= lost
                self._notices.tell(ShardsLost(state.version, lost))
            # What came and went before the handlers were told of it may have been used all the same.
            if given := lost | gone | self._asked_for(state):
                await self._call(self.lost, given)
            self._acknowledge(state)
            if gained := (mine & self.shards) - self._handled:
                self._handled |= gained
                self._notices.tell(ShardsGained(state.version, gained))
                await self._call(self.gained, gained)
            if (self._follower.state, self.shards) == (state, mine) and self._handled == mine and not self._gone:
                await self._wait()

    async def _wait(self) -> None:
        term = self.term
        if term is None or not term.valid():
            await self.changed.wait()
            return
        lost = asyncio.ensure_future(term.lost.wait())
        changed = asyncio.ensure_future(self.changed.wait())
        try:
            await asyncio.wait((lost, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
            changed.cancel()

    def _asked_for(self, state: ClusterState) -> Shards:
        """The shards that were revoked from this incarnation, and not given up yet."""
        if self.member is None:
            return frozenset()
        return frozenset(
            shard
            for shard, at in state.revoking.items()
            if at > self.profile.applied and state.owners[shard] == self._node
        )

    def _acknowledge(self, state: ClusterState) -> None:
        """Say how far the membership was followed; at once if somebody waits for it."""
        if state.version > self.profile.applied and self.member is not None:
            self.say(applied=state.version, at_once=bool(self._asked_for(state)))

    async def _call(self, handlers: list[Handler], shards: Shards) -> None:
        """Await the handlers, up to the bound: what they still do then is up to the fence.

        Those that take longer are cancelled, and not waited for: not all of them heed that.
        """
        tasks = [asyncio.create_task(self._handle(handler, shards)) for handler in handlers]
        self._handling.update(tasks)
        for task in tasks:
            task.add_done_callback(self._handling.discard)
        try:
            async with self._clock.timeout(self._drain_timeout):
                while running := [task for task in tasks if not task.done()]:
                    await asyncio.wait(running)
        except TimeoutError:
            _log.warning(
                "cluster %r: handlers took longer than %g s with %d shards; it goes on without them",
                self._cluster, self._drain_timeout, len(shards),
            )  # fmt: skip
        finally:
            for task in tasks:
                task.cancel()

    async def _handle(self, handler: Handler, shards: Shards) -> None:
        try:
            await handler(shards)
        except Exception:  # noqa: BLE001 - a shard is handed over whatever the user's code raises
            _log.exception("cluster %r: a handler has failed", self._cluster)
