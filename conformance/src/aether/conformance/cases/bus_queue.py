"""bus.queue and bus.overflow: subscribers that share, and subscribers that are too slow."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aether.conformance.cases.bus import marker, until_marker
from aether.conformance.context import Context, event
from aether.conformance.corpus import HOSTILE_NAMES
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.core import BusSubscription, Event, SlowConsumer


@asynccontextmanager
async def _collecting(ctx: Context, *subscriptions: BusSubscription) -> AsyncIterator[list[list[Event]]]:
    """Read subscriptions in the background; what each has got so far."""
    got: list[list[Event]] = [[] for _ in subscriptions]

    async def collect(events: BusSubscription, into: list[Event]) -> None:
        async for one in events:
            into.append(one)  # noqa: PERF401  (it is endless: each event counts when it comes)

    async with AsyncExitStack() as stack:
        for events in subscriptions:
            await stack.enter_async_context(events)
        work = [collect(events, into) for events, into in zip(subscriptions, got, strict=True)]
        async with ctx.background(*work):
            yield got


@case("bus.queue")
async def queue(ctx: Context) -> None:
    """Of the subscribers that name one queue, each event MUST go to exactly one; other queues get it, too."""
    publisher, one, two = await ctx.bus(), await ctx.bus(), await ctx.bus()
    readers = (
        one.subscribe(queue="workers"),
        two.subscribe(queue="workers"),
        two.subscribe(queue="workers"),
        one.subscribe(queue="workers.*"),
        two.subscribe(),
    )
    total = 0
    async with _collecting(ctx, *readers) as got:
        for batch in range(3):
            await publisher.publish(*(event(f"a{batch}", version) for version in range(1, 41)))
            total += 40
            await ctx.eventually(
                lambda: sum(map(len, got[:3])) >= total and min(map(len, got[3:])) >= total,  # noqa: B023
                f"{total} events in each of two queues and one subscription without",
            )
    for name, members in (("workers", got[:3]), ("workers.*", got[3:4]), ("no queue", got[4:])):
        counts = Counter(one.id for member in members for one in member)
        more = [event_id for event_id, count in counts.items() if count > 1]
        expect(not more and len(counts) == total, f"{total} events once each in {name}", found=f"twice: {more}")


@case("bus.queue#names")
async def queue_names(ctx: Context) -> None:
    """Queues of different names MUST never meet, whatever text the names are: each gets every event."""
    publisher, reader = await ctx.bus(), await ctx.bus()
    async with AsyncExitStack() as stack:
        members = {name: await stack.enter_async_context(reader.subscribe(queue=name)) for name in HOSTILE_NAMES}
        await publisher.publish(event("a", 1), event("a", 2), marker())
        for name, events in members.items():
            found = [one.version for one in await until_marker(ctx, events)]
            expect_equal(found, [1, 2], f"what the only member of queue {name!r:.60} gets")


_ALL = 20


def _in_a_row(versions: list[int]) -> bool:
    """Whether the last versions follow each other: nothing went to anybody else."""
    return len(versions) >= _ALL and versions[-1] - versions[-_ALL] == _ALL - 1


@case("bus.queue#member")
async def queue_member(ctx: Context) -> None:
    """When a member of a queue has left, what is published MUST come to the others, as soon as the servers know."""
    publisher, one, two = await ctx.bus(), await ctx.bus(), await ctx.bus()
    async with _collecting(ctx, two.subscribe(queue="q"), two.subscribe()) as (member, witness):
        async with _collecting(ctx, one.subscribe(queue="q")) as (leaving,):
            await publisher.publish(*(event("a", version) for version in range(1, 21)))
            await ctx.eventually(lambda: len(member) + len(leaving) >= 20, "20 events in the queue")

        async def publish_until_alone() -> None:
            version = 0
            while not _in_a_row([one.version for one in member if one.actor_id == "b"]):
                version += 1
                seen = len(witness)
                await publisher.publish(event("b", version))
                await ctx.eventually(lambda: len(witness) > seen, "an event for a witness")  # noqa: B023  (awaited here)

        await ctx.within(publish_until_alone(), f"{_ALL} events in a row for the member that is left")


@case("bus.queue#types")
async def queue_types(ctx: Context) -> None:
    """Where members of a queue want different types, each event MUST go to one of those that want it."""
    publisher, one, two = await ctx.bus(), await ctx.bus(), await ctx.bus()
    readers = (
        one.subscribe(queue="q", types={"A"}),
        two.subscribe(queue="q", types={"B"}),
        two.subscribe(queue="q", types={"A", "C"}),
    )
    total = 30
    async with _collecting(ctx, *readers) as got:
        for kind in ("A", "B", "C"):
            await publisher.publish(*(event(kind, version, type=kind) for version in range(1, total + 1)))
        await ctx.eventually(lambda: sum(map(len, got)) >= 3 * total, f"{total} events of each of three types")
    counts = Counter(each.id for member in got for each in member)
    once = len(counts) == counts.total() == 3 * total
    expect(once, f"{3 * total} events once each", found=counts.most_common(3))


@case("bus.overflow")
async def overflow(ctx: Context) -> None:
    """A subscriber that is too slow MUST raise SlowConsumer with the number of lost events, and go on with new ones."""
    publisher, reader = await ctx.bus(), await ctx.bus()
    async with reader.subscribe(buffer=4) as events:
        await ctx.within(publisher.publish(*(event("a", version) for version in range(1, 51))), "50 events to be sent")
        await ctx.eventually(lambda: events.dropped >= 46, "46 events to be dropped")
        kept = await ctx.take(events, 4, "events that were kept")
        expect_equal([one.version for one in kept], [1, 2, 3, 4], "the versions that were kept")
        with expect_error(SlowConsumer, "reading on behind an overflow") as caught:
            await ctx.within(anext(events), "SlowConsumer")
        expect_equal((caught.error.dropped, events.dropped), (46, 46), "the number of dropped events")
        await publisher.publish(event("b", 1))
        expect_equal((await ctx.take(events, 1, "new event"))[0].actor_id, "b", "the event behind the gap")


@case("bus.overflow#oldest")
async def overflow_oldest(ctx: Context) -> None:
    """With `overflow="drop_oldest"` the newest events MUST be kept, and the others counted."""
    publisher, reader = await ctx.bus(), await ctx.bus()
    async with reader.subscribe(buffer=4, overflow="drop_oldest") as events:
        await publisher.publish(*(event("a", version) for version in range(1, 51)))
        await ctx.eventually(lambda: events.dropped >= 46, "46 events to be dropped")
        kept = await ctx.take(events, 4, "events that were kept")
        expect_equal([one.version for one in kept], [47, 48, 49, 50], "the versions that were kept")
        expect_equal(events.dropped, 46, "the number of dropped events")


@case("bus.overflow#publisher")
async def overflow_publisher(ctx: Context) -> None:
    """A subscriber that never reads MUST neither block a publisher nor take anything from another subscriber."""
    publisher, reader = await ctx.bus(), await ctx.bus()
    total = 3000
    async with reader.subscribe(buffer=4), reader.subscribe(buffer=total + 1) as events:
        for first in range(1, total, 300):  # in parts: each may take its time on a slow disk, none for ever
            part = [event("a", version) for version in range(first, first + 300)]
            await ctx.within(publisher.publish(*part), f"{len(part)} events to be sent")
        await publisher.publish(marker())
        found = [one.version for one in await until_marker(ctx, events)]
        expect(found == list(range(1, total + 1)), f"{total} events in order", found=f"{len(found)}, or another order")
