"""What a bus promises while connections break: at most once, in order, and no gap without a report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from aether.conformance.context import Context, drift, event
from aether.conformance.faults import Way
from aether.conformance.history import Published, Received, check_bus
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_error
from aether.core import BusSubscription, Durability, EventBus, NoResponders, OutcomeUnknown, TimedOut, Unavailable

_PLACES = (1, 20, 60, 150, 400)
_TRIES = 5  # of a fault, within the time that an interruption may take to be told
_EACH = 20


async def _receive(events: BusSubscription, received: list[Received]) -> None:
    async for one in events:
        received.append(Received(one.actor_id, one.version))  # noqa: PERF401  (it is endless)


async def _publish(bus: EventBus, actor: str, published: Published) -> None:
    """Publish the next number."""
    number = len(published.accepted) + len(published.unsent) + len(published.unknown) + 1
    try:
        await bus.publish(event(actor, number))
    except Unavailable:
        published.unsent.add(number)
    except OutcomeUnknown:
        published.unknown.add(number)
    else:
        published.accepted.add(number)


async def _until_received(ctx: Context, bus: EventBus, actor: str, published: Published, seen: list[Received]) -> None:
    """Publish until something of it is received: the connections are back."""
    reached = len(seen)
    await _publish_until(ctx, bus, actor, published, lambda: len(seen) > reached, "a delivery behind the fault")


async def _publish_until(
    ctx: Context, bus: EventBus, actor: str, published: Published, reached: Callable[[], bool], what: str
) -> None:
    """Go on publishing: a link that waits for bytes gets them, also when the publisher lost its own connection."""

    async def publish() -> None:
        while not reached():
            await _publish(bus, actor, published)
            with suppress(Unavailable, OutcomeUnknown, NoResponders, TimedOut):
                await bus.request(event("nobody", 1, type="Nothing"), timeout=0.02)
            await drift(1)

    await ctx.within(publish(), what)


def _told(ctx: Context, events: BusSubscription, fault: Callable[[], None]) -> Callable[[], bool]:
    """Whether another interruption was reported. A bus may hold several connections through the link, and the one that
    broke may not be the one that events come through, so the fault comes again: not before a connection had time to
    be made anew, or it would break that one, too."""
    clock = asyncio.get_running_loop().time
    before, again = events.interrupted, clock() + ctx.deadline / _TRIES

    def told() -> bool:
        nonlocal again
        if clock() > again:
            again += ctx.deadline / _TRIES
            fault()
        return events.interrupted > before

    return told


@case("bus.reconnect#reset", faults={"link"}, durability=Durability.PROCESS)
async def subscriber_reset(ctx: Context) -> None:
    """A subscriber whose connection breaks MUST get events again by itself, each once, in order, and MUST be told."""
    link = await ctx.link()
    publisher, subscriber = await ctx.bus(), await ctx.bus(link=link)
    published, received = {"p": Published()}, list[Received]()
    async with subscriber.subscribe(actors="p") as events, ctx.background(_receive(events, received)):
        faults: list[Callable[[], None]] = [
            link.cut,
            link.reset,
            *(partial(link.reset_after, Way.REPLIES, place) for place in _PLACES),
        ]
        for number, fault in enumerate(faults, start=1):
            told = _told(ctx, events, fault)
            fault()
            for _ in range(_EACH):
                await _publish(publisher, "p", published["p"])
            await _publish_until(ctx, publisher, "p", published["p"], told, f"interruption {number} to be reported")
            await _until_received(ctx, publisher, "p", published["p"], received)
    check_bus(published, received, gaps=events.interrupted)


@case("bus.order#reset", faults={"link"}, durability=Durability.PROCESS)
async def publisher_reset(ctx: Context) -> None:
    """Events of a publisher whose connection breaks MUST come in order, once; those that were Unavailable, never."""
    link = await ctx.link()
    publisher, subscriber = await ctx.bus(link=link), await ctx.bus()
    published, received = {"p": Published()}, list[Received]()
    async with subscriber.subscribe(actors="p") as events, ctx.background(_receive(events, received)):
        for place in _PLACES:
            link.reset_after(Way.REQUESTS, place)
            for _ in range(_EACH):
                await _publish(publisher, "p", published["p"])
                await drift(1)
            await _until_received(ctx, publisher, "p", published["p"], received)
            link.heal()
        link.refuse()
        link.reset()
        await _until_unsent(ctx, publisher, published["p"])
        link.heal()
        await _until_received(ctx, publisher, "p", published["p"], received)
    expect(len(published["p"].unsent) > 0, "an Unavailable publish", found=published["p"])
    check_bus(published, received)


async def _until_unsent(ctx: Context, bus: EventBus, published: Published) -> None:
    async def publish() -> None:
        while not published.unsent:
            await _publish(bus, "p", published)
            await drift(1)

    await ctx.within(publish(), "Unavailable from publishing without a connection")


@case("bus.reconnect#gone", faults={"kill", "start"}, durability=Durability.PROCESS)
async def gone(ctx: Context) -> None:
    """While the server is gone, opening MUST be Unavailable; behind it, events MUST come again, in order and once."""
    publisher, subscriber = await ctx.bus(), await ctx.bus()
    published, received = {"p": Published()}, list[Received]()
    async with subscriber.subscribe(actors="p") as events, ctx.background(_receive(events, received)):
        await _until_received(ctx, publisher, "p", published["p"], received)
        async with ctx.gone():
            with expect_error(Unavailable, "opening a bus without a server"):
                await ctx.within(ctx.bus(), "the end of opening a bus")
            await _until_unsent(ctx, publisher, published["p"])
        await ctx.eventually(lambda: events.interrupted, "the interruption to be reported")
        for _ in range(2):
            await _until_received(ctx, publisher, "p", published["p"], received)
    check_bus(published, received)
