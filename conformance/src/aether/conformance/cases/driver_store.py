"""store.driver: what the interface asks of a store's driver and no facade can see: claims, commits, pages."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import msgspec

from aether.conformance.context import Context, drift, event, history
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal
from aether.core import AetherError, CommitTooLarge, Feature, OutcomeUnknown, StaleRead, Unavailable
from aether.core.encoding import encode_event
from aether.core.spi import NewRecord, RevisionConflict, Stored, StoreDriver, Write

BRIEF = 0.5  # seconds: the time-out of a scope whose server does not answer


def write(actor_id: str, first: int, last: int, **fields: Any) -> Write:
    """The events `first` to `last` of an actor, as a driver gets them."""
    events = history(actor_id, first, last, **fields)
    records = [NewRecord(one.version, one.id, one.type, encode_event(one)) for one in events]
    return Write(actor_id, first - 1, tuple(records))


async def whole_feed(driver: StoreDriver) -> list[Stored]:
    """Every event of a driver's feed, page by page."""
    head = await driver.head()
    found: list[Stored] = []
    while head is not None and (not found or found[-1].position < head.position):
        after = found[-1].position if found else 0
        page = await driver.feed(after=after, upto=head.position, limit=1000)
        expect(len(page.records) > 0, f"a page with events behind {after}, up to {head.position}", found=page)
        found += page.records
    return found


# --- What a driver says of itself ---


@case("store.driver.features")
async def features(ctx: Context) -> None:
    """An opened driver MUST have no feature that its backend does not announce."""
    driver = await ctx.store_driver()
    more = driver.features - ctx.server.announced
    expect(not more, f"features among {sorted(ctx.server.announced)}, which are announced", found=sorted(more))


@case("store.driver.limits")
async def limits(ctx: Context) -> None:
    """Limits MUST be whole numbers above 0, and an event of the largest size MUST fit into a commit."""
    found = (await ctx.store_driver()).limits
    for name, value in msgspec.structs.asdict(found).items():
        expect(type(value) is int and value > 0, f"{name} to be a whole number above 0", found=value)
    expect(found.max_commit_bytes >= found.max_event_bytes, "the largest event to fit into a commit", found=found)


