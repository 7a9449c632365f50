"""Versions side by side, reactors, and what is refused, in virtual time."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from aether.core import START, Event, EventStore, TimedOut
from aether.core.projection import STOP, Consumer, project, react, retry
from aether.core.state import Decider, NewEvent, execute, record
from aether.memory import MemoryStore, NamespaceSpace


class View:
    """What a handler has seen."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, event: Event) -> None:
        self.seen.append(f"{event.actor_id}{event.version}{event.type}")


async def put(store: EventStore, *names: str) -> None:
    """`aX` is an event of type X of actor a."""
    for one in names:
        await record(store, one[0], NewEvent(type=one[1:]))


async def settled(consumer: Consumer) -> None:
    """Wait until everything is applied."""
    await consumer.caught_up(timeout=50)


# --- Blue and green ---


def test_a_new_version_is_built_beside_the_old_one_and_switched_to(run):
    async def body(store, clock):
        blue, green = View(), View()
        await put(store, "aX", "bX")
        async with project(store, "list", blue, on_error=STOP, clock=clock) as old:
            await settled(old)
            with pytest.raises(ValueError, match="never ran as version 2"):
                await old.switch(2)
            gate = asyncio.Event()

            async def slow(event):
                await gate.wait()
                await green(event)

            async with project(store, "list", slow, on_error=STOP, version=2, clock=clock) as new:
                while new.states[0].state != "running":
                    await clock.sleep(0.1)
                with pytest.raises(TimedOut):
                    await new.switch(2, timeout=1)
                assert await old.active() == 1
                await put(store, "aY")
                gate.set()
                await Consumer(store, "list").switch(2, timeout=50)
                assert await Consumer(store, "list").active() == 2
                await put(store, "aZ")
                await settled(old)
                await settled(new)
        assert blue.seen == green.seen == ["a1X", "b1X", "a2Y", "a3Z"]
        assert (await Consumer(store, "list").progress()).version == 2
        assert (await Consumer(store, "list", version=1).progress()).version == 1

    run(body)


def test_a_version_may_be_switched_to_before_it_has_begun(run):
    """Entering it only starts it: nobody can know when it has noted that it begins."""

    async def body(store, clock):
        view = View()
        await put(store, "aX", "bX")
        async with (
            project(store, "list", View(), on_error=STOP, clock=clock) as old,
            project(store, "list", view, on_error=STOP, version=2, clock=clock) as new,
        ):
            await new.switch(2, timeout=10)
            assert await old.active() == 2
            await settled(old)
        assert view.seen == ["a1X", "b1X"]
        with pytest.raises(ValueError, match="never ran as version 3"):
            await project(store, "list", view, on_error=STOP, version=3, clock=clock).switch(3)

    run(body)


# --- Reactors ---


def test_a_reactor_does_nothing_about_the_past_and_misses_nothing_afterwards(run):
    async def body(store, clock):
        for begin, past in (("now", []), (START, ["a1X"])):
            key = "r" + str(begin)[:1]
            async with EventStore(MemoryStore(NamespaceSpace()), namespace="t") as store:
                await put(store, "aX")
                view = View()
                async with react(store, key, view, begin=begin, on_error=STOP, clock=clock) as running:
                    await settled(running)
                await put(store, "aY")  # while it stands still
                async with react(store, key, view, begin=begin, on_error=STOP, clock=clock) as running:
                    await settled(running)
                assert view.seen == [*past, "a2Y"]

    run(body)


def test_a_reactor_that_began_on_an_empty_store_begins_there(run):
    async def body(store, clock):
        view = View()
        running = react(store, "mail", view, begin="now", on_error=STOP, clock=clock)
        await running._begun()  # and crashes
        await put(store, "aX")
        async with react(store, "mail", view, begin="now", on_error=STOP, clock=clock) as running:
            await settled(running)
        assert view.seen == ["a1X"]

    run(body)


def test_a_command_of_a_reactor_is_executed_once_and_names_its_cause(run):
    async def body(store, clock):
        await put(store, "oX")
        counter = Decider(int, lambda count, _: count + 1, lambda _state, _command: [NewEvent(type="COUNTED")])

        async def handler(event):
            await execute(store, counter, "c", None, key=event.id)

        for key in ("one", "two"):  # as behind a crash: the same event again
            async with react(store, key, handler, begin=START, on_error=STOP, types={"X"}, clock=clock) as running:
                await settled(running)
        (cause,) = [event async for event in store.read("o")]
        (counted,) = [event async for event in store.read("c")]
        assert counted.metadata == {"causationid": cause.id, "correlationid": cause.id}

    run(body)


# --- Arguments ---


def test_bad_arguments_are_refused(run):
    async def body(store, clock):
        for wrong in (
            {"on_error": "stop"},
            {"partitions": 0},
            {"batch": 0},
            {"version": 0},
            {"types": [""]},
        ):
            with pytest.raises(ValueError):
                project(store, "list", View(), **{"on_error": STOP, **wrong})
        for wrong in ("", "a@2", "a#1", "x" * 240):
            with pytest.raises(ValueError):
                project(store, wrong, View(), on_error=STOP)
        with pytest.raises(ValueError, match="begin"):
            react(store, "r", View(), on_error=STOP, begin="start")
        with pytest.raises(Exception, match="caller-transaction"):
            await project(store, "list", View(), on_error=STOP, transaction=asynccontextmanager(lambda: None)).run()

    run(body)
    for wrong in ({"times": 0}, {"then": "go"}, {"first": 0.0}, {"first": 2.0, "longest": 1.0}):
        with pytest.raises(ValueError):
            retry(**wrong)
