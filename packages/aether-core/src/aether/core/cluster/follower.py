"""Following the membership: every node holds the same state at the same version, some of them a little later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from aether.core.bus import EventBus
from aether.core.clock import Clock
from aether.core.cluster._signal import Signal
from aether.core.cluster.membership import EMPTY, Change, ClusterState, actor_of, change_of, event_of, evolve
from aether.core.errors import (
    ClusterMismatch,
    InvalidSnapshot,
    PayloadTooLarge,
    SlowConsumer,
    StaleRead,
)
from aether.core.event import Event, Snapshot, new_id
from aether.core.lease import TRANSIENT
from aether.core.sharding import HASH
from aether.core.store import EventStore

_SNAPSHOT = "aether.cluster.2"
_SNAPSHOT_EVERY = 100  # events
_POLL = 0.05  # of the ttl: without a hint, how long an event may stay unnoticed
_SHORTEST_POLL, _LONGEST_POLL = 0.02, 1.0  # seconds

PASSING = (*TRANSIENT, StaleRead)
"""The errors behind which one tries again."""

HINT = "ClusterHint"
"""The type of the hints on the bus: `version` is what the membership is at, at least. Losing them costs time only."""

Watcher = Callable[[Change | None, ClusterState], None]


class Follower:
    """The membership as this node knows it.

    It reads the one actor, woken by hints on the bus, and without them a few times per second: a subscription would
    read everything else in the store, too.
    """

    def __init__(
        self, store: EventStore, bus: EventBus, cluster: str, *, shards: int, ttl: float, clock: Clock
    ) -> None:
        self._store = store
        self._bus = bus
        self._cluster = cluster
        self._actor = actor_of(cluster)
        self._shards = shards
        self._clock = clock
        self._poll = min(max(ttl * _POLL, _SHORTEST_POLL), _LONGEST_POLL)
        self._lock = asyncio.Lock()
        self._behind = asyncio.Event()  # stays set: what is said during a read is for the next one
        self._unsaid: dict[str, bool] = {}
        self._unsaid_signal = Signal()
        self._looks = asyncio.Event()
        self.state: ClusterState = EMPTY
        self.changed = Signal()
        self.watchers: list[Watcher] = []
        """Called in the very step in which the state has become another, with the change and the state behind it."""

    # --- Reading ---

    async def sync(self, *, at_least: int = 0) -> ClusterState:
        """Read what is new, and return the state.

        Raises a transient error, `StaleRead` when `at_least` is not to be had, `StoreIdentityChanged`,
        `CorruptEvent`.
        """
        async with self._lock:
            if self.state is EMPTY:
                await self._restore()
            async for event in self._store.read(self._actor, after=self.state.version, min_version=at_least):
                if event.version > self.state.version:  # others may have come in between, from `adopt`
                    self._apply(event)
        return self.state

    async def refused(self, current: int) -> ClusterState:
        """Read what an append was refused for. A server that is behind gives a number that is too low: `StaleRead`."""
        return await self.sync(at_least=max(current, self.state.version + 1))

    def adopt(self, events: Sequence[Event]) -> None:
        """Take events for known that this node has just appended."""
        for event in events:
            if event.version == self.state.version + 1:
                self._apply(event)

    def _apply(self, event: Event) -> None:
        state = self._check(evolve(self.state, event))
        self.state = state
        change = change_of(event)
        for watcher in self.watchers:
            watcher(change, state)
        self.changed.set()

    async def _restore(self) -> None:
        snapshot = await self._store.snapshot(self._actor, schema=_SNAPSHOT)
        if snapshot is not None:
            with suppress(ValueError, msgspec.ValidationError):  # a bad one only costs a longer replay
                state = msgspec.convert(snapshot.state, ClusterState, str_keys=True)
                if state.version == snapshot.version:
                    self.state = self._check(state)

    def _check(self, state: ClusterState) -> ClusterState:
        if state.shards not in (0, self._shards):
            raise ClusterMismatch(self._cluster, setting="shards", mine=self._shards, theirs=state.shards)
        if state.hash not in ("", HASH):
            raise ClusterMismatch(self._cluster, setting="hash", mine=HASH, theirs=state.hash)
        return state

    # --- Writing, for the leader ---

    async def append(self, changes: Sequence[Change], *, ids: Callable[[], str] = new_id) -> None:
        """Append changes behind the state that is known. Raises `VersionConflict` when there is more than that."""
        version = self.state.version
        events = [
            event_of(change, cluster=self._cluster, version=version + number, event_id=ids())
            for number, change in enumerate(changes, 1)
        ]
        await self._store.append(*events)
        self.adopt(events)
        self.hint()
        if self.state.version // _SNAPSHOT_EVERY > version // _SNAPSHOT_EVERY:
            await self._snapshot()

    async def _snapshot(self) -> None:
        state = msgspec.json.decode(msgspec.json.encode(self.state))
        with suppress(PayloadTooLarge, InvalidSnapshot, *PASSING):  # a server that is behind knows less than we do
            await self._store.save_snapshot(
                Snapshot(actor_id=self._actor, version=self.state.version, schema=_SNAPSHOT, state=state)
            )

    # --- Hints ---

    def hint(self, *, leases: bool = False) -> None:
        """Tell all nodes, in the background, that there is something to read; `leases` says: in the register."""
        self._unsaid["leases"] = leases or self._unsaid.get("leases", False)
        self._unsaid_signal.set()

    async def speak(self) -> None:
        """Publish hints, for ever. One that waits is overtaken by the next."""
        while True:
            while not self._unsaid:
                await self._unsaid_signal.wait()
            leases = self._unsaid.pop("leases")
            with suppress(*PASSING):
                await self.say(leases=leases)

    async def say(self, *, leases: bool) -> None:
        """Publish a hint now."""
        version = max(self.state.version, 1)
        await self._bus.publish(Event(type=HINT, actor_id=self._actor, version=version, data={"leases": leases}))

    async def listen(self) -> None:
        """Hear hints, for ever."""
        while True:
            with suppress(SlowConsumer, *TRANSIENT):
                async with self._bus.subscribe(types={HINT}, actors=self._actor) as hints:
                    self._behind.set()  # what was said before is not heard
                    async for hint in hints:
                        if hint.version > self.state.version:
                            self._behind.set()
                        if hint.data.get("leases"):
                            self._looks.set()
            await self._clock.sleep(self._poll)

    def behind(self) -> None:
        """Read soon: somebody knows of a later version."""
        self._behind.set()

    async def look(self) -> None:
        """Wait until somebody hints at news in the register."""
        await self._looks.wait()
        self._looks.clear()

    async def run(self) -> None:
        """Follow for ever. Outages are waited for."""
        while True:
            self._behind.clear()
            with suppress(*PASSING):
                await self.sync()
            with suppress(TimeoutError):
                async with self._clock.timeout(self._poll):
                    await self._behind.wait()
