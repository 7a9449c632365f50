"""Many clients at once, alone or while a script of faults runs; then everything that they were told is checked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aether.conformance.cases.faults_store import judge
from aether.conformance.context import Context, drift, event, fed, history, listed
from aether.conformance.faults import Link, Way
from aether.conformance.history import StoreHistory
from aether.conformance.rules import case
from aether.core import Durability, Event, EventStore, OutcomeUnknown, StaleRead, Unavailable, VersionConflict

_SEED = 20261125
_ACTORS = 3
_WRITERS = 4
_STEPS = 80  # calls that end between two faults of a link
_LONG = 200  # and of the server, which takes longer to come back
_CALM = 750  # and where nothing breaks
_TROUBLE = (OutcomeUnknown, Unavailable, StaleRead)


class _Crowd:
    """Writers that contend for actors, readers and subscribers: half of them through a link, if there is one."""

    def __init__(self, ctx: Context, recorded: StoreHistory, link: Link | None = None) -> None:
        self._ctx = ctx
        self._recorded = recorded
        self._link = link
        self._over = False
        self._last = ""
        self.subscribed = 0

    async def store(self, number: int) -> EventStore:
        return await self._ctx.store(wrap=self._recorded.wrap, link=self._link if number % 2 else None)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Let them work during the block; then wait until each subscriber has come to the end of the feed."""
        ctx = self._ctx
        work = [self._write(number, await self.store(number)) for number in range(_WRITERS)]
        work += [self._read(await self.store(number)) for number in range(2)]
        following = [self._follow(await self.store(number)) for number in range(2)]
        async with ctx.background(*following) as followers:
            await ctx.eventually(lambda: self.subscribed == len(followers), "the subscriptions")
            async with ctx.background(*work) as workers:
                yield
                self._over = True
                await ctx.within(asyncio.gather(*workers), "writers and readers to end behind the faults")
            marker = event("marker", 1)
            self._last = marker.id
            writer = await ctx.recovers(lambda: self.store(0), "opening a store behind the faults")
            await ctx.recovers(lambda: writer.append(marker), "an append behind the faults")
            await ctx.within(asyncio.gather(*followers), "the subscribers to come to the end of the feed")

    async def progress(self, steps: int = _STEPS) -> None:
        """Wait until so many more calls have ended."""
        reached = len(self._recorded.calls) + steps
        await self._ctx.eventually(lambda: len(self._recorded.calls) >= reached, f"{steps} more calls to end")

    async def _write(self, number: int, store: EventStore) -> None:
        rng = random.Random(_SEED + number)
        while not self._over:
            await drift(rng.randrange(3))
            actor = f"a{rng.randrange(_ACTORS)}"
            try:
                version = await store.version(actor)
                commit = history(actor, version + 1, version + rng.choice((1, 1, 3)))
                while not await _acknowledged(store, commit):
                    await drift(1)
            except (*_TROUBLE, VersionConflict):
                await drift(1)

    async def _read(self, store: EventStore) -> None:
        rng = random.Random(_SEED)
        reads: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: listed(store.read(f"a{rng.randrange(_ACTORS)}")),
            lambda: fed(store),
            *2 * (lambda: listed(store.read(f"a{rng.randrange(_ACTORS)}", reverse=True, limit=3)), store.head),
            *4 * (lambda: store.version(f"a{rng.randrange(_ACTORS)}"),),
        )
        while not self._over:
            await drift(rng.randrange(3))
            try:
                await rng.choice(reads)()
            except _TROUBLE:
                await drift(1)

    async def _follow(self, store: EventStore) -> None:
        async with store.subscribe(buffer=16) as events:
            self.subscribed += 1
            async for _, one in events:
                if one.id == self._last:
                    return


async def _acknowledged(store: EventStore, commit: list[Event]) -> bool:
    """Append, as users are told to: False if the same call has to be repeated."""
    try:
        await store.append(*commit)
    except _TROUBLE:
        return False
    return True


async def _break_links(crowd: _Crowd, link: Link) -> None:
    """Each kind of fault of a link twice, in the order of a seed."""
    rng = random.Random(_SEED)
    faults: list[Callable[[], None]] = 2 * [
        link.cut,
        link.reset,
        lambda: link.reset_after(Way.REQUESTS, rng.randrange(1, 2000)),
        lambda: link.reset_after(Way.REPLIES, rng.randrange(1, 2000)),
        lambda: link.blackhole(Way.REPLIES),
        lambda: link.blackhole(Way.REQUESTS),
        link.blackhole,
        lambda: link.delay(0.01),
        link.refuse,
    ]
    rng.shuffle(faults)
    for fault in faults:
        fault()
        await crowd.progress(2 * _STEPS)
        if rng.random() < 0.5:
            link.reset()  # what is held is lost
        link.heal()
        await crowd.progress(_STEPS // 2)


@case("store.feed.complete#mixed")
async def mixed(ctx: Context) -> None:
    """Contending appends, and all that anybody reads meanwhile, MUST be linearizable; nobody MUST miss anything."""
    recorded = StoreHistory(ctx.namespace)
    crowd = _Crowd(ctx, recorded)
    async with crowd.at_work():
        for _ in range(4):  # each with a bound of its own: a disk may be slow
            await crowd.progress(_CALM)
    await judge(ctx, recorded)


@case("store.append.race#link", faults={"link"}, durability=Durability.PROCESS)
async def mixed_links(ctx: Context) -> None:
    """While connections break, contending appends MUST stay linearizable; readers and subscribers MUST miss nothing."""
    recorded, link = StoreHistory(ctx.namespace), await ctx.link()
    crowd = _Crowd(ctx, recorded, link)
    async with crowd.at_work():
        await crowd.progress()
        await _break_links(crowd, link)
    await judge(ctx, recorded)


@case(
    "store.append.race#faults",
    faults={"link", "pause", "resume", "kill", "start"},
    durability=Durability.PROCESS,
)
async def mixed_server(ctx: Context) -> None:
    """While the server pauses, dies and comes back, the same MUST hold; and what was acknowledged MUST be there."""
    recorded, link = StoreHistory(ctx.namespace), await ctx.link()
    crowd = _Crowd(ctx, recorded, link)
    unheard = await crowd.store(1)
    async with crowd.at_work():
        await crowd.progress()
        async with ctx.paused():
            link.reset()  # so that something ends in spite of the pause
            await crowd.progress(1)
        await crowd.progress()
        for number in range(2):
            await ctx.recovers(unheard.head, "the connection through the link")
            link.blackhole(Way.REPLIES)  # so that the server dies in the middle of an append
            async with ctx.background(_acknowledged(unheard, [event(f"u{number}", 1)])):
                await drift(20)
                async with ctx.gone():
                    link.reset()
                    link.heal()
                    await ctx.eventually(lambda: not link.connections, "the end of the connections to a dead server")
            await crowd.progress(_LONG)
    await judge(ctx, recorded)
