"""election: one leader per name, a token for every term, and an end that is known in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aether.conformance.context import Context
from aether.conformance.corpus import HOSTILE_NAMES, INVALID_NAMES
from aether.conformance.history import Tenure, check_tenures
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.core import (
    Election,
    InvalidName,
    Term,
    TimedOut,
)

NAME = "billing"


async def elected(ctx: Context, election: Election, name: str = NAME, *, ttl: float | None = None) -> Term:
    """A term, within the time that a free lease takes."""
    return await ctx.within(election.campaign(name, ttl=ttl or ctx.lease), "to be elected")


# --- One at a time ---


@case("election.exclusive")
async def exclusive(ctx: Context) -> None:
    """Terms MUST never overlap, and tokens MUST strictly increase, with many candidates that lead in turn."""
    elections = [await ctx.election() for _ in range(4)]
    tenures: list[Tenure] = []

    async def lead_often(election: Election) -> None:
        for _ in range(4):
            async with election.lead(NAME, ttl=2 * ctx.lease) as term:
                begin = time.monotonic()
                await election.leader(NAME)
                tenures.append(Tenure(term.token, term.holder, begin, time.monotonic()))

    await ctx.within(asyncio.gather(*map(lead_often, elections)), "4 candidates to lead 4 times each")
    check_tenures(tenures)
    expect_equal(len(tenures), 16, "the number of terms")


@case("election.exclusive#held")
async def exclusive_held(ctx: Context) -> None:
    """A leader that renews MUST be the only one, for longer than its lease; a campaign MUST end at its time-out."""
    one, two = await ctx.election(), await ctx.election()
    ttl = 2 * ctx.lease
    term = await elected(ctx, one, ttl=ttl)
    with expect_error(TimedOut, "a campaign against a leader that renews"):
        await two.campaign(NAME, ttl=ttl, timeout=1.5 * ttl)
    expect(term.valid(), "the leader to lead still", found=f"lost: {term.lost.is_set()}")
    await term.resign()


@case("election.unique")
async def unique(ctx: Context) -> None:
    """Of candidates that campaign at once for a name that was never held, exactly one MUST be elected first."""
    elections = [await ctx.election(holder=f"node-{number}") for number in range(4)]
    for turn in range(3):
        name = f"{NAME}-{turn}"
        campaigns = [asyncio.create_task(one.campaign(name, ttl=ctx.deadline)) for one in elections * 2]
        try:
            terms: list[Term] = []
            for left in range(len(campaigns), 0, -1):
                await ctx.eventually(lambda: any(task.done() for task in campaigns), f"a leader, {left} to go")  # noqa: B023
                won = [task for task in campaigns if task.done()]
                expect(len(won) == 1, "one leader", found=[task.result() for task in won])
                campaigns.remove(won[0])
                terms.append(won[0].result())
                await ctx.within(terms[-1].resign(), "to resign")
            tokens = [term.token for term in terms]
            expect_equal(tokens, sorted(set(tokens)), "the tokens")
            expect_equal(len({term.holder for term in terms}), len(terms), "the number of holders")
        finally:
            for task in campaigns:
                task.cancel()
            await asyncio.gather(*campaigns, return_exceptions=True)


@case("election.unique#names")
async def unique_names(ctx: Context) -> None:
    """Elections whose names or namespaces differ MUST never meet."""
    one, other = await ctx.election(), await ctx.election(namespace=f"{ctx.namespace}.b")
    ttl = 10 * ctx.deadline
    for election in (one, other):
        campaigns = [election.campaign(name, ttl=ttl) for name in HOSTILE_NAMES]
        terms = await ctx.within(asyncio.gather(*campaigns), f"to lead {len(HOSTILE_NAMES)} elections at once")
        for name, term in zip(HOSTILE_NAMES, terms, strict=True):
            view = await one.leader(name) if election is one else await other.leader(name)
            expect_equal(view and (view.holder, view.token), (term.holder, term.token), f"the leader of {name!r}")
    calls: dict[str, Callable[[Any], Awaitable[object]]] = {
        "campaign": lambda name: one.campaign(name, timeout=ctx.deadline),
        "leader": one.leader,
        "observe": lambda name: anext(one.observe(name)),
    }
    for wrong in INVALID_NAMES:
        for method, call in calls.items():
            with expect_error(InvalidName, f"{method} with {wrong!r:.60}"):
                await call(wrong)


# --- Tokens ---


@case("election.token")
async def token(ctx: Context) -> None:
    """Tokens MUST strictly increase across resignation, other handles and new starts; the first one is above 0."""
    last = 0
    for _ in range(6):
        async with ctx.server.election(ctx.namespace) as election:
            for _ in range(2):
                term = await elected(ctx, election)
                expect(term.token > last, f"a token above {last}", found=term.token)
                last = term.token
                await term.resign()


@case("election.token#floor")
async def token_floor(ctx: Context) -> None:
    """With `floor`, a token MUST be above it, though the register has lost its data; a higher register MUST count."""
    election = await ctx.election()
    bound = 2 * ctx.lease + ctx.deadline

    async def seen_by_the_store() -> int:
        return 2000

    for floor, least in ((1000, 1001), (5, 1002), (seen_by_the_store, 2001)):
        term = await election.campaign(NAME, ttl=ctx.lease, floor=floor, timeout=bound)
        expect_equal(term.token, least, f"the token with a floor of {floor if isinstance(floor, int) else 2000}")
        await term.resign()
