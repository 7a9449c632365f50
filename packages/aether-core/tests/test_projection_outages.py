"""Projections while something is down: nothing is given up for it, and nobody who was superseded comes back. In virtual
time."""

import asyncio
import logging
from typing import Any

import pytest

from aether.core import Event, EventStore, StaleToken, Unavailable
from aether.core.projection import PARK, STOP, batched, project
from aether.core.state import NewEvent, record
from aether.memory import MemoryStore


async def put(store: EventStore, *names: str) -> None:
    """`aX` is an event of type X of actor a."""
    for one in names:
        await record(store, one[0], NewEvent(type=one[1:]))


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), Unavailable("view", reason="down")])
def test_a_parked_event_is_tried_until_the_outage_is_over(run, error):
    async def body(store, clock):
        await put(store, "aBAD", "aX", "bX")
        failing: list[Exception] = [error] * 3
        seen = []
        broken = True

        def handler(event: Event) -> None:
            if event.type == "BAD" and broken:
                raise LookupError("no BAD")
            if event.type == "BAD" and failing:
                raise failing.pop()
            seen.append((event.actor_id, event.version))

        async with project(store, "list", handler, on_error=PARK, clock=clock) as running:
            await running.caught_up(timeout=50)
            assert len(await running.parked()) == 2
            broken = False
            await running.retry_parked()
            await running.caught_up(timeout=50)
            assert await running.parked() == []
        assert failing == []
        assert seen == [("b", 1), ("a", 1), ("a", 2)]

    run(body)


class Line(MemoryStore):
    """One process's way to a store that others reach."""

    cut = False

    def __getattribute__(self, name: str) -> Any:
        if name in {"load", "save", "read", "head", "feed", "append", "tail"} and object.__getattribute__(self, "cut"):
            raise Unavailable("store", reason="the line is cut")
        return super().__getattribute__(name)


def test_who_was_superseded_during_an_outage_does_not_take_over_again(run):
    async def body(store, clock):
        driver = Line(store.driver._space)
        async with EventStore(driver, namespace="t", timeout=1.0) as away:
            await put(store, "aX")
            first: list[str] = []
            second: list[str] = []
            old = project(away, "list", lambda event: first.append(event.id), on_error=STOP, clock=clock)
            running = asyncio.create_task(old.run())
            await old.caught_up(timeout=50)
            driver.cut = True
            await put(store, "aX")  # which wakes it, so that it meets the outage
            while old.states[0].state != "no store":
                await clock.sleep(0.1)
            new = project(store, "list", lambda event: second.append(event.id), on_error=STOP, clock=clock)
            async with new:
                await new.caught_up(timeout=50)
                driver.cut = False
                with pytest.raises(StaleToken):
                    await asyncio.wait_for(running, 100)
                await put(store, "aX")
                await new.caught_up(timeout=50)
                assert new.states[0].state == "running"
            handled = len(first)  # what had come before the outage was met
            assert handled <= 2
            assert len(second) == 2
            async with old:  # started anew, it is the one that was started last
                await put(store, "aX")
                await old.caught_up(timeout=50)
            assert (len(first), len(second)) == (handled + 1, 2)

    run(body)


def test_a_batch_that_fails_says_so(run, caplog):
    async def body(store, clock):
        await put(store, "aX", "bX", "cX")
        sizes = []

        def handler(events):
            sizes.append(len(events))
            if len(events) > 1:
                raise LookupError("too many")

        with caplog.at_level(logging.WARNING, "aether"):
            async with project(store, "list", batched(handler), on_error=STOP, clock=clock) as running:
                await running.caught_up(timeout=50)
        assert sizes == [3, 1, 1, 1]
        assert "3 events" in caplog.text
        assert "too many" in caplog.text

    run(body)
