"""election.register: what the interface asks of a lease register besides its compare-and-set."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from aether.conformance.cases.driver_store import BRIEF, check_bounded
from aether.conformance.context import CANCEL_TURNS, Context, cancelled_after, drift
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.core import OutcomeUnknown, StaleRead, Unavailable
from aether.core.spi import Entry, LeaseRegister, RevisionConflict, Watch


@case("election.register.value")
async def value(ctx: Context) -> None:
    """A record's value MUST come back byte for byte, whatever bytes it is, up to 16 KiB."""
    register, reader = await ctx.register(), await ctx.register()
    values = (b"", b"\x00", bytes(range(256)), b"\xff\xfe\r\n", "é🚀".encode(), b"x" * (16 << 10))
    for number, given in enumerate(values):
        revision = await register.cas(f"a{number}", given, expected=0)
        expected = Entry(f"a{number}", revision, given)
        expect_equal(await reader.read(f"a{number}"), expected, "the record")
        expect_equal(list(await reader.scan(f"a{number}")), [expected], "the scan")


@case("election.register.scan#busy")
async def scan_busy(ctx: Context) -> None:
    """A scan while records change MUST give every record that was there before, each once."""
    register, reader = await ctx.register(), await ctx.register()
    names = [f"node/{number:03}" for number in range(60)]
    revisions = dict(zip(names, await asyncio.gather(*(register.cas(n, b"0", expected=0) for n in names)), strict=True))

    async def change() -> None:
        for _ in range(6):
            for name in names:
                revisions[name] = await register.cas(name, b"1", expected=revisions[name])
                await drift(1)

    async with ctx.background(change()) as (changing,):
        while not changing.done():
            found = sorted(entry.name for entry in await ctx.within(reader.scan("node/"), "a scan"))
            expect_equal(found, names, "the names that a scan gives")
            await asyncio.sleep(0)


@case("election.register.scan#changed")
async def scan_changed(ctx: Context) -> None:
    """A scan MUST give each record as it was left by the last change that was acknowledged, in every handle."""
    registers = [await ctx.register(), await ctx.register()]
    expected: dict[str, Entry] = {}
    for number in range(20):
        name = f"node/{number % 7}"
        before = expected[name].revision if name in expected else 0
        given = b"%d" % number
        expected[name] = Entry(name, await registers[number % 2].cas(name, given, expected=before), given)
        for register in registers:
            found = sorted(await register.scan("node/"))
            expect_equal(found, sorted(expected.values()), "what a scan gives behind a change")


@case("election.register.scan#large")
async def scan_large(ctx: Context) -> None:
    """A scan MUST give every record, however many bytes they have together."""
    register, reader = await ctx.register(), await ctx.register()
    expected = {f"node/{number:03}": bytes([number % 256]) * (16 << 10) for number in range(300)}
    names = list(expected)
    for start in range(0, len(names), 50):
        writes = [register.cas(name, expected[name], expected=0) for name in names[start : start + 50]]
        await ctx.within(asyncio.gather(*writes), "50 records to be written")
    found = {entry.name: entry.value for entry in await ctx.within(reader.scan("node/"), "a scan of 4.7 MiB")}
    lacking = [name for name in names if found.get(name) != expected[name]]
    expect_equal(lacking, [], "the records that a scan leaves out or gives with another value")


async def _last(watch: Watch, last: dict[str, int]) -> None:
    """Wait until a watch has reported these revisions; it may leave out those before, and repeat."""
    left = dict(last)
    while left:
        found = await watch.next()
        if left.get(found.name) == found.revision:
            del left[found.name]


@case("election.register.watch#several")
async def watch_several(ctx: Context) -> None:
    """Watches at once, of one register and of several, MUST each report the last change of every name of theirs."""
    register, other = await ctx.register(), await ctx.register()
    prefixes = ("", "a", "a.", "b", "a.1")
    entered = [(where, prefix, where.watch(prefix)) for where in (register, other) for prefix in prefixes]
    watches = [(prefix, await manager.__aenter__()) for _, prefix, manager in entered]
    try:
        last: dict[str, int] = {}
        for turn in range(3):
            for name in ("a", "a.1", "a.2", "b", "ab"):
                last[name] = await register.cas(name, b"%d" % turn, expected=last.get(name, 0))
        for prefix, watch in watches:
            wanted = {name: revision for name, revision in last.items() if name.startswith(prefix)}
            await ctx.within(_last(watch, wanted), f"the last changes of {sorted(wanted)} from watch({prefix!r})")
    finally:
        for _, _, manager in entered:
            await manager.__aexit__(None, None, None)


