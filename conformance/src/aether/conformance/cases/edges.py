"""Edge cases that have broken real stores: sizes, clocks, ids, memory, event loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

from aether.conformance.context import CANCEL_TURNS, Context, cancelled_after, drift, event, fed, history, listed
from aether.conformance.resources import peak_bytes
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.conformance.wrappers import StoreWrapper
from aether.core import AetherError, Event, EventStore, StoreIdentityChanged, Subscription
from aether.core.encoding import encode_event
from aether.core.spi import StoreDriver

_LONGEST = "🚀" * 255
_MIB = 1 << 20

# --- Commits ---


@case("store.append.limits#sizes")
async def sizes(ctx: Context) -> None:
    """Commits of 999, 1000, 1001 and 10,000 events MUST be stored whole and in order, as far as the limit allows."""
    store = await ctx.store()
    moment = event("a", 1).timestamp
    for count in (999, 1000, 1001, 2500, 10_000):
        size = min(count, store.limits.max_commit_events)
        commit = [event(f"a{count}", version, timestamp=moment) for version in range(1, size + 1)]
        await ctx.within(store.append(*commit), f"a commit of {size} events")
        found = [one.id async for one in store.read(f"a{count}")]
        expect(found == [one.id for one in commit], f"{size} events back", found=f"{len(found)}, or others")


@case("store.append.limits#names")
async def limit_names(ctx: Context) -> None:
    """An event of the largest size MUST be stored for an actor and type of any length, alone in its commit."""
    store = await ctx.store()
    limit = min(store.limits.max_event_bytes, store.limits.max_commit_bytes)
    bare = event(_LONGEST, 1, type=_LONGEST, id=_LONGEST, data={"x": ""})
    text = "x" * (limit - len(encode_event(bare)))
    largest = event(_LONGEST, 1, type=_LONGEST, id=_LONGEST, data={"x": text}, timestamp=bare.timestamp)
    await ctx.within(store.append(largest), f"an append of {limit} bytes")
    expect(await listed(store.read(_LONGEST)) == [largest], "the largest event back", found="another one")


@case("store.append.idempotent#moved")
async def idempotent_moved(ctx: Context) -> None:
    """An id that is used again at another version of its actor MUST be stored or refused, never dropped silently."""
    store = await ctx.store()
    stored = [event("a", 1, id="the-same"), event("a", 2)]
    for one in stored:
        await store.append(one)
    again = event("a", 3, id="the-same", data={"new": True})
    try:
        await store.append(again)
        stored.append(again)
    except AetherError:  # refusing it is honest
        pass
    expect_equal(await listed(store.read("a")), stored, "what is stored of the actor")


@case("store.append.conflict#pipelined")
async def conflict_pipelined(ctx: Context) -> None:
    """Commits of one actor that are sent without waiting MUST be stored in their order, or conflict, without a gap."""
    store = await ctx.store()
    commits = [history("a", first, first + 1) for first in range(1, 21, 2)]
    results = await ctx.within(
        asyncio.gather(*(store.append(*commit) for commit in commits), return_exceptions=True), "10 commits to end"
    )
    acknowledged = [one.id for commit, end in zip(commits, results, strict=True) if not _failed(end) for one in commit]
    found = [one.id for one in await listed(store.read("a"))]
    expect_equal(found, acknowledged, "the events of the commits that were acknowledged, in order")


def _failed(result: object) -> bool:
    return isinstance(result, BaseException)


# --- Order ---


@case("store.feed.order#clock")
async def clock(ctx: Context) -> None:
    """Timestamps that step back MUST change nothing in the order of `read`, `feed` and `subscribe`."""
    store = await ctx.store()
    now = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    stored: list[Event] = []
    for version in range(1, 7):
        for actor in ("a", "b"):
            stored.append(event(actor, version, timestamp=now + timedelta(hours=version % 3 - version)))
            await store.append(stored[-1])
    expect_equal(await fed(store), stored, "the feed")
    expect_equal(await listed(store.read("a")), [one for one in stored if one.actor_id == "a"], "the events of a")
    async with store.subscribe() as events:
        seen = [one for _, one in await ctx.take(events, len(stored), "events")]
    expect_equal(seen, stored, "what a subscriber saw")


@case("store.feed.order#prefix")
async def prefix(ctx: Context) -> None:
    """A feed that is read while others append MUST begin with all that an earlier reader saw, for every handle."""
    writers = [await ctx.store() for _ in range(2)]
    readers = [await ctx.store() for _ in range(2)]

    async def write(number: int) -> None:
        for first in range(1, 31, 3):
            await writers[number % 2].append(*history(f"a{number}", first, first + 2))
            await drift(number)

    before: list[str] = []
    async with ctx.background(*(write(number) for number in range(5))) as tasks:
        for reader in cycle(readers):
            over = all(task.done() for task in tasks)
            found = [one.id for one in await ctx.within(fed(reader), "a feed")]
            expect_equal(found[: len(before)], before, "the beginning of the feed")
            before = found
            if over:
                break
    expect_equal(len(before), 5 * 30, "the length of the feed in the end")


# --- Names ---


@case("store.names#many")
async def names_many(ctx: Context) -> None:
    """Thousands of actors MUST be kept apart."""
    store, reader = await ctx.store(), await ctx.store()
    total = 2000

    async def write(start: int) -> None:
        for number in range(start, total, 50):
            await store.append(event(f"actor-{number}", 1, data={"number": number}))

    await ctx.within(asyncio.gather(*(write(start) for start in range(50))), f"{total} appends")
    found = {one.actor_id: one.data["number"] for one in await fed(reader)}
    expect(found == {f"actor-{n}": n for n in range(total)}, f"{total} actors", found=f"{len(found)}, or others")
    for number in range(0, total, 97):
        actor = f"actor-{number}"
        numbers = [one.data["number"] async for one in reader.read(actor)]
        expect_equal((await reader.version(actor), numbers), (1, [number]), f"the events of {actor}")


# --- Memory ---


async def _large(ctx: Context, actor_id: str, mebibytes: int) -> tuple[EventStore, int]:
    """A store with an actor of that size, and the number of its events."""
    store = await ctx.store()
    size = 16 << 10
    total = mebibytes * _MIB // size
    part = min(total, store.limits.max_commit_events, store.limits.max_commit_bytes // size)
    text = "x" * (size - 512)
    for first in range(1, total + 1, part):
        commit = [event(actor_id, version, data={"x": text}) for version in range(first, min(first + part, total + 1))]
        await ctx.within(store.append(*commit), "an append")
    return store, total


async def _count(items: AsyncIterator[object]) -> int:
    count = 0
    async for _ in items:
        count += 1
    return count


@case("store.read.pages")
async def pages(ctx: Context) -> None:
    """`read` and `feed` MUST hold a page at a time: going through 64 MiB takes less than half of that."""
    store, total = await _large(ctx, "a", 64)
    for name, items in (
        ("read", lambda: store.read("a")),
        ("read backwards", lambda: store.read("a", reverse=True)),
        ("feed", store.feed),
    ):
        count, peak = await peak_bytes(_count(items()))
        expect_equal(count, total, f"the number of events that `{name}` gives")
        expect(peak < 32 * _MIB, f"`{name}` to hold less than 32 MiB", found=f"{peak / _MIB:.0f} MiB")


@case("store.subscribe.pressure#memory")
async def pressure_memory(ctx: Context) -> None:
    """A subscriber that does not read MUST hold little of what it is behind: less than half of 32 MiB."""
    _, alone = await peak_bytes(_large_and_seen(ctx, "alone"))
    reader = await ctx.store()
    async with reader.subscribe(buffer=4) as events:
        await ctx.take(events, 1, "event")
        _, beside = await peak_bytes(_large_and_seen(ctx, "beside"))
    held = beside - alone
    expect(held < 16 * _MIB, "the subscriber to hold less than 16 MiB", found=f"{held / _MIB:.0f} MiB")


async def _large_and_seen(ctx: Context, actor_id: str) -> None:
    """Write much, and wait until somebody has seen all of it: whatever is sent to others was sent to them by then."""
    store = await ctx.store()
    start = await store.head()
    _, total = await _large(ctx, actor_id, 32)
    async with store.subscribe(after=start, buffer=4) as events:
        for _ in range(total):
            await ctx.within(anext(events), "an event")


# --- Subscriptions ---


@case("store.subscribe.seam#several")
async def several(ctx: Context) -> None:
    """Many subscriptions of one store at once MUST each see everything, whatever their buffers."""
    store, writer = await ctx.store(), await ctx.store()
    await writer.append(*history("before", 1, 5))
    total = 5 + 20

    async with AsyncExitStack() as stack:
        entering = (stack.enter_async_context(store.subscribe(buffer=1 + number % 4)) for number in range(40))
        entered = [await ctx.within(each, "another subscription") for each in entering]
        for first in range(1, 21, 2):
            await writer.append(*history("live", first, first + 1))
        whole = await listed(writer.feed())
        for found in await asyncio.gather(*(ctx.take(events, total, "events") for events in entered)):
            expect_equal(found, whole, "what a subscriber saw")


@case("store.subscribe.seam#buffer")
async def buffer_of_one(ctx: Context) -> None:
    """With a buffer of 1, and waits that are cancelled, a subscription MUST still miss, repeat and swap nothing."""
    store, writer = await ctx.store(), await ctx.store()
    seen: list[str] = []

    async def next_one(events: Subscription) -> None:
        seen.append((await anext(events))[1].id)

    async with store.subscribe(buffer=1) as events:
        for number, turns in enumerate(CANCEL_TURNS):
            await writer.append(*history("a", 3 * number + 1, 3 * number + 3))
            for _ in range(2):
                await cancelled_after(turns, next_one(events))
                expect(events.buffered <= 1, "at most 1 event to be held", found=events.buffered)
        ids = [one.id for one in await fed(writer)]
        while len(seen) < len(ids):
            await ctx.within(next_one(events), f"event {len(seen) + 1} of {len(ids)}")
    expect_equal(seen, ids, "what the subscriber saw")


# --- State ---


@case("store.checkpoint.damaged")
async def checkpoint_damaged(ctx: Context) -> None:
    """A checkpoint that cannot be read MUST raise StoreIdentityChanged, and MUST be neither START nor overwritten."""
    kept: list[tuple[str, str]] = []

    class Watches(StoreWrapper):
        async def save(self, kind: str, name: str, value: bytes, **options: Any) -> int:
            kept.append((kind, name))
            return await self.inner.save(kind, name, value, **options)

    store = await ctx.store(wrap=Watches)
    driver: StoreDriver = await ctx.store_driver()
    position = (await store.append(event("a", 1))).position
    for number, damage in enumerate((b"", b"{", b"null", b"\xff\x00", b'{"position":"nonsense","token":1}')):
        await store.save_checkpoint(f"c{number}", position, token=1)
        slot = await driver.load(*kept[-1])
        expect(slot is not None, "the slot of the checkpoint", found=slot)
        await driver.save(*kept[-1], damage, expected=slot.revision if slot else 0)
        attempts: dict[str, Callable[[], Awaitable[object]]] = {
            "checkpoint": lambda: store.checkpoint(f"c{number}"),  # noqa: B023  (called in this turn)
            "save_checkpoint": lambda: store.save_checkpoint(f"c{number}", position, token=2),  # noqa: B023
            "claim_checkpoint": lambda: store.claim_checkpoint(f"c{number}"),  # noqa: B023
        }
        for name, attempt in attempts.items():
            with expect_error(StoreIdentityChanged, f"{name} over {damage!r}"):
                await attempt()
        found = await driver.load(*kept[-1])
        expect_equal(found and found.value, damage, "the damaged slot, as evidence")


# --- Event loops ---


@case("store.close#loops")
async def loops(ctx: Context) -> None:
    """A process MUST be able to use a store in one event loop after another, and each MUST end without a complaint."""

    def use(version: int) -> list[str]:
        complaints: list[str] = []
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
            runner.run(_used(ctx, version))
        return complaints

    for version in (1, 2, 3):
        complaints = await ctx.within(asyncio.to_thread(use, version), "opening, using and closing in a loop")
        expect_equal(complaints, [], f"the complaints of event loop {version}")
    expect_equal(len(await fed(await ctx.store())), 3, "the events that three event loops have stored")


async def _used(ctx: Context, version: int) -> None:
    async with ctx.server.store(ctx.namespace) as store, store.subscribe() as events:
        await asyncio.gather(store.append(event("a", version)), *(store.version("a") for _ in range(5)))
        expect_equal((await anext(events))[1].version, 1, "the first event of a subscription")
        expect_equal(len(await listed(store.read("a"))), version, "the events in this event loop")
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=ctx.deadline)
    expect_equal([repr(task.get_coro()) for task in left], [], "the tasks that are left when the store is closed")
