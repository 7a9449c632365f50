"""Leases: the algorithm behind elections. It exists once; a backend adds only a register with compare-and-set.

Nobody asks a server, or another machine, what time it is. A holder may act until `ttl` less a margin has passed since it
*sent* the last write that succeeded. A challenger waits until the record has stood still for the record's whole `ttl`
on the challenger's own clock, and then replaces exactly the revision that it watched. The write was sent before anyone
could see it, so the holder's time ends first, as long as the *rates* of the two clocks differ by at most
margin / (2 ttl - margin), 5.26 %. What the clocks show does not matter.

Reads may be stale and watches may die. Both only cost time, because every change is a compare-and-set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Coroutine
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Annotated, Any, NamedTuple

import msgspec

from aether.core.clock import Clock
from aether.core.errors import AetherError, LeadershipLost, OutcomeUnknown, TimedOut, Unavailable
from aether.core.spi import LeaseRegister, RevisionConflict, Watch

MIN_TTL = 0.05
MAX_TTL = 86_400.0

# Parts of the ttl.
_MARGIN = 0.1  # how much earlier than anybody else the holder stops: its budget for clock rates and for what is in flight
_RENEW = 0.2  # between two renewals, so that several may fail
_RETRY = 0.05  # before the next try, after a failure
_SILENCE = 0.45  # without news of the record before it is read: the watch may be dead
_PATIENCE = 0.05  # at most so much longer than the ttl waits a challenger: not all of them strike at once
_HURRY = 0.01  # seconds: candidates for a released lease spread over this time, for the same reason

_TRANSIENT = (Unavailable, OutcomeUnknown, TimedOut)

Floor = int | Callable[[], Awaitable[int]] | None
"""The highest token that the governed data has seen, or how to find it out. It outlives the loss of the register."""

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class CorruptLease(AetherError):
    """A record of the register is not a lease. It is never replaced: somebody may rely on it."""

    def __init__(self, name: str, revision: int, reason: str) -> None:
        self.name = name
        self.revision = revision
        self.reason = reason
        super().__init__(
            f"the lease {name!r}, revision {revision}, cannot be read: {reason}; "
            "look at what wrote it, stop every candidate, then restore the record or remove it"
        )


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
    """One record of a register, with every call bounded by the clock."""

    def __init__(self, register: LeaseRegister, name: str, *, clock: Clock, random: Random, timeout: float) -> None:
        self.register = register
        self.name = name
        self.clock = clock
        self.random = random
        self.timeout = timeout

    def nonce(self) -> str:
        """A text that no other write has."""
        return f"{self.random.getrandbits(64):016x}"

    async def read(self, *, within: float) -> tuple[int, Lease | None]:
        """The revision and the lease, `(0, None)` if there is none. Raises `CorruptLease`, or a transient error."""
        try:
            async with self.clock.timeout(within):
                entry = await self.register.read(self.name)
        except TimeoutError:
            raise Unavailable(f"reading the lease {self.name!r}", reason=f"no answer in {within:.3g} s") from None
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

    async def release(self, lease: Lease, *, revision: int | None, nonces: Container[str]) -> None:
        """Try once to give the lease back, if what is stored is one of the writes `nonces`."""
        within = min(self.timeout, lease.ttl * _RENEW)
        free = msgspec.structs.replace(lease, holder="", nonce=self.nonce(), meta={})
        with suppress(RevisionConflict, AetherError):  # whoever comes next waits for the ttl then
            if revision is not None:
                with suppress(RevisionConflict):  # a renewal that nobody heard of may have landed
                    await self.write(free, expected=revision, within=within)
                    return
            revision, found = await self.read(within=within)
            if found is not None and found.nonce in nonces:
                await self.write(free, expected=revision, within=within)


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

    def __init__(self, record: Record, *, ttl: float) -> None:
        self._record = record
        self._clock = record.clock
        self._ttl = ttl
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
        within = min(self._record.timeout, self._ttl * _RENEW)
        revision, lease = await self._record.read(within=within)
        self._read_at = self._clock.now()
        return self._note(revision, lease)

    async def wait(self, seconds: float) -> None:
        """Wait for a change, at most `seconds`. Returns early as it likes; outages and dead watches only cost time."""
        if self._watch is None:
            await self._follow()
        quiet = self._quiet()
        try:
            if quiet <= 0:
                await self.read()
            elif self._watch is None:
                await self._clock.sleep(min(seconds, quiet, self._ttl * _RETRY))
            else:
                await self._listen(self._watch, min(seconds, quiet))
        except _TRANSIENT:
            await self.pause()

    async def pause(self) -> None:
        """Wait a little before the next try."""
        await self._clock.sleep(self._ttl * _RETRY * self._record.random.uniform(0.5, 1.0))

    def _quiet(self) -> float:
        """How much longer the watch may be silent before the record is read."""
        if self.seen is None or self._read_at is None:
            return 0.0
        ttl = self._ttl if self.seen.lease is None else self.seen.lease.ttl
        return max(self._read_at, self.seen.since) + ttl * _SILENCE - self._clock.now()

    async def _follow(self) -> None:
        with suppress(TimeoutError, *_TRANSIENT):
            async with self._clock.timeout(min(self._record.timeout, self._ttl * _RENEW)):
                watch = self._record.register.watch(self._record.name)
                self._watch = await self._watching.enter_async_context(watch)
            self._read_at = None  # what changed before the watch began is read

    async def _listen(self, watch: Watch, seconds: float) -> None:
        try:
            async with self._clock.timeout(seconds):
                entry = await watch.next()
        except TimeoutError:
            return
        except _TRANSIENT:
            self._watch = None
            await self._watching.aclose()
            raise
        # Watches lag: that the register has gone back is believed only when it is read.
        if entry.name == self._record.name and (self.seen is None or entry.revision >= self.seen.revision):
            self._note(entry.revision, decode_lease(entry.name, entry.revision, entry.value))

    def _note(self, revision: int, lease: Lease | None) -> Sighting:
        seen = self.seen
        if seen is None or seen.revision != revision or _nonce(seen.lease) != _nonce(lease):
            seen = self.seen = Sighting(revision, lease, self._clock.now())
            self.highest = max(self.highest, seen.token)
        return seen


def _nonce(lease: Lease | None) -> str | None:
    return None if lease is None else lease.nonce


class Term:
    """One leadership, from election to loss or resignation. Everything that it says is known locally.

    It is renewed in the event loop that does the work, on purpose: a loop that hangs must lose the lease. A thread
    would keep a dead leader alive for ever.
    """

    def __init__(self, record: Record, lease: Lease, *, revision: int, sent: float, spawn: Spawn) -> None:
        self._record = record
        self._clock = record.clock
        self._lease = lease
        self._revision = revision
        self._sent = {lease.nonce: sent}  # the writes that may be what is stored, with the time of their sending
        self._spawn = spawn
        self._ended = ""
        self._trouble = ""
        self._releasing: asyncio.Task[None] | None = None
        self._body: asyncio.Timeout | None = None
        self._hurry = asyncio.Event()
        self.name = lease.name
        self.holder = lease.holder
        self.token = lease.token
        """The fencing token: higher than that of every earlier term of this name."""

        self.deadline = sent + lease.ttl * (1 - _MARGIN)
        """When `valid()` turns false unless a renewal succeeds before, on the election's clock."""

        self.lost = asyncio.Event()
        """Set when the term is over, for whatever reason."""

        self._alarm = self._clock.call_later(self.deadline - self._clock.now(), self._expire)
        self._keeper = spawn(self._keep())

    def valid(self) -> bool:
        """Whether this is the leader now. No I/O."""
        return not self._ended and self._clock.now() < self.deadline

    def remaining(self) -> float:
        """The seconds for which the term is certainly valid: a good `timeout=` for what is done in it."""
        return self.deadline - self._clock.now() if self.valid() else 0.0

    def check(self) -> None:
        """Raise `LeadershipLost` unless this is the leader now. No I/O."""
        if not self.valid():
            raise LeadershipLost(self.name, token=self.token, reason=self._ended or self._run_out())

    async def resign(self) -> None:
        """Stop being the leader, then hand over: the term is invalid before anybody is told. May be called twice."""
        self.end("it was resigned")
        if self._body is None and self._releasing is not None:
            await asyncio.shield(self._releasing)

    def update(self, meta: dict[str, Any]) -> None:
        """Publish other `meta` in the record, with a renewal at once."""
        self._lease = msgspec.structs.replace(self._lease, meta=meta)
        self._hurry.set()

    # --- For the election ---

    def guard(self, body: asyncio.Timeout | None) -> None:
        """Let `body` time out when the term is lost."""
        self._body = body

    def end(self, reason: str, *, release: bool = True) -> None:
        """End the term at once, then try once in the background to release the lease."""
        if self._ended:
            return
        self._ended = reason
        self._alarm.cancel()
        self.lost.set()
        if self._body is not None and not self._body.expired():
            self._body.reschedule(asyncio.get_running_loop().time())
        if self._keeper is not asyncio.current_task():
            self._keeper.cancel()
        if release:
            self._releasing = self._spawn(self._record.release(self._lease, revision=self._revision, nonces=self._sent))

    # --- Renewal ---

    def _run_out(self) -> str:
        return f"its lease ran out{self._trouble and f' ({self._trouble})'}"

    def _expire(self) -> None:
        if self._clock.now() < self.deadline:
            self._arm()
        else:
            self.end(self._run_out())  # releases, because a renewal that nobody heard of may still land

    def _arm(self) -> None:
        self._alarm.cancel()
        self._alarm = self._clock.call_later(self.deadline - self._clock.now(), self._expire)

    async def _keep(self) -> None:
        uniform = self._record.random.uniform
        pause = self._lease.ttl * _RENEW * uniform(0.9, 1.0)
        while await self._rest(pause):
            try:
                await self._renew()
            except (RevisionConflict, *_TRANSIENT) as error:
                self._trouble = f"the last renewal failed: {error}"
                pause = self._lease.ttl * _RETRY * uniform(0.5, 1.0)
            else:
                self._trouble = ""
                pause = self._lease.ttl * _RENEW * uniform(0.9, 1.0)

    async def _rest(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with self._clock.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()
        if not self.valid():
            self.end(self._run_out())
        return not self._ended

    def _bound(self) -> float:
        return min(self._record.timeout, self._lease.ttl * _RENEW, self.remaining())

    async def _renew(self) -> None:
        lease = self._lease = msgspec.structs.replace(self._lease, nonce=self._record.nonce())
        self._sent[lease.nonce] = self._clock.now()
        try:
            revision = await self._record.write(lease, expected=self._revision, within=self._bound())
        except RevisionConflict:
            await self._reconcile(refused=True)
            raise
        except OutcomeUnknown:
            await self._reconcile(refused=False)
            raise
        self._adopt(revision, lease.nonce)

    async def _reconcile(self, *, refused: bool) -> None:
        """Look for an earlier renewal whose answer was lost. If another write was refused and there is none, it is over."""
        revision, found = await self._record.read(within=self._bound())
        if found is not None and found.nonce in self._sent:
            self._adopt(revision, found.nonce)
        elif refused and found is not None and found.token > self.token:
            self.end(f"{found.holder or 'somebody else'} has taken it with token {found.token}", release=False)
        elif refused:
            self.end("the register has lost its record", release=False)

    def _adopt(self, revision: int, nonce: str) -> None:
        """What is stored is this write of ours. It counts from its sending, and only if it is known in time."""
        self._revision = revision
        sent = self._sent[nonce]
        self._sent = {nonce: sent}
        if self.valid():
            self.deadline = sent + self._lease.ttl * (1 - _MARGIN)
            self._arm()


class Campaign:
    """One attempt to be elected. A lease belongs to an attempt, not to a node: `holder` is its alone."""

    def __init__(
        self, record: Record, *, holder: str, ttl: float, floor: Floor, meta: dict[str, Any], spawn: Spawn
    ) -> None:
        self._record = record
        self._clock = record.clock
        self._holder = holder
        self._ttl = ttl
        self._floor = floor
        self._meta = meta
        self._spawn = spawn
        self._patience = record.random.uniform(0.0, _PATIENCE)
        self._loss: tuple[Sighting, float] | None = None

    async def win(self) -> Term:
        """Wait until elected. Cancelled at any point, it leaves nothing that others would have to wait for."""
        term: Term | None = None
        try:
            async with Observer(self._record, ttl=self._ttl) as observer:
                while term is None:
                    term = await self._step(observer)
        except BaseException:
            if term is not None:
                term.end("nobody waited for it any more")
            raise
        return term

    async def _step(self, observer: Observer) -> Term | None:
        # One snapshot: the token and the revision that are written below both come from it, whatever else arrives.
        seen = observer.seen
        if seen is None or (wait := self._wait(seen)) > 0:
            await observer.wait(self._ttl if seen is None else wait)
            return None
        try:
            return await self._try(observer, seen)
        except (RevisionConflict, *_TRANSIENT):
            await observer.pause()
            return None

    def _wait(self, seen: Sighting) -> float:
        """How long the record must stand still yet. What this very attempt left behind, nobody holds."""
        if seen.lease is None or seen.holder in ("", self._holder):
            return 0.0
        return seen.since + seen.lease.ttl * (1 + self._patience) - self._clock.now()

    async def _try(self, observer: Observer, seen: Sighting) -> Term | None:
        if not seen.holder:
            await self._clock.sleep(self._record.random.uniform(0.0, _HURRY))
        floor = self._floor if isinstance(self._floor, int) else await self._floor() if self._floor else 0
        floor = max(floor, observer.highest)
        if seen.token < floor and (wait := self._wait_after_loss(seen)) > 0:
            await observer.wait(wait)
            return None
        if await observer.read() is not seen:
            return None
        return await self._claim(observer, seen, max(seen.token, floor) + 1)

    def _wait_after_loss(self, seen: Sighting) -> float:
        """The register has lost terms, and the holder of one of them may still be there: wait for its ttl."""
        if self._loss is None or self._loss[0] is not seen:
            self._loss = seen, self._clock.now()
        return self._loss[1] + max(self._ttl, 0.0 if seen.lease is None else seen.lease.ttl) - self._clock.now()

    async def _claim(self, observer: Observer, seen: Sighting, token: int) -> Term | None:
        nonce = self._record.nonce()
        name, holder = self._record.name, self._holder
        lease = Lease(name=name, holder=holder, token=token, ttl=self._ttl, nonce=nonce, meta=self._meta)
        usable = self._ttl * (1 - _MARGIN)
        sent = self._clock.now()
        try:
            try:
                revision = await self._record.write(
                    lease, expected=seen.revision, within=min(self._record.timeout, usable)
                )
            except OutcomeUnknown:
                found = await observer.read()
                if _nonce(found.lease) != nonce:
                    return None
                revision = found.revision
        except asyncio.CancelledError:
            self._spawn(self._record.release(lease, revision=None, nonces={nonce}))
            raise
        if self._clock.now() >= sent + usable:
            return None  # too late to be used; the next step sees that it is ours and replaces it
        return Term(self._record, lease, revision=revision, sent=sent, spawn=self._spawn)
