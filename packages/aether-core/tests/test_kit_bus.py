"""The bus over a log: gaps, outages, and queues that several processes share."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from aether.core import AetherError, OutcomeUnknown, Unavailable
from aether.core.kit import Logged, PollingBus
from aether.core.spi import BusFilter, Message

EVERYTHING = BusFilter("shop", None, None)


class ListLog:
    """A log in a list, that can be broken."""

    max_message_bytes = 1 << 20

    def __init__(self) -> None:
        self.messages: list[Logged] = []
        self.claims: set[tuple[str, int]] = set()
        self.last = 0
        self.reads = 0
        self.failure: Exception | None = None
        self.claim_failure: Exception | None = None

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def put(self, message: Message) -> int:
        self.last += 1
        self.messages.append(Logged(self.last, message))
        return self.last

    async def end(self) -> int:
        return self.last

    async def after(self, position: int, limit: int) -> Sequence[Logged]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        await asyncio.sleep(0)
        return [logged for logged in self.messages if logged.position > position][:limit]

    async def claim(self, queue: str, positions: Sequence[int]) -> Collection[int]:
        await asyncio.sleep(0)
        if self.claim_failure is not None:
            raise self.claim_failure
        won = [position for position in positions if (queue, position) not in self.claims]
        self.claims.update((queue, position) for position in won)
        return won

    async def trim(self, upto: int) -> None:
        self.messages = [logged for logged in self.messages if logged.position > upto]
        self.claims = {claim for claim in self.claims if claim[1] > upto}


class Kept:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.gaps = 0
        self.missed = 0

    def deliver(self, message: Message) -> None:
        self.got.append(message.actor_id)

    def interrupted(self) -> None:
        self.gaps += 1

    def lost(self, count: int) -> None:
        self.missed += count


def message(actor: object, namespace: str = "shop", type: str = "T") -> Message:
    return Message(namespace, type, str(actor), b"{}")


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not happened():
            await asyncio.sleep(0)


def run(body: Callable[[ListLog, PollingBus], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        log = ListLog()
        bus = PollingBus(log, every=0.005, **options)
        try:
            await body(log, bus)
        finally:
            await bus.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def entered(bus: PollingBus, sink: Kept, queue: str | None = None) -> AbstractAsyncContextManager[None]:
    return bus.subscribe(EVERYTHING, queue=queue, sink=sink)


def test_only_what_comes_later_and_is_wanted_is_delivered() -> None:
    async def body(log: ListLog, bus: PollingBus) -> None:
        early, late, some = Kept(), Kept(), Kept()
        wanted = BusFilter("shop.*", frozenset({"A"}), "x*")
        async with entered(bus, early), bus.subscribe(wanted, queue=None, sink=some):
            await bus.publish(message(1))
            async with entered(bus, late):
                for other in (message("x1", "shop.eu", "A"), message("y", "shop.eu", "A"), message("x", "shop.eu")):
                    await bus.publish(other)
                await bus.publish(message(2))
                await until(lambda: "2" in late.got)
        assert (early.got, late.got, some.got) == (["1", "2"], ["2"], ["x1"])
        assert (early.missed, late.missed, early.gaps) == (0, 0, 0)

    run(body)


def test_nobody_subscribed_means_nobody_reads() -> None:
    async def body(log: ListLog, bus: PollingBus) -> None:
        sink = Kept()
        for number in range(3):
            async with entered(bus, sink):
                await bus.publish(message(number))
                await until(lambda: len(sink.got) == number + 1)  # noqa: B023
            reads = log.reads
            await bus.publish(message("unheard"))
            await asyncio.sleep(0)
            assert log.reads == reads
            assert len(asyncio.all_tasks()) <= 2
        assert sink.got == ["0", "1", "2"]

    run(body)


def test_the_log_is_trimmed_and_who_is_late_hears_how_much_is_missing() -> None:
    async def body(log: ListLog, bus: PollingBus) -> None:
        slow, sink = PollingBus(log, every=0.005), Kept()
        async with entered(slow, sink):
            log.failure = Unavailable("read", reason="it sleeps")
            reads = log.reads
            await until(lambda: log.reads > reads)
            for number in range(1, 101):
                await bus.publish(message(number))
            log.failure = None
            await until(lambda: sink.got)
        await slow.close()
        assert len(log.messages) == 20
        assert sink.missed == 80
        assert sink.got == [str(number) for number in range(81, 101)]

    run(body, keep=20)


def test_a_queue_gets_each_message_once_over_all_processes_and_members() -> None:
    async def body(log: ListLog, bus: PollingBus) -> None:
        other, sinks, witness = PollingBus(log, every=0.005), [Kept() for _ in range(3)], Kept()
        async with (
            entered(bus, sinks[0], "q"),
            entered(bus, sinks[1], "q"),
            entered(other, sinks[2], "q"),
            entered(other, witness, "r"),
        ):
            for number in range(100):
                await (bus if number % 2 else other).publish(message(number))
                await asyncio.sleep(0)
            await until(lambda: sum(len(sink.got) for sink in sinks) >= 100 and len(witness.got) == 100)
        await other.close()
        everything = [actor for sink in sinks for actor in sink.got]
        assert sorted(everything, key=int) == [str(number) for number in range(100)]
        assert abs(len(sinks[0].got) - len(sinks[1].got)) <= 1  # within a process the work is shared evenly

    run(body)


def test_queues_of_one_name_that_look_elsewhere_are_two() -> None:
    async def body(log: ListLog, bus: PollingBus) -> None:
        here, across = Kept(), Kept()
        async with entered(bus, here, "q"), bus.subscribe(BusFilter(">", None, None), queue="q", sink=across):
            await bus.publish(message(1))
            await until(lambda: here.got and across.got)

    run(body)


def test_a_new_member_of_a_queue_is_not_given_all_that_it_has_missed() -> None:
    async def body(log: ListLog, bus: PollingBus) -> None:
        old, new = Kept(), Kept()
        async with entered(bus, old, "q"):
            for number in range(50):
                await bus.publish(message(number))
            await until(lambda: len(old.got) == 50)
            async with entered(bus, new, "q"):
                for number in range(20):
                    await bus.publish(message(number))
                await until(lambda: len(old.got) + len(new.got) == 70)
        assert len(new.got) == 10

    run(body)


def test_an_outage_is_an_interruption_and_a_log_that_lost_its_end_is_followed() -> None:
    async def body(log: ListLog, bus: PollingBus) -> None:
        sink = Kept()
        async with entered(bus, sink):
            for number in range(5):
                await bus.publish(message(number))
            await until(lambda: len(sink.got) == 5)
            late = Kept()
            async with entered(bus, late):
                log.failure = Unavailable("read", reason="down")
                reads = log.reads
                await until(lambda: log.reads > reads + 2)
                log.messages, log.last, log.failure = log.messages[:2], 2, None
                await until(lambda: sink.gaps == 1)
                await bus.publish(message("back"))
                await until(lambda: len(sink.got) == 6 and late.got)
        assert (sink.got[-1], late.got) == ("back", ["back"])
        assert (sink.gaps, late.gaps) == (1, 1)

    run(body)


@pytest.mark.parametrize("error", [Unavailable("claim", reason="x"), OutcomeUnknown("claim", reason="x")])
def test_a_claim_that_fails_is_never_asked_again(error: AetherError) -> None:
    async def body(log: ListLog, bus: PollingBus) -> None:
        member, witness = Kept(), Kept()
        async with entered(bus, member, "q"), entered(bus, witness):
            log.claim_failure = error
            await bus.publish(message(1))
            await until(lambda: witness.got)
            log.claim_failure = None
            await bus.publish(message(2))
            await until(lambda: member.got)
        assert (member.got, member.gaps) == (["2"], 1)
        assert witness.got == ["1", "2"]

    run(body)


def test_a_log_that_breaks_its_contract_is_complained_about_at_once() -> None:
    async def body(log: ListLog, bus: PollingBus) -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with entered(bus, Kept()):
            log.failure = KeyError("a bug")
            await until(lambda: complaints)
        assert complaints[0]["exception"] is log.failure

    run(body)


def test_a_subscription_that_is_entered_while_the_bus_closes_starts_nothing() -> None:
    async def body(log: ListLog, bus: PollingBus) -> None:
        await bus.close()
        before = asyncio.all_tasks()
        async with entered(bus, Kept()):
            assert asyncio.all_tasks() == before

    run(body)
