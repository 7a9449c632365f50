"""What a store promises while its connection or its server breaks. Calls on drivers are recorded, and checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count

from aether.conformance.context import Context, cancelled_after, event, history, listed
from aether.conformance.faults import Way
from aether.conformance.history import Seen, StoreHistory
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.core import Appended, Durability, Event, EventStore, OutcomeUnknown, StaleRead, Unavailable

_LATE = 0.05  # seconds: a slow connection, far below every time-out
_PLACES = (1, 20, 60, 150, 400, 900)
"""After how many bytes to reset a connection: in front of, in the middle of and behind requests and answers."""

_MOST_TURNS = 400


def brief(ctx: Context) -> float:
    """A time-out for what is known not to be answered, which an answer of a healthy server keeps."""
    return ctx.server.harness.deadline / 20


async def appended(ctx: Context, store: EventStore, *events: Event) -> Appended:
    """Append as users are told to: repeat the same call while its outcome is unknown."""
    return await ctx.recovers(lambda: store.append(*events), "an append that is repeated")


async def judge(ctx: Context, recorded: StoreHistory) -> list[Seen]:
    """Check the history against what is stored, read by a handle of its own, and return that."""
    reader = await ctx.recovers(lambda: ctx.store(wrap=recorded.wrap), "opening a store behind the faults")

    async def everything() -> list[Seen]:
        feed = [Seen(position.order, one.actor_id, one.version, one.id) async for position, one in reader.feed()]
        for actor in sorted({seen.actor for seen in feed}):
            await listed(reader.read(actor))
        return feed

    stored = await ctx.recovers(everything, "reading everything behind the faults")
    recorded.check(stored)
    return stored


# --- Answers and requests that are lost or late ---


@case("store.append.unknown#ack", faults={"link"}, durability=Durability.PROCESS)
async def lost_ack(ctx: Context) -> None:
    """An append that is stored, but whose answer is lost, MUST raise OutcomeUnknown; repeating it MUST find it stored.

    The answer is lost with its connection, or comes when nobody waits for it any more. Where an append takes several
    requests, the first answer that is lost is not the last one: then nothing is stored, and Unavailable may say so.
    """
    recorded, link = StoreHistory(ctx.namespace), await ctx.link()
    sound = await ctx.store(wrap=recorded.wrap)
    store = await ctx.store(wrap=recorded.wrap, link=link, timeout=brief(ctx), driver_timeout=brief(ctx))
    for number, ends in enumerate((link.reset, link.heal)):
        actor = f"a{number}"
        await appended(ctx, store, event(actor, 1))
        link.blackhole(Way.REPLIES)
        commit = history(actor, 2, 4)
        with expect_error((OutcomeUnknown, Unavailable), "an append whose answer is lost") as caught:
            await ctx.within(store.append(*commit), "an append without an answer to end")
        version = await sound.version(actor)
        allowed = (1,) if isinstance(caught.error, Unavailable) else (1, 4)
        expect(version in allowed, f"version {allowed} behind {type(caught.error).__name__}", found=version)
        ends()
        link.heal()
        again = await appended(ctx, store, *commit)
        expect(again.replayed or version == 1, "the repeated append to find itself", found=again)
    await judge(ctx, recorded)


@case("store.append.unknown#late", faults={"link"}, durability=Durability.PROCESS)
async def late_request(ctx: Context) -> None:
    """An append that reaches the server long after its time-out MUST NOT store anything a second time."""
    recorded, link = StoreHistory(ctx.namespace), await ctx.link()
    sound = await ctx.store(wrap=recorded.wrap)
    store = await ctx.store(wrap=recorded.wrap, link=link, timeout=brief(ctx), driver_timeout=brief(ctx))
    await appended(ctx, store, event("a", 1))
    link.blackhole(Way.REQUESTS)
    commit = history("a", 2, 3)
    with expect_error((OutcomeUnknown, Unavailable), "an append that does not get through"):
        await ctx.within(store.append(*commit), "an append that does not get through to end")
    with expect_error(Unavailable, "a read that does not get through"):
        await ctx.within(listed(store.read("a")), "a read that does not get through to end")
    await sound.append(*commit)
    await sound.append(event("a", 4))
    link.heal()
    await appended(ctx, store, event("a", 5))  # behind what was held, on the same way
    await appended(ctx, store, *commit)
    await judge(ctx, recorded)


@case("store.append.unknown#delay", faults={"link"}, durability=Durability.PROCESS)
async def slow(ctx: Context) -> None:
    """A slow connection MUST change nothing: each append is answered, and stored once."""
    recorded, link = StoreHistory(ctx.namespace), await ctx.link()
    store = await ctx.store(wrap=recorded.wrap, link=link)
    link.delay(_LATE)

    async def write(actor: str) -> None:
        for version in (1, 3, 5):
            await store.append(*history(actor, version, version + 1))

    await ctx.within(asyncio.gather(*(write(f"a{number}") for number in range(4))), "4 writers to end")
    expect_equal(len(await judge(ctx, recorded)), 4 * 6, "the number of events")


@case("store.append.unknown#reset", faults={"link"}, durability=Durability.PROCESS)
async def reset(ctx: Context) -> None:
    """A connection that is reset in the middle of an append, at any byte, MUST NOT make it stored twice or refused.

    A driver MUST NOT repeat a write by itself: it would meet its own first try, and call that a conflict.
    """
    recorded, link = StoreHistory(ctx.namespace), await ctx.link()
    store = await ctx.store(wrap=recorded.wrap, link=link)
    version = 0
    for way in Way:
        for place in _PLACES:
            link.reset_after(way, place)
            await appended(ctx, store, *history("a", version + 1, version + 3))
            version += 3
            link.heal()
    expect_equal(len(await judge(ctx, recorded)), version, "the number of events")


@case("store.append.unknown#everywhere")
async def cancelled_everywhere(ctx: Context) -> None:
    """An append that is cancelled at any of its awaits MUST be stored whole or not at all, and MUST be repeatable."""
    recorded = StoreHistory(ctx.namespace)
    store, other = await ctx.store(wrap=recorded.wrap), await ctx.store(wrap=recorded.wrap)
    completed = 0
    for turns in range(_MOST_TURNS):
        commit = history("a", 2 * turns + 1, 2 * turns + 2)
        result = await cancelled_after(turns, store.append(*commit))
        completed += result is not None
        await ctx.within((store if turns % 2 else other).append(*commit), "the repeated append")
        if completed == 3:
            break
    await judge(ctx, recorded)


# --- The server is gone ---


@case("store.append.unknown#gone", faults={"kill", "start"}, durability=Durability.PROCESS)
async def gone(ctx: Context) -> None:
    """While the server is gone, an append MUST end with an error, opening too; repeating MUST store it once."""
    recorded = StoreHistory(ctx.namespace)
    store = await ctx.store(wrap=recorded.wrap, timeout=brief(ctx), driver_timeout=brief(ctx))
    patient = await ctx.store(wrap=recorded.wrap)
    await appended(ctx, store, event("a", 1))
    commit = history("a", 2, 4)
    async with ctx.gone():
        with expect_error((OutcomeUnknown, Unavailable), "an append without a server"):
            await ctx.within(store.append(*commit), "an append without a server to end")
        with expect_error(Unavailable, "opening a store without a server"):
            await ctx.within(ctx.store(driver_timeout=brief(ctx)), "the end of opening a store")
        waiting = asyncio.create_task(appended(ctx, patient, event("b", 1)))
    await ctx.within(waiting, "an append that was waiting for the server")
    await appended(ctx, store, *commit)
    await judge(ctx, recorded)


@case("store.feed.complete#gone", faults={"kill", "start"}, durability=Durability.PROCESS)
async def reading_on(ctx: Context) -> None:
    """A long read, or a feed, whose server dies meanwhile MUST go on or raise: no early end, no hole."""
    recorded = StoreHistory(ctx.namespace)
    writer = await ctx.store(wrap=recorded.wrap)
    for version in range(1, 1201, 2):
        await writer.append(*history("a", version, version + 1))
    impatient = await ctx.store(wrap=recorded.wrap, driver_timeout=brief(ctx))
    whole = [one.id for one in await listed(writer.read("a"))]
    ways: list[tuple[AsyncIterator[Event], list[str]]] = []
    for store in (writer, impatient):
        ways += [(_events(store), whole), (store.read("a"), whole), (store.read("a", reverse=True), whole[::-1])]
    begun = [[(await anext(events)).id] for events, _ in ways]
    async with ctx.gone():
        rests = [asyncio.create_task(_rest(events, seen)) for (events, _), seen in zip(ways, begun, strict=True)]
        await ctx.within(asyncio.gather(*rests[3:]), "reads without a server to end")
    ended = await ctx.within(asyncio.gather(*rests), "reads to end behind the restart")
    for (_, wanted), seen, error in zip(ways, begun, ended, strict=True):
        expect_equal(seen, wanted[: len(seen)], "what was read")
        expect(error is not None or len(seen) == len(wanted), f"{len(wanted)} events or an error", found=len(seen))
    await judge(ctx, recorded)


async def _events(store: EventStore) -> AsyncIterator[Event]:
    async for _, one in store.feed():
        yield one


async def _rest(events: AsyncIterator[Event], seen: list[str]) -> Exception | None:
    try:
        async for one in events:
            seen.append(one.id)  # noqa: PERF401  (what was seen before an error counts)
    except (Unavailable, StaleRead) as error:
        return error
    return None


# --- Subscriptions ---


@case("store.subscribe.seam#reset", faults={"link"}, durability=Durability.PROCESS)
async def subscription_reset(ctx: Context) -> None:
    """A subscription whose connection is reset, at any byte, MUST go on by itself, without loss and without repeat."""
    recorded, link = StoreHistory(ctx.namespace), await ctx.link()
    writer = await ctx.store(wrap=recorded.wrap)
    reader = await ctx.store(wrap=recorded.wrap, link=link)
    versions = count(1)
    async with reader.subscribe(buffer=4) as events:
        for way in Way:
            for place in _PLACES:
                link.reset_after(way, place)
                for _ in range(6):
                    await writer.append(event("a", next(versions), data={"text": "x" * 100}))
                await ctx.take(events, 6, "events behind a reset")
                link.heal()
    await judge(ctx, recorded)
