"""bus.driver: what the interface asks of a bus's driver and no facade can see: bytes, counts, calls of sinks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from aether.conformance.cases.driver_store import BRIEF, check_bounded
from aether.conformance.context import Context
from aether.conformance.rules import case, refusal
from aether.conformance.violations import expect, expect_equal
from aether.core import Feature, OutcomeUnknown, Unavailable
from aether.core.spi import BusDriver, BusFilter, Message

_LONGEST = "🚀" * 255


class Recorder:
    """A `Sink` that remembers what it was told, and in which thread."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.interruptions = 0
        self.losses = 0
        self.threads: set[int] = set()

    def deliver(self, message: Message) -> None:
        self.threads.add(threading.get_ident())
        self.messages.append(message)

    def interrupted(self) -> None:
        self.threads.add(threading.get_ident())
        self.interruptions += 1

    def lost(self, count: int) -> None:
        self.threads.add(threading.get_ident())
        self.losses += count


def _everything(ctx: Context) -> BusFilter:
    return BusFilter(ctx.namespace, None, None)


def _message(ctx: Context, actor_id: str = "a", *, type: str = "Happened", data: bytes = b"{}") -> Message:
    return Message(ctx.namespace, type, actor_id, data)


async def _publish(ctx: Context, driver: BusDriver, sinks: Sequence[Recorder], messages: Sequence[Message]) -> None:
    """Publish messages and a marker, and wait until each sink has got the marker."""
    marker = _message(ctx, "marker")
    for message in (*messages, marker):
        await driver.publish(message)
    await ctx.eventually(lambda: all(marker in sink.messages for sink in sinks), "every sink to get the marker")


@case("bus.driver.features")
async def features(ctx: Context) -> None:
    """An opened driver MUST have no feature that its backend does not announce."""
    driver = await ctx.bus_driver()
    more = driver.features - ctx.server.announced
    expect(not more, f"features among {sorted(ctx.server.announced)}, which are announced", found=sorted(more))


@case("bus.driver.deliver")
async def deliver(ctx: Context) -> None:
    """A message MUST be delivered once, byte for byte, with its namespace, type and actor."""
    driver, other = await ctx.bus_driver(), await ctx.bus_driver()
    messages = [
        _message(ctx, data=b'{ "b" : 1e400, "a" : "\\u00e9" }'),
        _message(ctx, data='{"text":"é\u2028🚀"}'.encode()),
        _message(ctx, "é *>.", type="any type", data=b'{"n":-0.0,"n":1.10}'),
    ]
    sink = Recorder()
    async with other.subscribe(_everything(ctx), queue=None, sink=sink):
        await _publish(ctx, driver, [sink], messages)
        expect_equal(sink.messages[:-1], messages, "what the sink got")


@case("bus.driver.limits")
async def limits(ctx: Context) -> None:
    """A message of `max_message_bytes` MUST be delivered whatever the length of its type and actor."""
    driver, other = await ctx.bus_driver(), await ctx.bus_driver()
    limit = driver.max_message_bytes
    expect(type(limit) is int and limit > 0, "a limit above 0", found=limit)
    large = _message(ctx, _LONGEST, type=_LONGEST, data=b"x" * limit)
    sink = Recorder()
    async with other.subscribe(_everything(ctx), queue=None, sink=sink):
        await _publish(ctx, driver, [sink], [large])
        expect(sink.messages[:-1] == [large], f"{limit} bytes back", found=f"{len(sink.messages) - 1} messages")


@case("bus.driver.sink")
async def sinks(ctx: Context) -> None:
    """A sink MUST be called from the event loop's thread only."""
    driver, other = await ctx.bus_driver(), await ctx.bus_driver()
    own, far = Recorder(), Recorder()
    async with (
        driver.subscribe(_everything(ctx), queue=None, sink=own),
        other.subscribe(_everything(ctx), queue="q", sink=far),
    ):
        await _publish(ctx, driver, [own, far], [_message(ctx)] * 20)
    expect_equal(own.threads | far.threads, {threading.get_ident()}, "the threads that called a sink")


@case("bus.driver.sink#healthy")
async def sinks_healthy(ctx: Context) -> None:
    """Neither an interruption nor a loss MUST be reported while the connection holds and all is delivered."""
    driver, other = await ctx.bus_driver(), await ctx.bus_driver()
    sink = Recorder()
    async with other.subscribe(_everything(ctx), queue=None, sink=sink):
        async with other.subscribe(_everything(ctx), queue="q", sink=Recorder()):
            await _publish(ctx, driver, [sink], [_message(ctx)] * 200)
        expect_equal(len(sink.messages), 201, "the number of messages")
        expect_equal((sink.interruptions, sink.losses), (0, 0), "the interruptions and losses that were reported")


