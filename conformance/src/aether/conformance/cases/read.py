"""store.read: order, bounds, freshness, damage."""

from __future__ import annotations

import gc
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec

from aether.conformance.context import Context, event, fed, history, listed
from aether.conformance.resources import Resources
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.conformance.wrappers import StoreWrapper, TailWrapper
from aether.core import CorruptEvent, EventStore, StaleRead
from aether.core.spi import Page, Stored, StoreDriver, Tail

_MANY = 2300  # events: more than one page of any backend that we know


async def _filled(store: EventStore, actor_id: str, count: int) -> None:
    size = min(500, store.limits.max_commit_events)
    for first in range(1, count + 1, size):
        await store.append(*history(actor_id, first, min(first + size - 1, count)))


async def _versions(store: EventStore, actor_id: str, **options: Any) -> list[int]:
    return [each.version async for each in store.read(actor_id, **options)]


@case("store.read.order")
async def order(ctx: Context) -> None:
    """`read` MUST give versions 1 to n in order, each once, however many there are."""
    store = await ctx.store()
    await _filled(store, "a", _MANY)
    await store.append(*history("b", 1, 3))
    expect_equal(await _versions(store, "a"), list(range(1, _MANY + 1)), "the versions")
    expect_equal(await _versions(store, "b"), [1, 2, 3], "the versions of another actor")
    expect_equal(await _versions(store, "unknown"), [], "the versions of an unknown actor")
    expect_equal(await store.version("unknown"), 0, "the version of an unknown actor")


@case("store.read.order#same")
async def same(ctx: Context) -> None:
    """An event MUST come back exactly as it was appended, whatever JSON its data is."""
    store = await ctx.store()
    data: dict[str, Any] = {
        "numbers": [0, -1, 2**53, 2**63 - 1, 1e308, 5e-324, 0.1, -0.0, 1.0],
        "texts": ["", " ", "\x00", "\r\n", '"\\/', "é", "e\u0301", "\u2028", "\ufeff", "👩\u200d🚀", "\U0010ffff"],
        "nested": {"z": {"a": [[], {}, [None, True, False]]}, "a": 1, "": 2, "$ref": 3, "data": {"type": "x"}},
        "long": "x" * 10_000,
    }
    metadata = {"traceparent": "00-1-2-01", "": "empty key", "кирилл": "ица", "crlf": "a\r\nNats-Msg-Id: x"}
    stored = [event("a", 1, data=data, metadata=metadata), event("a", 2, type="Other. *>'", id="any text: é \" '")]
    await store.append(*stored)
    for found in (await listed(store.read("a")), await fed(store)):
        expect_equal(found, stored, "the events")
        expect_equal(list(found[0].data["nested"]), list(data["nested"]), "the order of keys")
        expect_equal(repr(found[0].data["numbers"]), repr(data["numbers"]), "the numbers")


async def _check_slices(ctx: Context, slices: Sequence[dict[str, Any]]) -> None:
    """Every slice of an actor that was appended in commits of different sizes is what a list would give."""
    store = await ctx.store()
    total = 23
    await store.append(*history("other", 1, 4))
    for first, last in ((1, 1), (2, 8), (9, 10), (11, 23)):
        await store.append(*history("a", first, last))
        await store.append(*history("other", first + 4, last + 4))
    for options in slices:
        after, upto, limit = options.get("after", 0), options.get("upto"), options.get("limit")
        expected = [number for number in range(1, total + 1) if number > after and (upto is None or number <= upto)]
        if options.get("reverse"):
            expected.reverse()
        expected = expected if limit is None else expected[:limit]
        found = await _versions(store, "a", **options)
        expect_equal(found, expected, f"read({', '.join(f'{name}={value}' for name, value in options.items())})")


@case("store.read.after")
async def after(ctx: Context) -> None:
    """`after` MUST be exclusive, also at and behind the end."""
    await _check_slices(ctx, [{"after": number} for number in (0, 1, 2, 8, 9, 15, 22, 23, 24, 10**9)])


@case("store.read.upto")
async def upto(ctx: Context) -> None:
    """`upto` MUST be inclusive, alone and together with `after`."""
    ends = (0, 1, 2, 8, 9, 15, 22, 23, 24, 10**9)
    both = [{"after": first, "upto": last} for first in (0, 1, 8, 12, 23) for last in ends]
    await _check_slices(ctx, [{"upto": number} for number in ends] + both)


@case("store.read.limit")
async def limit(ctx: Context) -> None:
    """`limit` MUST give the first events only, counted over all pages; 0 MUST give none."""
    alone = [{"limit": number} for number in (0, 1, 2, 8, 22, 23, 24, 10**6)]
    combined = [{"after": first, "upto": 20, "limit": size} for first in (0, 7, 19, 20) for size in (0, 1, 5)]
    await _check_slices(ctx, alone + combined)


