"""The outbox: what is stored reaches the bus, at least once and in order, whatever is lost on the way."""

import asyncio
from typing import Any

import pytest

from aether.core import Event, EventBus, EventStore, OutcomeUnknown, PayloadTooLarge, Unavailable
from aether.core.projection import STOP, Consumer, project
from aether.core.relay import relay
from aether.core.spi import Message
from aether.core.state import NewEvent, record
from aether.memory import MemoryBus, MemoryStore, NamespaceSpace
from aether.memory.space import Space


class Link(MemoryBus):
    """A bus behind a connection that buffers what is sent, and can be cut with all that it holds."""

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self.held: list[Message] = []
        self.holding = False
        self.script: list[Exception] = []
        self.sinks: list[Any] = []
        self.sent = 0

    def subscribe(self, wanted: Any, *, queue: str | None, sink: Any) -> Any:
        self.sinks.append(sink)
        return super().subscribe(wanted, queue=queue, sink=sink)

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        self.sent += 1
        if self.script:
            raise self.script.pop()
        if self.holding:
            self.held.append(message)
            return None
        return await super().publish(message, count=count)

    def cut(self) -> None:
        """The connection is lost, and comes back."""
        self.held.clear()
        self.holding = False
        for sink in self.sinks:
            sink.interrupted()


def run(virtual: Any, body: Any, *, timeout: float = 2.0) -> None:
    async def main() -> None:
        space, link = NamespaceSpace(), Space()
        driver = Link(link)
        async with (
            EventStore(MemoryStore(space), namespace="t") as store,
            EventBus(driver, namespace="t", timeout=timeout) as bus,
            EventBus(MemoryBus(link), namespace="t") as other,
            other.subscribe() as events,
        ):
            async with asyncio.timeout(500):
                await body(store, bus, driver, events)

    virtual(main())


async def take(events: Any, count: int) -> list[tuple[str, int]]:
    found = [await anext(events) for _ in range(count)]
    return [(event.actor_id, event.version) for event in found]


async def put(store: EventStore, *actors: str) -> None:
    for actor in actors:
        await record(store, actor, NewEvent(type="X"))


def test_what_is_stored_is_published_as_it_is_and_nothing_of_our_own(virtual):
    async def body(store, bus, driver, events):
        await put(store, "a", "b")
        async with project(store, "view", lambda event: None, on_error=STOP) as view:
            await view.caught_up(timeout=50)
            async with relay(store, bus) as running:
                await put(store, "a")
                assert await take(events, 3) == [("a", 1), ("b", 1), ("a", 2)]
                await running.caught_up(timeout=50)
        async with relay(store, bus):  # goes on where it was
            await put(store, "c")
            event = await anext(events)
        assert [event] == [one async for one in store.read("c")]

    run(virtual, body)


def test_what_the_connection_held_when_it_was_lost_is_sent_again(virtual):
    async def body(store, bus, driver, events):
        async with relay(store, bus) as running:
            await put(store, "a")
            assert await take(events, 1) == [("a", 1)]
            driver.holding = True
            await put(store, "a", "a")
            while len(driver.held) < 2:
                await asyncio.sleep(0.01)
            assert await Consumer(store, "relay", kind="reactor").progress()
            driver.cut()
            assert await take(events, 2) == [("a", 2), ("a", 3)]
            await running.caught_up(timeout=50)

    run(virtual, body)


def test_a_connection_that_was_replaced_meanwhile_confirms_nothing(virtual):
    """The events were lost with the old connection; the echo arrives over the new one."""

    async def body(store, bus, driver, events):
        await bus.publish(Event(type="X", actor_id="a", version=1), confirm=True)
        assert await take(events, 1) == [("a", 1)]
        publish = driver.publish

        async def loses(message: Message, *, count: bool = False) -> int | None:
            driver.publish = publish
            driver.cut()
            return None

        driver.publish = loses
        with pytest.raises(OutcomeUnknown, match="the connection was lost"):
            await bus.publish(Event(type="X", actor_id="a", version=2), confirm=True)

    run(virtual, body)


def test_an_outage_of_the_bus_is_waited_for(virtual):
    async def body(store, bus, driver, events):
        driver.script = [Unavailable("publish", reason="down"), OutcomeUnknown("publish", reason="?")] * 3
        await put(store, "a", "b")
        async with relay(store, bus) as running:
            assert await take(events, 2) == [("a", 1), ("b", 1)]
            await running.caught_up(timeout=50)
        assert driver.script == []

    run(virtual, body)


def test_an_event_that_the_bus_cannot_take_ends_it_in_front_of_it(virtual):
    async def body(store, bus, driver, events):
        await put(store, "a")
        await record(store, "a", NewEvent(type="X", data={"long": "x" * 2000}))
        driver.max_message_bytes = 1000
        with pytest.raises(PayloadTooLarge):
            await relay(store, bus).run()
        assert await take(events, 1) == [("a", 1)]

    run(virtual, body)
