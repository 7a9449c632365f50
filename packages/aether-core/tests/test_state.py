"""`load`, `execute` and `record`, in virtual time: the loop that everybody writes, under races and lost answers."""

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from aether.core import START, EventStore, OutcomeUnknown, Unavailable, UnreadableEvent, VersionConflict
from aether.core.spi import Write
from aether.core.state import Decider, EventTypes, NewEvent, event, execute, load, record
from aether.memory import MemoryStore, NamespaceSpace


@event("account.deposited")
@dataclass(frozen=True)
class Deposited:
    amount: Decimal


@event("account.withdrawn")
@dataclass(frozen=True)
class Withdrawn:
    amount: Decimal


class Overdrawn(Exception):
    pass


def evolve(balance: Decimal, told: Deposited | Withdrawn) -> Decimal:
    return balance + told.amount if isinstance(told, Deposited) else balance - told.amount


def decide(balance: Decimal, change: int):
    if change > 0:
        yield Deposited(Decimal(change))
    elif change < 0:
        if balance + change < 0:
            raise Overdrawn(f"the balance is {balance}")
        yield Withdrawn(Decimal(-change))


ACCOUNT = Decider(Decimal, evolve, decide, EventTypes(Deposited, Withdrawn))
COUNTER = Decider(
    int, lambda count, _event: count + 1, lambda _count, names: [NewEvent(type=name, data={"n": 1}) for name in names]
)


class Scripted(MemoryStore):
    """Answers appends as a script says: `lost` (stored, no answer), `never` (not stored, no answer), `down`, `ok`."""

    def __init__(self, space: NamespaceSpace, *script: str) -> None:
        super().__init__(space)
        self.script = list(script)
        self.reads: list[int] = []
        self.before_append = None

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        if self.before_append is not None:
            hook, self.before_append = self.before_append, None
            await hook()
        step = self.script.pop(0) if self.script else "ok"
        if step == "down":
            raise Unavailable("append", reason="no server")
        if step == "never":
            raise OutcomeUnknown("append", reason="no answer")
        position = await super().append(writes, transaction=transaction)
        if step == "lost":
            raise OutcomeUnknown("append", reason="no answer")
        return position

    async def read(self, actor_id: str, **kwargs: Any):
        self.reads.append(kwargs["after"])
        return await super().read(actor_id, **kwargs)


@asynccontextmanager
async def opened(*script: str, timeout: float = 5.0):
    space = NamespaceSpace()
    driver = Scripted(space, *script)
    async with (
        EventStore(driver, namespace="t", timeout=timeout) as store,
        EventStore(MemoryStore(space), namespace="t") as other,
    ):
        yield store, other, driver


@pytest.fixture
def run(virtual):
    return lambda body: virtual(body())


def test_a_command_is_decided_on_the_state_and_its_events_are_appended(run):
    async def body():
        async with opened() as (store, _, _):
            done = await execute(store, ACCOUNT, "a", 100)
            assert (done.state, done.version, done.replayed) == (Decimal(100), 1, False)
            assert done.position == await store.head()
            assert [one async for one in store.read("a")] == list(done.events)
            done = await execute(store, ACCOUNT, "a", -30, metadata={"user": "ada"})
            assert done.events[0].metadata == {"user": "ada"}
            assert await load(store, evolve, Decimal, "a", types=ACCOUNT.types) == (Decimal(70), 2)
            assert await load(store, evolve, Decimal, "a", types=ACCOUNT.types, upto=1) == (Decimal(100), 1)
            assert await load(store, evolve, Decimal, "b", types=ACCOUNT.types) == (Decimal(0), 0)

    run(body)


def test_nothing_decided_and_refused_append_nothing(run):
    async def body():
        async with opened() as (store, _, _):
            done = await execute(store, ACCOUNT, "a", 0)
            assert (done.state, done.version, done.events, done.position) == (Decimal(0), 0, (), START)
            with pytest.raises(Overdrawn):
                await execute(store, ACCOUNT, "a", -1)
            assert await store.version("a") == 0

    run(body)


def test_untyped_actors_evolve_events(run):
    async def body():
        async with opened() as (store, _, _):
            assert (await execute(store, COUNTER, "a", ["X", "Y"])).state == 2
            assert (await execute(store, COUNTER, "a", ["Z"])).state == 3
            assert [one.type async for one in store.read("a")] == ["X", "Y", "Z"]
            with pytest.raises(UnreadableEvent, match="its name is not known here"):
                await execute(store, ACCOUNT, "a", 1)

    run(body)


def test_somebody_was_faster_so_it_decides_again_on_what_is_new(run):
    """The money was withdrawn between reading and appending: the second withdrawal is refused, not appended."""

    async def body():
        async with opened() as (store, other, driver):
            await execute(other, ACCOUNT, "a", 100)

            async def faster():
                await execute(other, ACCOUNT, "a", -80)

            driver.before_append = faster
            driver.reads.clear()
            with pytest.raises(Overdrawn, match="the balance is 20"):
                await execute(store, ACCOUNT, "a", -50)
            # From 0, then the facade looks whether the conflict is its own, then behind what was known.
            assert driver.reads == [0, 1, 1]
            assert await store.version("a") == 2

    run(body)