@case("store.read.limit#pages")
async def limit_pages(ctx: Context) -> None:
    """`limit` MUST hold also where it is larger than a page."""
    store = await ctx.store()
    await _filled(store, "a", _MANY)
    for size in (999, 1000, 1001, 2001):
        expect_equal(len(await _versions(store, "a", limit=size)), size, "the number of events")
        expect_equal(await _versions(store, "a", limit=size, reverse=True), _down(_MANY, size), "the last ones")


def _down(top: int, count: int) -> list[int]:
    return list(range(top, top - count, -1))


@case("store.read.reverse")
async def reverse(ctx: Context) -> None:
    """`reverse` MUST be the exact mirror, with every other option."""
    bounds = itertools.product((0, 1, 8, 12, 23), (None, 0, 1, 9, 15, 23, 99), (None, 0, 1, 6, 50))
    await _check_slices(ctx, [{"after": a, "upto": u, "limit": size, "reverse": True} for a, u, size in bounds])


@case("store.read.reverse#pages")
async def reverse_pages(ctx: Context) -> None:
    """`reverse` MUST be the mirror of more than one page, too."""
    store = await ctx.store()
    await _filled(store, "a", _MANY)
    expect_equal(await _versions(store, "a", reverse=True), _down(_MANY, _MANY), "the versions")


@case("store.read.negative")
async def negative(ctx: Context) -> None:
    """Negative numbers, and what is no whole number, MUST be a ValueError at the call."""
    store = await ctx.store()
    await store.append(event("a", 1))
    wrong: list[Any] = [-1, 1.0, "1", True]
    for name in ("after", "upto", "limit", "min_version"):
        for value in wrong:
            with expect_error(ValueError, f"read({name}={value!r})"):
                store.read("a", **{name: value})
    for value in wrong:
        with expect_error(ValueError, f"feed(limit={value!r})"):
            store.feed(limit=value)
        with expect_error(ValueError, f"version(min_version={value!r})"):
            await store.version("a", min_version=value)


# --- Freshness ---


@case("store.read.own")
async def own(ctx: Context) -> None:
    """After `append` returns, this handle and every other one MUST see it in `read`, `version`, `head` and `feed`."""
    stores = [await ctx.store() for _ in range(3)]
    for version in range(1, 31):
        stored = event("a", version)
        position = (await stores[version % 3].append(stored)).position
        for store in stores:
            expect_equal(await store.version("a"), version, "the version behind an append")
            expect_equal(await listed(store.read("a", after=version - 1)), [stored], "the events behind an append")
            expect_equal(await store.head(), position, "the head behind an append")
            expect_equal((await fed(store))[-1:], [stored], "the end of the feed behind an append")
    for version in range(31, 61):  # as above, without anything in between that could refresh what a handle remembers
        await stores[version % 3].append(event("a", version))
        expect_equal(await stores[0].version("a"), version, "the version behind an append of any handle")


@case("store.read.fresh")
async def fresh(ctx: Context) -> None:
    """`min_version` and `min_position` that exist MUST be answered, those that never come MUST raise StaleRead."""
    store, brief = await ctx.store(), await ctx.store(timeout=0.1)
    position = (await store.append(*history("a", 1, 3))).position
    expect_equal(await brief.version("a", min_version=3), 3, "the version")
    expect_equal(len(await listed(brief.read("a", min_version=3))), 3, "the number of events")
    expect_equal(len(await fed(brief, min_position=position)), 3, "the length of the feed")
    with expect_error(StaleRead, "version(min_version=4) at version 3"):
        await ctx.within(brief.version("a", min_version=4), "StaleRead")
    with expect_error(StaleRead, "read(min_version=4) at version 3"):
        await ctx.within(listed(brief.read("a", min_version=4)), "StaleRead")
    later = msgspec.structs.replace(position, order=position.order + 1)
    with expect_error(StaleRead, "feed(min_position=) behind the end"):
        await ctx.within(fed(brief, min_position=later), "StaleRead")


class _Behind(StoreWrapper):
    """The first answers come from a server that has nothing yet."""

    stale = 3

    async def version(self, actor_id: str) -> int:
        self.stale -= 1
        return 0 if self.stale >= 0 else await super().version(actor_id)

    async def head(self) -> Stored | None:
        self.stale -= 1
        return None if self.stale >= 0 else await super().head()


