"""Projections and reactors, in virtual time: order, checkpoints, poison, taking over, blue and green."""

import asyncio
import itertools
from typing import Any

import pytest

from aether.core import START, Event, EventStore, StaleToken, TimedOut, Unavailable
from aether.core.projection import PARK, STOP, Consumer, batched, project, retry
from aether.core.sharding import shard_of
from aether.core.spi import Stored
from aether.core.state import NewEvent, record


class Crash(BaseException):
    """Ends a projection at once, as the end of its process does."""


class View:
    """What a handler has seen. It fails on the events whose types it is told, so often or always."""

    def __init__(self, **failing: Any) -> None:
        self.seen: list[str] = []
        self.tried: list[str] = []
        self.failing = failing

    async def __call__(self, event: Event) -> None:
        self.tried.append(name(event))
        left = self.failing.get(event.type, 0)
        if isinstance(left, Exception):
            raise left
        if left:
            self.failing[event.type] -= 1
            raise LookupError(f"no {event.type}")
        self.seen.append(name(event))


def name(event: Event) -> str:
    return f"{event.actor_id}{event.version}{event.type}"


async def put(store: EventStore, *names: str) -> None:
    """`aX` is an event of type X of actor a."""
    for one in names:
        await record(store, one[0], NewEvent(type=one[1:]))


async def settled(consumer: Consumer) -> None:
    """Wait until everything is applied."""
    await consumer.caught_up(timeout=50)


# --- Order and checkpoints ---


def test_every_event_in_order_and_after_a_restart_only_what_is_new(run):
    async def body(store, clock):
        view = View()
        await put(store, "aX", "bX", "aY")
        async with project(store, "list", view, on_error=STOP, clock=clock) as running:
            await put(store, "bY")
            await settled(running)
            assert view.seen == ["a1X", "b1X", "a2Y", "b2Y"]
            assert [one.state for one in running.states] == ["running"]
        assert [one.state for one in running.states] == ["stopped"]
        await put(store, "aZ")
        again = View()
        async with project(store, "list", again, on_error=STOP, clock=clock) as running:
            await settled(running)
        assert again.seen == ["a3Z"]

    run(body)


def test_a_crash_repeats_what_is_behind_the_checkpoint_and_skips_nothing(run):
    async def body(store, clock):
        await put(store, *["aX"] * 7)
        seen = []

        async def crashing(event):
            seen.append(event.version)
            if len(seen) == 5:
                raise Crash

        async def go():
            await project(store, "list", crashing, on_error=STOP, batch=3, clock=clock).run()

        with pytest.raises(Crash):
            await go()
        async with project(store, "list", crashing, on_error=STOP, batch=3, clock=clock) as running:
            await settled(running)
        assert seen[:5] == [1, 2, 3, 4, 5]
        assert seen[5] in (3, 4)  # the journal's own entry is in one of the pages
        assert seen[5:] == list(range(seen[5], 8))

    run(body)


def test_progress_and_waiting(run):
    async def body(store, clock):
        gate = asyncio.Event()

        async def slow(event):
            await gate.wait()

        running = project(store, "list", slow, on_error=STOP, clock=clock)
        assert (await running.progress()).behind == 0
        await put(store, "aX", "aY")
        head = await store.head()
        async with running:
            with pytest.raises(TimedOut, match="projection 'list' is at start, and not at "):
                await running.wait(head, timeout=3)
            progress = await Consumer(store, "list").progress()
            assert (progress.position, progress.behind, progress.version) == (START, 3, 1)
            assert progress.seconds >= 0
            waiting = [asyncio.create_task(one.wait(head, timeout=50)) for one in (running, Consumer(store, "list"))]
            gate.set()
            await asyncio.gather(*waiting)
            await settled(running)
            assert (await running.progress()).behind == 0
            assert (await running.progress()).position == await store.head()

    run(body)


def test_what_is_filtered_out_still_counts_as_passed(run):
    async def body(store, clock):
        view = View()
        async with project(store, "list", view, on_error=STOP, types={"X"}, actors="a*", clock=clock) as running:
            await put(store, "aX", "bX", "aY")
            await settled(running)
            for _ in range(3):
                await put(store, "bX", "aY")
                await settled(running)
        assert view.seen == ["a1X"]

    run(body)


def test_batches(run):
    async def body(store, clock):
        await put(store, *["aX"] * 7)
        sizes = []
        async with project(
            store, "list", batched(lambda events: sizes.append(len(events))), on_error=STOP, batch=4, clock=clock
        ) as running:
            await settled(running)
        assert sum(sizes) == 7
        assert max(sizes) == 4

    run(body)


