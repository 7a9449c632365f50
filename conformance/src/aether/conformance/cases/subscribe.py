"""store.subscribe: catch-up and live through one iterator, without a seam."""

from __future__ import annotations

import asyncio

from aether.conformance.context import CANCEL_TURNS, Context, cancelled_after, drift, event, fed, history, listed
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal
from aether.core import START, Durability, EventStore, Subscription


async def _write(store: EventStore, actor_id: str, commits: int, size: int = 2) -> None:
    for first in range(1, commits * size, size):
        await store.append(*history(actor_id, first, first + size - 1))
        await drift(1)


@case("store.subscribe.seam")
async def seam(ctx: Context) -> None:
    """Between catch-up and live nothing MUST be lost or repeated, with a writer running through it."""
    writer, reader = await ctx.store(), await ctx.store()
    await _write(writer, "before", 20)
    total = 40 + 3 * 100

    async def follow() -> list[str]:
        async with reader.subscribe(buffer=16) as events:
            return [each.id for _, each in await ctx.take(events, total, "events")]

    writing = [asyncio.create_task(_write(writer, f"a{number}", 50)) for number in range(3)]
    followers = []
    for _ in range(6):
        followers.append(asyncio.create_task(follow()))
        await fed(reader)  # meanwhile the writers go on: each follower meets them elsewhere
    try:
        await ctx.within(asyncio.gather(*writing), "the writers to end")
        ids = [each.id for each in await fed(reader)]
        for found in await ctx.within(asyncio.gather(*followers), "the followers to end"):
            expect_equal(found, ids, "what a subscriber saw")
    finally:
        for task in (*writing, *followers):
            task.cancel()
        await asyncio.wait((*writing, *followers))


@case("store.subscribe.seam#after")
async def seam_after(ctx: Context) -> None:
    """`subscribe(after=p)` MUST begin behind p, and `position` MUST be that of the last event delivered."""
    store = await ctx.store()
    await _write(store, "a", 4)
    whole = await listed(store.feed())
    for index, after in enumerate([START, *(position for position, _ in whole)]):
        async with store.subscribe(after=after) as events:
            expect_equal(events.position, after, "the position of a subscription that has delivered nothing")
            rest = await ctx.take(events, len(whole) - index, "events")
            expect_equal(rest, whole[index:], f"the events behind {after}")
            expect_equal(events.position, whole[-1][0], "the position behind the last one")
    async with store.subscribe(after=whole[-1][0]) as events:
        live = event("b", 1)
        await store.append(live)
        expect_equal((await ctx.take(events, 1, "live event"))[0][1], live, "the live event")


@case("store.subscribe.seam#cancelled")
async def seam_cancelled(ctx: Context) -> None:
    """A cancelled wait for the next event MUST lose nothing: iterating again goes on."""
    store = await ctx.store()
    seen: list[str] = []

    async def next_one(events: Subscription) -> None:
        seen.append((await anext(events))[1].id)

    async with store.subscribe(buffer=4) as events:
        for version, turns in enumerate(CANCEL_TURNS, start=1):
            await store.append(event("a", version))
            await cancelled_after(turns, next_one(events))
        await ctx.within(_until(events, seen, len(CANCEL_TURNS)), "the rest of the events")
    expect_equal(seen, [each.id for each in await fed(store)], "what the subscriber saw")


async def _until(events: Subscription, seen: list[str], count: int) -> None:
    while len(seen) < count:
        seen.append((await anext(events))[1].id)


