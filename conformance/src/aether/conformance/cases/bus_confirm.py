"""bus.confirm: publishing that knows whether the backend has what was published."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from aether.conformance.cases.bus import marker, until_marker
from aether.conformance.context import Context, event, sized
from aether.conformance.rules import case
from aether.conformance.violations import expect_equal, expect_error
from aether.conformance.wrappers import BusWrapper
from aether.core import OutcomeUnknown, PayloadTooLarge
from aether.core.spi import BusDriver, BusFilter, Message, Sink

_BRIEF = 0.2
_LOST = "Lost"


@case("bus.confirm")
async def confirmed(ctx: Context) -> None:
    """What is published with `confirm` MUST be delivered once, in order, with nothing of its own beside it."""
    drivers: list[BusDriver] = []

    def wrap(inner: BusDriver) -> BusDriver:
        drivers.append(inner)
        return inner

    bus, other = await ctx.bus(wrap=wrap), await ctx.bus()
    async with bus.subscribe() as own, other.subscribe() as events:
        published = [event("a", version) for version in range(1, 6)]
        await ctx.within(bus.publish(*published[:3], confirm=True), "the confirmation")
        await ctx.within(bus.publish(*published[3:], confirm=True), "the confirmation")
        with expect_error(PayloadTooLarge, "confirming what is too large"):
            await bus.publish(event("before", 1), sized("a", 1, drivers[0].max_message_bytes + 1), confirm=True)
        await bus.publish(marker())
        for subscription in (own, events):
            expect_equal(await until_marker(ctx, subscription), published, "what is delivered")


class _Swallows(BusWrapper):
    """A client that takes messages while its connection is gone, and drops them."""

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        return None


@case("bus.confirm#swallowed")
async def swallowed(ctx: Context) -> None:
    """When what was published has not arrived, `confirm` MUST raise OutcomeUnknown."""
    bus = await ctx.bus(wrap=_Swallows, timeout=_BRIEF)
    await bus.publish(event("a", 1))
    with expect_error(OutcomeUnknown, "confirming what the client has dropped"):
        await ctx.within(bus.publish(event("a", 2), confirm=True), "an error")


class _Interrupted(BusWrapper):
    """A connection that loses a message of one type with itself, and comes back at once."""

    def __init__(self, inner: BusDriver) -> None:
        super().__init__(inner)
        self._sinks: list[Sink] = []

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        self._sinks.append(sink)
        return self.inner.subscribe(wanted, queue=queue, sink=sink)

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        if message.type != _LOST:
            return await self.inner.publish(message, count=count)
        for sink in self._sinks:
            sink.interrupted()
        return None


@case("bus.confirm#interrupted")
async def interrupted(ctx: Context) -> None:
    """When the connection was lost in between, `confirm` MUST raise OutcomeUnknown, and MUST work again behind it."""
    bus, other = await ctx.bus(wrap=_Interrupted), await ctx.bus()
    published = [event("a", 1), event("a", 2, type=_LOST), event("a", 3)]
    async with other.subscribe() as events:
        with expect_error(OutcomeUnknown, "confirming across a lost connection"):
            await ctx.within(bus.publish(*published, confirm=True), "an error")
        again = event("a", 4)
        await ctx.within(bus.publish(again, confirm=True), "the confirmation")
        await bus.publish(marker())
        expect_equal(await until_marker(ctx, events), [published[0], published[2], again], "what is delivered")