@case("store.driver.identity")
async def identity(ctx: Context) -> None:
    """The identity MUST be 1 to 64 characters of A-Z, a-z, 0-9, `_` and `-`."""
    found = (await ctx.store_driver()).identity
    expect(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", found) is not None, "1 to 64 such characters", found=found)


# --- Commits ---


@case("store.driver.append")
async def append(ctx: Context) -> None:
    """Events of a commit MUST follow each other in the feed, whoever writes at the same time."""
    drivers = [await ctx.store_driver() for _ in range(2)]
    size = 4

    async def commit(number: int) -> None:
        for first in range(1, 10 * size, size):
            await drivers[number % 2].append([write(f"a{number}", first, first + size - 1)])

    await ctx.within(asyncio.gather(*(commit(number) for number in range(6))), "6 writers to end")
    feed = await whole_feed(drivers[0])
    expect_equal(len(feed), 6 * 10 * size, "the length of the feed")
    for start in range(0, len(feed), size):
        found = [(one.actor_id, one.version) for one in feed[start : start + size]]
        actor, first = found[0]
        expect_equal(found, [(actor, first + n) for n in range(size)], f"the commit at {feed[start].position}")


@case("store.driver.append#position")
async def append_position(ctx: Context) -> None:
    """`append` MUST return the position of the last event of its commit, whoever writes at the same time."""
    drivers = [await ctx.store_driver() for _ in range(2)]
    places: dict[int, tuple[str, int]] = {}

    async def commit(number: int) -> None:
        for first in (1, 4, 7, 10):
            position = await drivers[number % 2].append([write(f"a{number}", first, first + 2)])
            places[position] = (f"a{number}", first + 2)

    await ctx.within(asyncio.gather(*(commit(number) for number in range(6))), "6 writers to end")
    expect_equal(len(places), 24, "the number of different positions of 24 commits")
    feed = {one.position: (one.actor_id, one.version) for one in await whole_feed(drivers[1])}
    expect_equal({place: feed.get(place) for place in places}, places, "the events at the positions of 24 commits")


@case("store.append.many#order", needs={Feature.MULTI_ACTOR})
async def many_order(ctx: Context) -> None:
    """Actors of one commit MUST stand in the feed in the order of the call, however their names sort."""
    driver = await ctx.store_driver()
    actors = ["m", "z", "a", "Z", "é", "b", "10", "9"]
    position = await driver.append([write(actor, 1, 2) for actor in actors])
    feed = await whole_feed(driver)
    found = [(one.actor_id, one.version) for one in feed]
    expect_equal(found, [(actor, version) for actor in actors for version in (1, 2)], "the feed")
    expect_equal(position, feed[-1].position, "the position of the commit")


@case("store.append.many#wide", needs={Feature.MULTI_ACTOR})
async def many_wide(ctx: Context) -> None:
    """A commit of very many actors MUST be stored whole, or be CommitTooLarge before anything is stored."""
    driver = await ctx.store_driver()
    for count in (100, 1001):
        if count > driver.limits.max_commit_events:
            continue
        before = len(await whole_feed(driver))
        stored = count
        try:
            await ctx.within(driver.append([write(f"{count}-{n}", 1, 1) for n in range(count)]), "a wide commit")
        except CommitTooLarge:
            expect(count > 100, "100 actors to be taken", found="CommitTooLarge")
            stored = 0
        expect_equal(len(await whole_feed(driver)) - before, stored, f"the events stored of {count} actors")


@case("store.append.atomic#large")
async def append_large(ctx: Context) -> None:
    """A reader MUST never see a part of a commit, however many events it has, and however many bytes."""
    writer, reader = await ctx.store_driver(), await ctx.store_driver()
    size, commits = min(700, writer.limits.max_commit_events), 6
    text = "x" * min(300, writer.limits.max_commit_bytes // size // 2)

    async def store() -> None:
        for first in range(1, commits * size, size):
            await writer.append([write("a", first, first + size - 1, data={"text": text})])
            await drift(1)

    async with ctx.background(store()) as (storing,):
        for turns in cycle(range(4)):
            if storing.done():
                break
            await drift(turns)
            last = await reader.read("a", after=0, upto=None, limit=1, reverse=True)
            head = await reader.head()
            seen = {
                "version": await reader.version("a"),
                "read": last.records[0].version if last.records else 0,
                "head": head.version if head else 0,
            }
            parts = {what: version for what, version in seen.items() if version % size}
            expect(not parts, f"a multiple of {size} versions in every answer", found=parts)
    expect_equal(await reader.version("a"), commits * size, "the version in the end")


# --- Records ---

_ODD_DATA = (
    b'{ "z" : 1 ,\t"a" : [ ] }',
    b'{"numbers":[-0.0,1E5,1.10,1e400,123456789012345678901234567890]}',
    rb'{"escapes":"\u0041\u0000\ud800\/\u00e9\u007f"}',
    b'{"twice":1,"twice":2,"":{"":{}}}',
    '{"plain":"é\u2028🚀\U0010ffff\u007f"}'.encode(),
)
"""JSON that comes back equal from whoever decodes and encodes it again, but not the same."""


def _odd_write(actor_id: str) -> Write:
    records = []
    for version, data in enumerate(_ODD_DATA, start=1):
        encoded = encode_event(event(actor_id, version, data={"here": 0})).replace(b'{"here":0}', data)
        records.append(NewRecord(version, f"{version}", "Happened", encoded))
    return Write(actor_id, 0, tuple(records))


async def _views(driver: StoreDriver, actor_id: str, count: int) -> Mapping[str, Sequence[Stored | None]]:
    """The events of the only actor of a store in every way in which a driver gives them."""
    head = await driver.head()
    upto = head.position if head else 0
    followed: list[Stored] = []
    async with driver.tail(after=0) as tail:
        while len(followed) < count:
            followed += await tail.page(count - len(followed))
    backwards = await driver.read(actor_id, after=0, upto=None, limit=None, reverse=True)
    return {
        "read": (await driver.read(actor_id, after=0, upto=None, limit=None, reverse=False)).records,
        "read backwards": backwards.records[::-1],
        "feed": (await driver.feed(after=0, upto=upto, limit=count)).records,
        "tail": followed,
        "head": [head],
    }


@case("store.driver.append#bytes")
async def append_bytes(ctx: Context) -> None:
    """The bytes of an event MUST come back as they were given, from `read`, `feed`, `head` and `tail` alike."""
    driver = await ctx.store_driver()
    given = _odd_write("a")
    await driver.append([given])
    expected = [record.data for record in given.records]
    for name, records in (await ctx.within(_views(driver, "a", len(expected)), "what was stored")).items():
        found = [one.data for one in records if one is not None]
        expect_equal(found, expected[-len(records) :], f"the bytes that `{name}` gives")


@case("store.driver.append#alike")
async def append_alike(ctx: Context) -> None:
    """An event MUST have one position, actor and version in `read`, `feed`, `head` and `tail`, in every handle."""
    drivers = [await ctx.store_driver(), await ctx.store_driver()]
    for number in range(3):
        await drivers[0].append([write("a", 3 * number + 1, 3 * number + 3)])
    expected = await whole_feed(drivers[0])
    for driver in drivers:
        for name, records in (await ctx.within(_views(driver, "a", 9), "what was stored")).items():
            expect_equal(list(records), expected[-len(records) :], f"what `{name}` gives")


# --- Pages of an actor ---


async def _joined(driver: StoreDriver, *, after: int, upto: int | None, limit: int, reverse: bool) -> list[int]:
    """The versions in the pages of actor `a`, each of which is asked for with `limit`."""
    found: list[int] = []
    while True:
        page = await driver.read("a", after=after, upto=upto, limit=limit, reverse=reverse)
        expect(len(page.records) <= limit, f"at most {limit} events in a page", found=len(page.records))
        found += [one.version for one in page.records]
        if not page.more:
            return found
        expect(len(page.records) > 0, "an event in a page that has more behind it", found=page)
        if reverse:
            upto = found[-1] - 1
        else:
            after = found[-1]
        if upto is not None and upto <= after:
            return found


@case("store.driver.read")
async def read(ctx: Context) -> None:
    """A page MUST hold at most `limit` events and, unless nothing follows, one; `more` False MUST mean the end."""
    driver = await ctx.store_driver()
    for first, last in ((1, 1), (2, 6), (7, 8), (9, 17)):
        await driver.append([write("a", first, last), *_beside(driver, first, last)])
    for after, upto in ((0, None), (0, 17), (0, 9), (3, 4), (5, None), (5, 16), (16, 17), (17, None), (17, 40)):
        for limit in (1, 2, 5, 17, 100):
            for reverse in (False, True):
                expected = list(range(after + 1, min(upto or 17, 17) + 1))
                found = await _joined(driver, after=after, upto=upto, limit=limit, reverse=reverse)
                what = f"the pages of {limit} with {after} < version <= {upto}, reverse={reverse}"
                expect_equal(found, expected[::-1] if reverse else expected, what)


def _beside(driver: StoreDriver, first: int, last: int) -> list[Write]:
    """Events of another actor for the same commit, where there can be such."""
    return [write("b", first, last)] if Feature.MULTI_ACTOR in driver.features else []


# --- Its end ---


@case("store.driver.close")
async def close(ctx: Context) -> None:
    """Closing a driver twice, at once and one after the other, MUST be fine."""
    driver = ctx.server.store_driver(ctx.namespace)
    await driver.open()
    await driver.append([write("a", 1, 1)])
    await ctx.within(asyncio.gather(driver.close(), driver.close()), "two closings at once")
    await ctx.within(driver.close(), "a third closing")


@case("store.driver.close#waiting")
async def close_waiting(ctx: Context) -> None:
    """Calls that wait while their driver is closed MUST end, with an answer or an AetherError."""
    witness = await ctx.store_driver()
    await witness.append([write("a", 1, 40)])

    async def close_behind(turns: int, driver: StoreDriver) -> list[object]:
        calls: list[Callable[[], Awaitable[object]]] = [*_reads(driver).values(), *_writes(driver).values()]
        tasks = [asyncio.ensure_future(call()) for call in calls for _ in range(3)]
        await drift(turns)
        await driver.close()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    closings = [close_behind(turns, await ctx.store_driver()) for turns in (1, 2, 5, 20)]
    ended = await ctx.within(asyncio.gather(*closings), "closings, and the calls beside them, to end")
    results = [one for each in ended for one in each]
    allowed = (AetherError, RevisionConflict)
    wrong = [one for one in results if isinstance(one, BaseException) and not isinstance(one, allowed)]
    expect_equal(wrong, [], "other errors than those of Aether")


def _reads(driver: StoreDriver) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Every call that only asks."""
    return {
        "read": lambda: driver.read("a", after=0, upto=None, limit=None, reverse=False),
        "version": lambda: driver.version("a"),
        "head": driver.head,
        "feed": lambda: driver.feed(after=0, upto=1, limit=1),
        "load": lambda: driver.load("kind", "a"),
    }


def _writes(driver: StoreDriver) -> dict[str, Callable[[], Awaitable[int]]]:
    """Every call that stores."""
    return {
        "append": lambda: driver.append([write("new", 1, 2)]),
        "save": lambda: driver.save("kind", "new", b"1", expected=0),
    }


# --- A server that does not answer ---


async def check_bounded(
    ctx: Context,
    calls: Mapping[str, Callable[[], Awaitable[object]]],
    allowed: tuple[type[Exception], ...],
    *,
    silent: bool = True,
) -> dict[str, object]:
    """Make all calls at once: each ends in time, with an allowed error or, unless `silent`, with an answer."""
    bound = BRIEF * ctx.server.time_factor + ctx.deadline / 4
    begin = time.monotonic()
    results = await ctx.within(
        asyncio.gather(*(call() for call in calls.values()), return_exceptions=True),
        f"{', '.join(calls)} to end while the server is stopped",
    )
    taken = time.monotonic() - begin
    expect(taken <= bound, f"the calls to end at their time-out, within {bound:g} s", found=f"{taken:g} s")
    for name, result in zip(calls, results, strict=True):
        if isinstance(result, BaseException) or silent:
            kinds = " or ".join(kind.__name__ for kind in allowed)
            expect(isinstance(result, allowed), f"{kinds} from {name} on a stopped server", found=result)
    return dict(zip(calls, results, strict=True))


@case("store.driver.timeout", faults={"pause", "resume"})
async def timeout(ctx: Context) -> None:
    """On a server that does not answer, a read MUST raise Unavailable or StaleRead at the scope's time-out."""
    driver = await ctx.store_driver(timeout=BRIEF)
    await driver.append([write("a", 1, 2)])
    await driver.save("kind", "a", b"1", expected=0)
    async with ctx.paused():
        await check_bounded(ctx, _reads(driver), (Unavailable, StaleRead))
    await ctx.recovers(lambda: driver.version("a"), "the driver to answer when the server goes on")


@case("store.driver.timeout#write", faults={"pause", "resume"})
async def timeout_write(ctx: Context) -> None:
    """On a server that does not answer, a write MUST raise at the time-out, and Unavailable MUST mean not stored."""
    driver, sound = await ctx.store_driver(timeout=BRIEF), await ctx.store_driver()
    await driver.append([write("a", 1, 2)])
    await driver.save("kind", "a", b"1", expected=0)
    async with ctx.paused():
        found = await check_bounded(ctx, _writes(driver), (Unavailable, OutcomeUnknown))
    await ctx.recovers(lambda: driver.append([write("marker", 1, 1)]), "an append behind the pause")
    if isinstance(found["append"], Unavailable):
        expect_equal(await sound.version("new"), 0, "the version of what certainly was not stored")
    if isinstance(found["save"], Unavailable):
        expect_equal(await sound.load("kind", "new"), None, "the slot that certainly was not saved")


@case("store.driver.timeout#open", faults={"pause", "resume"})
async def timeout_open(ctx: Context) -> None:
    """Opening a driver on a server that does not answer MUST raise Unavailable at the scope's time-out."""
    driver = ctx.server.store_driver(ctx.namespace, timeout=BRIEF)
    try:
        async with ctx.paused():
            await check_bounded(ctx, {"open": driver.open}, (Unavailable,))
    finally:
        await driver.close()