def test_a_long_batch_is_checkpointed_on_the_way(run, world):
    async def body(store, clock):
        await put(store, *["aX"] * 10)
        gate = asyncio.Event()

        async def slow(event):
            world.loop.advance(0.6)
            if event.version == 7:
                await gate.wait()

        async with project(store, "list", slow, on_error=STOP, clock=clock):
            while (await Consumer(store, "list").progress()).behind > 6:
                await clock.sleep(0.1)

    run(body)


# --- Poison ---


def test_stop_ends_in_front_of_the_event(run):
    async def body(store, clock):
        await put(store, "aX", "aBAD", "aY")
        for view, seen in ((View(BAD=1), ["a1X"]), (View(BAD=1), []), (View(), ["a2BAD", "a3Y"])):
            running = project(store, "list", view, on_error=STOP, clock=clock)
            try:
                async with running:
                    await settled(running)
            except LookupError as error:
                assert "stopped in front of 'BAD', version 2 of 'a'" in error.__notes__[0]
            assert view.seen == seen

    run(body)


def test_retry_waits_longer_each_time_and_keeps_the_order(run):
    async def body(store, clock):
        await put(store, "aX", "aBAD", "bX")
        view, times = View(BAD=4), []

        async def handler(event):
            times.append((event.type, clock.now()))
            await view(event)

        async with project(store, "list", handler, on_error=retry(first=1.0, longest=4.0), clock=clock) as running:
            await settled(running)
        assert view.seen == ["a1X", "a2BAD", "b1X"]
        bad = [when for kind, when in times if kind == "BAD"]
        pauses = [two - one for one, two in itertools.pairwise(bad)]
        assert len(pauses) == 4
        for pause, longest in zip(pauses, (1.0, 2.0, 4.0, 4.0), strict=True):
            assert longest / 2 <= pause <= longest + 0.1

    run(body)


def test_whoever_catches_its_error_is_asked_for_nothing_more(run):
    async def body(store, clock):
        await put(store, "aBAD")
        task = asyncio.current_task()
        assert task is not None
        for _ in range(2):
            with pytest.raises(LookupError):
                await project(store, "stops", View(BAD=10), on_error=STOP, clock=clock).run()
            assert not task.cancelling()

    run(body)


def test_retry_ends_as_it_is_told(run):
    async def body(store, clock):
        await put(store, "aBAD")
        view = View(BAD=10)
        with pytest.raises(LookupError):
            await project(store, "stops", view, on_error=retry(3), clock=clock).run()
        assert view.tried == ["a1BAD"] * 4
        async with project(store, "parks", view, on_error=retry(2, then="park"), clock=clock) as running:
            await settled(running)
            (parked,) = await running.parked()
        assert (parked.actor_id, parked.event_version, parked.attempts) == ("a", 1, 3)
        assert parked.error == "LookupError: 'no BAD'" or parked.error == "LookupError: no BAD"

    run(body)


def test_parked_events_keep_their_actors_order_and_let_others_pass(run):
    async def body(store, clock):
        await put(store, "aX", "aBAD", "bX", "aY", "bY")
        view = View(BAD=2)
        async with project(store, "list", view, on_error=PARK, clock=clock) as running:
            await settled(running)
            assert view.seen == ["a1X", "b1X", "b2Y"]
            assert [one.event_version for one in await running.parked()] == [2, 3]
            assert (await running.progress()).parked == 2
            await Consumer(store, "list").retry_parked()  # from anywhere; the event fails once more
            await settled(running)
            assert view.seen == ["a1X", "b1X", "b2Y"]
            assert [(one.event_version, one.attempts) for one in await running.parked()] == [(2, 2), (3, 0)]
            await put(store, "aZ")
            await Consumer(store, "list").retry_parked("b")
            await Consumer(store, "list").retry_parked("a")
            await put(store, "aW")
            await settled(running)
        assert view.seen == ["a1X", "b1X", "b2Y", "a2BAD", "a3Y", "a4Z", "a5W"]
        assert await running.parked() == []

    run(body)