@case("election.register.watch#cancelled")
async def watch_cancelled(ctx: Context) -> None:
    """Cancelling a wait for a change at any point MUST not keep the last change from being reported."""
    register, watcher = await ctx.register(), await ctx.register()
    revision = 0
    async with watcher.watch("a") as watch:
        for number, turns in enumerate(CANCEL_TURNS):
            if number % 2:
                revision = await register.cas("a", b"%d" % number, expected=revision)
                seen = await cancelled_after(turns, watch.next())
            else:
                waiting = asyncio.ensure_future(watch.next())
                await drift(turns)
                revision = await register.cas("a", b"%d" % number, expected=revision)
                waiting.cancel()
                await asyncio.wait([waiting])
                seen = None if waiting.cancelled() else waiting.result()
            if seen is None or seen.revision != revision:
                await ctx.within(_last(watch, {"a": revision}), f"a report of revision {revision}")


@case("election.register.push")
async def push(ctx: Context) -> None:
    """A register with `push` MUST report a change at once; where `push` is False it MUST be reported all the same."""
    register, watcher = await ctx.register(), await ctx.register()
    hops: list[float] = []
    revision = 0
    async with watcher.watch("a") as watch:
        for number in range(9 if watcher.push else 1):
            waiting = asyncio.ensure_future(watch.next())
            await asyncio.sleep(0)
            revision = await register.cas("a", b"%d" % number, expected=revision)
            begin = time.monotonic()
            found = await ctx.within(waiting, f"a report of revision {revision}")
            hops.append(time.monotonic() - begin)
            if found.revision != revision:
                await ctx.within(_last(watch, {"a": revision}), f"a report of revision {revision}")
    bound = ctx.lease / 4
    expect(
        not watcher.push or median(hops) <= bound,
        f"most of {len(hops)} changes to be reported within {bound:g} s, a quarter of the shortest lease",
        found=f"half of them took {median(hops):.3f} s or more",
    )


@case("election.register.close")
async def close(ctx: Context) -> None:
    """Closing a register twice, at once and one after the other, MUST be fine."""
    register = ctx.server.register(ctx.namespace)
    await register.open()
    await register.cas("a", b"1", expected=0)
    await ctx.within(asyncio.gather(register.close(), register.close()), "two closings at once")
    await ctx.within(register.close(), "a third closing")


@case("election.register.timeout", faults={"pause", "resume"})
async def timeout(ctx: Context) -> None:
    """On a server that does not answer, `cas`, `read` and `scan` MUST raise at the scope's time-out."""
    register = await ctx.register(timeout=BRIEF)
    await register.cas("a", b"1", expected=0)
    async with ctx.paused():
        await check_bounded(
            ctx, {"read": lambda: register.read("a"), "scan": lambda: register.scan("")}, (Unavailable, StaleRead)
        )
        await check_bounded(ctx, {"cas": lambda: register.cas("b", b"1", expected=0)}, (Unavailable, OutcomeUnknown))
    await ctx.recovers(lambda: register.read("a"), "the register to answer when the server goes on")


@case("election.register.timeout#open", faults={"pause", "resume"})
async def timeout_open(ctx: Context) -> None:
    """Opening a register on a server that does not answer MUST raise Unavailable at the scope's time-out."""
    register = ctx.server.register(ctx.namespace, timeout=BRIEF)
    try:
        async with ctx.paused():
            await check_bounded(ctx, {"open": register.open}, (Unavailable,))
    finally:
        await register.close()


@case("election.register.timeout#definite", faults={"pause", "resume"})
async def timeout_definite(ctx: Context) -> None:
    """A `cas` that raised Unavailable MUST never be applied; one that raised OutcomeUnknown once at most."""
    register, sound = await ctx.register(timeout=BRIEF), await ctx.register()
    revision = await register.cas("a", b"old", expected=0)
    async with ctx.paused():
        call = {"cas": lambda: register.cas("a", b"new", expected=revision)}
        found = (await check_bounded(ctx, call, (Unavailable, OutcomeUnknown)))["cas"]
    await ctx.recovers(lambda: register.read("a"), "the register to answer")
    last = await _settle(sound)
    applied = last.value == b"new"
    expect(not (applied and isinstance(found, Unavailable)), "nothing of what was not sent", found=last)
    if applied:
        with expect_error(RevisionConflict, "replacing the revision that the unanswered cas replaced"):
            await sound.cas("a", b"again", expected=revision)


async def _settle(register: LeaseRegister) -> Entry:
    """The record behind a write to another name: what was on its way before is there, or never will be."""
    await register.cas("marker", b"1", expected=0)
    found = await register.read("a")
    return found if found is not None else Entry("a", 0, b"")
