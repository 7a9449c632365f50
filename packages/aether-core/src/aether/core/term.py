"""Terms: how a lease is won, renewed, lost and given back. `aether.core.lease` says why that is safe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec

from aether.core.encoding import check_json
from aether.core.errors import AetherError, CorruptLease, LeadershipLost, OutcomeUnknown, PayloadTooLarge
from aether.core.lease import RENEW, RETRY, TRANSIENT, Lease, Observer, Record, Sighting, nonce_of
from aether.core.spi import RevisionConflict

# Parts of the ttl.
_MARGIN = 0.1  # how much earlier than the others the holder stops: its budget for clock rates and for work in flight
_PATIENCE = 0.05  # at most so much longer than the ttl waits a challenger: not all of them strike at once

_SPREAD = 0.01  # seconds over which the candidates for a released lease spread, for the same reason

_MAX_META = 4096  # bytes

Floor = int | Callable[[], Awaitable[int]] | None
"""The highest token that the governed data has seen, or how to find it out. It outlives the loss of the register."""

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


def check_meta(meta: object) -> None:
    """Raise `InvalidEvent` or `PayloadTooLarge` unless `meta` is small JSON."""
    check_json(meta, "meta")
    size = len(msgspec.json.encode(meta))
    if size > _MAX_META:
        raise PayloadTooLarge("the meta of a lease", size=size, limit=_MAX_META)


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
        self._ended = ""  # the reason, once it has
        self._trouble = ""
        self._releasing: asyncio.Task[None] | None = None
        self._body: asyncio.Timeout | None = None
        self._hurry = asyncio.Event()
        self._stored: Callable[[], None] | None = None
        self.name = lease.name
        self.holder = lease.holder
        self.token = lease.token
        """The fencing token: higher than that of every earlier term of this name."""

        self.deadline = sent + lease.ttl * (1 - _MARGIN)
        """When `valid()` turns false unless a renewal succeeds before, on the election's clock."""

        self.lost = asyncio.Event()
        """Set when the term is over, for whatever reason."""

        self.resigned = False
        """Whether it is over because of `resign()`."""

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
        """Hand over: the term is invalid here before anybody else is told. May be called twice."""
        if not self._ended:
            self.resigned = self.valid()
            self.end("it was resigned" if self.resigned else self._run_out())
        if self.resigned and self._releasing is not None:
            await asyncio.shield(self._releasing)

    def update(self, meta: dict[str, Any], *, at_once: bool = True) -> None:
        """Put other `meta` into the record, with a renewal at once, or with the next one.

        Raises `InvalidEvent` unless it is JSON, and `PayloadTooLarge` above 4 KiB: it travels with every renewal.
        """
        check_meta(meta)
        self._lease = msgspec.structs.replace(self._lease, meta=meta)
        if at_once:
            self._hurry.set()

    # --- For the election ---

    def guard(self, body: asyncio.Timeout | None) -> None:
        """Let `body` time out when the term is lost."""
        self._body = body

    def tell(self, stored: Callable[[], None]) -> None:
        """Call `stored` whenever a renewal is known to be stored."""
        self._stored = stored

    def end(self, reason: str, *, release: bool = True) -> None:
        """End the term at once, then try once, in the background, to release the lease."""
        if self._ended:
            return
        # Only while the term is valid its revision is certainly its own: later the register may have been lost, and
        # filled again by others up to that very number.
        last = (self._revision, self._lease) if self._clock.now() < self.deadline else None
        self._ended = reason
        self._alarm.cancel()
        self.lost.set()
        if self._body is not None and not self.resigned and not self._body.expired():
            self._body.reschedule(asyncio.get_running_loop().time())
        if self._keeper is not asyncio.current_task():
            self._keeper.cancel()
        if release:
            self._releasing = self._spawn(self._record.release(self._sent, last=last))

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
        pause = self._record.part(RENEW, 0.1)
        while not self._ended and await self._rest(pause):
            try:
                await self._renew()
            except CorruptLease as error:
                self.end(str(error), release=False)
            except (RevisionConflict, AetherError) as error:
                self._trouble = f"the last renewal failed: {error}"
                pause = self._record.part(RETRY, 0.5)
            else:
                self._trouble = ""
                pause = self._record.part(RENEW, 0.1)

    async def _rest(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with self._clock.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()
        if not self.valid():
            self.end(self._run_out())
        return not self._ended

    async def _renew(self) -> None:
        lease = self._lease = msgspec.structs.replace(self._lease, nonce=self._record.nonce())
        self._sent[lease.nonce] = self._clock.now()
        within = min(self._record.bound, self.remaining())
        try:
            revision = await self._record.write(lease, expected=self._revision, within=within)
        except RevisionConflict:
            await self._reconcile()
            raise
        self._adopt(revision, lease.nonce)
        if self._stored is not None:
            self._stored()

    async def _reconcile(self) -> None:
        """A renewal was refused: either an earlier one has landed, whose answer was lost, or the term is over."""
        revision, found = await self._record.read()
        if found is not None and found.nonce in self._sent:
            self._adopt(revision, found.nonce)
        elif found is not None and found.token > self.token:
            self.end(f"{found.holder or 'somebody else'} has taken it with token {found.token}", release=False)
        else:
            self.end("the register has lost its record", release=False)

    def _adopt(self, revision: int, nonce: str) -> None:
        """What is stored is this write of ours. It counts from its sending, and only if it is known in time."""
        sent = self._sent[nonce]
        if revision != self._revision:  # what else was sent expected the old one, and can no longer land
            self._revision = revision
            self._sent = {nonce: sent}
        if self.valid():
            self.deadline = sent + self._lease.ttl * (1 - _MARGIN)
            self._arm()


class Campaign:
    """One attempt to be elected. A lease belongs to an attempt, not to a node: `holder` is its alone."""

    def __init__(self, record: Record, *, holder: str, floor: Floor, meta: dict[str, Any], spawn: Spawn) -> None:
        self._record = record
        self._clock = record.clock
        self._holder = holder
        self._floor = floor
        self._meta = meta
        self._spawn = spawn
        self._patience = record.random.uniform(0.0, _PATIENCE)
        self._claims: set[str] = set()  # the nonces of its writes
        self._loss: tuple[Sighting, int, float] | None = None  # what it was found by, and when

    async def win(self) -> Term:
        """Wait until elected. Cancelled at any point, it tries to leave nothing that others would have to wait for."""
        term: Term | None = None
        try:
            async with Observer(self._record) as observer:
                while term is None:
                    term = await self._step(observer)
        except BaseException:
            if term is not None:
                term.end("nobody waited for it any more")
            elif self._claims:
                self._spawn(self._record.release(self._claims))
            raise
        return term

    async def _step(self, observer: Observer) -> Term | None:
        # One snapshot: the token and the revision that are written below both come from it, whatever else arrives.
        seen = observer.seen
        wait = self._record.ttl if seen is None else self._wait(seen)
        if seen is None or wait > 0:
            await observer.wait(wait)
            return None
        try:
            try:
                return await self._try(observer, seen)
            except RevisionConflict:
                # Another candidate was faster. Its term may be short, so do not sleep through its end: look at once.
                if await observer.read() is not seen:
                    return None
        except TRANSIENT:
            pass
        await observer.pause()
        return None

    def _wait(self, seen: Sighting) -> float:
        """How long the record must stand still yet. What this very attempt left behind, nobody holds."""
        if seen.lease is None or seen.holder in ("", self._holder):
            return 0.0
        return seen.since + seen.lease.ttl * (1 + self._patience) - self._clock.now()

    async def _try(self, observer: Observer, seen: Sighting) -> Term | None:
        if not seen.holder:
            await self._clock.sleep(self._record.random.uniform(0.0, _SPREAD))
        floor = self._floor if isinstance(self._floor, int) else await self._floor() if self._floor else 0
        floor = max(floor, observer.highest)
        if seen.token < floor and (wait := self._wait_after_loss(seen, floor)) > 0:
            await observer.wait(wait)
            return None
        if await observer.read() is not seen:
            return None
        return await self._claim(observer, seen, max(seen.token, floor) + 1)

    def _wait_after_loss(self, seen: Sighting, floor: int) -> float:
        """The register has lost terms, and the holder of one of them may still be there: wait for its ttl."""
        if self._loss is None or self._loss[0] is not seen or self._loss[1] != floor:
            self._loss = seen, floor, self._clock.now()
        ttl = self._record.ttl if seen.lease is None else max(self._record.ttl, seen.lease.ttl)
        return self._loss[2] + ttl - self._clock.now()

    async def _claim(self, observer: Observer, seen: Sighting, token: int) -> Term | None:
        record, nonce = self._record, self._record.nonce()
        lease = Lease(name=record.name, holder=self._holder, token=token, ttl=record.ttl, nonce=nonce, meta=self._meta)
        self._claims.add(nonce)
        sent = self._clock.now()
        try:
            revision = await record.write(lease, expected=seen.revision, within=record.bound)
        except OutcomeUnknown:
            found = await observer.read()
            if nonce_of(found.lease) != nonce:
                return None
            revision = found.revision
        if self._clock.now() >= sent + record.ttl * (1 - _MARGIN):
            return None  # too late to be used: the next step sees that it is ours, and replaces it
        return Term(record, lease, revision=revision, sent=sent, spawn=self._spawn)
