"""election.register: compare-and-set, the one thing that the safety of elections rests on."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from aether.conformance.context import CANCEL_TURNS, Context, cancelled_after
from aether.conformance.corpus import HOSTILE_NAMES
from aether.conformance.history import RegisterCall, check_register
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.core import Durability
from aether.core.spi import Entry, LeaseRegister, RevisionConflict, Watch


def _value(number: int) -> bytes:
    return b'{"number":%d}' % number


async def _attempt(register: LeaseRegister, name: str, value: bytes) -> list[RegisterCall]:
    """Read a record and try to replace it."""
    moments = [time.monotonic()]
    found = await register.read(name)
    moments.append(time.monotonic())
    expected, held = (found.revision, found.value) if found else (0, b"")
    read = RegisterCall("read", held, 0, expected, moments[0], moments[1])
    try:
        revision = await register.cas(name, value, expected=expected)
    except RevisionConflict:
        return [read, RegisterCall("refused", value, expected, 0, moments[1], time.monotonic())]
    return [read, RegisterCall("written", value, expected, revision, moments[1], time.monotonic())]


@case("election.register.cas")
async def cas(ctx: Context) -> None:
    """`cas` MUST be linearizable per name: many writers at once leave one chain that agrees with real time."""
    registers = [await ctx.register() for _ in range(3)]
    calls: list[RegisterCall] = []

    async def write(number: int) -> None:
        for attempt in range(15):
            calls.extend(await _attempt(registers[number % 3], "contended", _value(number * 100 + attempt)))

    await ctx.within(asyncio.gather(*(write(number) for number in range(8))), "8 writers to end")
    final = await registers[0].read("contended")
    expect(final is not None, "a record", found=final)
    check_register(calls, final=final[1:] if final else (0, b""))


@case("election.register.cas#first")
async def cas_first(ctx: Context) -> None:
    """Of many that create one record at once, exactly one MUST succeed."""
    registers = [await ctx.register() for _ in range(3)]
    for turn in range(5):
        creations = [registers[n % 3].cas(f"new{turn}", _value(n), expected=0) for n in range(9)]
        results = await ctx.within(asyncio.gather(*creations, return_exceptions=True), "9 creations to end")
        won = [number for number, result in enumerate(results) if isinstance(result, int)]
        others = [result for result in results if not isinstance(result, int | RevisionConflict)]
        expect(len(won) == 1 and not others, "1 success and 8 conflicts", found=results)
        found = await registers[turn % 3].read(f"new{turn}")
        expect_equal(found and found.value, _value(won[0]), "the record")


@case("election.register.cas#definite")
async def cas_definite(ctx: Context) -> None:
    """A revision that is not the record's MUST raise RevisionConflict and change nothing, whether older, newer or 0."""
    one, two = await ctx.register(), await ctx.register()
    with expect_error(RevisionConflict, "replacing revision 7 of a record that does not exist"):
        await one.cas("a", _value(0), expected=7)
    expect_equal(await two.read("a"), None, "a record that was never written")
    first = await one.cas("a", _value(1), expected=0)
    second = await two.cas("a", _value(2), expected=first)
    for expected in (0, first, second + 1, second + 1000):
        with expect_error(RevisionConflict, f"replacing revision {expected} when it is {second}"):
            await one.cas("a", _value(3), expected=expected)
    for register in (one, two):
        expect_equal(await register.read("a"), Entry("a", second, _value(2)), "the record")


@case("election.register.cas#cancelled")
async def cas_cancelled(ctx: Context) -> None:
    """A cancelled `cas` MUST be applied whole or not at all, and leave the register usable."""
    register = await ctx.register()
    revision = await register.cas("a", _value(0), expected=0)
    for number, turns in enumerate(CANCEL_TURNS, start=1):
        work = register.cas("a", _value(number), expected=revision)
        await ctx.within(cancelled_after(turns, work), "a cancelled cas to end")
        revision = await ctx.within(_replace(register, number), "a write behind a cancelled one")


async def _replace(register: LeaseRegister, number: int) -> int:
    """Write, though a cancelled write of the same value may still be on its way and be first."""
    values = (_value(number - 1), _value(number))
    while True:
        found = await register.read("a")
        expect(found is not None and found.value in values, f"one of {values}", found=found)
        with suppress(RevisionConflict):
            return await register.cas("a", _value(number), expected=found.revision if found else 0)


