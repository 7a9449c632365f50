"""store.append.transaction: what joins the caller's own transaction shares its fate."""

from __future__ import annotations

import asyncio

from aether.conformance.cases.feed import check_feed
from aether.conformance.context import Context, event, fed, history, listed
from aether.conformance.rules import case
from aether.conformance.violations import expect_equal, expect_error
from aether.core import START, Event, EventStore, Feature, VersionConflict

_NEEDS = {Feature.CALLER_TRANSACTION}


class RolledBack(Exception):
    """The caller's own reason not to commit."""


async def _shown(store: EventStore) -> tuple[int, list[Event], object]:
    """What a store shows of actor `a`, of all, and of a checkpoint."""
    return await store.version("a"), await fed(store), await store.checkpoint("c")


@case("store.append.transaction", needs=_NEEDS)
async def committed(ctx: Context) -> None:
    """What is appended in the caller's transaction MUST be stored when that commits, at the position returned."""
    store, reader = await ctx.store(), await ctx.store()
    first, second = history("a", 1, 2), history("a", 3, 4)
    async with ctx.transaction() as connection:
        await store.append(*first, connection=connection)
        position = (await store.append(*second, connection=connection)).position
    for each in (store, reader):
        expect_equal(await listed(each.read("a")), [*first, *second], "the events behind the commit")
        expect_equal((await listed(each.feed()))[-1], (position, second[-1]), "the end of the feed")
    await reader.append(event("a", 5))
    expect_equal(await store.version("a"), 5, "the version behind another append")


@case("store.append.transaction#hidden", needs=_NEEDS)
async def hidden(ctx: Context) -> None:
    """Before the caller's transaction commits, nobody else MUST see anything of it."""
    store, reader = await ctx.store(), await ctx.store()
    position = (await store.append(event("a", 1))).position
    before = await _shown(reader)
    async with ctx.transaction() as connection:
        await store.append(event("a", 2), event("a", 3), connection=connection)
        await store.save_checkpoint("c", position, token=1, connection=connection)
        expect_equal(await ctx.within(_shown(reader), "a reader beside it"), before, "what a reader sees meanwhile")
    expect_equal((await _shown(reader))[0], 3, "the version behind the commit")


@case("store.append.transaction#rollback", needs=_NEEDS)
async def rollback(ctx: Context) -> None:
    """When the caller's transaction is rolled back, nothing of it MUST be left, and the versions MUST be free."""
    store, reader = await ctx.store(), await ctx.store()
    position = (await store.append(event("a", 1))).position
    before = await _shown(reader)
    with expect_error(RolledBack, "the block of the transaction"):
        async with ctx.transaction() as connection:
            await store.append(*history("a", 2, 5), connection=connection)
            await store.save_checkpoint("c", position, token=9, connection=connection)
            raise RolledBack
    for each in (store, reader):
        expect_equal(await _shown(each), before, "what is left of it")
    other = event("a", 2)
    await store.append(other)
    expect_equal((await listed(reader.read("a")))[-1], other, "the event that took the free version")
    await reader.save_checkpoint("c", position, token=1)


@case("store.append.transaction#conflict", needs=_NEEDS)
async def conflict(ctx: Context) -> None:
    """A wrong version in the caller's transaction MUST raise VersionConflict, and the caller's rollback all undo."""
    store, reader = await ctx.store(), await ctx.store()
    await store.append(*history("a", 1, 3))
    before = await _shown(reader)
    for first in (1, 3, 5):
        with expect_error(VersionConflict, f"appending version {first} at version 3") as caught:
            async with ctx.transaction() as connection:
                await store.append(event("b", 1), connection=connection)
                await store.append(event("a", first), connection=connection)
        expect_equal((caught.error.actor_id, caught.error.current), ("a", 3), "the conflict")
        expect_equal(await _shown(reader), before, "what is left of it")


@case("store.append.transaction#checkpoint", needs=_NEEDS)
async def checkpoint(ctx: Context) -> None:
    """Events and a checkpoint in one transaction MUST both be there behind its commit, or neither."""
    store, reader = await ctx.store(), await ctx.store()
    positions = [(await store.append(event("in", version))).position for version in (1, 2, 3)]
    kept = START
    for version, position in enumerate(positions, start=1):
        with expect_error(RolledBack, "the block of the transaction"):
            async with ctx.transaction() as connection:
                await store.append(event("out", version), connection=connection)
                await store.save_checkpoint("c", position, token=1, connection=connection)
                raise RolledBack
        found = (await reader.version("out"), await reader.checkpoint("c"))
        expect_equal(found, (version - 1, kept), "version and checkpoint behind a rollback")
        async with ctx.transaction() as connection:
            await store.append(event("out", version), connection=connection)
            await store.save_checkpoint("c", position, token=1, connection=connection)
        kept = position
        found = (await reader.version("out"), await reader.checkpoint("c"))
        expect_equal(found, (version, kept), "version and checkpoint behind a commit")


@case("store.append.transaction#late", needs=_NEEDS)
async def late(ctx: Context) -> None:
    """However late a transaction commits, subscribers MUST miss nothing, see nothing rolled back and swap nothing."""
    store, other, reader = await ctx.store(), await ctx.store(), await ctx.store()
    total = 0
    async with reader.subscribe() as events:
        for turn in range(1, 6):
            beside: list[asyncio.Task[object]] = []
            try:
                with expect_error(RolledBack, "the block of the transaction"):
                    async with ctx.transaction() as connection:
                        await store.append(event("undone", 1), connection=connection)
                        raise RolledBack
                async with ctx.transaction() as connection:
                    await store.append(*history("slow", 2 * turn - 1, 2 * turn), connection=connection)
                    # Others may get in front, or have to wait: in both cases nothing may be passed over.
                    beside += [asyncio.create_task(_append(other, event(f"q{n}", turn))) for n in range(3)]
                    await fed(reader)
                await ctx.within(asyncio.gather(*beside), "appends beside the transaction")
            finally:
                for task in beside:
                    task.cancel()
            total += 5
        seen = await ctx.take(events, total, "events")
    check_feed(seen)
    expect_equal(seen, await listed(store.feed()), "what the subscriber saw")


async def _append(store: EventStore, one: Event) -> object:
    return await store.append(one)
