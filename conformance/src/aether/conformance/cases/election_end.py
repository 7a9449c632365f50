"""election: how terms end. By a lost lease, a dead holder, a resignation; and what comes behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

from aether.conformance.cases.close import cancels_opening, leaves_nothing
from aether.conformance.cases.election import NAME, elected
from aether.conformance.context import Context, event
from aether.conformance.rules import case
from aether.conformance.violations import Violation, expect, expect_equal, expect_error
from aether.conformance.wrappers import RegisterWrapper
from aether.core import (
    Closed,
    Durability,
    Election,
    LeadershipLost,
    StaleToken,
    Term,
    TimedOut,
    Unavailable,
    VersionConflict,
)
from aether.core.spi import Entry, LeaseRegister


class Cut(RegisterWrapper):
    """A register whose connection can be cut: from then on it answers nothing."""

    def __init__(self, inner: LeaseRegister) -> None:
        super().__init__(inner)
        self.cut = False

    def _check(self) -> None:
        if self.cut:
            raise Unavailable("the register", reason="the suite cut the connection")

    async def read(self, name: str) -> Entry | None:
        self._check()
        return await super().read(name)

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        self._check()
        return await super().cas(name, value, expected=expected)

    async def scan(self, prefix: str) -> Sequence[Entry]:
        self._check()
        return await super().scan(prefix)


async def _cuttable(ctx: Context) -> tuple[Election, Cut]:
    cuts: list[Cut] = []

    def wrap(inner: LeaseRegister) -> LeaseRegister:
        cuts.append(Cut(inner))
        return cuts[0]

    election = await ctx.election(wrap=wrap)
    return election, cuts[0]


async def _successor(ctx: Context, election: Election) -> Term:
    """A term behind a holder that has died: its lease has to run out first."""
    bound = 1.5 * ctx.lease + ctx.deadline
    try:
        return await election.campaign(NAME, ttl=ctx.lease, timeout=bound)
    except TimedOut:
        raise Violation(expected=f"a new leader within {bound:g} s", found="nobody was elected") from None


@case("election.token#restart", faults={"restart"}, durability=Durability.PROCESS)
async def token_restart(ctx: Context) -> None:
    """Tokens MUST increase across a kill -9 of the server, and a campaign MUST go on behind it."""
    election, rival = await ctx.election(), await ctx.election()
    term = await elected(ctx, election)
    waiting = asyncio.create_task(_successor(ctx, rival))
    try:
        await ctx.restart()
        await term.resign()
        later = await waiting
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])
    expect(later.token > term.token, f"a token above {term.token}", found=later.token)


@case("election.lost")
async def lost(ctx: Context) -> None:
    """A leader that cannot renew MUST be told, and its body cancelled, before anybody else is elected."""
    (election, register), rival = await _cuttable(ctx), await ctx.election()
    moments: dict[str, float] = {}
    terms: list[Term] = []

    async def lead() -> None:
        async with election.lead(NAME, ttl=ctx.lease) as term:
            terms.append(term)
            register.cut = True
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                moments["cancelled"] = time.monotonic()

    leading = asyncio.create_task(lead())
    try:
        await ctx.eventually(lambda: terms, "to be elected")
        later = await _successor(ctx, rival)
        elected = time.monotonic()
        with expect_error(LeadershipLost, "a body whose lease ran out"):
            await ctx.within(leading, "the body to end")
    finally:
        leading.cancel()
        await asyncio.wait([leading])
    term = terms[0]
    found = (term.valid(), term.lost.is_set(), term.remaining())
    expect_equal(found, (False, True, 0.0), "valid(), lost and remaining() of a lost term")
    with expect_error(LeadershipLost, "check() of a lost term"):
        term.check()
    expect(moments["cancelled"] <= elected, "the body to end before the next term begins", found=moments)
    expect(later.token > term.token, f"a token above {term.token}", found=later.token)


@case("election.fence", beside={"store"})
async def fence(ctx: Context) -> None:
    """Once a term has written, no act of an older one MUST commit: neither an append nor a checkpoint."""
    store = await ctx.store()
    (old, register), new = await _cuttable(ctx), await ctx.election()
    elder = await elected(ctx, old)
    position = (await store.append(event("governed", 1, data={"token": elder.token}))).position
    await store.save_checkpoint("governed", position, token=elder.token)
    register.cut = True
    younger = await _successor(ctx, new)
    position = (await store.append(event("governed", 2, data={"token": younger.token}))).position
    await store.save_checkpoint("governed", position, token=younger.token)
    with expect_error(VersionConflict, "an append of the older term"):
        await store.append(event("governed", 2, data={"token": elder.token}))
    with expect_error(StaleToken, "a checkpoint of the older term"):
        await store.save_checkpoint("governed", position, token=elder.token)
    await younger.resign()


@case("election.failover")
async def failover(ctx: Context) -> None:
    """When a leader dies, somebody else MUST be elected when its lease has run out, not before."""
    (dying, register), rival = await _cuttable(ctx), await ctx.election()
    term = await elected(ctx, dying)
    waiting = asyncio.create_task(_successor(ctx, rival))
    try:
        register.cut = True
        later = await waiting
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])
    expect(not term.valid(), "the dead leader's term to be over first", found=f"{term.remaining()} s left")
    expect(later.token > term.token, f"a token above {term.token}", found=later.token)
    await later.resign()


@case("election.resign")
async def resign(ctx: Context) -> None:
    """Resigning MUST end the term here before anybody is told, and hand over long before the lease runs out."""
    one, two = await ctx.election(), await ctx.election()
    # With push, the lease is so long that only news can be the reason; without, a poll has to come around.
    ttl = 10 * ctx.deadline if one.push else ctx.lease
    term = await elected(ctx, one, ttl=ttl)
    waiting = asyncio.create_task(two.campaign(NAME, ttl=ttl))
    try:
        await ctx.within(_seen_by(two, term), "the rival to see the leader")
        resigning = asyncio.create_task(term.resign())
        await asyncio.sleep(0)
        expect(not term.valid(), "valid() to be false at once", found=True)
        await ctx.within(resigning, "to resign")
        later = await ctx.within(waiting, "the rival to be elected")
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])
    expect(later.token > term.token, f"a token above {term.token}", found=later.token)
    await ctx.within(term.resign(), "to resign twice")
    expect(later.valid(), "the rival to lead", found=False)


@case("election.resign#contended")
async def resign_contended(ctx: Context) -> None:
    """With several candidates waiting, every resignation MUST hand over long before the lease runs out."""
    elections = [await ctx.election() for _ in range(4)]
    ttl = 100 * ctx.deadline if elections[0].push else ctx.lease
    tokens: list[int] = []

    async def lead_once(election: Election) -> None:
        async with election.lead(NAME, ttl=ttl) as term:
            tokens.append(term.token)

    leading = [asyncio.create_task(lead_once(election)) for election in elections * 3]
    try:
        for led in range(1, len(leading) + 1):
            await ctx.eventually(lambda: len(tokens) >= led, f"leader {led} of {len(leading)} to be elected")  # noqa: B023
        await ctx.within(asyncio.gather(*leading), "the last one to resign")
    finally:
        for task in leading:
            task.cancel()
        await asyncio.gather(*leading, return_exceptions=True)
    expect_equal(tokens, sorted(set(tokens)), "the tokens")


async def _seen_by(election: Election, term: Term) -> None:
    async for view in election.observe(NAME):
        if view is not None and view.token == term.token:
            return


@case("election.resign#error")
async def resign_error(ctx: Context) -> None:
    """A body that raises MUST resign, too, and its error MUST come through."""
    one, two = await ctx.election(), await ctx.election()
    ttl = 10 * ctx.deadline
    terms: list[Term] = []
    with expect_error(ZeroDivisionError, "a body that divides by zero"):
        async with one.lead(NAME, ttl=ttl) as term:
            terms.append(term)
            raise ZeroDivisionError
    expect(not terms[0].valid(), "the term to be over", found="it is valid")
    await (await elected(ctx, two, ttl=ttl)).resign()


@case("election.view")
async def view(ctx: Context) -> None:
    """`leader` and `observe` MUST name the holder and token while the lease is held, and None when it is free."""
    election, watcher = await ctx.election(holder="node-1"), await ctx.election()
    expect_equal(await watcher.leader(NAME), None, "the leader of what was never held")
    views = watcher.observe(NAME)
    expect_equal(await ctx.within(anext(views), "the first view"), None, "the first view")
    for _ in range(2):
        term = await elected(ctx, election, ttl=10 * ctx.deadline)
        expect(term.holder.startswith("node-1"), "a holder that begins with the node's name", found=term.holder)
        held = await watcher.leader(NAME)
        expect_equal(held and (held.holder, held.token), (term.holder, term.token), "the leader")
        await ctx.within(_observed(views, term.token), "the leader to be observed")
        await term.resign()
        expect_equal(await watcher.leader(NAME), None, "the leader behind a resignation")
        await ctx.within(_observed(views, None), "the resignation to be observed")


async def _observed(views: object, token: int | None) -> None:
    async for seen in views:  # type: ignore[attr-defined]
        if (seen and seen.token) == token:
            return


@case("election.run")
async def run(ctx: Context) -> None:
    """`run` MUST lead again behind every return of its work, and end with its error, having resigned."""
    election = await ctx.election()
    tokens: list[int] = []

    async def work(term: Term) -> None:
        tokens.append(term.token)
        if len(tokens) == 3:
            raise ZeroDivisionError

    with expect_error(ZeroDivisionError, "work that divides by zero"):
        await ctx.within(_run(election, work, 10 * ctx.deadline), "3 terms")
    expect_equal(tokens, sorted(set(tokens)), "the tokens")
    expect_equal(await election.leader(NAME), None, "the leader in the end")


async def _run(election: Election, work: Callable[[Term], Awaitable[None]], ttl: float) -> NoReturn:
    await election.run(NAME, work, ttl=ttl)


# --- Closing ---


@case("election.close#leaves")
async def leaves(ctx: Context) -> None:
    """After close no task, socket or thread of the election MUST be left, though terms were never resigned."""

    async def use() -> None:
        async with ctx.server.election(ctx.namespace) as election:
            await election.campaign(NAME, ttl=10 * ctx.deadline)
            await election.leader(NAME)
            async for _ in election.observe(NAME):
                break

    await leaves_nothing(ctx, use)


@case("election.close#opening")
async def opening(ctx: Context) -> None:
    """Cancelling the opening of an election at any point MUST leave nothing behind."""

    async def open_and_close() -> None:
        async with ctx.server.election(ctx.namespace):
            pass

    await cancels_opening(ctx, open_and_close)


@case("election.close#hands-over")
async def hands_over(ctx: Context) -> None:
    """Closing MUST resign what is led, end what waits with Closed, and be fine twice; calls then raise Closed."""
    one, two = await ctx.election(), await ctx.election()
    ttl = 10 * ctx.deadline
    term = await elected(ctx, one, ttl=ttl)
    waiting = asyncio.create_task(two.campaign(NAME, ttl=ttl))
    await ctx.within(_seen_by(two, term), "the rival to see the leader")
    await ctx.within(two.close(), "closing beside a waiting campaign")
    with expect_error(Closed, "a campaign whose election is closed"):
        await ctx.within(waiting, "Closed")
    await ctx.within(asyncio.gather(one.close(), one.close()), "two closings at once")
    await ctx.within(one.close(), "a third closing")
    expect(not term.valid() and term.lost.is_set(), "the term to be over", found="it is valid")
    await (await elected(ctx, await ctx.election(), ttl=ttl)).resign()
    calls: dict[str, Callable[[Election], Awaitable[object]]] = {
        "campaign": lambda election: election.campaign(NAME),
        "leader": lambda election: election.leader(NAME),
        "observe": lambda election: anext(election.observe(NAME)),
    }
    for election, state in ((one, "a closed election"), (ctx.server.election(ctx.namespace), "one that is not open")):
        for method, call in calls.items():
            with expect_error(Closed, f"{method} on {state}"):
                await ctx.within(call(election), "Closed")
