"""The leases of nodes: what a node says of itself, and how a candidate for leadership watches them all.

A node lives as long as its lease. Every candidate watches all the time, not only when it leads: a leader that dies
together with a node costs one ttl, not two.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, NamedTuple

import msgspec

from aether.core.cluster._signal import Signal
from aether.core.cluster.membership import Member
from aether.core.election import Election
from aether.core.encoding import MAX_VERSION
from aether.core.errors import CorruptLease, Unavailable
from aether.core.lease import MAX_TTL, MIN_TTL, TRANSIENT, Lease, Record, Sighting, decode_lease, nonce_of
from aether.core.spi import LeaseRegister, RevisionConflict, Watch
from aether.core.term import check_meta

_log = logging.getLogger("aether.cluster")

_MAX_SHARDS = 65_536
_MAX_WEIGHT = 1e9  # a sum of them stays a number
_MAX_NODE = 128  # characters: the name of a lease has other parts, too

# Parts of the ttl.
_SILENCE = 0.45  # without news of any node before all leases are read: the watch may be dead
_OUTAGE = 0.7  # without contact to the register; more than the silence and two calls that time out


def leader_lease(cluster: str) -> str:
    """The name of the leader's lease."""
    return f"cluster/{cluster}/leader"


def node_lease(cluster: str, node: str = "") -> str:
    """The name of a node's lease, or the prefix of all of them."""
    return f"cluster/{cluster}/node/{node}"


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself in its lease."""

    shards: int
    hash: str
    inbox: str = ""
    weight: Annotated[float, msgspec.Meta(gt=0, le=_MAX_WEIGHT)] = 1.0
    meta: dict[str, Any] = {}
    draining: bool = False
    applied: int = 0
    """The version up to which it has followed the membership and given up what it had to. An acknowledgement: it is
    durable, only ever rises, and goes with every renewal."""


def profile_of(lease: Lease | None) -> Profile | None:
    """What the holder of a lease says of itself, None if nobody holds it or it makes no sense."""
    if lease is None or not lease.holder:
        return None
    try:
        return msgspec.convert(lease.meta, Profile)
    except (ValueError, msgspec.ValidationError):
        return None


def check_profile(profile: Profile) -> None:
    """Raise `InvalidEvent` or `PayloadTooLarge` for what a lease cannot carry, at any version."""
    check_meta(msgspec.to_builtins(msgspec.structs.replace(profile, applied=MAX_VERSION)))


def check_settings(node: str, *, weight: float, ttl: float, shards: int) -> None:
    """Raise `ValueError` for what no node can have."""
    if len(node) > _MAX_NODE:
        raise ValueError(f"a node's name has at most {_MAX_NODE} characters, {node[:20]!r}… has {len(node)}")
    if not 0 < weight <= _MAX_WEIGHT:
        raise ValueError(f"weight is a number above 0, up to {_MAX_WEIGHT:g}, not {weight!r}")
    if not MIN_TTL <= ttl <= MAX_TTL:
        raise ValueError(f"ttl is a number of seconds from {MIN_TTL:g} to {MAX_TTL:g}, not {ttl!r}")
    if type(shards) is not int or not 0 < shards <= _MAX_SHARDS:
        raise ValueError(f"shards is a whole number from 1 to {_MAX_SHARDS}, not {shards!r}")


class Track(NamedTuple):
    """What was seen of a node's lease. `sighting.since`: how long it has stood still."""

    sighting: Sighting
    held_since: float
    """Since when it has been held by the same attempt, or by none."""

    @property
    def lease(self) -> Lease | None:
        """The lease; None if there is none, or with a revision above 0 none that can be read."""
        return self.sighting.lease


