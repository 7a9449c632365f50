"""store.driver.feed and store.driver.tail: pages of all actors, finite and endless."""

from __future__ import annotations

import asyncio
from itertools import cycle

from aether.conformance.cases.driver_store import whole_feed, write
from aether.conformance.context import CANCEL_TURNS, Context, cancelled_after, drift
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal
from aether.core.spi import Stored, StoreDriver, Tail


async def _filled(driver: StoreDriver) -> list[Stored]:
    """Fourteen events of three actors, in commits of different sizes."""
    for actor, first, last in (("a", 1, 1), ("b", 1, 3), ("a", 2, 5), ("c", 1, 1), ("b", 4, 4), ("a", 6, 9)):
        await driver.append([write(actor, first, last)])
    return await whole_feed(driver)


# --- The feed ---


@case("store.driver.feed")
async def feed(ctx: Context) -> None:
    """A page of the feed MUST hold exactly the events with `after < position <= upto`, also inside commits."""
    driver = await ctx.store_driver()
    whole = await _filled(driver)
    expect_equal(len(whole), 14, "the length of the feed")
    starts = [0, *(one.position for one in whole)]
    for first, after in enumerate(starts):
        for last in range(first, len(whole)):
            upto = whole[last].position
            page = await driver.feed(after=after, upto=upto, limit=100)
            expect_equal(list(page.records), whole[first : last + 1], f"the events with {after} < position <= {upto}")
            expect(not page.more, "no more behind the event at `upto`", found=page.more)


@case("store.driver.feed#limit")
async def feed_limit(ctx: Context) -> None:
    """A page of the feed MUST hold at most `limit` events, at least one, and `more` MUST be False at its end only."""
    driver = await ctx.store_driver()
    whole = await _filled(driver)
    upto = whole[-1].position
    for limit in (1, 2, 3, 4, 9, 13, 14):
        after, found = 0, list[Stored]()
        while len(found) < len(whole):
            page = await driver.feed(after=after, upto=upto, limit=limit)
            expect(1 <= len(page.records) <= limit, f"1 to {limit} events in a page", found=len(page.records))
            found += page.records
            after = found[-1].position
            expect(page.more or len(found) == len(whole), f"more behind {after}", found="more=False")
        expect_equal(found, whole, f"the pages of {limit}, joined")


@case("store.driver.feed#settled")
async def feed_settled(ctx: Context) -> None:
    """Once a position was seen, no event MUST ever appear below it, whoever writes and whoever looks."""
    writers = [await ctx.store_driver() for _ in range(2)]
    readers = [await ctx.store_driver() for _ in range(2)]

    async def commit(number: int) -> None:
        for first in range(1, 40, 2):
            await writers[number % 2].append([write(f"a{number}", first, first + 1)])
            await drift(number)

    longest: list[int] = []
    async with ctx.background(*(commit(number) for number in range(5))) as tasks:
        for reader in cycle(readers):
            over = all(task.done() for task in tasks)
            found = [one.position for one in await ctx.within(whole_feed(reader), "a feed")]
            common = min(len(found), len(longest))
            expect_equal(found[:common], longest[:common], "the positions that were seen before")
            longest = max(found, longest, key=len)
            if over:
                break
    expect_equal(len(longest), 5 * 40, "the length of the feed in the end")


# --- The tail ---


async def _followed(ctx: Context, tail: Tail, count: int, limits: tuple[int, ...]) -> list[Stored]:
    """The next `count` events of a tail, through pages of different limits."""
    found: list[Stored] = []
    for limit in cycle(limits):
        if len(found) >= count:
            return found
        page = await ctx.within(tail.page(limit), f"event {len(found) + 1} of {count}")
        expect(1 <= len(page) <= limit, f"1 to {limit} events in a page", found=len(page))
        found += page
    return found


@case("store.driver.tail")
async def tail(ctx: Context) -> None:
    """A page of a tail MUST hold 1 to `limit` events, and the pages MUST join to the feed, stored and live."""
    driver, writer = await ctx.store_driver(), await ctx.store_driver()
    await _filled(writer)
    async with driver.tail(after=0) as following:
        found = await _followed(ctx, following, 14, (1, 2, 3))
        for first in range(1, 60, 6):
            await writer.append([write("live", first, first + 5)])
        found += await _followed(ctx, following, 60, (4, 1, 7, 2))
    expect_equal(found, await whole_feed(driver), "what the tail gave")


