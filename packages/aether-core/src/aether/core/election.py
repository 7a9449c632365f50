"""The election that users hold: at most one leader per name, and a fencing token for every term."""

from __future__ import annotations

import asyncio
import math
import random as _random
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn
from weakref import WeakSet

import msgspec

from aether.core.clock import SYSTEM_CLOCK, Clock
from aether.core.errors import Closed, LeadershipLost, TimedOut
from aether.core.facade import Facade
from aether.core.filters import check_count
from aether.core.lease import MAX_TTL, MIN_TTL, Observer, Record, Sighting
from aether.core.names import check_name
from aether.core.scope import DEFAULT_TIMEOUT
from aether.core.spi import LeaseRegister
from aether.core.term import Campaign, Floor, Term, check_meta

__all__ = ["DEFAULT_TTL", "Election", "LeaderView", "Term"]

DEFAULT_TTL = 15.0
"""Seconds. Long enough to live through the fail-over of a replicated JetStream, which takes 4 to 9."""


class LeaderView(msgspec.Struct, frozen=True):
    """Who leads, as far as one handle can see. For information: only the leader itself knows whether it still leads."""

    holder: str
    token: int
    age: float
    """Seconds since this handle saw the record change. A leader renews every fifth of its ttl."""


class Election(Facade[LeaseRegister]):
    """The elections of one namespace.

    Safe to use from many tasks of one event loop. `lead`, `campaign` and `observe` wait without bound; closing ends
    them. Names are as those of actors.
    """

    kind = "election"

    def __init__(
        self,
        register: LeaseRegister,
        *,
        namespace: str,
        backend: str = "backend",
        timeout: float = DEFAULT_TIMEOUT,
        holder: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        random: _random.Random | None = None,
    ) -> None:
        super().__init__(register, namespace=namespace, backend=backend, timeout=timeout)
        self._clock = clock
        self._random = random or _random.SystemRandom()
        # The suffix tells apart two starts of one node: the second must wait for what the first left behind.
        node = check_name("holder", socket.gethostname() or "node" if holder is None else holder)
        self.holder = f"{node}/{self._random.getrandbits(32):08x}"
        """Names this handle. Each campaign appends a number, and that is the holder which others see."""

        self._campaigns = 0
        self._looks: dict[str, Observer] = {}
        self._terms: WeakSet[Term] = WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waits: dict[asyncio.Timeout, asyncio.Future[None]] = {}

    @property
    def push(self) -> bool:
        """Whether the backend tells of changes at once; otherwise they are found by polling."""
        return self._live().push

    # --- Leading ---

    @asynccontextmanager
    async def lead(
        self, name: str, *, ttl: float = DEFAULT_TTL, floor: Floor = None, meta: dict[str, Any] | None = None
    ) -> AsyncIterator[Term]:
        """Wait until elected, lead, and resign behind the body.

        At the lease's deadline, before anybody else can be elected, the body is cancelled and `async with` raises
        `LeadershipLost`. If the body never came to an `await` it is raised at the end. A cancel from outside stays
        `CancelledError`. Arguments and other errors are those of `campaign`.
        """
        term = await self.campaign(name, ttl=ttl, floor=floor, meta=meta)
        body = asyncio.timeout(None)
        try:
            async with body:
                term.check()
                term.guard(body)
                yield term
        except TimeoutError:
            if not body.expired():
                raise
        finally:
            term.guard(None)
            await term.resign()
        if not term.resigned:
            term.check()

    async def campaign(
        self,
        name: str,
        *,
        ttl: float = DEFAULT_TTL,
        timeout: float | None = None,
        floor: Floor = None,
        meta: dict[str, Any] | None = None,
    ) -> Term:
        """Wait until elected, and return the term; it is renewed until `resign()`.

        `ttl` is the time in seconds that others wait behind a leader that fell silent. `floor` is the highest token
        that the governed data has seen, or an async function that finds it: with it, tokens increase and nobody is
        elected too early even when the register has lost its data. `meta` is a JSON object that is kept in the record.

        Raises `TimedOut`, `Closed` when the election is closed meanwhile, `InvalidName`, and `CorruptLease` when the
        record is none. An outage of the backend is waited for.
        """
        register = self._live()
        check_name("election name", name)
        if not MIN_TTL <= ttl <= MAX_TTL:
            raise ValueError(f"ttl is a number of seconds from {MIN_TTL:g} to {MAX_TTL:g}, not {ttl!r}")
        if not callable(floor):
            check_count("floor", floor)
        meta = {} if meta is None else meta
        check_meta(meta)
        self._campaigns += 1
        campaign = Campaign(
            self._record(register, name, ttl),
            holder=f"{self.holder}/{self._campaigns}",
            floor=floor,
            meta=meta,
            spawn=self._spawn,
        )
        async with self._wait(f"campaign for {name!r}", timeout):
            term = await campaign.win()
        self._terms.add(term)
        if self._state == "closed":  # elected and closed in the same step
            term.end("the election was closed")
            raise Closed(str(self))
        return term

    async def run(
        self,
        name: str,
        work: Callable[[Term], Awaitable[object]],
        *,
        ttl: float = DEFAULT_TTL,
        floor: Floor = None,
        meta: dict[str, Any] | None = None,
    ) -> NoReturn:
        """For ever: wait until elected, and await `work(term)`, which is cancelled when the term is lost.

        Campaigns again behind a lost term, and when `work` has returned. An error of `work` resigns and is raised.
        Arguments and other errors are those of `campaign`.
        """
        while True:
            try:
                async with self.lead(name, ttl=ttl, floor=floor, meta=meta) as term:
                    await work(term)
            except LeadershipLost as lost:
                if lost.name != name:
                    raise

    # --- Looking ---

    async def leader(self, name: str) -> LeaderView | None:
        """Who leads, None when the lease is free. It may have changed already. Raises `Unavailable`, `CorruptLease`."""
        register = self._live()
        check_name("election name", name)
        look = self._looks.get(name)
        if look is None:
            look = self._looks[name] = Observer(self._record(register, name, DEFAULT_TTL))
        return self._view(await look.read())

    def observe(self, name: str) -> AsyncGenerator[LeaderView | None, None]:
        """Iterate over leaders: who it is now, then every change; None while the lease is free.

        The latest is always delivered, intermediate ones may be left out. Outages are waited for. Raises `Closed`.
        """
        register = self._live()
        check_name("election name", name)
        return self._observe(Observer(self._record(register, name, DEFAULT_TTL)), f"observation of {name!r}")

    async def _observe(self, observer: Observer, what: str) -> AsyncGenerator[LeaderView | None, None]:
        shown = ("", -1)
        async with observer:
            while True:
                seen = observer.seen
                leader = shown if seen is None else (seen.holder, seen.token if seen.holder else 0)
                if seen is not None and leader != shown:
                    shown = leader
                    yield self._view(seen)
                else:
                    async with self._wait(what, None):
                        await observer.wait(math.inf)

    def _view(self, seen: Sighting) -> LeaderView | None:
        return LeaderView(seen.holder, seen.token, self._clock.now() - seen.since) if seen.holder else None

    # --- Helpers ---

    def _record(self, register: LeaseRegister, name: str, ttl: float) -> Record:
        return Record(register, name, ttl=ttl, timeout=self.timeout, clock=self._clock, random=self._random)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @asynccontextmanager
    async def _wait(self, what: str, timeout: float | None) -> AsyncIterator[None]:
        """A wait that raises `TimedOut` at its time-out, and `Closed` when the election is closed."""
        self._live()
        done = asyncio.get_running_loop().create_future()
        limit = self._clock.timeout(timeout)
        try:
            async with limit:
                self._waits[limit] = done
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            if timeout is None or self._state == "closed":
                raise Closed(str(self)) from None
            raise TimedOut(what, timeout=timeout) from None
        finally:
            self._waits.pop(limit, None)
            done.set_result(None)

    async def _closed(self) -> None:
        for limit in self._waits:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())
        for term in self._terms:
            term.end("the election was closed")
        # All of them are bounded: a renewal is cancelled, and a release is tried once.
        while pending := {*self._tasks, *self._waits.values()}:
            await asyncio.wait(pending)
