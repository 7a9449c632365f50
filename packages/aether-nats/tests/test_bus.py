"""The bus on NATS: what the conformance suite cannot know. Its rules are in the suite."""

import asyncio

import pytest

from aether.core.errors import Unavailable
from aether.core.scope import Scope
from aether.core.spi import BusFilter, Message
from aether.core.url import BackendURL
from aether.nats.bus import NatsBus, _subjects, _token


class Sink:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.got = []
        self.interruptions = 0
        self.changed = asyncio.Event()

    def deliver(self, message):
        self.got.append(message)
        self.changed.set()

    def interrupted(self):
        self.interruptions += 1
        self.changed.set()

    def lost(self, count):
        raise AssertionError("nothing is dropped by the driver")


class Opened:
    """A bus that is open within `async with`."""

    def __init__(self, url, namespace="shop"):
        self.bus = NatsBus(BackendURL(url), Scope(namespace, timeout=20))

    async def __aenter__(self):
        await self.bus.open()
        return self.bus

    async def __aexit__(self, *_):
        await self.bus.close()


def message(type="T", actor="a", namespace="shop", data=b"{}"):
    return Message(namespace, type, actor, data)


def wanted(namespaces="shop", types=None, actors=None):
    return BusFilter(namespaces, None if types is None else frozenset(types), actors)


async def seen(*buses):
    """Everything that was published on the buses has been delivered on them."""
    for bus in buses:
        await bus._connection.barrier()
    for bus in buses:
        await bus._connection.barrier()


NAMES = ["T", "a.b", "*", ">", "Ünïcode", "x" * 129, "x" * 130, "é" * 100, "===" + "0" * 32, " "]


async def test_names_of_every_length_come_back(shared):
    messages = [message(kind, actor, data=b"%d" % number) for number, kind in enumerate(NAMES) for actor in NAMES]
    async with Opened(shared.url) as bus:
        everything, one = Sink(), Sink()
        async with (
            bus.subscribe(wanted(), queue=None, sink=everything),
            bus.subscribe(wanted(types=["x" * 129, "T"], actors="é" * 100), queue=None, sink=one),
        ):
            for each in messages:
                await bus.publish(each)
            await seen(bus)
    assert everything.got == messages
    assert one.got == [each for each in messages if each.type in ("T", "x" * 129) and each.actor_id == "é" * 100]


def test_tokens_of_different_names_differ_and_are_short():
    tokens = {_token(name)[0] for name in NAMES}
    assert len(tokens) == len(NAMES)
    assert max(map(len, tokens)) <= 128


@pytest.mark.parametrize(
    ("filter", "queue", "subjects"),
    [
        (wanted(), False, ["aether.b.*.*.shop"]),
        (wanted("shop.>"), False, ["aether.b.*.*.shop.>"]),
        (wanted(types=["B", "A"], actors="one"), False, ["aether.b.A.one.shop", "aether.b.B.one.shop"]),
        (wanted(actors="one-*"), False, ["aether.b.*.*.shop"]),
        (wanted(types=map(str, range(17))), False, ["aether.b.*.*.shop"]),
        (wanted(types=map(str, range(17))), True, [f"aether.b.{name}.*.shop" for name in sorted(map(str, range(17)))]),
        (wanted(types=[]), False, []),
    ],
)
def test_the_server_filters_what_it_can(filter, queue, subjects):
    assert _subjects(filter, exact=queue) == subjects


async def test_order_holds_over_many_types(shared):
    types = [f"T{number}" for number in range(16)]
    messages = [message(types[number * 7 % 16], data=b"%d" % number) for number in range(5_000)]
    async with Opened(shared.url) as publisher, Opened(shared.url) as subscriber:
        sink = Sink()
        async with subscriber.subscribe(wanted(types=types), queue=None, sink=sink):
            for each in messages:
                await publisher.publish(each)
            await seen(publisher, subscriber)
    assert sink.got == messages


