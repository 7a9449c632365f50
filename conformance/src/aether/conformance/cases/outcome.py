"""store.append.unknown and the durability of what was acknowledged: answers that are lost, servers that die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from aether.conformance.context import CANCEL_TURNS, Context, cancelled_after, event, fed, history, listed
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.conformance.wrappers import StoreWrapper
from aether.core import Durability, Event, EventStore, OutcomeUnknown, StaleRead, Unavailable
from aether.core.spi import Page, StoreDriver, Write

_BRIEF = 0.2  # seconds: the facade's time-out where the answer is known not to come


class LosesAnswers(StoreWrapper):
    """The answer of an append is lost: behind storing it, or in front of that."""

    def __init__(self, inner: StoreDriver, *, stored: bool, times: int) -> None:
        super().__init__(inner)
        self.stored = stored
        self.left = times
        self.unreadable = False

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        if self.left == 0:
            return await super().append(writes, transaction=transaction)
        self.left -= 1
        if self.stored:
            await super().append(writes, transaction=transaction)
        raise OutcomeUnknown("append", reason="the suite lost the answer")

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        if self.unreadable:
            raise Unavailable("read", reason="the suite cut the connection")
        return await super().read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)


def _loses(*, stored: bool, times: int = -1) -> Callable[[StoreDriver], LosesAnswers]:
    return lambda inner: LosesAnswers(inner, stored=stored, times=times)


@case("store.append.unknown#resolved")
async def resolved(ctx: Context) -> None:
    """When one answer is lost, `append` MUST find out whether its commit was stored, and store it exactly once."""
    for number, stored in enumerate((True, False)):
        actor = f"a{number}"
        store = await ctx.store(wrap=_loses(stored=stored, times=1))
        commit = history(actor, 1, 3)
        await ctx.within(store.append(*commit), "an append whose first answer is lost")
        expect_equal(await listed(store.read(actor)), commit, "what is stored")


@case("store.append.unknown#raised")
async def raised(ctx: Context) -> None:
    """An outcome that cannot be found out MUST raise OutcomeUnknown with the ids; repeating the call MUST be safe."""
    sound = await ctx.store()
    for number, stored in enumerate((True, False)):
        actor = f"a{number}"
        drivers: list[LosesAnswers] = []

        def wrap(inner: StoreDriver, stored: bool = stored, drivers: list[LosesAnswers] = drivers) -> StoreDriver:
            drivers.append(LosesAnswers(inner, stored=stored, times=1 if stored else -1))
            drivers[0].unreadable = stored
            return drivers[0]

        store = await ctx.store(timeout=_BRIEF, wrap=wrap)
        commit = history(actor, 1, 2)
        with expect_error(OutcomeUnknown, "an append whose answer is lost for good") as caught:
            await ctx.within(store.append(*commit), "an append without an answer")
        expect_equal(caught.error.event_ids, tuple(each.id for each in commit), "the ids in the error")
        again = await sound.append(*commit)
        expect(again.replayed or not stored, "the repeated call to find what was stored", found=again)
        expect_equal(await listed(sound.read(actor)), commit, "what is stored")


@case("store.append.unknown#cancelled")
async def cancelled(ctx: Context) -> None:
    """A cancelled append MUST be stored whole or not at all, and repeating it MUST store it exactly once."""
    store, other = await ctx.store(), await ctx.store()
    version = 0
    for turns in CANCEL_TURNS:
        commit = history("a", version + 1, version + 3)
        await cancelled_after(turns, store.append(*commit))
        await ctx.within((store if turns % 2 else other).append(*commit), "the repeated append")
        version += 3
        expect_equal((await listed(other.read("a", after=version - 3))), commit, "what is stored")
    expect_equal(await store.version("a"), version, "the version in the end")


@asynccontextmanager
async def _writers(ctx: Context, acknowledged: list[Event], *, part: int = 1) -> AsyncIterator[None]:
    """Writers that repeat every call until it is acknowledged; they end with the block.

    Commits of several events have another size for each: writers that are answered together keep step, and would all
    be between two commits at once.
    """
    over = asyncio.Event()

    async def write(number: int, store: EventStore) -> None:
        version, part = 0, sizes[number]
        while not over.is_set():
            commit = history(f"a{number}", version + 1, version + part)
            while True:
                try:
                    await store.append(*commit)
                    break
                except (OutcomeUnknown, Unavailable, StaleRead):
                    await asyncio.sleep(0)  # repeating the same call is what a user is told to do
            acknowledged.extend(commit)
            version += part

    sizes = _sizes(part)
    stores = [await ctx.store() for _ in range(2)]
    tasks = [asyncio.create_task(write(number, stores[number % 2])) for number in range(len(sizes))]
    try:
        await ctx.eventually(lambda: len(acknowledged) >= 30 * part, "30 appends")
        yield
        reached = len(acknowledged)
        await ctx.eventually(lambda: len(acknowledged) >= reached + 30 * part, "30 more appends behind the fault")
        over.set()
        await ctx.within(asyncio.gather(*tasks), "the writers to end")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _sizes(part: int) -> list[int]:
    """How many events are in a commit of each writer."""
    return [part + number if part > 1 else part for number in range(6)]


async def _check_stored(ctx: Context, acknowledged: list[Event], *, part: int) -> None:
    reader = await ctx.recovers(ctx.store, "opening a store")
    for number, size in enumerate(_sizes(part)):
        actor = f"a{number}"
        expected = [each for each in acknowledged if each.actor_id == actor]
        found = await listed(reader.read(actor))
        expect(len(found) % size == 0, f"whole commits of {size}", found=f"{len(found)} events of {actor}")
        expect_equal([each.id for each in found], [each.id for each in expected], f"the events of {actor}")
    ids = [each.id for each in await fed(reader)]
    expect_equal(sorted(ids), sorted(each.id for each in acknowledged), "the events of the feed")


@case("store.append.unknown#restart", faults={"restart"}, durability=Durability.PROCESS)
async def unknown_restart(ctx: Context) -> None:
    """Appends that a dying server left without an answer MUST be stored exactly once when they are repeated."""
    acknowledged: list[Event] = []
    async with _writers(ctx, acknowledged):
        await ctx.restart()
    await _check_stored(ctx, acknowledged, part=1)


@case("store.append.unknown#pause", faults={"pause", "resume"}, durability=Durability.PROCESS)
async def unknown_pause(ctx: Context) -> None:
    """An append to a server that is stopped MUST end within about twice the time-out, and be safe to repeat."""
    store, sound = await ctx.store(timeout=_BRIEF), await ctx.store()
    await store.append(event("a", 1))
    commit = history("a", 2, 3)
    async with ctx.paused():
        with expect_error((OutcomeUnknown, Unavailable), "an append to a stopped server"):
            await ctx.within(store.append(*commit), "an append to a stopped server to end")
    await ctx.within(sound.append(*commit), "the repeated append")
    expect_equal([each.id for each in await listed(sound.read("a", after=1))], [each.id for each in commit], "it")


@case("store.append.atomic#restart", faults={"restart"}, durability=Durability.PROCESS)
async def atomic_restart(ctx: Context) -> None:
    """A server that is killed in the middle of commits MUST come back with whole commits only."""
    acknowledged: list[Event] = []
    async with _writers(ctx, acknowledged, part=5):
        await ctx.restart()
        reader = await ctx.recovers(ctx.store, "opening a store behind the restart")
        for number, part in enumerate(_sizes(5)):
            actor = f"a{number}"
            version = await ctx.recovers(lambda: reader.version(actor), "a version behind the restart")  # noqa: B023
            expect(version % part == 0, f"whole commits of {part}", found=f"{version} events of {actor}")
    await _check_stored(ctx, acknowledged, part=5)


@case("store.durability#restart", faults={"restart"}, durability=Durability.PROCESS)
async def durable(ctx: Context) -> None:
    """What was acknowledged MUST survive kill -9 of the server: events, positions and checkpoints."""
    store = await ctx.store()
    commit = history("a", 1, 50)
    position = (await store.append(*commit)).position
    await store.save_checkpoint("reader", position, token=3)
    identity = store.identity
    await ctx.restart()
    for reader in (await ctx.recovers(ctx.store, "opening a store behind the restart"), store):
        found = await ctx.recovers(lambda: listed(reader.read("a")), "a read behind the restart")  # noqa: B023
        expect_equal(found, commit, "what is stored")
        expect_equal(await reader.head(), position, "the head")
        kept = await ctx.recovers(lambda: reader.checkpoint("reader"), "a checkpoint behind the restart")  # noqa: B023
        expect_equal(kept, position, "the checkpoint")
        expect_equal(reader.identity, identity, "the identity")
    later = (await store.append(event("a", 51))).position
    expect(later > position, f"a position above {position}", found=later)