@case("bus.driver.sink#left")
async def sinks_left(ctx: Context) -> None:
    """When the context of a subscription has been left, its sink MUST not be called any more."""
    driver, other = await ctx.bus_driver(), await ctx.bus_driver()
    witness = Recorder()
    left = [Recorder() for _ in range(5)]
    async with other.subscribe(_everything(ctx), queue=None, sink=witness):
        for number, sink in enumerate(left):
            async with other.subscribe(_everything(ctx), queue=None, sink=sink):
                await driver.publish(_message(ctx, f"a{number}"))
            had = len(sink.messages)
            witness.messages.clear()
            await _publish(ctx, driver, [witness], [_message(ctx)] * 3)
            expect_equal(len(sink.messages), had, "the number of messages of a sink whose context was left")


@case("bus.driver.count", needs={Feature.NO_RESPONDERS})
async def count(ctx: Context) -> None:
    """With NO_RESPONDERS, a counted publish MUST return 0 when nobody is subscribed, else 1 or more, and be sent."""
    driver, other = await ctx.bus_driver(), await ctx.bus_driver()
    expect_equal(await driver.publish(_message(ctx), count=True), 0, "the count of a namespace without subscriptions")
    for queue in (None, "q"):
        sink = Recorder()
        async with other.subscribe(_everything(ctx), queue=queue, sink=sink):
            reached = await driver.publish(_message(ctx, "counted"), count=True)
            expect(type(reached) is int and reached >= 1, "1 or more with a subscription", found=reached)
            await _publish(ctx, driver, [sink], [])
            expect_equal([one.actor_id for one in sink.messages], ["counted", "marker"], "what the sink got")
    elsewhere = BusFilter(f"{ctx.namespace}.b", None, None)
    async with other.subscribe(elsewhere, queue=None, sink=Recorder()):
        reached = await driver.publish(_message(ctx), count=True)
        expect_equal(reached, 0, "the count with a subscription of another namespace only")


@refusal(Feature.NO_RESPONDERS, "bus.driver.count#unclaimed")
async def count_unclaimed(ctx: Context) -> None:
    """Without NO_RESPONDERS, a counted publish MUST return None, with and without subscriptions."""
    driver = await ctx.bus_driver()
    expect_equal(await driver.publish(_message(ctx), count=True), None, "the count without subscriptions")
    async with driver.subscribe(_everything(ctx), queue=None, sink=Recorder()):
        expect_equal(await driver.publish(_message(ctx), count=True), None, "the count with a subscription")


@case("bus.driver.close")
async def close(ctx: Context) -> None:
    """Closing twice MUST be fine; open subscriptions MUST end silently, and leaving them then be fine, too."""
    driver, publisher = ctx.server.bus_driver(ctx.namespace), await ctx.bus_driver()
    await driver.open()
    sink, witness = Recorder(), Recorder()
    entered = driver.subscribe(_everything(ctx), queue=None, sink=sink)
    await entered.__aenter__()
    await _publish(ctx, publisher, [sink], [])
    await ctx.within(asyncio.gather(driver.close(), driver.close()), "two closings at once")
    await ctx.within(driver.close(), "a third closing")
    await ctx.within(entered.__aexit__(None, None, None), "leaving a subscription of a closed driver")
    async with publisher.subscribe(_everything(ctx), queue=None, sink=witness):
        await _publish(ctx, publisher, [witness], [_message(ctx)])
    expect_equal((sink.interruptions, sink.losses), (0, 0), "the interruptions and losses that closing reported")


@case("bus.driver.timeout", faults={"pause", "resume"})
async def timeout(ctx: Context) -> None:
    """On a server that does not answer, publishing and subscribing MUST end, or be Unavailable, at the time-out."""
    driver = await ctx.bus_driver(timeout=BRIEF)

    async def subscribe() -> None:
        async with driver.subscribe(_everything(ctx), queue=None, sink=Recorder()):
            pass

    async with ctx.paused():
        publish = {"publish": lambda: driver.publish(_message(ctx))}
        await check_bounded(ctx, publish, (Unavailable, OutcomeUnknown), silent=False)
        await check_bounded(ctx, {"subscribe": subscribe}, (Unavailable,), silent=False)

    async def published() -> None:
        await driver.publish(_message(ctx))

    await ctx.recovers(published, "the driver to publish when the server goes on")


@case("bus.driver.timeout#open", faults={"pause", "resume"})
async def timeout_open(ctx: Context) -> None:
    """Opening a driver on a server that does not answer MUST raise Unavailable at the scope's time-out."""
    driver = ctx.server.bus_driver(ctx.namespace, timeout=BRIEF)
    try:
        async with ctx.paused():
            await check_bounded(ctx, {"open": driver.open}, (Unavailable,))
    finally:
        await driver.close()
