"""Leases: the algorithm behind elections. It exists once; a backend adds only a register with compare-and-set.

Nobody asks a server, or another machine, for the time. A holder may act until `ttl` less a margin has passed since it
*sent* the last write that succeeded. A challenger waits until the record has stood still for the record's whole `ttl`
on its own clock, and then replaces exactly the revision that it watched. A write is sent before anyone can see it, so
the holder's time ends first, as long as the *rates* of the two clocks differ by at most margin / (2 ttl - margin),
5.26 %. What the clocks show does not matter.

Reads may be stale and watches may die. Both only cost time, because every change is a compare-and-set.

This module has what both sides share: the record, and how it is observed. `aether.core.term` wins and keeps leases.
"""

from __future__ import annotations

from collections.abc import Container
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Annotated, Any, NamedTuple

import msgspec

from aether.core.clock import Clock
from aether.core.errors import AetherError, CorruptLease, OutcomeUnknown, TimedOut, Unavailable
from aether.core.spi import LeaseRegister, RevisionConflict, Watch

MIN_TTL = 0.05
MAX_TTL = 86_400.0

# Parts of the ttl.
RENEW = 0.2  # between two renewals, so that several may fail; also what one call may take
RETRY = 0.05  # before the next try, after a failure
_LONGEST_PAUSE = 1.0  # seconds: what keeps a candidate from trying is short, however long the lease
_SILENCE = 0.45  # without news of the record before it is read: the watch may be dead

TRANSIENT = (Unavailable, OutcomeUnknown, TimedOut)
"""The errors after which candidates and holders try again."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one election. It is never deleted, so tokens and revisions go on where they were."""

    name: str
    holder: str
    """The attempt that holds it, empty when it was released."""

    token: Annotated[int, msgspec.Meta(ge=1)]
    ttl: Annotated[float, msgspec.Meta(gt=0, le=MAX_TTL)]
    nonce: str
    """Made for each write. Revisions alone do not tell writes apart: a register that was rolled back reuses them."""

    meta: dict[str, Any] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Lease)


def decode_lease(name: str, revision: int, value: bytes) -> Lease:
    """Decode a record, or raise `CorruptLease`."""
    try:
        lease = _decoder.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CorruptLease(name, revision, str(error)) from error
    if lease.name != name:
        raise CorruptLease(name, revision, f"it is the record of {lease.name!r}")
    return lease


class Record:
    """One record of a register, as one party with one `ttl` uses it. Every call is bounded by the clock."""

    def __init__(
        self, register: LeaseRegister, name: str, *, ttl: float, timeout: float, clock: Clock, random: Random
    ) -> None:
        self.register = register
        self.name = name
        self.ttl = ttl
        self.clock = clock
        self.random = random
        self.bound = min(timeout, ttl * RENEW)
        """Seconds that a call may take."""

    def nonce(self) -> str:
        """A text that no other write has."""
        return f"{self.random.getrandbits(64):016x}"

    def part(self, share: float, spread: float) -> float:
        """A share of the ttl, shortened at random by up to `spread` of it."""
        return self.ttl * share * self.random.uniform(1 - spread, 1)

    async def read(self) -> tuple[int, Lease | None]:
        """The revision and the lease, `(0, None)` if there is none. Raises `CorruptLease`, or a transient error."""
        try:
            async with self.clock.timeout(self.bound):
                entry = await self.register.read(self.name)
        except TimeoutError:
            raise Unavailable(f"reading the lease {self.name!r}", reason=f"no answer in {self.bound:.3g} s") from None
        if entry is None:
            return 0, None
        return entry.revision, decode_lease(self.name, entry.revision, entry.value)

    async def write(self, lease: Lease, *, expected: int, within: float) -> int:
        """Try once to replace the record. Raises what `LeaseRegister.cas` does."""
        try:
            async with self.clock.timeout(within):
                return await self.register.cas(self.name, _encoder.encode(lease), expected=expected)
        except TimeoutError:
            raise OutcomeUnknown(f"writing the lease {self.name!r}", reason=f"no answer in {within:.3g} s") from None

    async def release(self, ours: Container[str], *, last: tuple[int, Lease] | None = None) -> None:
        """Try once to give the lease back if the stored write is one of `ours`; `last` is the one that should be."""
        with suppress(RevisionConflict, AetherError):  # in vain: whoever comes next waits for the ttl
            if last is not None:
                with suppress(RevisionConflict):  # a renewal whose answer was lost may have landed behind it
                    await self._free(*last)
                    return
            revision, found = await self.read()
            if found is not None and found.nonce in ours:
                await self._free(revision, found)

    async def _free(self, revision: int, lease: Lease) -> None:
        free = msgspec.structs.replace(lease, holder="", nonce=self.nonce(), meta={})
        await self.write(free, expected=revision, within=self.bound)


