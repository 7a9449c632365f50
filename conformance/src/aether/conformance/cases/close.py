"""store.close: nothing is left, nothing hangs, and a cancelled call breaks nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aether.conformance.context import CANCEL_TURNS, Context, cancelled_after, drift, event, fed, history, listed
from aether.conformance.resources import Resources
from aether.conformance.rules import case
from aether.conformance.violations import Violation, expect, expect_equal, expect_error
from aether.core import AetherError, Closed, EventStore, Snapshot


async def leaves_nothing(ctx: Context, use: Callable[[], Awaitable[object]]) -> None:
    """Open, use and close something several times, and look at what the process holds then."""
    await ctx.within(use(), "opening, using and closing")  # the first time may load what stays for the process
    gc.collect()
    before = Resources.now()
    for _ in range(5):
        await ctx.within(use(), "opening, using and closing")
    await _settled(ctx, before)


async def cancels_opening(ctx: Context, open_and_close: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Cancel an opening at many points, and look at what the process holds then."""
    await ctx.within(open_and_close(), "opening and closing")
    gc.collect()
    before = Resources.now()
    for turns in CANCEL_TURNS:
        await ctx.within(cancelled_after(turns, open_and_close()), "a cancelled opening to end")
    await _settled(ctx, before)


async def _settled(ctx: Context, before: Resources) -> None:
    gc.collect()
    try:
        await ctx.eventually(lambda: Resources.now().within(before), f"no more to be left than {before}")
    except Violation as violation:
        threads = ", ".join(sorted(thread.name for thread in threading.enumerate()))
        raise Violation(expected=violation.expected, found=f"{Resources.now()}; threads: {threads}") from None


@case("store.close#leaves")
async def leaves(ctx: Context) -> None:
    """After close no task, socket or thread of the store MUST be left, though subscriptions were never left."""
    version = 0

    async def use() -> None:
        nonlocal version
        version += 1
        async with ctx.server.store(ctx.namespace) as store:
            await store.append(event("a", version))
            await listed(store.read("a"))
            for _ in range(2):
                await anext(await store.subscribe().__aenter__())
            reading = store.feed()
            await anext(reading)

    await leaves_nothing(ctx, use)


@case("store.close#opening")
async def opening(ctx: Context) -> None:
    """Cancelling the opening of a store at any point MUST leave nothing behind."""

    async def open_and_close() -> None:
        async with ctx.server.store(ctx.namespace):
            pass

    await cancels_opening(ctx, open_and_close)


@case("store.close#twice")
async def twice(ctx: Context) -> None:
    """Closing twice, at once from two tasks, or before opening MUST be fine."""
    store = await ctx.store()
    await ctx.within(asyncio.gather(store.close(), store.close()), "two closings at once")
    await ctx.within(store.close(), "a third closing")
    await ctx.within(ctx.server.store(ctx.namespace).close(), "closing what was never open")


@case("store.close#raises")
async def raises(ctx: Context) -> None:
    """Every call on a store that is closed, or not open yet, MUST raise Closed."""
    closed = await ctx.store()
    position = (await closed.append(event("a", 1))).position
    left = closed.subscribe()
    await left.__aenter__()
    await closed.close()
    calls: dict[str, Callable[[EventStore], Awaitable[object]]] = {
        "append": lambda store: store.append(event("a", 2)),
        "read": lambda store: listed(store.read("a")),
        "version": lambda store: store.version("a"),
        "head": lambda store: store.head(),
        "feed": fed,
        "subscribe": lambda store: store.subscribe().__aenter__(),
        "save_snapshot": lambda store: store.save_snapshot(Snapshot(actor_id="a", version=1, schema="s", state=1)),
        "snapshot": lambda store: store.snapshot("a", schema="s"),
        "save_checkpoint": lambda store: store.save_checkpoint("c", position, token=1),
        "claim_checkpoint": lambda store: store.claim_checkpoint("c"),
        "checkpoint_token": lambda store: store.checkpoint_token("c"),
        "checkpoint": lambda store: store.checkpoint("c"),
    }
    for store, state in ((closed, "a closed store"), (ctx.server.store(ctx.namespace), "a store that is not open")):
        for method, call in calls.items():
            with expect_error(Closed, f"{method} on {state}"):
                await ctx.within(call(store), "Closed")
    with expect_error(Closed, "a subscription of a closed store"):
        await ctx.within(anext(left), "Closed")


@case("store.close#waiting")
async def waiting(ctx: Context) -> None:
    """Closing while a subscription waits MUST end its wait with Closed, and not wait for it."""
    store = await ctx.store()
    async with store.subscribe() as events:
        tasks = [asyncio.create_task(anext(events))]
        await store.append(event("a", 1))
        await ctx.within(tasks[0], "the first event")
        tasks[0] = asyncio.create_task(anext(events))
        await drift(1)
        await ctx.within(store.close(), "closing beside a waiting subscription")
        with expect_error(Closed, "a subscription that waits while its store is closed"):
            await ctx.within(tasks[0], "Closed")


@case("store.close#busy")
async def busy(ctx: Context) -> None:
    """Closing while appends are under way MUST end each with its result or an error; what was acknowledged stays."""
    acknowledged: set[str] = set()
    for turns in (0, 1, 3, 10, 40):
        store = await ctx.store()
        commits = [history(f"a{turns}-{number}", 1, 3) for number in range(10)]
        tasks = [asyncio.create_task(store.append(*commit)) for commit in commits]
        await drift(turns)
        await ctx.within(store.close(), "closing beside appends")
        results = await ctx.within(asyncio.gather(*tasks, return_exceptions=True), "the appends to end")
        for commit, result in zip(commits, results, strict=True):
            if isinstance(result, BaseException):
                expect(isinstance(result, AetherError), "an AetherError", found=result)
            else:
                acknowledged.update(one.id for one in commit)
    reader = await ctx.store()
    stored = [one.id for one in await fed(reader)]
    expect(acknowledged <= set(stored), "every acknowledged event to be stored", found=acknowledged - set(stored))
    expect(len(stored) % 3 == 0, "whole commits of 3 events", found=len(stored))


@case("store.close#cancelled")
async def cancelled(ctx: Context) -> None:
    """Cancelling any call at any point MUST leave the store usable, and lose nothing that was stored."""
    store = await ctx.store()
    await store.append(*history("a", 1, 20))
    snapshot = Snapshot(actor_id="a", version=3, schema="s", state=1)
    position = await store.head()

    async def follow() -> None:
        async with store.subscribe() as events:
            for _ in range(25):
                await anext(events)

    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "append": lambda: store.append(event("new", 1)),
        "read": lambda: listed(store.read("a")),
        "version": lambda: store.version("a"),
        "feed": lambda: fed(store),
        "head": store.head,
        "subscribe": follow,
        "save_snapshot": lambda: store.save_snapshot(snapshot),
        "snapshot": lambda: store.snapshot("a", schema="s"),
        "save_checkpoint": lambda: store.save_checkpoint("c", position, token=1),
        "claim_checkpoint": lambda: store.claim_checkpoint("c", token=1),
        "checkpoint": lambda: store.checkpoint("c"),
    }
    version = 20
    for method, call in calls.items():
        for turns in CANCEL_TURNS:
            try:
                await ctx.within(cancelled_after(turns, call()), f"a cancelled {method} to end")
            except AetherError as error:
                expect(method == "append", f"no error from {method}", found=error)  # it is there from an earlier turn
        version += 1
        await ctx.within(store.append(event("a", version)), f"an append behind cancelled calls of {method}")
        expect_equal(len(await listed(store.read("a"))), version, f"the events behind cancelled calls of {method}")
