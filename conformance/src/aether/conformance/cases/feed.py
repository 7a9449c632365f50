"""store.feed: one order for everybody, and nothing missing in it."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict

from aether.conformance.context import Context, drift, event, fed, history, listed
from aether.conformance.rules import case
from aether.conformance.violations import SuiteError, Violation, expect, expect_equal
from aether.conformance.writer import REFUTED
from aether.core import START, Event, EventStore, Position, VersionConflict


async def _written(ctx: Context, stores: list[EventStore], writers: int, commits: int) -> None:
    """Several writers at once, on all stores, with commits of different sizes."""

    async def write(number: int) -> None:
        version = 0
        for commit in range(commits):
            size = 1 + (number + commit) % 3
            await stores[number % len(stores)].append(*history(f"a{number}", version + 1, version + size))
            version += size
            await drift(1)

    await ctx.within(asyncio.gather(*(write(number) for number in range(writers))), f"{writers} writers to end")


def check_feed(pairs: list[tuple[Position, Event]]) -> None:
    """Positions strictly increase, and every actor's versions are 1, 2, 3 …"""
    latest: dict[str, int] = defaultdict(int)
    before = START
    for position, each in pairs:
        expect(before < position, f"a position above {before}", found=position)
        before = position
        wanted = latest[each.actor_id] + 1
        expect_equal(each.version, wanted, f"the next version of {each.actor_id!r}")
        latest[each.actor_id] = wanted


@case("store.feed.order")
async def order(ctx: Context) -> None:
    """The feed MUST be one total order, the same for every reader for ever, and agree with each actor's versions."""
    stores = [await ctx.store() for _ in range(3)]
    await _written(ctx, stores, writers=8, commits=10)
    first = await listed(stores[0].feed())
    check_feed(first)
    expect_equal(len(first), sum(1 + (n + c) % 3 for n in range(8) for c in range(10)), "the length of the feed")
    await stores[1].append(event("later", 1))
    for store in (*stores, await ctx.store()):
        again = await listed(store.feed())
        expect_equal(again[:-1], first, "the feed that another reader sees")
        expect_equal(await store.head(), again[-1][0], "the head")


@case("store.feed.order#resume")
async def resume(ctx: Context) -> None:
    """`feed(after=p)` MUST give exactly what follows p, for every p; `limit` the first of it."""
    store = await ctx.store()
    await _written(ctx, [store], writers=3, commits=4)
    whole = await listed(store.feed())
    for index, (position, _) in enumerate(whole):
        parsed = Position.parse(str(position))
        expect_equal(await listed(store.feed(after=parsed)), whole[index + 1 :], f"the feed behind event {index + 1}")
        found = await listed(store.feed(after=parsed, limit=2))
        expect_equal(found, whole[index + 1 : index + 3], f"two events behind event {index + 1}")
    expect_equal(await listed(store.feed(limit=0)), [], "the feed with limit=0")
    expect_equal(await listed(store.feed(limit=10**6)), whole, "the feed with a large limit")


@case("store.feed.order#empty")
async def empty(ctx: Context) -> None:
    """An empty store MUST have START as its head, and a feed that ends at once."""
    store = await ctx.store()
    expect_equal(await store.head(), START, "the head")
    expect_equal(await ctx.within(fed(store), "the end of an empty feed"), [], "the feed")


