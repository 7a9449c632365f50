"""store.append: the expectation, the whole commit, the repeated call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from aether.conformance.context import Context, drift, event, fed, history, listed
from aether.conformance.rules import case, refusal
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.conformance.wrappers import StoreWrapper
from aether.core import EventStore, Feature, FeatureMissing, InvalidEvent, StaleRead, VersionConflict
from aether.core.spi import Write

# --- The expectation ---


async def _conflicts(store: EventStore, actor_id: str, first: int, last: int, *, current: int) -> None:
    before = await fed(store)
    with expect_error(VersionConflict, f"appending versions {first} to {last} at version {current}") as caught:
        await store.append(*history(actor_id, first, last))
    conflict = caught.error
    fields = (conflict.actor_id, conflict.attempted, conflict.current)
    expect_equal(fields, (actor_id, first, current), "the conflict's actor_id, attempted and current")
    expect_equal(await store.version(actor_id), current, "the version behind a conflict")
    expect_equal(await fed(store), before, "the feed behind a conflict")


@case("store.append.conflict#below")
async def conflict_below(ctx: Context) -> None:
    """Appending a version that exists MUST raise VersionConflict with the true current version, and store nothing."""
    store = await ctx.store()
    await store.append(*history("a", 1, 3))
    for version in (1, 2, 3):
        await _conflicts(store, "a", version, version, current=3)


@case("store.append.conflict#commit")
async def conflict_commit(ctx: Context) -> None:
    """A commit whose first version exists MUST be refused whole, though its last versions are new."""
    store = await ctx.store()
    await store.append(*history("a", 1, 3))
    await _conflicts(store, "a", 3, 6, current=3)
    await _conflicts(store, "a", 1, 9, current=3)
    await store.append(*history("a", 4, 5))
    await _conflicts(store, "a", 4, 6, current=5)


@case("store.append.conflict#handles")
async def conflict_handles(ctx: Context) -> None:
    """The conflict MUST be found also when another handle wrote the version."""
    one, two = await ctx.store(), await ctx.store()
    await one.append(event("a", 1))
    await two.append(event("a", 2))
    await _conflicts(one, "a", 2, 2, current=2)
    await one.append(event("a", 3))
    await _conflicts(two, "a", 3, 4, current=3)


@case("store.append.conflict#spurious")
async def conflict_spurious(ctx: Context) -> None:
    """The only writer of an actor MUST never see a conflict, whatever is written to other actors at once."""
    stores = [await ctx.store(), await ctx.store()]

    async def write(number: int) -> None:
        for version in range(1, 13):
            await stores[number % 2].append(event(f"a{number}", version))
            await drift(1)

    await ctx.within(asyncio.gather(*(write(number) for number in range(8))), "8 writers to end")


@case("store.append.gapless")
async def gapless(ctx: Context) -> None:
    """A version above latest + 1 MUST be refused like one below it, also for a new actor."""
    store = await ctx.store()
    await _conflicts(store, "new", 2, 2, current=0)
    await store.append(*history("a", 1, 2))
    await _conflicts(store, "a", 4, 4, current=2)
    await _conflicts(store, "a", 5, 7, current=2)
    with expect_error(InvalidEvent, "versions 3 and 5 in one commit"):
        await store.append(event("a", 3), event("a", 5))
    expect_equal(await store.version("a"), 2, "the version")


@case("store.append.race")
async def race(ctx: Context) -> None:
    """Of N callers that append the same version with different ids, exactly one MUST succeed."""
    stores = [await ctx.store() for _ in range(3)]
    for version in range(1, 6):
        rivals = [event("a", version, data={"rival": number}) for number in range(12)]
        attempts = [stores[number % 3].append(rival) for number, rival in enumerate(rivals)]
        results = await ctx.within(asyncio.gather(*attempts, return_exceptions=True), "12 rivals to end")
        won = [rivals[number] for number, result in enumerate(results) if not isinstance(result, BaseException)]
        lost = [result for result in results if isinstance(result, VersionConflict)]
        expect(len(won) == 1 and len(lost) == 11, "1 success and 11 conflicts", found=results)
        seen = {conflict.current for conflict in lost}
        expect(seen == {version}, f"every conflict to say that the actor is at {version}", found=seen)
        expect_equal((await listed(stores[0].read("a")))[-1], won[0], "the stored event")


# --- The whole commit ---

_PART = 5


@case("store.append.atomic#readers")
async def atomic_readers(ctx: Context) -> None:
    """A reader MUST never see a part of a commit, neither in `read`, `version`, `feed` nor `subscribe`."""
    writer, reader = await ctx.store(), await ctx.store()
    commits = 25

    async def write() -> None:
        for first in range(1, commits * _PART, _PART):
            await writer.append(*history("a", first, first + _PART - 1))
            await drift(1)

    writing = asyncio.create_task(write())
    try:
        for turns in cycle(range(4)):
            if writing.done():
                break
            await drift(turns)
            read = await ctx.within(listed(reader.read("a")), "a read")
            version = await ctx.within(reader.version("a"), "a version")
            feed = await ctx.within(fed(reader), "a feed")
            for what, count in (("read", len(read)), ("version", version), ("feed", len(feed))):
                expect(count % _PART == 0, f"`{what}` to answer a multiple of {_PART} events", found=count)
    finally:
        writing.cancel()
        await asyncio.wait([writing])
    await writing
    expect_equal(await reader.version("a"), commits * _PART, "the version in the end")


@case("store.append.atomic#last")
async def atomic_last(ctx: Context) -> None:
    """`head` and the position of `append` MUST be those of the last event of the commit."""
    store = await ctx.store()
    for first in (1, 4, 7):
        appended = await store.append(*history("a", first, first + 2))
        positions = [position async for position, _ in store.feed()]
        expect_equal(appended.position, positions[-1], "the position of the commit")
        expect_equal(await store.head(), positions[-1], "the head")


# --- The repeated call ---


@case("store.append.idempotent")
async def idempotent(ctx: Context) -> None:
    """Repeating an append with the same ids at the same versions MUST succeed as replayed, and store nothing."""
    one, two = await ctx.store(), await ctx.store()
    commit = history("a", 1, 3)
    first = await one.append(*commit)
    expect(not first.replayed, "the first call not to be a replay", found=first)
    for store in (one, two):
        again = await store.append(*commit)
        expect(again.replayed, "the repeated call to say replayed=True", found=again)
        expect_equal(again.position, first.position, "the position of the repeated call")
    expect_equal(await listed(two.read("a")), commit, "what is stored")


@case("store.append.idempotent#later")
async def idempotent_later(ctx: Context) -> None:
    """A repeated append MUST be recognised for ever, however much was stored since."""
    store = await ctx.store()
    commit = history("a", 1, 2)
    first = await store.append(*commit)
    await store.append(*history("a", 3, 50))
    for number in range(20):
        await store.append(*history(f"other{number}", 1, 10))
    again = await store.append(*commit)
    expect_equal((again.position, again.replayed), (first.position, True), "position and replayed")
    part = await store.append(commit[1])
    expect(part.replayed, "a repeated part that was stored with more to count as stored", found=part)
    expect_equal(await store.version("a"), 50, "the version")


@case("store.append.idempotent#overlap")
async def idempotent_overlap(ctx: Context) -> None:
    """A commit of which only a part is stored already MUST be a conflict, and store nothing."""
    store = await ctx.store()
    stored = history("a", 1, 3)
    await store.append(*stored)
    with expect_error(VersionConflict, "appending 2 stored events and a new one"):
        await store.append(*stored[1:], event("a", 4))
    with expect_error(VersionConflict, "appending 1 stored event and one with another id"):
        await store.append(stored[0], event("a", 2))
    expect_equal(await listed(store.read("a")), stored, "what is stored")


@case("store.append.idempotent#actors")
async def idempotent_actors(ctx: Context) -> None:
    """One id under two actors MUST be two events: an id identifies within its actor."""
    store = await ctx.store()
    first = event("a", 1, id="the-same")
    second = event("b", 1, id="the-same")
    await store.append(first)
    appended = await store.append(second)
    expect(not appended.replayed, "the second actor's event to be stored", found=appended)
    expect_equal(await fed(store), [first, second], "the feed")


@case("store.append.idempotent#together")
async def idempotent_together(ctx: Context) -> None:
    """The same call made several times at once MUST succeed every time, and store once."""
    stores = [await ctx.store(), await ctx.store()]
    commit = history("a", 1, 2)
    calls = [stores[number % 2].append(*commit) for number in range(8)]
    results = await ctx.within(asyncio.gather(*calls), "8 equal calls to end")
    expect(len({result.position for result in results}) == 1, "one position", found=results)
    expect(sum(not result.replayed for result in results) == 1, "one call that stored it", found=results)
    expect_equal(await listed(stores[0].read("a")), commit, "what is stored")


@case("store.append.empty")
async def empty(ctx: Context) -> None:
    """`append()` without events MUST be a ValueError, before anything is asked of the backend."""

    class Untouched(StoreWrapper):
        async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
            raise StaleRead("the driver", wanted="no call", found="a call")

    store = await ctx.store(wrap=Untouched)
    with expect_error(ValueError, "append()"):
        await store.append()


@case("store.append.isolated")
async def isolated(ctx: Context) -> None:
    """Changing inputs after the call, or events that were read, MUST change nothing that is read later."""
    store = await ctx.store()
    data: dict[str, Any] = {"items": ["apple"], "count": 1}
    metadata = {"correlationid": "1"}
    await store.append(event("a", 1, data=data, metadata=metadata))
    data["items"].append("worm")
    metadata["correlationid"] = "2"
    read = (await listed(store.read("a")))[0]
    expect_equal((read.data, read.metadata), ({"items": ["apple"], "count": 1}, {"correlationid": "1"}), "the event")
    read.data["items"].append("worm")
    read.data.clear()
    for again in (await listed(store.read("a")), await fed(store)):
        expect_equal(again[0].data, {"items": ["apple"], "count": 1}, "the event that is read again")


# --- Several actors ---


@case("store.append.many", needs={Feature.MULTI_ACTOR})
async def many(ctx: Context) -> None:
    """Events of several actors in one call MUST be one commit, adjacent in the feed, in the order of the call."""
    store = await ctx.store()
    await store.append(event("b", 1))
    commit = [event("a", 1), event("b", 2), event("c", 1), event("b", 3)]
    appended = await store.append(*commit)
    pairs = [pair async for pair in store.feed()]
    found = [(each.actor_id, each.version) for _, each in pairs[1:]]
    expect_equal(found, [("a", 1), ("b", 2), ("b", 3), ("c", 1)], "the commit, grouped by actor")
    expect_equal(appended.position, pairs[-1][0], "the position of the commit")


@case("store.append.many#conflict", needs={Feature.MULTI_ACTOR})
async def many_conflict(ctx: Context) -> None:
    """If one actor of a commit is at another version, nothing of the commit MUST be stored, wherever it stands."""
    store = await ctx.store()
    await store.append(*history("old", 1, 2))
    for place in range(3):
        commit = [event("x", 1), event("y", 1)]
        commit.insert(place, event("old", 2))
        with expect_error(VersionConflict, f"a commit whose actor {place + 1} of 3 is stale") as caught:
            await store.append(*commit)
        expect_equal((caught.error.actor_id, caught.error.current), ("old", 2), "the conflict")
        versions = [await store.version(actor) for actor in ("old", "x", "y")]
        expect_equal(versions, [2, 0, 0], "the versions")


@case("store.append.many#readers", needs={Feature.MULTI_ACTOR})
async def many_readers(ctx: Context) -> None:
    """A reader MUST never see some actors of a commit without the others."""
    writer, reader = await ctx.store(), await ctx.store()
    commits = 25

    async def write() -> None:
        for version in range(1, commits + 1):
            await writer.append(*(event(actor, version) for actor in ("a", "b", "c")))
            await drift(1)

    writing = asyncio.create_task(write())
    try:
        for turns in cycle(range(4)):
            if writing.done():
                break
            await drift(turns)
            last = await ctx.within(reader.version("c"), "a version")
            first = await ctx.within(reader.version("a"), "a version")
            expect(first >= last, f"actor a to be at {last} at least, as c was before", found=first)
            size = len(await ctx.within(fed(reader), "a feed"))
            expect(size % 3 == 0, "the feed to hold whole commits of 3 events", found=size)
    finally:
        writing.cancel()
        await asyncio.wait([writing])
    await writing
    expect_equal(len(await fed(reader)), commits * 3, "the length of the feed")


@case("store.append.many#crossing", needs={Feature.MULTI_ACTOR})
async def many_crossing(ctx: Context) -> None:
    """Commits over the same actors in opposite order MUST neither deadlock nor both succeed."""
    stores = [await ctx.store(), await ctx.store()]
    for version in range(1, 9):
        calls = [
            stores[0].append(event("a", version), event("b", version)),
            stores[1].append(event("b", version), event("a", version)),
        ]
        results = await ctx.within(asyncio.gather(*calls, return_exceptions=True), "two crossing commits to end")
        kinds = sorted(type(result).__name__ for result in results)
        expect_equal(kinds, ["Appended", "VersionConflict"], "the results")
    expect_equal([await stores[0].version(actor) for actor in ("a", "b")], [8, 8], "the versions")


@case("store.append.many#replayed", needs={Feature.MULTI_ACTOR})
async def many_replayed(ctx: Context) -> None:
    """Repeating a commit of several actors MUST succeed as replayed; a part of it with something new is a conflict."""
    store = await ctx.store()
    commit = [event("a", 1), event("b", 1)]
    first = await store.append(*commit)
    await store.append(event("a", 2))
    again = await store.append(*commit)
    expect_equal((again.position, again.replayed), (first.position, True), "position and replayed")
    with expect_error(VersionConflict, "a stored event of one actor and a new one of another"):
        await store.append(commit[0], event("c", 1))
    expect_equal(await store.version("c"), 0, "the new actor's version")


@refusal(Feature.MULTI_ACTOR, "store.append.many#refused")
async def many_refused(ctx: Context) -> None:
    """Without MULTI_ACTOR, events of several actors in one call MUST raise FeatureMissing and store nothing."""
    store = await ctx.store()
    with expect_error(FeatureMissing, "a commit of two actors"):
        await store.append(event("a", 1), event("b", 1))
    expect_equal(await fed(store), [], "the feed")


@refusal(Feature.CALLER_TRANSACTION, "store.append.transaction#refused")
async def transaction_refused(ctx: Context) -> None:
    """Without CALLER_TRANSACTION, `connection=` MUST raise FeatureMissing and store nothing."""
    store = await ctx.store()
    with expect_error(FeatureMissing, "append(connection=)"):
        await store.append(event("a", 1), connection=object())
    position = (await store.append(event("b", 1))).position
    with expect_error(FeatureMissing, "save_checkpoint(connection=)"):
        await store.save_checkpoint("c", position, token=1, connection=object())
    expect_equal(await store.version("a"), 0, "the version")
