"""bus.close: nothing is left, nothing hangs, and a cancelled call breaks nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aether.conformance.cases.close import cancels_opening, leaves_nothing
from aether.conformance.context import CANCEL_TURNS, Context, cancelled_after, event
from aether.conformance.rules import case
from aether.conformance.violations import expect_equal, expect_error
from aether.core import Closed, EventBus, NoResponders


@case("bus.close#leaves")
async def leaves(ctx: Context) -> None:
    """After close no task, socket or thread of the bus MUST be left, though subscriptions were never left."""

    async def use() -> None:
        async with ctx.server.bus(ctx.namespace) as bus:
            events = await bus.subscribe().__aenter__()
            await bus.subscribe(queue="q").__aenter__()
            await bus.publish(event("a", 1))
            await anext(events)

            async def answer() -> None:
                await bus.reply(await anext(events), event("b", 1))

            async with asyncio.TaskGroup() as group:
                group.create_task(answer())
                await bus.request(event("a", 2))

    await leaves_nothing(ctx, use)


@case("bus.close#opening")
async def opening(ctx: Context) -> None:
    """Cancelling the opening of a bus at any point MUST leave nothing behind."""

    async def open_and_close() -> None:
        async with ctx.server.bus(ctx.namespace):
            pass

    await cancels_opening(ctx, open_and_close)


@case("bus.close#raises")
async def raises(ctx: Context) -> None:
    """Closing twice MUST be fine; calls and waits of a bus that is closed, or not open yet, MUST raise Closed."""
    bus = await ctx.bus()
    async with bus.subscribe() as events:
        waiting = asyncio.create_task(anext(events))
        asking = asyncio.create_task(bus.request(event("a", 1, type="Question"), timeout=ctx.deadline))
        await ctx.within(waiting, "the request to arrive")
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        await ctx.within(asyncio.gather(bus.close(), bus.close()), "two closings at once")
        for what, task in (("a waiting subscription", waiting), ("a waiting request", asking)):
            with expect_error(Closed, f"{what} of a bus that is closed meanwhile"):
                await ctx.within(task, "Closed")
    await ctx.within(bus.close(), "a third closing")
    calls: dict[str, Callable[[EventBus], Awaitable[object]]] = {
        "publish": lambda bus: bus.publish(event("a", 1)),
        "subscribe": lambda bus: bus.subscribe().__aenter__(),
        "request": lambda bus: bus.request(event("a", 1)),
    }
    for other, state in ((bus, "a closed bus"), (ctx.server.bus(ctx.namespace), "a bus that is not open")):
        for method, call in calls.items():
            with expect_error(Closed, f"{method} on {state}"):
                await ctx.within(call(other), "Closed")


@case("bus.close#cancelled")
async def cancelled(ctx: Context) -> None:
    """Cancelling any call at any point MUST leave the bus usable, and its other subscriptions complete."""
    bus = await ctx.bus()

    async def subscribe() -> None:
        async with bus.subscribe(actors="nobody") as events:
            await anext(events)

    async with bus.subscribe(actors="witness") as events:
        for number, turns in enumerate(CANCEL_TURNS, start=1):
            await ctx.within(cancelled_after(turns, subscribe()), "a cancelled subscription to end")
            await ctx.within(cancelled_after(turns, bus.publish(event("other", 1))), "a cancelled publish to end")
            with suppress(NoResponders):
                await ctx.within(cancelled_after(turns, bus.request(event("other", 1))), "a cancelled request to end")
            await bus.publish(event("witness", number))
        found = await ctx.take(events, len(CANCEL_TURNS), "events behind cancelled calls")
        expect_equal([one.version for one in found], list(range(1, len(CANCEL_TURNS) + 1)), "the versions")
