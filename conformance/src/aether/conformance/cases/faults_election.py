"""What elections promise while connections and servers break. Calls on the register are recorded, and checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from operator import gt

from aether.conformance.cases.election import NAME, elected
from aether.conformance.cases.faults_store import brief
from aether.conformance.context import Context, drift, event, listed
from aether.conformance.faults import Link, Way
from aether.conformance.history import (
    FencedWrite,
    RegisterHistory,
    Tenure,
    check_fence,
    check_tenures,
)
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.core import (
    Durability,
    Election,
    EventStore,
    LeadershipLost,
    OutcomeUnknown,
    StaleRead,
    Term,
    TimedOut,
    Unavailable,
    VersionConflict,
)
from aether.core.spi import LeaseRegister, RevisionConflict

_PLACES = (1, 20, 60, 150, 400)


# --- The register ---


@case("election.register.cas#ack", faults={"link"}, durability=Durability.PROCESS)
async def lost_ack(ctx: Context) -> None:
    """A `cas` that is applied, but whose answer is lost, MUST raise OutcomeUnknown: a RevisionConflict is definite.

    Where a `cas` takes several requests, and the first answer is lost, it is not applied, and may be Unavailable.
    """
    recorded, link = RegisterHistory(ctx.namespace), await ctx.link()
    sound = recorded.wrap(await ctx.register())
    register = recorded.wrap(await ctx.register(link=link, timeout=brief(ctx)))
    numbers = count(1)
    for ends in (link.reset, link.heal):
        revision = await _replaced(ctx, register, numbers)
        lost = b"%d" % next(numbers)
        link.blackhole(Way.REPLIES)
        with expect_error((OutcomeUnknown, Unavailable), "a cas whose answer is lost") as caught:
            await ctx.within(register.cas(NAME, lost, expected=revision), "a cas without an answer to end")
        ends()
        link.heal()
        found = await sound.read(NAME)
        if found is None or found.revision == revision:
            continue  # it was not applied, which the history has as unknown or refused
        expect(isinstance(caught.error, OutcomeUnknown), "OutcomeUnknown from what was applied", found=caught.error)
        expect_equal(found.value, lost, "the record")
        with expect_error(RevisionConflict, "replacing a revision that was replaced"):
            await sound.cas(NAME, b"refused", expected=revision)
    recorded.check(NAME, await sound.read(NAME))


async def _replaced(ctx: Context, register: LeaseRegister, numbers: Iterator[int]) -> int:
    """Write the next number over whatever is there, and return its revision."""

    async def replace() -> int:
        found = await register.read(NAME)
        return await register.cas(NAME, b"%d" % next(numbers), expected=found.revision if found else 0)

    while True:
        with suppress(RevisionConflict):  # a write whose answer was lost was applied meanwhile
            return await ctx.recovers(replace, "a write behind a fault")


@case("election.register.cas#reset", faults={"link"}, durability=Durability.PROCESS)
async def reset(ctx: Context) -> None:
    """A `cas` whose connection is reset, at any byte of it, MUST NOT be applied and refused at once."""
    recorded, link = RegisterHistory(ctx.namespace), await ctx.link()
    register, sound = recorded.wrap(await ctx.register(link=link)), recorded.wrap(await ctx.register())
    numbers = count(1)
    for way in Way:
        for place in _PLACES:
            link.reset_after(way, place)
            for _ in range(3):
                await _replaced(ctx, register, numbers)
            link.heal()
    recorded.check(NAME, await sound.read(NAME))


# --- Terms ---


class _Governed:
    """An actor that leaders write to, with their tokens: each reads it first, then writes what follows."""

    def __init__(self, ctx: Context, store: EventStore) -> None:
        self._ctx = ctx
        self._store = store
        self.actor = "governed"

    async def take_over(self, term: Term) -> int:
        """Write as a new leader, unless a newer one has; the version that was written.

        From now on what older terms expect is not true.
        """

        async def write() -> int:
            last = await listed(self._store.read(self.actor, reverse=True, limit=1))
            version, token = (last[0].version, last[0].data["token"]) if last else (0, 0)
            if token > term.token:
                raise LeadershipLost(term.name, token=term.token, reason="a newer term has written")
            await self.write(term, version + 1)
            return version + 1

        while True:
            with suppress(VersionConflict):
                return await self._ctx.recovers(write, "the first write of a term")

    async def write(self, term: Term, version: int) -> None:
        """Write on behind a version. Raises `VersionConflict` if another leader has written."""
        await self._store.append(event(self.actor, version, data={"token": term.token}))

    async def check(self) -> None:
        """No older term has written behind a younger one."""
        written = await self._ctx.recovers(lambda: listed(self._store.read(self.actor)), "what was written")
        check_fence([FencedWrite(one.data["token"], f"version {one.version}") for one in written])


async def _successor(ctx: Context, election: Election) -> Term:
    """A term behind a lease that has to run out first."""
    return await election.campaign(NAME, ttl=ctx.lease, timeout=2 * ctx.lease + 2 * ctx.deadline)


@asynccontextmanager
async def _watched(term: Term, tenures: list[Tenure]) -> AsyncIterator[None]:
    """Note for how long the holder believes to lead."""
    begin = time.monotonic()

    async def watch() -> None:
        now = end = begin
        while term.valid():
            end = now  # looked at before: it led then, however long this process was not running since
            await asyncio.sleep(0)
            now = time.monotonic()
        tenures.append(Tenure(term.token, term.holder, begin, end))

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        await term.resign()
        await watching


@case("election.exclusive#blackhole", faults={"link"}, durability=Durability.PROCESS, beside={"store"})
async def cut_off(ctx: Context) -> None:
    """A leader that is cut off for longer than its lease MUST lose it before a rival leads; what it had sent, and
    arrives later, MUST change nothing, and what it writes on MUST be refused.
    """
    recorded, link, tenures = RegisterHistory(ctx.namespace), await ctx.link(), list[Tenure]()
    governed = _Governed(ctx, await ctx.store())
    old, new = await ctx.election(wrap=recorded.wrap, link=link), await ctx.election(wrap=recorded.wrap)
    elder = await elected(ctx, old)
    async with _watched(elder, tenures):
        version = await governed.take_over(elder)
        link.blackhole(Way.REQUESTS)
        await ctx.eventually(lambda: link.traffic[Way.REQUESTS].held, "a renewal to be on its way")
        younger = await _successor(ctx, new)
    async with _watched(younger, tenures):
        await governed.take_over(younger)
        link.heal()
        with expect_error(VersionConflict, "a write of the older term"):
            await governed.write(elder, version + 1)
        with expect_error(LeadershipLost, "check() of the older term"):
            elder.check()
        # What was held has arrived when something that was sent behind it is answered.
        await ctx.recovers(lambda: old.leader(NAME), "the older leader to be connected again")
        expect(younger.valid(), "the younger term to stay valid", found="it is lost")
    check_tenures(tenures)
    await governed.check()
    await _check_register(ctx, recorded)


@case("election.exclusive#pause", faults={"pause", "resume"}, durability=Durability.PROCESS, beside={"store"})
async def paused(ctx: Context) -> None:
    """A server that pauses for longer than a lease MUST NOT lead to two terms at once, nor to a lower token."""
    recorded, tenures = RegisterHistory(ctx.namespace), list[Tenure]()
    governed = _Governed(ctx, await ctx.store())
    old, new = await ctx.election(wrap=recorded.wrap), await ctx.election(wrap=recorded.wrap)
    elder = await elected(ctx, old)
    async with _watched(elder, tenures):
        version = await governed.take_over(elder)
        waiting = asyncio.create_task(_successor(ctx, new))
        async with ctx.paused():
            await ctx.within(elder.lost.wait(), "the leader to lose what it cannot renew")
        younger = await waiting
    async with _watched(younger, tenures):
        await governed.take_over(younger)
        with expect_error(VersionConflict, "a write of the older term"):
            await governed.write(elder, version + 1)
    check_tenures(tenures)
    await governed.check()
    await _check_register(ctx, recorded)


@case(
    "election.exclusive#faults",
    faults={"link", "kill", "start", "pause", "resume"},
    durability=Durability.PROCESS,
    beside={"store"},
)
async def mixed(ctx: Context) -> None:
    """Candidates that lead in turn MUST never overlap while connections break, and the server pauses and dies."""
    recorded, tenures, links = RegisterHistory(ctx.namespace), list[Tenure](), [await ctx.link() for _ in range(3)]
    governed = _Governed(ctx, await ctx.store())
    elections = [await ctx.election(wrap=recorded.wrap, link=link) for link in links]
    over = asyncio.Event()
    led = [0] * len(elections)

    async def lead_often(number: int, election: Election) -> None:
        while not over.is_set():
            async with _trying():
                term = await election.campaign(NAME, ttl=ctx.lease, timeout=ctx.deadline)
                async with _watched(term, tenures):
                    await governed.take_over(term)
                    await drift(20)
                led[number] += 1

    async def everybody_leads() -> None:
        before = list(led)
        await ctx.eventually(lambda: all(map(gt, led, before)), "every candidate to lead again")

    async with ctx.background(*(lead_often(*each) for each in enumerate(elections))) as leading:
        for way in (*Way, *Way):
            for link in links:
                await everybody_leads()
                await _lose(ctx, link, way)
        async with ctx.paused():
            for link in links:
                link.reset()
        await everybody_leads()
        await ctx.restart()
        await everybody_leads()
        over.set()
        await ctx.within(asyncio.gather(*leading), "the candidates to end")
    check_tenures(tenures)
    await governed.check()
    await _check_register(ctx, recorded)


async def _lose(ctx: Context, link: Link, way: Way) -> None:
    """Lose the next thing that goes that way, with its connection."""
    link.blackhole(way)
    await ctx.eventually(lambda: link.traffic[way].held, f"{way} on a link")
    link.reset()
    link.heal()


@asynccontextmanager
async def _trying() -> AsyncIterator[None]:
    """What a candidate goes on behind."""
    try:
        yield
    except (LeadershipLost, OutcomeUnknown, StaleRead, TimedOut, Unavailable):
        await drift(1)


async def _check_register(ctx: Context, recorded: RegisterHistory) -> None:
    register: LeaseRegister = await ctx.recovers(ctx.register, "opening a register behind the faults")
    recorded.check(NAME, await ctx.recovers(lambda: register.read(NAME), "reading the record"))
