"""bus: who gets what, in which order, and what happens to those who are too slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aether.conformance.context import Context, event, sized
from aether.conformance.corpus import HOSTILE_NAMES, INVALID_NAMES
from aether.conformance.rules import case, refusal
from aether.conformance.violations import Violation, expect, expect_equal, expect_error
from aether.core import (
    BusSubscription,
    Durability,
    Event,
    EventBus,
    Feature,
    InvalidEvent,
    InvalidName,
    NoResponders,
    PayloadTooLarge,
    TimedOut,
    Unavailable,
)
from aether.core.spi import BusDriver

_LAST = 1_000_000


def marker(actor_id: str = "marker", **fields: str) -> Event:
    """What is published behind everything else: who has seen it has seen all before it, by the order of the bus."""
    return event(actor_id, _LAST, **fields)


async def until_marker(ctx: Context, events: BusSubscription, markers: int = 1) -> list[Event]:
    """What a subscription delivers before the marker of each publisher."""
    found: list[Event] = []

    async def fill() -> None:
        left = markers
        async for one in events:
            if one.version != _LAST:
                found.append(one)
                continue
            left -= 1
            if left == 0:
                return

    try:
        await ctx.within(fill(), "everything that was published")
    except Violation as violation:
        raise Violation(expected=violation.expected, found=f"{len(found)} events: {found!r}") from None
    return found


@case("bus.deliver")
async def deliver(ctx: Context) -> None:
    """Every live subscription MUST get each published event once, exactly as it was published; its publisher's, too."""
    one, two = await ctx.bus(), await ctx.bus()
    published = [
        event("a", 1, data={"numbers": [1, 1e308, -0.0], "text": 'é\r\n"\x00', "": None}, metadata={"k": "ü"}),
        event("a", 1),
        event("b", 7, type="other type"),
    ]
    async with one.subscribe() as own, one.subscribe() as again, two.subscribe() as other:
        await one.publish(*published)
        await one.publish(marker())
        for events in (own, again, other):
            expect_equal(await until_marker(ctx, events), published, "what is delivered")


@case("bus.deliver#late")
async def deliver_late(ctx: Context) -> None:
    """A subscription MUST get nothing that was published before it was entered, or after it was left."""
    bus, other = await ctx.bus(), await ctx.bus()
    async with other.subscribe() as witness:
        await bus.publish(event("early", 1), marker())
        await until_marker(ctx, witness)
        async with other.subscribe() as events:
            await bus.publish(event("live", 1), marker())
            expect_equal([one.actor_id for one in await until_marker(ctx, events)], ["live"], "what is delivered")
        await bus.publish(event("late", 1), marker())
        found = [one.actor_id for one in await until_marker(ctx, witness)]
        expect_equal(found, ["live"], "what the witness got up to the second marker")


@case("bus.deliver#names")
async def deliver_names(ctx: Context) -> None:
    """Any valid actor id and type MUST be delivered as it is, and MUST be found by a filter for exactly it."""
    bus, other = await ctx.bus(), await ctx.bus()
    async with other.subscribe(buffer=10_000) as events:
        published = [event(name, 1, type=name, id=name) for name in HOSTILE_NAMES]
        await bus.publish(*published, marker())
        expect_equal(await until_marker(ctx, events), published, "what is delivered")
    for start in range(0, len(HOSTILE_NAMES), 20):
        names = HOSTILE_NAMES[start : start + 20]
        async with AsyncExitStack() as stack:
            filtered = [(name, other.subscribe(types={name})) for name in names]
            filtered += [(name, other.subscribe(actors=name)) for name in names if "*" not in name]
            for _, events in filtered:
                await stack.enter_async_context(events)
            await bus.publish(*published, *(marker(name, type=name) for name in names))
            for name, events in filtered:
                found = [one.type for one in await until_marker(ctx, events)]
                expect_equal(found, [name], f"what is delivered where exactly {name!r:.60} is wanted")


@case("bus.deliver#refused")
async def deliver_refused(ctx: Context) -> None:
    """Invalid names and events MUST be refused before anything of the call is sent."""
    bus = await ctx.bus()
    async with bus.subscribe() as events:
        for name in INVALID_NAMES:
            with expect_error(InvalidName, f"publishing with actor id {name!r:.60}"):
                await bus.publish(event("good", 1), event(name, 1))  # type: ignore[arg-type]
        with expect_error(InvalidEvent, "publishing what is no JSON"):
            await bus.publish(event("good", 1), event("a", 1, data={"x": float("nan")}))
        await bus.publish(marker())
        expect_equal(await until_marker(ctx, events), [], "what is delivered")


