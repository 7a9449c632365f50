"""The test kit: what it lets pass, what it finds, and that it says so. Sleeps are in virtual time."""

import asyncio
import itertools
import subprocess
import sys
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aether.core.projection import project, retry
from aether.core.state import Decider, EventTypes, NewEvent, event
from aether.core.testing import FakeClock, assert_round_trip, given, history, play_twice


@event("opened")
@dataclass(frozen=True)
class Opened:
    owner: str


@event("withdrawn")
@dataclass(frozen=True)
class Withdrawn:
    amount: Decimal


class Overdrawn(Exception):
    pass


def decide(balance: int, amount: int):
    if amount > balance:
        raise Overdrawn(f"the balance is {balance}")
    return [Withdrawn(Decimal(amount))] if amount else []


ACCOUNT = Decider(
    int,
    lambda balance, told: 100 if isinstance(told, Opened) else balance - int(told.amount),
    decide,
    EventTypes(Opened, Withdrawn),
)


def test_it_passes_what_is_right():
    (
        given(ACCOUNT, Opened("Ada"))
        .when(30)
        .then(Withdrawn(Decimal(30)))
        .when(0)
        .then_nothing()
        .when(71)
        .then_raises(Overdrawn, match="balance is 70")
        .when(70)
        .then_state(0)
    )


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda: given(ACCOUNT, Opened("Ada")).when(1).then(), "expected: no event\n  found:    Withdrawn"),
        (lambda: given(ACCOUNT, Opened("Ada")).when(1).then(Withdrawn(Decimal(2))), r"when 1:\n  expected: Withdrawn"),
        (lambda: given(ACCOUNT).when(1).then_nothing(), "found:    Overdrawn: the balance is 0"),
        (lambda: given(ACCOUNT).when(1).then_state(0), "found:    Overdrawn"),
        (lambda: given(ACCOUNT).when(0).then_state(1), "expected: state 1\n  found:    state 0"),
        (lambda: given(ACCOUNT).when(0).then_raises(Overdrawn), "expected: Overdrawn\n  found:    no event"),
        (lambda: given(ACCOUNT).when(1).then_raises(KeyError), "expected: KeyError\n  found:    Overdrawn"),
        (lambda: given(ACCOUNT).when(1).then_raises(Overdrawn, match="is 7"), "expected: Overdrawn matching 'is 7'"),
    ],
)
def test_it_says_what_is_wrong(check, said):
    with pytest.raises(AssertionError, match=said):
        check()


def test_it_finds_what_would_not_come_back():
    @event("loose")
    @dataclass(frozen=True)
    class Loose:
        anything: Any

    loose = Decider(int, lambda state, _: state, lambda _state, _command: [Loose((1, 2))], EventTypes(Loose))
    with pytest.raises(AssertionError, match="does not come back as it was"):
        given(loose, Loose((1, 2)))
    with pytest.raises(AssertionError, match="does not come back as it was"):
        given(loose).when(None).then(Loose((1, 2)))
    with pytest.raises(AssertionError, match="comes back as"):
        assert_round_trip(Loose(Decimal(1)))
    with pytest.raises(AssertionError, match="comes back as"):
        assert_round_trip(Loose({1: 2}))
    assert_round_trip(Loose([1, 2]))
    assert_round_trip(Withdrawn(Decimal("1.10")))


def test_it_finds_functions_that_change_the_state():
    def append(state: list[int], _told: Any) -> list[int]:
        state.append(1)
        return state

    with pytest.raises(AssertionError, match="evolve changed the state"):
        given(Decider(list, append, lambda _state, _command: ()), NewEvent(type="X")).when(None)
    with pytest.raises(AssertionError, match="decide changed the state"):
        given(Decider(list, lambda state, _: state, append)).when(None)


def test_untyped_events_are_compared_by_what_they_say():
    counter = Decider(int, lambda count, _: count + 1, lambda _count, what: [NewEvent(type="X", data={"what": what})])
    given(counter, NewEvent(type="X")).when("a").then(NewEvent(type="X", data={"what": "a"})).when("b").then_state(3)
    with pytest.raises(AssertionError, match="expected: X {'what': 'b'}\n  found:    X {'what': 'a'}"):
        given(counter).when("a").then(NewEvent(type="X", data={"what": "b"}))