@case("store.read.fresh#waits")
async def fresh_waits(ctx: Context) -> None:
    """A server that is behind what is asked for MUST be asked again, until it has it."""
    sound = await ctx.store()
    position = (await sound.append(*history("a", 1, 3))).position
    behind = await ctx.store(wrap=_Behind)
    expect_equal(len(await listed(behind.read("a", min_version=3))), 3, "the number of events")
    behind = await ctx.store(wrap=_Behind)
    expect_equal(len(await fed(behind, min_position=position)), 3, "the length of the feed")


@case("store.read.early")
async def early(ctx: Context) -> None:
    """Leaving a loop early MUST free what it held: no task, socket or cursor may be left."""
    store = await ctx.store()
    await _filled(store, "a", _MANY)

    async def leave_early() -> None:
        async for _ in store.read("a"):
            break
        async for _ in store.feed():
            break
        async with store.subscribe() as events:
            async for _ in events:
                break

    await leave_early()
    before = Resources.now()
    for _ in range(40):
        await ctx.within(leave_early(), "leaving loops early")
    gc.collect()
    await ctx.eventually(lambda: Resources.now().within(before), f"no more than {before} to be held")
    expect_equal(await store.version("a"), _MANY, "the version that the store answers then")


# --- Damage ---


class _Damaged(StoreWrapper):
    """Version 3 of actor `a` comes back as `damage` makes it."""

    damage: Callable[[Stored], Stored]

    def _spoil(self, records: Sequence[Stored]) -> list[Stored]:
        return [self.damage(one) if (one.actor_id, one.version) == ("a", 3) else one for one in records]

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await super().read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        return Page(self._spoil(page.records), page.more)

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page = await super().feed(after=after, upto=upto, limit=limit)
        return Page(self._spoil(page.records), page.more)

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        spoil = self._spoil

        class Spoiled(TailWrapper):
            async def page(self, limit: int) -> Sequence[Stored]:
                return spoil(await super().page(limit))

        inner: AbstractAsyncContextManager[Tail] = super().tail(after=after)
        async with inner as tail:
            yield Spoiled(tail)


def _damaged(damage: Callable[[Stored], Stored]) -> Callable[[StoreDriver], StoreDriver]:
    def wrap(inner: StoreDriver) -> StoreDriver:
        driver = _Damaged(inner)
        driver.damage = damage
        return driver

    return wrap


_DAMAGES: dict[str, Callable[[Stored], Stored]] = {
    "cut off": lambda one: msgspec.structs.replace(one, data=one.data[:-7]),
    "empty": lambda one: msgspec.structs.replace(one, data=b""),
    "no text": lambda one: msgspec.structs.replace(one, data=b"\xff" + one.data[1:]),
    "too deep": lambda one: msgspec.structs.replace(one, data=b'{"data":' * 100_000),
    "of another actor": lambda one: msgspec.structs.replace(
        one, data=one.data.replace(b'"actor_id":"a"', b'"actor_id":"b"')
    ),
}


@case("store.read.corrupt")
async def corrupt(ctx: Context) -> None:
    """A stored event that cannot be decoded MUST raise CorruptEvent with actor, version and position; never skipped."""
    sound = await ctx.store()
    await sound.append(*history("a", 1, 5))
    place = [position async for position, _ in sound.feed()][2].order
    for name, damage in _DAMAGES.items():
        store = await ctx.store(wrap=_damaged(damage))
        for what, events in (
            ("read", store.read("a")),
            ("read backwards", store.read("a", reverse=True)),
            ("feed", store.feed()),
        ):
            seen = 0
            with expect_error(CorruptEvent, f"{what} over an event that is {name}") as caught:
                async for _ in events:
                    seen += 1
            expect_equal(seen, 2, f"the number of events that {what} gave before")
            error = caught.error
            expect_equal((error.actor_id, error.version, error.position), ("a", 3, place), "the place in the error")
        async with store.subscribe() as events:
            await ctx.take(events, 2, "events before the damaged one")
            for _ in range(2):
                with expect_error(CorruptEvent, f"a subscription at an event that is {name}, each time"):
                    await ctx.within(anext(events), "CorruptEvent")


@case("store.read.corrupt#hole")
async def hole(ctx: Context) -> None:
    """A version that is missing in the middle MUST raise CorruptEvent, forwards and backwards."""

    class Holed(StoreWrapper):
        async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
            page = await super().read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
            return Page([one for one in page.records if one.version != 3], page.more)

    store = await ctx.store(wrap=Holed)
    await store.append(*history("a", 1, 5))
    for backwards in (False, True):
        with expect_error(CorruptEvent, f"read(reverse={backwards}) over a hole"):
            await listed(store.read("a", reverse=backwards))
    expect(await store.version("a") == 5, "the version to be 5", found="another")