@case("bus.deliver#large")
async def deliver_large(ctx: Context) -> None:
    """An event of the largest size MUST be delivered; one byte more MUST be PayloadTooLarge, and nothing is sent."""
    drivers: list[BusDriver] = []

    def wrap(inner: BusDriver) -> BusDriver:
        drivers.append(inner)
        return inner

    bus, other = await ctx.bus(wrap=wrap), await ctx.bus()
    limit = drivers[0].max_message_bytes
    async with other.subscribe() as events:
        with expect_error(PayloadTooLarge, f"publishing an event of {limit + 1} bytes"):
            await bus.publish(event("good", 1), sized("a", 1, limit + 1))
        large = sized("a", 1, limit)
        await bus.publish(large, marker())
        found = await until_marker(ctx, events)
        expect(found == [large], f"one event of {limit} bytes", found=f"{len(found)} events, or another one")


@case("bus.order")
async def order(ctx: Context) -> None:
    """Events of one publisher MUST reach every subscription in the order of publishing."""
    publishers = [await ctx.bus() for _ in range(3)]
    reader = await ctx.bus()

    async def publish(number: int) -> None:
        for version in range(1, 301):
            await publishers[number].publish(event(f"p{number}", version))
        await publishers[number].publish(marker(str(number)))

    async with reader.subscribe(buffer=5000) as one, publishers[0].subscribe(buffer=5000) as two:
        await ctx.within(asyncio.gather(*(publish(number) for number in range(3))), "3 publishers to end")
        for events in (one, two):
            found = await until_marker(ctx, events, markers=3)
            for number in range(3):
                versions = [each.version for each in found if each.actor_id == f"p{number}"]
                expect_equal(versions, list(range(1, 301)), f"the versions of publisher {number}")


@case("bus.ready")
async def ready(ctx: Context) -> None:
    """When a subscription has been entered, what anybody publishes afterwards MUST be delivered."""
    publisher, reader = await ctx.bus(), await ctx.bus()
    for version in range(1, 31):
        async with reader.subscribe() as events:
            await publisher.publish(event("a", version))
            found = await ctx.take(events, 1, "event published right after entering")
            expect_equal([one.version for one in found], [version], "the version")


@case("bus.filter")
async def filters(ctx: Context) -> None:
    """`types` MUST be an OR over names, `actors` a pattern with `*` for any run of characters, both together an AND."""
    bus, reader = await ctx.bus(), await ctx.bus()
    actors = (
        "order-1",
        "order-22",
        "user-1",
        "Order-1",
        "order.1",
        "order-",
        "xorder-1",
        "a*b",
        ">",
        "é",
        "a/\u2028/b",
    )
    many = {"Placed", *(f"Kind{number}" for number in range(200))}
    published = [event(actor, 1, type=kind) for actor in actors for kind in ("Placed", "Paid", "*")]
    for types, pattern, wanted, last in (
        ({"Placed"}, None, actors, "m"),
        ({"Placed", "*"}, None, actors, "m"),
        ({"placed", "Unknown"}, None, (), "m"),
        (None, "order-*", ("order-1", "order-22", "order-"), "order-m"),
        (None, "*-1", ("order-1", "user-1", "Order-1", "xorder-1"), "m-1"),
        (None, "*order*1", ("order-1", "order.1", "xorder-1"), "order1"),
        (None, "order.1", ("order.1",), "order.1"),
        (None, ">", (">",), ">"),
        (None, "*", actors, "m"),
        (None, "a*b", ("a*b", "a/\u2028/b"), "ab"),
        (None, "*/*/b", ("a/\u2028/b",), "/é🚀/b"),
        (None, "?*", (), "?"),
        (None, "[a-z]*", (), "[a-z]"),
        (many, None, actors, "m"),
        ({"Paid"}, "*r-1", ("order-1", "user-1", "Order-1", "xorder-1"), "r-1"),
    ):
        async with reader.subscribe(types=types, actors=pattern) as events:
            await bus.publish(*published, marker(last, type=min(types or {"Marker"})))
            expected = [one for one in published if one.actor_id in wanted and (types is None or one.type in types)]
            found = await until_marker(ctx, events)
            expect_equal(found, expected, f"what subscribe(types={types}, actors={pattern!r}) gets")


@case("bus.namespace")
async def namespace(ctx: Context) -> None:
    """Events of another namespace MUST be invisible, however alike the names."""
    buses = [await ctx.bus(namespace=ctx.namespace + ending) for ending in ("", ".b", "-b", "b", ".b.c")]
    async with AsyncExitStack() as stack:
        entered = [await stack.enter_async_context(bus.subscribe()) for bus in buses]
        for bus in buses:
            await bus.publish(event(bus.namespace, 1))
        for bus in buses:
            await bus.publish(marker())
        for bus, events in zip(buses, entered, strict=True):
            found = [one.actor_id for one in await until_marker(ctx, events)]
            expect_equal(found, [bus.namespace], f"what a subscription of {bus.namespace} gets")