def test_parked_events_survive_a_restart_and_can_be_dropped(run):
    async def body(store, clock):
        await put(store, "aBAD", "aX")
        view = View(BAD=100)
        async with project(store, "list", view, on_error=PARK, clock=clock) as running:
            await settled(running)
        await put(store, "aY", "bX")
        async with project(store, "list", view, on_error=PARK, clock=clock) as running:
            await settled(running)
            assert view.seen == ["b1X"]
            first, *waiting = await running.parked()
            assert [one.error for one in waiting] == ["it waits behind a parked event of its actor"] * 2
            with pytest.raises(LookupError, match="has parked no event 'nothing'"):
                await running.drop_parked("nothing")
            await running.drop_parked(first.event_id)
            await running.retry_parked()
            await settled(running)
        assert view.seen == ["b1X", "a2X", "a3Y"]
        assert view.tried.count("a1BAD") == 1

    run(body)


def test_a_crash_between_parking_and_the_checkpoint_parks_once(run):
    async def body(store, clock):
        await put(store, "aBAD", "bX")
        view = View(BAD=100)

        running = project(store, "list", view, on_error=PARK, batch=1, clock=clock)
        save = store.save_checkpoint
        calls = []

        async def saved(name, position, **more):
            calls.append(position)
            if len(calls) == 2:  # the first is the fence in front of parking
                raise Crash
            await save(name, position, **more)

        store.save_checkpoint = saved
        with pytest.raises(Crash):
            await running.run()
        store.save_checkpoint = save
        assert len(await running.parked()) == 1
        async with project(store, "list", view, on_error=PARK, clock=clock) as running:
            await settled(running)
        assert len(await running.parked()) == 1
        assert view.seen == ["b1X"]
        assert [one.type async for one in store.read(running.key)].count("aether.parked") == 1

    run(body)


def test_an_event_that_was_dropped_before_the_checkpoint_was_behind_it_stays_dropped(run):
    async def body(store, clock):
        await put(store, "aBAD", "aX", "bX")
        view = View(BAD=100)
        running = project(store, "list", view, on_error=PARK, batch=1, clock=clock)
        save = store.save_checkpoint
        calls = []

        async def saved(name, position, **more):
            calls.append(position)
            if len(calls) == 2:  # the first is the fence in front of parking
                raise Crash
            await save(name, position, **more)

        store.save_checkpoint = saved
        with pytest.raises(Crash):
            await running.run()
        store.save_checkpoint = save
        (parked,) = await running.parked()
        await running.drop_parked(parked.event_id)
        async with project(store, "list", view, on_error=PARK, clock=clock) as running:
            await settled(running)
            assert await running.parked() == []
        assert sorted(view.seen) == ["a2X", "b1X"]

    run(body)


def test_a_handler_that_cancels_itself_is_not_silent(run):
    async def body(store, clock):
        await put(store, "aX")

        async def handler(event):
            raise asyncio.CancelledError

        with pytest.raises(RuntimeError, match="nobody had cancelled it"):
            await project(store, "list", handler, on_error=STOP, clock=clock).run()

    run(body)


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), Unavailable("view", reason="down"), TimeoutError()])
def test_an_outage_is_waited_for_whatever_the_policy_is(run, error):
    async def body(store, clock):
        await put(store, "aX", "bY")
        view = View(X=error)
        async with project(store, "list", view, on_error=PARK, clock=clock) as running:
            while view.tried.count("a1X") < 5:
                await clock.sleep(0.1)
            (state,) = running.states
            assert state.state == "retrying"
            assert type(error).__name__ in state.error
            del view.failing["X"]
            await settled(running)
            assert running.states[0].state == "running"
            assert await running.parked() == []
        assert view.seen == ["a1X", "b1Y"]

    run(body)


def test_a_batch_that_fails_is_handed_over_one_by_one(run):
    async def body(store, clock):
        await put(store, "aX", "bBAD", "cX")
        tried = []

        def handler(events):
            tried.append([name(event) for event in events])
            if any(event.type == "BAD" for event in events):
                raise LookupError

        async with project(store, "list", batched(handler), on_error=PARK, clock=clock) as running:
            await settled(running)
        assert tried == [["a1X", "b1BAD", "c1X"], ["a1X"], ["b1BAD"], ["c1X"]]

    run(body)


# --- Outages, damage, and the end ---


def test_an_outage_of_the_store_is_waited_for(run):
    async def body(store, clock):
        view = View()
        await put(store, "aX")
        store.driver.down = True
        async with project(store, "list", view, on_error=STOP, clock=clock) as running:
            while running.states[0].state != "no store":
                await clock.sleep(0.1)
            assert "Unavailable" in running.states[0].error
            store.driver.down = False
            await settled(running)
        assert view.seen == ["a1X"]

    run(body)


