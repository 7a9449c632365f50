"""The bus facade: buffers, filters and request/reply. The rules of buses are in the conformance suite."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aether.core import (
    Closed,
    CorruptEvent,
    Event,
    EventBus,
    InvalidEvent,
    NoResponders,
    PayloadTooLarge,
    SlowConsumer,
    TimedOut,
)
from aether.core.spi import Message
from aether.memory import MemoryBus, Space


def event(version: int = 1, actor: str = "a", **fields: Any) -> Event:
    return Event(**{"type": "T", "actor_id": actor, "version": version, **fields})


def run(body: Callable[[EventBus], Awaitable[Any]], driver: MemoryBus | None = None) -> Any:
    async def main() -> Any:
        async with EventBus(driver or MemoryBus(Space()), namespace="shop", backend="memory") as bus:
            return await body(bus)

    return asyncio.run(main())


def test_overflow_has_one_place_in_the_stream() -> None:
    async def body(bus: EventBus) -> None:
        async with bus.subscribe(buffer=2) as events:
            await bus.publish(*(event(v) for v in range(1, 6)))
            assert [(await anext(events)).version for _ in range(2)] == [1, 2]
            await bus.publish(event(6))  # the gap is not reported yet: this belongs to it
            with pytest.raises(SlowConsumer) as caught:
                await anext(events)
            assert caught.value.dropped == events.dropped == 4
            await bus.publish(event(7))
            assert (await anext(events)).version == 7

    run(body)


def test_drop_oldest_keeps_the_newest_and_counts() -> None:
    async def body(bus: EventBus) -> None:
        async with bus.subscribe(buffer=2, overflow="drop_oldest") as events:
            await bus.publish(*(event(v) for v in range(1, 6)))
            assert [(await anext(events)).version for _ in range(2)] == [4, 5]
            assert events.dropped == 3

    run(body)


def test_what_the_driver_loses_is_reported() -> None:
    async def body(bus: EventBus) -> None:
        async with bus.subscribe() as events:
            sink = bus._driver._space.subscribers[0].sink
            sink.lost(3)
            with pytest.raises(SlowConsumer, match="3 events were dropped"):
                await anext(events)
            sink.interrupted()
            assert events.interrupted == 1

    run(body)


def test_a_damaged_message_is_an_error_and_not_the_end() -> None:
    async def body(bus: EventBus) -> None:
        async with bus.subscribe() as events:
            await bus._driver.publish(Message("shop", "T", "a", b"not json"))
            await bus.publish(event(2))
            with pytest.raises(CorruptEvent):
                await anext(events)
            assert (await anext(events)).version == 2

    run(body)


def test_more_than_is_wanted_is_filtered() -> None:
    """A driver may deliver more than was asked for; the facade does not."""

    async def body(bus: EventBus) -> None:
        async with bus.subscribe(types={"T"}, actors="a-*") as events:
            sink = bus._driver._space.subscribers[0].sink
            for message in (
                ("other", "T", "a-1"),
                ("shop", "U", "a-1"),
                ("shop", "T", "b-1"),
                ("_inbox.x", "T", "a-1"),
            ):
                sink.deliver(Message(*message, b""))
            await bus.publish(event(9, "a-1"))
            assert (await anext(events)).version == 9

    run(body)


def test_request_and_reply() -> None:
    async def body(bus: EventBus) -> None:
        async with bus.subscribe(types={"Ask"}) as asked, bus.subscribe() as everything:

            async def answer() -> None:
                async for request in asked:
                    await bus.reply(request, event(1, "answer", data={"to": request.version}))

            responder = asyncio.create_task(answer())
            replies = await asyncio.gather(*(bus.request(event(v, type="Ask")) for v in range(1, 51)))
            responder.cancel()
            assert [reply.data["to"] for reply in replies] == list(range(1, 51))
            seen = [(await anext(everything)).type for _ in range(50)]
            assert seen == ["Ask"] * 50  # nobody else sees the replies

    run(body)


def test_requests_that_nobody_answers() -> None:
    async def body(bus: EventBus) -> None:
        with pytest.raises(NoResponders, match="nobody is subscribed"):
            await bus.request(event())
        async with bus.subscribe():
            with pytest.raises(TimedOut, match="0.01 s"):
                await bus.request(event(), timeout=0.01)

    run(body)


def test_only_requests_are_answered() -> None:
    async def body(bus: EventBus) -> None:
        for metadata in (
            {},
            {"replyto": "x"},
            {"replyto": "shop/1"},
            {"replyto": "_inbox.a.b/1"},
            {"replyto": "_inbox.*/1"},
        ):
            with pytest.raises(InvalidEvent, match="does not ask for a reply"):
                await bus.reply(event(metadata=metadata), event())

    run(body)


def test_nothing_is_sent_unless_all_of_it_can_be() -> None:
    async def body(bus: EventBus) -> None:
        async with bus.subscribe() as events:
            with pytest.raises(PayloadTooLarge):
                await bus.publish(event(1), event(2, data={"x": "y" * (1 << 20)}))
            with pytest.raises(InvalidEvent):
                await bus.publish(event(1), event(2, data={"x": (1,)}))
            await bus.publish(event(3))
            assert (await anext(events)).version == 3

    run(body)


def test_arguments_are_checked() -> None:
    async def body(bus: EventBus) -> None:
        with pytest.raises(ValueError, match="overflow"):
            bus.subscribe(overflow="wait")
        with pytest.raises(ValueError, match="buffer"):
            bus.subscribe(buffer=0)
        with pytest.raises(TypeError, match="collection of names"):
            bus.subscribe(types="T")
        with pytest.raises(ValueError, match="timeout"):
            await bus.request(event(), timeout=0)

    run(body)


def test_closing_ends_what_waits() -> None:
    async def main() -> None:
        bus = EventBus(MemoryBus(Space()), namespace="shop")
        await bus.open()
        subscription = bus.subscribe(types={"Other"})
        await subscription.__aenter__()
        await bus.subscribe().__aenter__()  # the request has somebody who could answer it
        waiting = asyncio.create_task(anext(subscription))
        asking = asyncio.create_task(bus.request(event()))
        await asyncio.sleep(0)
        await bus.close()
        for task in (waiting, asking):
            with pytest.raises(Closed):
                await task
        with pytest.raises(Closed):
            await bus.publish(event())

    asyncio.run(main())


def test_a_subscription_that_is_entered_while_the_bus_closes_is_ended() -> None:
    class Slow(MemoryBus):
        gate = asyncio.Event()

        @asynccontextmanager
        async def subscribe(self, *args: Any, **kwargs: Any) -> AsyncIterator[None]:
            async with super().subscribe(*args, **kwargs):
                await self.gate.wait()
                yield

    async def main() -> None:
        driver = Slow(Space())
        bus = EventBus(driver, namespace="shop")
        await bus.open()
        entering = asyncio.create_task(bus.subscribe().__aenter__())
        await asyncio.sleep(0)
        await bus.close()
        driver.gate.set()
        with pytest.raises(Closed):
            await entering
        assert driver._space.subscribers == []

    asyncio.run(main())