def test_of_many_at_once_each_gets_its_turn(run):
    async def body():
        async with opened() as (store, other, _):
            await asyncio.gather(*(execute(one, ACCOUNT, "a", 1) for one in (store, other) * 20))
            assert await load(store, evolve, Decimal, "a", types=ACCOUNT.types) == (Decimal(40), 40)
            await asyncio.gather(*(record(one, "n", NewEvent(type="Noted")) for one in (store, other) * 20))
            assert await store.version("n") == 40
            assert len({one.id async for one in store.read("n")}) == 40

    run(body)


def test_the_last_conflict_is_raised(run):
    async def body():
        async with opened() as (store, other, driver):

            async def faster():
                driver.before_append = faster
                await record(other, "a", NewEvent(type="X"))

            for call in (
                lambda: execute(store, COUNTER, "a", ["Y"], attempts=3),
                lambda: record(store, "a", NewEvent(type="Y"), attempts=3),
            ):
                before = await store.version("a")
                driver.before_append = faster
                with pytest.raises(VersionConflict):
                    await call()
                driver.before_append = None
                assert await store.version("a") == before + 3
            assert {one.type async for one in store.read("a")} == {"X"}

    run(body)


@pytest.mark.parametrize("step", ["lost", "never"])
def test_an_unknown_outcome_is_found_out(run, step):
    """The store gives up within its time-out; the same append is repeated, so nothing is stored twice."""

    async def body():
        async with opened(*[step] * 3, timeout=0.015) as (store, _, _):
            done = await execute(store, COUNTER, "a", ["X"])
            assert (done.state, [one.id async for one in store.read("a")]) == (1, [one.id for one in done.events])
        async with opened(*[step] * 3, timeout=0.015) as (store, _, _):
            await record(store, "a", NewEvent(type="X"))
            assert await store.version("a") == 1

    run(body)


def test_an_outcome_that_stays_unknown_is_raised_with_what_to_do(run):
    async def body():
        async with opened(*["never"] * 100, timeout=0.015) as (store, _, _):
            with pytest.raises(OutcomeUnknown) as raised:
                await execute(store, COUNTER, "a", ["X"], attempts=2)
            assert "execute(key=)" in raised.value.__notes__[0]
        async with opened("down", "down", "down", timeout=0.015) as (store, _, _):
            with pytest.raises(Unavailable):
                await execute(store, COUNTER, "a", ["X"])

    run(body)


def test_a_command_with_a_key_is_executed_once(run):
    async def body():
        async with opened() as (store, other, driver):
            first = await execute(store, ACCOUNT, "a", 10, key="k-1")
            await execute(store, ACCOUNT, "a", 10, key="k-2")
            again = await execute(other, ACCOUNT, "a", 10, key="k-1")
            assert (again.replayed, again.events, again.position) == (True, first.events, first.position)
            assert (again.state, again.version) == (Decimal(20), 2)

            async def faster():  # the same command, elsewhere, at the same time
                await execute(other, ACCOUNT, "a", 10, key="k-3")

            driver.before_append = faster
            assert (await execute(store, ACCOUNT, "a", 10, key="k-3")).replayed
            one = await record(store, "n", NewEvent(type="X"), NewEvent(type="Y"), key="r")
            two = await record(other, "n", NewEvent(type="X"), NewEvent(type="Y"), key="r")
            assert (one.position, two.replayed, await store.version("n")) == (two.position, True, 2)
            assert await store.version("a") == 3

    run(body)


def test_what_was_decided_on_an_older_version_is_refused(run):
    async def body():
        async with opened() as (store, other, driver):
            assert (await execute(store, ACCOUNT, "a", 5, expected=0)).version == 1
            with pytest.raises(VersionConflict, match="the actor is at version 1"):
                await execute(store, ACCOUNT, "a", 5, expected=0)

            async def faster():
                await execute(other, ACCOUNT, "a", 1)

            driver.before_append = faster
            with pytest.raises(VersionConflict):
                await execute(store, ACCOUNT, "a", 5, expected=1)
            assert await load(store, evolve, Decimal, "a", types=ACCOUNT.types) == (Decimal(6), 2)

    run(body)


def test_mistakes_are_named(run):
    async def body():
        async with opened() as (store, _, _):
            alone = Decider(int, lambda state, _: state, lambda _state, _command: NewEvent(type="X"))
            with pytest.raises(TypeError, match="decide returns events, not NewEvent; return a list"):
                await execute(store, alone, "a", None)
            with pytest.raises(TypeError, match="not among these EventTypes"):
                await execute(store, Decider(int, evolve, lambda *_: [NewEvent(type="X")], ACCOUNT.types), "a", None)
            with pytest.raises(ValueError, match="attempts"):
                await execute(store, ACCOUNT, "a", 1, attempts=0)
            with pytest.raises(ValueError, match="at least one event"):
                await record(store, "a")
            assert await store.version("a") == 0

    run(body)