@case("bus.namespace#across")
async def across(ctx: Context) -> None:
    """`namespaces=` MUST look across by the token rules: `*` is one token, a last `>` one or more."""
    base = ctx.namespace
    endings = ("", ".b", ".c", ".b.c", ".b.c.d", "-x", "x.b")
    buses = {ending: await ctx.bus(namespace=base + ending) for ending in endings}
    reader = buses[""]
    for pattern, wanted in (
        (f"{base}.*", {".b", ".c"}),
        (f"{base}.>", {".b", ".c", ".b.c", ".b.c.d"}),
        (f"{base}.*.c", {".b.c"}),
        (f"{base}.b.>", {".b.c", ".b.c.d"}),
        (f"{base}.b", {".b"}),
    ):
        async with reader.subscribe(namespaces=pattern) as events:
            for ending, bus in buses.items():
                await bus.publish(event(ending or "own", 1), marker())
            found = {one.actor_id for one in await until_marker(ctx, events, markers=len(wanted))}
            expect_equal(found, wanted, f"the namespaces that subscribe(namespaces={pattern!r}) sees")
    for wrong in ("", "*x", "a.>.b", "A", "a..b", "a b"):
        with expect_error(InvalidName, f"subscribe(namespaces={wrong!r})"):
            reader.subscribe(namespaces=wrong)


# --- Requests ---


@asynccontextmanager
async def _responding(ctx: Context, bus: EventBus) -> AsyncIterator[None]:
    """Answer every request with a copy of its data."""

    async def respond() -> None:
        async for request in events:
            await bus.reply(request, event("answer", 1, type="Answer", data=request.data))

    async with bus.subscribe(types={"Question"}) as events, ctx.background(respond()):
        yield


@case("bus.request")
async def request(ctx: Context) -> None:
    """Each of many requests at once MUST get the reply to itself, and nobody else MUST see it."""
    asker, responder, witness = await ctx.bus(), await ctx.bus(), await ctx.bus()
    async with witness.subscribe() as events, _responding(ctx, responder):
        questions = [event("q", 1, type="Question", data={"number": number}) for number in range(20)]
        replies = await ctx.within(asyncio.gather(*map(asker.request, questions)), "20 replies")
        expect_equal([reply.data for reply in replies], [one.data for one in questions], "the data of the replies")
        await asker.publish(marker())
        kinds = {one.type for one in await until_marker(ctx, events)}
        expect_equal(kinds, {"Question"}, "what somebody else sees")


@case("bus.request#timeout")
async def request_timeout(ctx: Context) -> None:
    """A request that nobody answers in time MUST raise TimedOut."""
    asker, silent = await ctx.bus(), await ctx.bus()
    async with silent.subscribe():
        with expect_error(TimedOut, "a request to a silent subscriber"):
            await ctx.within(asker.request(event("q", 1), timeout=0.05), "TimedOut")
    with expect_error(InvalidEvent, "replying to what asks for no reply"):
        await asker.reply(event("q", 1), event("a", 1))


@case("bus.request#nobody", needs={Feature.NO_RESPONDERS})
async def request_nobody(ctx: Context) -> None:
    """With NO_RESPONDERS, a request that nobody is subscribed to MUST raise NoResponders, long before its time-out."""
    bus = await ctx.bus()
    with expect_error(NoResponders, "a request without subscribers"):
        await ctx.within(bus.request(event("q", 1), timeout=100 * ctx.deadline), "NoResponders")


@refusal(Feature.NO_RESPONDERS, "bus.request#unclaimed")
async def request_unclaimed(ctx: Context) -> None:
    """Without NO_RESPONDERS, a request that nobody is subscribed to MUST raise TimedOut at its time-out."""
    bus = await ctx.bus()
    with expect_error(TimedOut, "a request without subscribers"):
        await ctx.within(bus.request(event("q", 1), timeout=0.05), "TimedOut")


# --- The server goes and comes back ---


@case("bus.reconnect", faults={"restart"}, durability=Durability.PROCESS)
async def reconnect(ctx: Context) -> None:
    """When the server comes back, subscriptions MUST deliver again by themselves, and count the interruption."""
    publisher, reader = await ctx.bus(), await ctx.bus()
    async with reader.subscribe(types={"After"}) as events:
        await ctx.restart()
        waiting = asyncio.create_task(anext(events))

        async def publish_until_seen() -> None:
            version = 0
            while not waiting.done():
                version += 1
                try:
                    await publisher.publish(event("a", version, type="After"))
                    await publisher.request(event("a", version, type="Nothing"), timeout=0.05)
                except (Unavailable, NoResponders, TimedOut):
                    await asyncio.sleep(0)

        try:
            await ctx.within(publish_until_seen(), "an event behind the restart")
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])
        expect(events.interrupted >= 1, "the interruption to be counted", found=events.interrupted)
        await publisher.publish(event("later", 1, type="After"))

        async def until_later() -> None:
            async for one in events:
                if one.actor_id == "later":
                    return

        await ctx.within(until_later(), "an event that was published when all was well again")