def test_a_damaged_event_ends_it_behind_what_is_sound(run):
    async def body(store, clock):
        from aether.core import CorruptEvent

        view = View()
        await put(store, "aX", "aY")
        feed = store.driver._space.feed
        feed[1] = Stored(2, "a", 2, b"{")
        with pytest.raises(CorruptEvent):
            await project(store, "list", view, on_error=PARK, clock=clock).run()
        assert view.seen == ["a1X"]

    run(body)


def test_an_error_cancels_the_block_and_is_raised_as_it_is(run):
    async def body(store, clock):
        await put(store, "aBAD")
        with pytest.raises(LookupError):
            async with project(store, "list", View(BAD=9), on_error=STOP, clock=clock):
                await asyncio.Event().wait()
        with pytest.raises(ZeroDivisionError):
            async with project(store, "other", View(), on_error=STOP, clock=clock):
                raise ZeroDivisionError
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(body)


# --- Who runs it ---


def test_without_an_election_the_last_one_takes_over(run):
    async def body(store, clock):
        one, two = View(), View()
        with pytest.raises(StaleToken) as raised:
            async with project(store, "list", one, on_error=STOP, clock=clock) as first:
                await put(store, "aX")
                await settled(first)
                async with project(store, "list", two, on_error=STOP, clock=clock) as second:
                    while second.states[0].state != "running":
                        await clock.sleep(0.1)
                    await put(store, "aY")
                    await asyncio.Event().wait()
        assert "give both an election=" in raised.value.__notes__[0]
        assert two.seen in ([], ["a2Y"])

    run(body)


def test_of_many_one_is_active_and_another_follows_it(run, world):
    async def body(store, clock):
        machines = {one: world.machine(one) for one in ("m0", "m1", "m2")}
        seen = []

        async def node(machine):
            async def handler(event):
                seen.append((machine.name, name(event)))

            election = await machine.started()
            async with project(
                store, "list", handler, on_error=STOP, election=election, ttl=2.0, clock=machine.clock
            ) as running:
                states[machine.name] = running
                await asyncio.Event().wait()

        states = {}
        for machine in machines.values():
            machine.start(node(machine))
        consumer = Consumer(store, "list")
        await put(store, "aX")
        await consumer.caught_up(timeout=50)
        for number in (2, 3):
            assert [running.states[0].state for running in states.values()].count("running") == 1
            active = seen[-1][0]
            machines[active].crash()
            await asyncio.gather(*machines[active].tasks, return_exceptions=True)
            del states[active]
            await put(store, "aX")
            await consumer.caught_up(timeout=50)
            assert seen[-1][0] != active
            assert [event for _, event in seen] == [f"a{one}X" for one in range(1, number + 1)]
        machines[seen[-1][0]].crash()
        for machine in machines.values():
            await asyncio.gather(*machine.tasks, return_exceptions=True)

    run(body)


def test_who_was_superseded_moves_no_checkpoint_and_parks_nothing(run):
    async def body(store, clock):
        gate = asyncio.Event()

        async def paused(event):
            await gate.wait()
            raise LookupError

        await put(store, "aX")
        running = project(store, "list", paused, on_error=PARK, clock=clock)
        old = asyncio.create_task(running.run())
        while running.states[0].state != "running":
            await clock.sleep(0.1)
        async with project(store, "list", View(), on_error=STOP, clock=clock) as new:
            await settled(new)
            gate.set()
            with pytest.raises(StaleToken):
                await old
            assert await new.parked() == []

    run(body)


def test_partitions_divide_the_actors_and_keep_their_order(run):
    async def body(store, clock):
        actors = "abcdefghijkl"
        await put(store, *[f"{actor}X" for actor in actors for _ in range(3)])
        seen = []

        async def handler(event):
            seen.append((asyncio.current_task().get_name()[-1], event.actor_id, event.version))
            await asyncio.sleep(0)

        async with project(store, "list", handler, on_error=STOP, partitions=3, batch=5, clock=clock) as running:
            await settled(running)
            assert len(running.states) == 3
            assert len({one.position for one in [await running.progress()]}) == 1
        for actor in actors:
            assert [one for one in seen if one[1] == actor] == [
                (str(shard_of(actor, 3)), actor, version) for version in (1, 2, 3)
            ]
        with pytest.raises(ValueError, match="began with partitions=3"):
            await project(store, "list", handler, on_error=STOP, clock=clock).run()

    run(body)