class Sighting(NamedTuple):
    """What was seen of a record, and since when it has stood still: one snapshot, only ever used as a whole."""

    revision: int
    lease: Lease | None
    since: float

    @property
    def holder(self) -> str:
        """Who holds the lease, empty when nobody does."""
        return "" if self.lease is None else self.lease.holder

    @property
    def token(self) -> int:
        """The last token that the register knows."""
        return 0 if self.lease is None else self.lease.token


class Observer:
    """Follows one record for one candidate. `async with` ends its watch."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._clock = record.clock
        self._watch: Watch | None = None
        self._watching = AsyncExitStack()
        self._read_at: float | None = None
        self.seen: Sighting | None = None
        """The latest snapshot. Replaced as a whole, and only when revision or nonce have changed."""

        self.highest = 0
        """The highest token ever seen."""

    async def __aenter__(self) -> Observer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watching.aclose()

    async def read(self) -> Sighting:
        """Read the record. Going back to an older revision is a change, too: the register was rolled back."""
        revision, lease = await self._record.read()
        self._read_at = self._clock.now()
        return self._note(revision, lease)

    async def wait(self, seconds: float) -> None:
        """Wait for a change, at most `seconds`. Returns early as it likes; outages and dead watches only cost time."""
        if self._watch is None:
            await self._follow()
        quiet = self._quiet()
        try:
            if quiet <= 0:
                await self._catch_up()
            elif self._watch is None:
                await self._clock.sleep(min(seconds, quiet, _LONGEST_PAUSE, self._record.part(RETRY, 0.5)))
            else:
                await self._listen(self._watch, min(seconds, quiet))
        except TRANSIENT:
            await self.pause()

    async def _catch_up(self) -> None:
        before, trusted = self.seen, self._read_at is not None
        if await self.read() is not before and trusted:
            await self._unfollow()  # the watch has missed it: begin a new one

    async def pause(self) -> None:
        """Wait a little before the next try."""
        await self._clock.sleep(min(_LONGEST_PAUSE, self._record.part(RETRY, 0.5)))

    def _quiet(self) -> float:
        """How much longer the watch may be silent before the record is read."""
        if self.seen is None or self._read_at is None:
            return 0.0
        ttl = self._record.ttl if self.seen.lease is None else self.seen.lease.ttl
        return max(self._read_at, self.seen.since) + ttl * _SILENCE - self._clock.now()

    async def _follow(self) -> None:
        with suppress(TimeoutError, *TRANSIENT):
            async with self._clock.timeout(self._record.bound):
                watch = self._record.register.watch(self._record.name)
                self._watch = await self._watching.enter_async_context(watch)
            self._read_at = None  # what changed before the watch began is read

    async def _unfollow(self) -> None:
        self._watch = None
        with suppress(*TRANSIENT):
            await self._watching.aclose()

    async def _listen(self, watch: Watch, seconds: float) -> None:
        try:
            async with self._clock.timeout(seconds):
                entry = await watch.next()
        except TimeoutError:
            return
        except TRANSIENT:
            await self._unfollow()
            raise
        # Watches lag: that the register has gone back is believed only when it is read.
        if entry.name == self._record.name and (self.seen is None or entry.revision >= self.seen.revision):
            self._note(entry.revision, decode_lease(entry.name, entry.revision, entry.value))

    def _note(self, revision: int, lease: Lease | None) -> Sighting:
        seen = self.seen
        if seen is None or seen.revision != revision or nonce_of(seen.lease) != nonce_of(lease):
            seen = self.seen = Sighting(revision, lease, self._clock.now())
            self.highest = max(self.highest, seen.token)
        return seen


def nonce_of(lease: Lease | None) -> str | None:
    """What tells this write from all others."""
    return None if lease is None else lease.nonce