@case("election.register.revision")
async def revision_increases(ctx: Context) -> None:
    """Revisions MUST strictly increase per name, with every write, also of an equal value, and for every handle."""
    registers = [await ctx.register(), await ctx.register()]
    last = 0
    for number in range(20):
        await registers[0].cas(f"other{number}", _value(number), expected=0)
        revision = await registers[number % 2].cas("a", _value(number // 4), expected=last)
        expect(revision > last, f"a revision above {last}", found=revision)
        last = revision
        expect_equal(await registers[0].read("a"), Entry("a", revision, _value(number // 4)), "the record")


@case("election.register.revision#restart", faults={"restart"}, durability=Durability.PROCESS)
async def revision_restart(ctx: Context) -> None:
    """Records MUST survive kill -9 of the server, and their revisions go on from where they were."""
    register = await ctx.register()
    last = await register.cas("a", _value(1), expected=0)
    await ctx.restart()
    fresh = await ctx.recovers(ctx.register, "opening a register behind the restart")
    expect_equal(
        await ctx.recovers(lambda: fresh.read("a"), "a read"),
        Entry("a", last, _value(1)),
        "the record behind the restart",
    )
    with expect_error(RevisionConflict, "creating a record that was there before the restart"):
        await fresh.cas("a", _value(2), expected=0)
    expect(await fresh.cas("a", _value(2), expected=last) > last, f"a revision above {last}", found="another one")


@case("election.register.names")
async def names(ctx: Context) -> None:
    """Records of different names, and of different namespaces, MUST never meet; `scan` MUST go by the name's start."""
    register, other = await ctx.register(), await ctx.register(namespace=f"{ctx.namespace}.b")
    await asyncio.gather(*(register.cas(name, _value(n), expected=0) for n, name in enumerate(HOSTILE_NAMES)))
    for number, name in enumerate(HOSTILE_NAMES):
        found = await register.read(name)
        expect_equal(found and (found.name, found.value), (name, _value(number)), f"the record of {name!r}")
        expect_equal(await other.read(name), None, f"the record of {name!r} in another namespace")
    for prefix in ("", "a", "a.", "*", ">", "x" * 254, "é", "node/", "A", "=", "%"):
        wanted = sorted(name for name in HOSTILE_NAMES if name.startswith(prefix))
        scanned = sorted(entry.name for entry in await register.scan(prefix))
        expect_equal(scanned, wanted, f"the names that scan({prefix!r}) gives")
    expect_equal(list(await other.scan("")), [], "what a scan of the other namespace gives")


@case("election.register.scan")
async def scan(ctx: Context) -> None:
    """`scan` MUST give every record once, with its present value, however many there are."""
    register, reader = await ctx.register(), await ctx.register()
    total = 700
    for start in range(0, total, 50):
        batch = range(start, start + 50)
        await asyncio.gather(*(register.cas(f"node/{n}", _value(n), expected=0) for n in batch))
    found = await ctx.within(reader.scan("node/"), "a scan")
    names = [entry.name for entry in found]
    expect(len(names) == len(set(names)) == total, f"{total} records, each once", found=f"{len(names)}")
    wrong = [entry for entry in found if entry.value != _value(int(entry.name.removeprefix("node/")))]
    expect_equal(wrong, [], "records with another value")


@case("election.register.watch")
async def watch(ctx: Context) -> None:
    """A watch that has been entered MUST report later changes of its names, the last one at least, and no others."""
    register, watcher = await ctx.register(), await ctx.register()
    async with watcher.watch("node/") as changes:
        await register.cas("other", _value(0), expected=0)
        revision = await register.cas("node/1", _value(1), expected=0)
        await _reported(ctx, changes, Entry("node/1", revision, _value(1)))
        for number in range(2, 12):
            revision = await register.cas("node/1", _value(number), expected=revision)
        await _reported(ctx, changes, Entry("node/1", revision, _value(11)))


async def _reported(ctx: Context, changes: Watch, last: Entry) -> None:
    """Wait until a watch has come to a change; it may leave out those before."""
    while True:
        found = await ctx.within(changes.next(), f"a report of revision {last.revision}")
        expect(found.name == last.name and found.revision <= last.revision, f"changes up to {last}", found=found)
        if found.revision == last.revision:
            expect_equal(found, last, "the reported change")
            return