class NodeWatch:
    """Follows the leases of all nodes of a cluster. `run` it for as long as the tracks are to be true."""

    def __init__(self, election: Election, cluster: str, *, ttl: float, members: Callable[[], Iterable[str]]) -> None:
        self._election = election
        self._clock = election._clock
        self._cluster = cluster
        self._prefix = node_lease(cluster)
        self._ttl = ttl
        self._members = members
        self._pause = Record(
            self._register, self._prefix, ttl=ttl, timeout=election.timeout, clock=self._clock, random=election._random
        )
        self._last_contact: float | None = None
        self._failed = False
        self._unreadable: dict[str, int] = {}  # by node: the revision that was warned of
        self.tracks: dict[str, Track] = {}
        """What was seen, by node. A member whose lease is missing has a track of revision 0."""

        self.resumed = -math.inf
        """When contact to the register was regained, after an outage of our own. Whoever was as blind meanwhile as we
        were deserves the time to renew."""

        self.changed = Signal()
        self.heard: list[Callable[[], None]] = []
        """Called in the very step in which more was acknowledged."""

        self._acknowledged: dict[str, tuple[str, int, int]] = {}  # by node: holder, token, and the version

    @property
    def _register(self) -> LeaseRegister:
        return self._election._live()

    @property
    def push(self) -> bool:
        """Whether changes come by themselves; otherwise `look` is worth it when somebody hints at one."""
        return self._register.push

    async def run(self) -> None:
        """Follow for ever. Outages are waited for."""
        while True:
            with suppress(*TRANSIENT):
                async with self._watching() as watch:
                    await self.look()
                    await self._listen(watch)
                continue
            self._failed = True
            await self._clock.sleep(min(1.0, self._pause.part(0.05, 0.5)))

    async def look(self) -> bool:
        """Read all leases, and return whether any had changed. Raises `Unavailable`."""
        sent = self._clock.now()
        try:
            async with self._clock.timeout(self._pause.bound):
                entries = await self._register.scan(self._prefix)
        except TimeoutError:
            raise Unavailable(f"reading the nodes of {self._cluster!r}", reason="no answer") from None
        self._contact()
        found = {entry.name.removeprefix(self._prefix): (entry.revision, entry.value) for entry in entries}
        changed = False
        for node in {**dict.fromkeys(self._members()), **self.tracks, **found}:
            revision, value = found.get(node, (0, b""))
            track = self.tracks.get(node)
            if track is None or revision >= track.sighting.revision or track.sighting.since <= sent:
                changed |= self._note(node, revision, value)
        return changed

    def silent(self) -> dict[str, float]:
        """The seconds for which each node's lease has stood still."""
        now = self._clock.now()
        return {node: now - track.sighting.since for node, track in self.tracks.items()}

    def acknowledged(self, member: Member) -> int:
        """The version up to which this incarnation has given up what it had to, as far as was ever seen.

        It stays true, whatever becomes of the lease: what was given up does not come back to that incarnation.
        """
        holder, token, version = self._acknowledged.get(member.id, ("", 0, 0))
        return version if (holder, token) == (member.holder, member.incarnation) else 0

    async def reap(self, node: str, track: Track, *, incarnation: int) -> bool:
        """Make the end of an incarnation a fact: replace exactly the lease that was judged. Whether it was.

        After it no renewal of that incarnation can succeed. A node that was only slow and renews first wins the race.
        Raises a transient error when the register cannot be reached, or the outcome is not known.
        """
        seen = track.sighting
        record = self._election._record(self._register, node_lease(self._cluster, node), self._ttl)
        # A register that was rolled back gives out revisions again: only revision and nonce together tell writes apart.
        revision, lease = await record.read()
        if (revision, nonce_of(lease)) != (seen.revision, nonce_of(seen.lease)):
            self._noted(node, revision, lease)
            return False
        token = incarnation if lease is None else max(lease.token, incarnation)
        ttl = self._ttl if lease is None else lease.ttl
        tomb = Lease(
            name=record.name, holder="", token=token, ttl=ttl, nonce=record.nonce(), meta={"reaped": incarnation}
        )
        try:
            revision = await record.write(tomb, expected=revision, within=record.bound)
        except RevisionConflict:
            return False
        self._noted(node, revision, tomb)
        return True

    # --- Following ---

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[Watch]:
        manager = self._register.watch(self._prefix)
        try:
            async with self._clock.timeout(self._pause.bound):
                watch = await manager.__aenter__()
        except TimeoutError:
            raise Unavailable(f"watching the nodes of {self._cluster!r}", reason="no answer") from None
        try:
            yield watch
        finally:
            await manager.__aexit__(None, None, None)

    async def _listen(self, watch: Watch) -> None:
        """Until the watch has missed something: it may be dead, so the next one is begun."""
        while True:
            try:
                async with self._clock.timeout(self._ttl * _SILENCE):
                    entry = await watch.next()
            except TimeoutError:
                if await self.look():
                    return
                continue
            self._contact()
            node = entry.name.removeprefix(self._prefix)
            track = self.tracks.get(node)
            if track is None or entry.revision >= track.sighting.revision:
                self._note(node, entry.revision, entry.value)
            else:  # watches lag: that the register has gone back is believed only when it is read
                await self.look()

    def _contact(self) -> None:
        now = self._clock.now()
        last, self._last_contact = self._last_contact, now
        if last is not None and (self._failed or now - last > self._ttl * _OUTAGE):
            self.resumed = now
        self._failed = False

    def _note(self, node: str, revision: int, value: bytes) -> bool:
        try:
            lease = decode_lease(node_lease(self._cluster, node), revision, value) if revision else None
        except CorruptLease as error:
            lease = None
            if self._unreadable.get(node) != revision:
                self._unreadable[node] = revision
                _log.warning("%s", error)
        return self._noted(node, revision, lease)

    def _noted(self, node: str, revision: int, lease: Lease | None) -> bool:
        track, now = self.tracks.get(node), self._clock.now()
        held_since = now
        if track is not None:
            seen = track.sighting
            if (seen.revision, nonce_of(seen.lease)) == (revision, nonce_of(lease)):
                return False
            if seen.holder == ("" if lease is None else lease.holder):
                held_since = track.held_since
        self.tracks[node] = Track(Sighting(revision, lease, now), held_since)
        self.changed.set()
        self._hear(node, lease)
        return True

    def _hear(self, node: str, lease: Lease | None) -> None:
        profile = profile_of(lease)
        if lease is None or profile is None:
            return
        holder, token, version = self._acknowledged.get(node, ("", 0, 0))
        if (holder, token) != (lease.holder, lease.token) or version < profile.applied:
            self._acknowledged[node] = lease.holder, lease.token, profile.applied
            for heard in self.heard:
                heard()
