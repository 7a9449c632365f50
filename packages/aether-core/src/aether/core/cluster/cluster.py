"""The cluster that users hold: one node of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

from aether.core.bus import EventBus
from aether.core.cluster.crew import Crew, bounded
from aether.core.cluster.duties import Rules
from aether.core.cluster.follower import PASSING, Follower
from aether.core.cluster.host import Host
from aether.core.cluster.leader import Leader
from aether.core.cluster.membership import Change, ClusterState
from aether.core.cluster.nodes import NodeWatch, Profile, check_profile, check_settings
from aether.core.cluster.notices import (
    ClusterEvent,
    LeaderChanged,
    NodeUp,
    Notices,
    ShardsGained,
    notice_of,
)
from aether.core.cluster.presence import Handler, Presence
from aether.core.cluster.routing import Asked, Owner, Router
from aether.core.cluster.suspects import suspect
from aether.core.cluster.view import ClusterView, view_of
from aether.core.election import DEFAULT_TTL, Election
from aether.core.errors import Closed, TimedOut
from aether.core.event import Event
from aether.core.names import check_name, check_namespace
from aether.core.sharding import HASH, SHARDS, shard_of
from aether.core.store import EventStore

_log = logging.getLogger("aether.cluster")


class Backends(Protocol):
    """What a cluster is made of: `aether.core.connect` gives it."""

    @property
    def store(self) -> EventStore: ...

    @property
    def bus(self) -> EventBus: ...

    @property
    def election(self) -> Election: ...


class Cluster:
    """One node of a cluster, from `async with` to its end.

        async with connect(url, namespace="shop") as shop, Cluster(shop, name="shop", node="node-a") as cluster:
            if cluster.owns("order-7"): ...

    Entering it joins and waits until the node is a member; leaving it hands its shards over first. In between a node
    that loses its lease (its process was paused, or the register out of reach, for longer than `ttl`) owns nothing,
    joins again by itself, and gets shards again.

    **Guarantees.** No actor is owned by two nodes at one time, as long as the rates of their clocks differ by no more
    than 5 %. Every node sees the same history of members and shards, in the same order. A shard of a node that died
    is owned again within about 1.1 `ttl`, while the register can be reached. What it cannot guarantee is what happens
    between `owns()` and an effect of yours: an append is fenced by its version, other effects are not.

    `node` names the node; a name of its own lets a restarted node have its shards back, and makes it wait for the
    lease that it left behind in a crash. Without one it gets a name that is used once. `weight` is its share of the
    shards relative to others, `meta` a small JSON object that all nodes see. `ttl` is the time in seconds that others
    wait behind a node that fell silent, `shards` the number into which actors are divided for ever: all nodes name the
    same. A node with `eligible=False` never leads. `drain_timeout` bounds in seconds how long handlers of `on_loss`
    and running commands may hold up a shard that has to be given up.

    Safe to use from many tasks of one event loop. What goes wrong for good in the background (`CorruptEvent`,
    `StoreIdentityChanged`, `ClusterMismatch`) ends ownership and is raised by every call, and at the end of the block.
    """

    def __init__(
        self,
        connection: Backends,
        *,
        name: str = "default",
        node: str | None = None,
        weight: float = 1.0,
        meta: dict[str, Any] | None = None,
        ttl: float = DEFAULT_TTL,
        shards: int = SHARDS,
        eligible: bool = True,
        join_timeout: float | None = None,
        drain_timeout: float = 5.0,
        rules: Rules | None = None,
    ) -> None:
        self.name = check_namespace(name)
        self._store, self._election = connection.store, connection.election
        self.node = check_name("node", self._election.holder.replace("/", "-") if node is None else node)
        check_settings(self.node, weight=weight, ttl=ttl, shards=shards)
        self.ttl = ttl
        self._join_timeout = 4 * ttl if join_timeout is None else join_timeout
        self._clock = self._election._clock
        self._notices = Notices()
        inbox = f"cluster/{name}/inbox/{self._election._random.getrandbits(64):016x}"
        profile = Profile(shards=shards, hash=HASH, inbox=inbox, weight=float(weight), meta=meta or {})
        check_profile(profile)
        self._follower = Follower(connection.store, connection.bus, name, shards=shards, ttl=ttl, clock=self._clock)
        self._watch = NodeWatch(self._election, name, ttl=ttl, members=lambda: self._follower.state.members)
        self._presence = Presence(
            self._election,
            self._follower,
            self._notices,
            cluster=name,
            node=self.node,
            profile=profile,
            ttl=ttl,
            drain_timeout=drain_timeout,
            acknowledged=self._watch.acknowledged,
        )
        self._watch.heard.append(self._presence.heard)
        self._router = Router(
            connection.bus, self._follower, self._presence, node=self.node, inbox=inbox, clock=self._clock
        )
        self._leader = self._candidate(shards, rules or Rules()) if eligible else None
        self._crew = Crew(self._failed)
        self._state = "new"
        self._closing: asyncio.Task[None] | None = None
        self._joining: asyncio.Timeout | None = None
        self._follower.watchers.append(self._tell)

    def _candidate(self, shards: int, rules: Rules) -> Leader:
        return Leader(
            self._election,
            self._follower,
            self._watch,
            cluster=self.name,
            node=self.node,
            shards=shards,
            ttl=self.ttl,
            rules=rules,
        )

    # --- Life ---

    async def open(self) -> Self:
        """Join, and wait until the node is a member; `async with` does it for you.

        Raises `TimedOut` when there is no place or no leader within `join_timeout` seconds (4 ttl by default),
        `ClusterMismatch` for another number of shards than the cluster's, `Unavailable`, and `Closed` when it is
        closed meanwhile.
        """
        if self._state != "new":
            raise RuntimeError(f"{self} was opened before")
        self._state = "joining"
        try:
            async with bounded(self._clock, f"joining as {self}", self._join_timeout) as self._joining:
                await self._follower.sync()
                await self._start()
                while self._presence.member is None:
                    await self._presence.changed.wait()
                    self._live()
            if self._state != "joining":
                raise Closed(str(self))
        except BaseException as error:
            closed, self._state = self._state == "closed", "closed"
            self._closing = asyncio.create_task(self._stop())
            await asyncio.shield(self._closing)
            if closed and isinstance(error, TimedOut):
                raise Closed(str(self)) from None
            raise
        self._state = "open"
        return self

    async def _start(self) -> None:
        run, heard = self._crew.run, asyncio.Event()
        run(self._follower.listen())
        run(self._follower.speak())
        run(self._router.receive(heard.set))
        run(self._follower.run())
        await heard.wait()  # whoever knows of this node may send commands at once
        run(self._presence.keep())
        run(self._presence.hand_over())
        if self._leader is not None:
            run(self._watch.run())
            run(self._look())
            run(suspect(self._watch, self._follower, self._notices, clock=self._clock, ttl=self.ttl))
            run(self._leader.run())

    async def close(self) -> None:
        """Hand the shards over, then leave. May be called twice. Bounded by `join_timeout` seconds.

        While `open()` is under way it only makes that end, with `Closed`.
        """
        if self._state in ("new", "joining"):
            self._state = "closed"
            if self._joining is not None and not self._joining.expired():
                self._joining.reschedule(asyncio.get_running_loop().time())
        if self._state == "open":
            self._state = "leaving"
            # A task of its own: cancelling one caller of close() must not leave the node half way out.
            self._closing = asyncio.create_task(self._leave())
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def _leave(self) -> None:
        try:
            with suppress(TimedOut):
                await self._hand_over("leaving")
        finally:
            await self._stop()
            self._state = "closed"

    async def _hand_over(self, what: str) -> None:
        self._presence.say(draining=True)
        self._follower.hint(leases=True)
        async with bounded(self._clock, f"{what} as {self}", self._join_timeout):
            while self._holds_shards() and self._crew.failure is None:
                await self._presence.changed.wait()

    def _holds_shards(self) -> bool:
        """Whether this node still has shards that somebody else could take."""
        state = self._follower.state
        others = any(not member.draining for member in state.members.values() if member.id != self.node)
        return self._presence.member is not None and others and self.node in (*state.owners, *state.heirs.values())

    async def _stop(self) -> None:
        await self._crew.stop()
        await self._router.close()
        self._notices.close(self._end())
        with suppress(*PASSING, Closed):
            await self._follower.say(leases=True)  # the lease was given back

    def _failed(self, error: BaseException) -> None:
        _log.error("%s cannot go on: %s", self, error)
        self._presence.changed.set()
        self._notices.close(self._end())

    def _end(self) -> Exception:
        return self._crew.failure if isinstance(self._crew.failure, Exception) else Closed(str(self))

    def _live(self) -> None:
        if self._crew.failure is not None:
            raise self._crew.failure
        if self._state not in ("joining", "open", "leaving"):
            raise Closed(str(self), never_opened=self._state == "new")

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
        if self._crew.failure is not None and error is None:
            raise self._crew.failure

    # --- Who owns what ---

    def owns(self, actor_id: str) -> bool:
        """Whether this node owns the actor now: at most one node does. No I/O; False when in doubt."""
        shards = self._follower.state.shards
        return shards > 0 and self._presence.owns(shard_of(actor_id, shards))

    @property
    def shards(self) -> frozenset[int]:
        """The shards that this node owns now. No I/O."""
        return self._presence.shards

    def locate(self, actor_id: str) -> Owner | None:
        """Who owns the actor, as far as this node knows; None while nobody does. No I/O, and it may have changed."""
        return self._router.locate(check_name("actor id", actor_id))

    @property
    def members(self) -> frozenset[str]:
        """The nodes of the cluster, as far as this node knows."""
        return frozenset(self._follower.state.members)

    @property
    def version(self) -> int:
        """The version of the membership that this node has followed up to."""
        return self._follower.state.version

    @property
    def leads(self) -> bool:
        """Whether this node leads the cluster now."""
        return self._leader is not None and self._leader.term is not None and self._leader.term.valid()

    def view(self) -> ClusterView:
        """What an operator wants to know; `str()` of it is a table. No I/O."""
        tracks = None if self._leader is None else self._watch.tracks
        return view_of(
            self._follower.state, tracks, name=self.name, node=self.node, now=self._clock.now(), ttl=self.ttl
        )

    # --- What happens ---

    def events(self, *, buffer: int = 1024) -> AsyncIterator[ClusterEvent]:
        """Iterate over what happens, without end: first the leader, the members and the shards as they are now.

        `NodeUp`, `NodeChanged`, `NodeSuspect`, `NodeDown`, `LeaderChanged`, `ShardsGained`, `ShardsLost`, each with
        the version of the membership that it is of. Raises `SlowConsumer` behind a gap, `Closed` at the end.
        """
        self._live()
        return self._notices.listen(self._now, buffer)

    def _now(self) -> list[ClusterEvent]:
        state, owned = self._follower.state, self.shards
        leader = [LeaderChanged(state.version, state.leader, state.term)] if state.term else []
        up = [NodeUp(state.version, node.id, node.incarnation, node.meta) for node in state.members.values()]
        return [*leader, *up, *([ShardsGained(state.version, owned)] if owned else [])]

    def on_gain(self, handler: Handler) -> Handler:
        """Await `handler(shards)` when this node has begun to own shards. Usable as a decorator."""
        self._presence.gained.append(handler)
        return handler

    def on_loss(self, handler: Handler) -> Handler:
        """Await `handler(shards)` when this node has ceased to own shards. Usable as a decorator.

        Nobody else owns them before the handlers have ended, up to `drain_timeout` seconds, if the shards were revoked;
        if the lease was lost, others may own them already.
        """
        self._presence.lost.append(handler)
        return handler

    # --- Commands ---

    def host(self, host: Host[Any, Any]) -> None:
        """Handle commands for the actors of this node with a `Host`. Others answer that the actor is elsewhere."""

        async def work(actor_id: str, batch: list[Asked]) -> None:
            await host.work(actor_id, batch, owned=lambda: self.owns(actor_id))

        async def forget(shards: frozenset[int]) -> None:
            count = self._follower.state.shards
            host.forget(lambda actor_id: shard_of(actor_id, count) in shards)

        self._router.serve(work)
        self._presence.lost.append(forget)

    async def ask(
        self, actor_id: str, command: Event, *, timeout: float | None = None, once: bool = False
    ) -> tuple[Event, ...]:
        """Send a command to the owner of an actor, and return the events that it has caused.

        From any node. `command` is an event: its type, data and id count, its actor and version do not. While a shard
        moves it waits. An answer that does not come is asked for again, by the same command id: a `Host` answers it
        from the log. With `once=True` a command that was sent is never sent again.

        Raises `CommandRefused` when the owner's code raises, and `TimedOut` within `timeout` seconds (the store's by
        default): then the command may have been handled, and asking with the same id again is safe.
        """
        self._live()
        seconds = self._store.timeout if timeout is None else timeout
        if not seconds > 0:
            raise ValueError(f"timeout is a number of seconds above 0, not {seconds!r}")
        return await self._router.ask(actor_id, command, timeout=seconds, once=once)

    # --- What this node says of itself ---

    async def drain(self) -> None:
        """Give all shards away, and get no others, but stay a member: `fill` ends that.

        Returns when this node owns nothing, or when nobody else is there to take it. Bounded by `join_timeout`.
        """
        self._live()
        await self._hand_over("draining")
        self._live()

    def fill(self) -> None:
        """Take part in the distribution of shards again."""
        self._live()
        self._presence.say(draining=False)

    def update(self, *, weight: float | None = None, meta: dict[str, Any] | None = None) -> None:
        """Change the weight or the meta of this node; the others learn of it soon."""
        self._live()
        said: dict[str, Any] = {} if meta is None else {"meta": meta}
        if weight is not None:
            check_settings(self.node, weight=weight, ttl=self.ttl, shards=1)
            said["weight"] = float(weight)
        self._presence.say(**said)

    # --- Helpers ---

    def _tell(self, change: Change | None, state: ClusterState) -> None:
        notice = notice_of(change, state)
        if notice is not None:
            self._notices.tell(notice)

    async def _look(self) -> None:
        """Read all leases when somebody hints at news, where the register does not tell by itself."""
        while True:
            await self._follower.look()
            if not self._watch.push:
                with suppress(*PASSING):
                    await self._watch.look()

    def __str__(self) -> str:
        return f"node {self.node!r} of cluster {self.name!r}"

    def __repr__(self) -> str:
        return f"<{self} ({self._state})>"