@case("store.driver.tail#pages")
async def tail_pages(ctx: Context) -> None:
    """Pages of a tail MUST join to the feed also where there is far more than a page, and each limit is met."""
    driver, writer = await ctx.store_driver(), await ctx.store_driver()
    total, size = 2500, min(250, driver.limits.max_commit_events)
    for first in range(1, total + 1, size):
        await writer.append([write("a", first, min(first + size - 1, total))])
    for limits in ((64,), (256, 255, 257), (499, 500, 501), (1000, 1), (5000,)):
        async with driver.tail(after=0) as following:
            found = await _followed(ctx, following, total, limits)
        expect_equal([one.version for one in found], list(range(1, total + 1)), f"the versions in pages of {limits}")


@case("store.driver.tail#after")
async def tail_after(ctx: Context) -> None:
    """A tail MUST begin behind the position that it was given, also inside a commit."""
    driver = await ctx.store_driver()
    whole = await _filled(driver)
    for index, after in enumerate([0, *(one.position for one in whole[:-1])]):
        async with driver.tail(after=after) as following:
            found = await _followed(ctx, following, len(whole) - index, (100,))
            expect_equal(found, whole[index:], f"the events behind {after}")


@case("store.driver.tail#waits")
async def tail_waits(ctx: Context) -> None:
    """A tail at the end of the feed MUST wait for the next event, and never give an empty page."""
    driver, writer = await ctx.store_driver(), await ctx.store_driver()
    whole = await _filled(writer)
    async with driver.tail(after=whole[-1].position) as following:
        for version in range(1, 6):
            waiting = asyncio.create_task(_page(following, 10))
            try:
                for _ in range(3):  # answers that come later than one to the tail could
                    await ctx.within(driver.head(), "the head")
                    expect(not waiting.done(), "the tail to wait", found=waiting)
                position = await writer.append([write("live", version, version)])
                page = await ctx.within(waiting, "the live event")
            finally:
                waiting.cancel()
                await asyncio.wait([waiting])
            expect_equal([one.position for one in page], [position], "the page")


async def _page(following: Tail, limit: int) -> list[Stored]:
    return list(await following.page(limit))


@case("store.driver.tail#cancelled")
async def tail_cancelled(ctx: Context) -> None:
    """Cancelling a wait for a page at any point MUST lose nothing and repeat nothing, while events come in."""
    driver, writer = await ctx.store_driver(), await ctx.store_driver()
    found: list[Stored] = []
    async with driver.tail(after=0) as following:
        for version, turns in enumerate(CANCEL_TURNS, start=1):
            before = await cancelled_after(turns, _page(following, 2))
            await writer.append([write("a", 3 * version - 2, 3 * version)])
            behind = await cancelled_after(turns, _page(following, 2))
            found += (before or []) + (behind or [])
        total = 3 * len(CANCEL_TURNS)
        found += await _followed(ctx, following, total - len(found), (5,))
    expect_equal([one.version for one in found], list(range(1, total + 1)), "the versions that the tail gave")


@case("store.driver.tail#several")
async def tail_several(ctx: Context) -> None:
    """Many tails of one driver at once MUST each give everything, from wherever they began."""
    driver, writer = await ctx.store_driver(), await ctx.store_driver()
    whole = await _filled(writer)
    starts = [0, *(one.position for one in whole)] * 2

    async def follow(after: int) -> list[Stored]:
        found: list[Stored] = []
        async with driver.tail(after=after) as following:
            while not found or found[-1].actor_id != "last":
                found += await following.page(3)
        return found

    tasks = [asyncio.create_task(follow(after)) for after in starts]
    try:
        for version in range(1, 11):
            await writer.append([write("live", version, version)])
        await writer.append([write("last", 1, 1)])
        results = await ctx.within(asyncio.gather(*tasks), f"{len(tasks)} tails to come to the end")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    whole = await whole_feed(driver)
    for after, found in zip(starts, results, strict=True):
        expect_equal(found, [one for one in whole if one.position > after], f"what the tail behind {after} gave")