@case("store.subscribe.pressure")
async def pressure(ctx: Context) -> None:
    """A slow consumer MUST hold at most `buffer` events, slow no writer, and resume without loss."""
    store, writer = await ctx.store(), await ctx.store()
    buffer, total = 8, 600
    async with store.subscribe(buffer=buffer) as events:
        await writer.append(event("first", 1))
        await ctx.take(events, 1, "event")
        await ctx.within(_write(writer, "a", total // 2), "a writer beside an idle subscriber")
        seen = 0
        while seen < total:
            await ctx.within(anext(events), "the next event")
            seen += 1
            expect(events.buffered <= buffer, f"at most {buffer} events to be held", found=events.buffered)
        expect_equal(events.position, await store.head(), "the position behind the last one")


@case("store.subscribe.filter")
async def filters(ctx: Context) -> None:
    """A filter that matches nothing MUST still advance `position`; what matches MUST be delivered."""
    store = await ctx.store()
    await _write(store, "a", 5)
    async with store.subscribe(types={"Wanted"}, actors="w*") as events:
        waiting = asyncio.create_task(anext(events))
        try:
            await _write(store, "b", 5)
            await store.append(event("b", 11, type="Wanted"))
            head = (await store.append(event("w", 1))).position
            await ctx.eventually(lambda: events.position == head, f"the position to reach {head}")
            expect(not waiting.done(), "nothing to be delivered", found=waiting)
            wanted = event("w", 2, type="Wanted")
            position = (await store.append(wanted)).position
            expect_equal(await ctx.within(waiting, "the event that matches"), (position, wanted), "what is delivered")
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])


@case("store.subscribe.seam#restart", faults={"restart"}, durability=Durability.PROCESS)
async def restart(ctx: Context) -> None:
    """A subscription MUST go on by itself when the server comes back, without loss and without repeat."""
    store, writer = await ctx.store(), await ctx.store()
    async with store.subscribe() as events:
        await _write(writer, "before", 10)
        seen = await ctx.take(events, 10, "events before the restart")
        await ctx.restart()
        await ctx.recovers(lambda: writer.append(event("back", 1)), "an append behind the restart")
        await ctx.within(_write(writer, "after", 10), "appends behind the restart")
        seen += await ctx.take(events, 31, "events behind the restart")
        expect_equal(seen, await listed(store.feed()), "what the subscriber saw")


@case("store.subscribe.batch")
async def batch(ctx: Context) -> None:
    """`batch` MUST give all that is wanted, in order, up to `buffer` at a time, with the position behind all of it."""
    store, writer = await ctx.store(), await ctx.store()
    await _write(writer, "a", 30)
    await _write(writer, "b", 5)
    last = await store.head()
    async with store.subscribe(actors="a", buffer=8) as events:
        seen: list[str] = []
        while events.position != last:
            before = events.position
            found = await ctx.within(events.batch(), "a batch")
            expect(len(found) <= 8, "at most 8 events at once", found=len(found))
            expect(events.buffered <= 8, "at most 8 events to be held", found=events.buffered)
            expect(events.position > before, "the position to advance with each batch", found=events.position)
            seen += [each.id for _, each in found]
            if found and len(seen) < 60:  # in turn with the iterator
                seen.append((await ctx.within(anext(events), "an event"))[1].id)
        expect_equal(seen, [each.id for each in await listed(store.read("a"))], "what came in batches")
        waiting = asyncio.create_task(events.batch())
        live = event("a", 61)
        position = (await writer.append(live)).position
        expect_equal(await ctx.within(waiting, "the live event"), [(position, live)], "the batch that is live")
        expect_equal(events.position, position, "the position behind it")


@case("store.subscribe.batch#cancelled")
async def batch_cancelled(ctx: Context) -> None:
    """A batch that is cancelled MUST lose nothing, while what is stored is caught up with as well as live."""
    store = await ctx.store()
    await _write(store, "a", 100)
    seen: list[str] = []

    async def more(events: Subscription) -> None:
        while True:
            seen.extend(each.id for _, each in await events.batch())

    async with store.subscribe(buffer=4) as events:
        for version, turns in enumerate(CANCEL_TURNS, start=1):
            await store.append(event("b", version))
            await cancelled_after(turns, more(events))
        rest = asyncio.create_task(more(events))
        try:
            await ctx.eventually(lambda: len(seen) >= 200 + len(CANCEL_TURNS), "the rest of the events")
        finally:
            rest.cancel()
            await asyncio.wait([rest])
    expect_equal(seen, [each.id for each in await fed(store)], "what came in batches")