async def test_nobody_is_known_at_once(shared):
    async with Opened(shared.url) as publisher, Opened(shared.url) as subscriber:
        assert await publisher.publish(message(), count=True) == 0
        async with subscriber.subscribe(wanted(actors="a"), queue=None, sink=Sink()):
            assert await publisher.publish(message(), count=True) == 1
            assert await publisher.publish(message(actor="b"), count=True) == 0
        await seen(subscriber)
        assert await publisher.publish(message(), count=True) == 0


async def test_equal_queues_of_different_reach_do_not_share(shared):
    sinks = [Sink(), Sink(), Sink()]
    async with (
        Opened(shared.url) as bus,
        bus.subscribe(wanted("shop"), queue="q", sink=sinks[0]),
        bus.subscribe(wanted("shop"), queue="q", sink=sinks[1]),
        bus.subscribe(wanted("*"), queue="q", sink=sinks[2]),
    ):
        for _ in range(50):
            await bus.publish(message())
        await seen(bus)
    assert len(sinks[0].got) + len(sinks[1].got) == 50
    assert len(sinks[2].got) == 50


async def test_members_of_a_queue_with_different_types_share_what_both_want(shared):
    sinks = [Sink(), Sink()]
    types = [f"T{number}" for number in range(20)]
    async with (
        Opened(shared.url) as bus,
        bus.subscribe(wanted(types=types), queue="q", sink=sinks[0]),
        bus.subscribe(wanted(), queue="q", sink=sinks[1]),
    ):
        for number in range(40):
            await bus.publish(message(f"T{number}"))
        await seen(bus)
    got = sorted(each.type for sink in sinks for each in sink.got)
    assert got == sorted(f"T{number}" for number in range(40))


async def test_a_restart_interrupts_and_is_told(server):
    async with Opened(server.url) as bus:
        sink = Sink()
        async with bus.subscribe(wanted(), queue=None, sink=sink):
            server.kill()
            with pytest.raises(Unavailable):
                while True:
                    await bus.publish(message(data=b"lost"))
                    await bus._connection.barrier()
            await server.start()
            while not sink.interruptions:
                sink.changed.clear()
                await sink.changed.wait()
            await bus.publish(message(data=b"back"))
            await seen(bus)
            assert sink.interruptions == 1
            assert sink.got[-1].data == b"back"
        with pytest.raises(Unavailable):
            server.kill()
            async with bus.subscribe(wanted(), queue=None, sink=sink):
                pass


async def test_the_largest_message(shared):
    async with Opened(shared.url) as bus:
        sink = Sink()
        async with bus.subscribe(wanted(), queue=None, sink=sink):
            largest = message("x" * 255, "é" * 255, data=bytes(bus.max_message_bytes))
            await bus.publish(largest)
            await seen(bus)
            assert sink.got == [largest]


async def test_a_connection_of_ones_own(shared, connect):
    async with connect(shared.url) as connection:
        bus = NatsBus.from_connection(connection)
        await bus.open()
        sink = Sink()
        async with bus.subscribe(wanted(), queue=None, sink=sink):
            await bus.publish(message())
            await seen(bus)
        await bus.close()
        await connection.barrier()
        assert sink.got == [message()]


async def test_in_a_cluster_a_subscription_is_known_everywhere_when_it_was_entered(cluster):
    """Servers tell each other of subscriptions in their own time: one message in six was missed without waiting."""
    async with (
        Opened(cluster.servers[0].url) as subscriber,
        Opened(cluster.servers[1].url) as one,
        Opened(cluster.servers[2].url) as two,
    ):
        for number in range(200):
            actor = f"actor-{number}"
            sink = Sink()
            async with subscriber.subscribe(wanted(actors=actor), queue=None, sink=sink):
                await one.publish(message(actor=actor, data=b"1"))
                await two.publish(message(actor=actor, data=b"2"))
                while len(sink.got) < 2:
                    sink.changed.clear()
                    await sink.changed.wait()


async def test_in_a_cluster_nothing_is_left_behind(cluster):
    before = asyncio.all_tasks()
    async with Opened(cluster.url) as bus, bus.subscribe(wanted(), queue=None, sink=Sink()):
        assert len(bus._peers._witnesses) == 2
    assert asyncio.all_tasks() == before
