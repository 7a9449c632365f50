"""store.driver.slot: small values under compare-and-set, which snapshots and checkpoints rest on."""

from __future__ import annotations

import asyncio

from aether.conformance.context import Context
from aether.conformance.corpus import HOSTILE_NAMES
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.core.spi import RevisionConflict, Slot


@case("store.driver.slot")
async def slot(ctx: Context) -> None:
    """`save` MUST take the present revision only, and raise RevisionConflict and change nothing for any other."""
    one, two = await ctx.store_driver(), await ctx.store_driver()
    expect_equal(await one.load("kind", "a"), None, "a slot that was never saved")
    with expect_error(RevisionConflict, "replacing revision 7 of a slot that does not exist"):
        await one.save("kind", "a", b"0", expected=7)
    expect_equal(await two.load("kind", "a"), None, "a slot that was never saved")
    first = await one.save("kind", "a", b"1", expected=0)
    second = await two.save("kind", "a", b"2", expected=first)
    for expected in (0, first, second + 1, second + 1000):
        with expect_error(RevisionConflict, f"replacing revision {expected} when it is {second}"):
            await one.save("kind", "a", b"3", expected=expected)
    for driver in (one, two):
        expect_equal(await driver.load("kind", "a"), Slot(second, b"2"), "the slot")


@case("store.driver.slot#revision")
async def slot_revision(ctx: Context) -> None:
    """Revisions of a slot MUST be above 0 and strictly increase with every change, also to an equal value."""
    drivers = [await ctx.store_driver(), await ctx.store_driver()]
    last = 0
    for number in range(12):
        await drivers[0].save("kind", f"other{number}", b"x", expected=0)
        revision = await drivers[number % 2].save("kind", "a", b"the same", expected=last)
        expect(revision > last, f"a revision above {last}", found=revision)
        for driver in drivers:
            expect_equal(await driver.load("kind", "a"), Slot(revision, b"the same"), "the slot behind a save")
        last = revision


@case("store.driver.slot#race")
async def slot_race(ctx: Context) -> None:
    """Of many that save over one revision at once, exactly one MUST succeed, and its value MUST stay."""
    drivers = [await ctx.store_driver() for _ in range(3)]
    revision = 0
    for _ in range(4):
        values = [b"%d" % number for number in range(9)]
        saves = [drivers[n % 3].save("kind", "a", value, expected=revision) for n, value in enumerate(values)]
        results = await ctx.within(asyncio.gather(*saves, return_exceptions=True), "9 saves to end")
        won = [(result, value) for result, value in zip(results, values, strict=True) if isinstance(result, int)]
        others = [result for result in results if not isinstance(result, int | RevisionConflict)]
        expect(len(won) == 1 and not others, "1 success and 8 conflicts", found=results)
        expect_equal(await drivers[0].load("kind", "a"), Slot(*won[0]), "the slot")
        revision = won[0][0]


@case("store.driver.slot#apart")
async def slot_apart(ctx: Context) -> None:
    """Slots of different kinds or names MUST never meet, with names of up to 515 characters."""
    driver, reader = await ctx.store_driver(), await ctx.store_driver()
    long = [letter * 515 for letter in ("x", "é", "🚀")] + ["🚀" * 514 + "x", "x" * 514]
    names = [*HOSTILE_NAMES[::3], *long]
    slots = [(kind, name) for kind in ("kind", "other-kind", "kin") for name in names]
    values = {place: b"%d" % number for number, place in enumerate(slots)}
    await asyncio.gather(*(driver.save(*place, value, expected=0) for place, value in values.items()))
    for place, value in values.items():
        found = await reader.load(*place)
        expect_equal(found and found.value, value, f"the slot {place!r:.80}")


@case("store.driver.slot#bytes")
async def slot_bytes(ctx: Context) -> None:
    """The value of a slot MUST come back byte for byte, whatever bytes it is, also none, also the most allowed."""
    driver = await ctx.store_driver()
    most = driver.limits.max_snapshot_bytes
    for number, value in enumerate((b"", b"\x00", bytes(range(256)), b"\xff\xfe\r\n", b"x" * most)):
        await ctx.within(driver.save("kind", f"a{number}", value, expected=0), f"saving {len(value)} bytes")
        found = await driver.load("kind", f"a{number}")
        same = found is not None and found.value == value
        expect(same, f"{len(value)} bytes back", found=f"{found!r:.80}")