@dataclass
class View:
    counts: dict[str, int] = field(default_factory=dict)

    async def wrong(self, event):
        self.counts[event.actor_id] = self.counts.get(event.actor_id, 0) + 1

    async def right(self, event):
        self.counts[event.actor_id] = event.version


def test_projections_are_played_twice():
    events = [*history("a", Opened("Ada"), Withdrawn(Decimal(1))), *history("b", Opened("Bob"))]
    view = View()
    assert asyncio.run(play_twice(view.right, events, lambda: view.counts)) == {"a": 2, "b": 1}
    with pytest.raises(AssertionError, match="played again from 'opened', version 1 of 'a'"):
        asyncio.run(play_twice(view.wrong, events, lambda: view.counts))


# --- The clock ---


def test_time_passes_when_it_is_told():
    async def main():
        clock, woken = FakeClock(), []

        async def sleeper(seconds):
            await clock.sleep(seconds)
            woken.append((seconds, clock.now()))

        async def limited():
            try:
                async with clock.timeout(5):
                    await asyncio.Event().wait()
            except TimeoutError:
                woken.append(("limit", clock.now()))
            async with clock.timeout(5):
                return

        tasks = [asyncio.create_task(one) for one in (sleeper(3), sleeper(1), limited(), sleeper(0))]
        handle = clock.call_later(2, lambda: woken.append(("call", clock.now())))
        cancelled = clock.call_later(2, lambda: woken.append("never"))
        cancelled.cancel()
        await clock.advance(0.5)
        assert woken == [(0, 0.0)]
        await clock.advance(60)
        await asyncio.gather(*tasks)
        assert woken[1:] == [(1, 1.0), ("call", 2.0), (3, 3.0), ("limit", 5.0)]
        assert handle.cancelled()
        assert (clock.now(), clock.utc().second) == (60.5, 0)

    asyncio.run(main())


def test_a_projection_on_the_fake_clock(aether_store, aether_clock):
    async def main():
        tried = []

        def handler(event):
            tried.append(aether_clock.now())
            raise LookupError

        async with aether_store as store:
            await store.append(*history("a", Opened("Ada")))
            on_error = retry(2, first=60, longest=60)
            running = asyncio.create_task(project(store, "x", handler, on_error=on_error, clock=aether_clock).run())
            while not running.done():
                await aether_clock.advance(1)
            with pytest.raises(LookupError):
                await running
        assert len(tried) == 3
        assert all(30 <= two - one <= 62 for one, two in itertools.pairwise(tried))

    asyncio.run(main())


# --- The plugin ---

TEST = """
import asyncio
import itertools
from aether.core import Event

def test_it(aether_connection, aether_store, aether_bus, aether_election, aether_clock, aether_url):
    async def main():
        async with aether_connection as one, aether_store as store, aether_bus as bus, aether_election as election:
            await store.append(Event(type="X", actor_id="a", version=1))
            assert await one.store.version("a") == 1
            async with bus.subscribe() as events, election.lead("x") as term:
                await one.bus.publish(Event(type="X", actor_id="a", version=1))
                assert (await anext(events)).type == "X"
                assert term.valid()
        print(aether_url)
    asyncio.run(main())

def test_cluster(aether_cluster):
    async def main():
        async with aether_cluster as cluster:
            assert cluster.members == {"node-1"}
    asyncio.run(main())

def test_alone(aether_store):
    async def main():
        async with aether_store as store:
            assert await store.version("a") == 0
    asyncio.run(main())
"""


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_the_fixtures_are_on_the_backend_that_is_named(url, tmp_path: Path):
    (tmp_path / "test_it.py").write_text(TEST)
    url = f"sqlite:///{tmp_path}/e.db" if url == "sqlite" else url
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "test_it.py"]
    named = [] if url == "memory://" else [f"--aether-url={url}"]
    done = subprocess.run([*command, *named], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert url in done.stdout
    assert "3 passed" in done.stdout