@case("store.feed.order#acknowledged")
async def acknowledged(ctx: Context) -> None:
    """What was acknowledged before an append began MUST stand before it in the feed."""
    stores = [await ctx.store(), await ctx.store()]
    before = START
    for number in range(30):
        position = (await stores[number % 2].append(event(f"a{number % 7}", number // 7 + 1))).position
        expect(before < position, f"a position above {before}", found=position)
        before = position


@case("store.feed.order#filter")
async def filtered(ctx: Context) -> None:
    """`types` MUST be an OR over names, `actors` a pattern, both an AND; order and `limit` MUST hold for the rest."""
    store = await ctx.store()
    actors = ("order-1", "order-2", "user-1", "Order-1", "order.1")
    for version, kind in enumerate(("Placed", "Paid", "Placed", "Shipped"), start=1):
        for actor in actors:
            await store.append(event(actor, version, type=kind))
    whole = await fed(store)
    for types, pattern, wanted in (
        ({"Placed"}, None, actors),
        ({"Paid", "Shipped"}, None, actors),
        ({"placed", "Nothing"}, None, actors),
        (set(), None, actors),
        (None, "order-*", ("order-1", "order-2")),
        (None, "*-1", ("order-1", "user-1", "Order-1")),
        (None, "order.1", ("order.1",)),
        ({"Placed"}, "*r-*", ("order-1", "order-2", "user-1", "Order-1")),
    ):
        expected = [one for one in whole if one.actor_id in wanted and (types is None or one.type in types)]
        what = f"feed(types={types}, actors={pattern!r})"
        expect_equal(await fed(store, types=types, actors=pattern), expected, what)
        expect_equal(await fed(store, types=types, actors=pattern, limit=3), expected[:3], f"{what} with limit=3")


# --- Nothing is missing ---


async def _check_subscriber(ctx: Context, store: EventStore, total: int, seen: list[tuple[Position, Event]]) -> None:
    await ctx.eventually(lambda: len(seen) >= total, f"{total} events to be delivered")
    check_feed(seen)
    whole = await listed(store.feed())
    if seen != whole:
        place = next((i for i, pair in enumerate(zip(seen, whole, strict=False)) if pair[0] != pair[1]), len(whole))
        raise Violation(
            expected=f"the subscriber to see the feed's {len(whole)} events",
            found=f"{len(seen)} events, and the first difference at {place}: {seen[place : place + 2]}",
        )


async def _follow(store: EventStore, seen: list[tuple[Position, Event]], entered: asyncio.Event) -> None:
    async with store.subscribe() as events:
        entered.set()
        async for pair in events:
            seen.append(pair)  # noqa: PERF401  (it is endless: each event counts when it comes)


@case("store.feed.complete#tasks")
async def complete_tasks(ctx: Context) -> None:
    """With 16 writers at once, and refused commits among theirs, a subscriber MUST miss, repeat and swap nothing."""
    stores = [await ctx.store() for _ in range(4)]
    seen: list[tuple[Position, Event]] = []
    entered = asyncio.Event()

    async def write(number: int) -> None:
        for version in range(1, 16):
            await stores[number % 4].append(event(f"a{number}", version))
            await drift(1)
            try:
                await stores[(number + 1) % 4].append(event(f"a{number}", version))
            except VersionConflict:
                continue
            raise Violation(expected="VersionConflict", found=f"version {version} of a{number} stored twice")

    async with ctx.background(_follow(await ctx.store(), seen, entered)):
        await ctx.within(entered.wait(), "a subscription")
        await ctx.within(asyncio.gather(*(write(number) for number in range(16))), "16 writers to end")
        await _check_subscriber(ctx, stores[0], 16 * 15, seen)


@case("store.feed.complete", processes=True)
async def complete(ctx: Context) -> None:
    """With 16 writers in 3 processes, a subscriber MUST miss nothing, repeat nothing and swap nothing."""
    store = await ctx.store()
    seen: list[tuple[Position, Event]] = []
    entered = asyncio.Event()
    async with ctx.background(_follow(store, seen, entered)):
        await ctx.within(entered.wait(), "a subscription")
        await asyncio.gather(*(_writing_process(ctx, *part) for part in ((0, 5), (5, 10), (10, 16))))
        await _check_subscriber(ctx, store, 16 * 30, seen)


async def _writing_process(ctx: Context, first: int, last: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aether.conformance.writer",
        ctx.namespace,
        str(first),
        str(last),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        # The URL goes through stdin: it may hold a secret, and arguments are readable by everybody.
        _, errors = await process.communicate(ctx.server.url.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == REFUTED:
        raise Violation(expected="a process that appends to end well", found=errors.decode(errors="replace").strip())
    if process.returncode:
        raise SuiteError(f"a writing process failed: {errors.decode(errors='replace')[-2000:]}")
