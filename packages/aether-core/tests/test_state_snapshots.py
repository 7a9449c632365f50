"""Snapshots: a cache that can be dropped at any time, and then the state is the same."""

import asyncio
import logging
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether.core import EventStore, InvalidSnapshot, Snapshot, Unavailable
from aether.core.spi import Stored
from aether.core.state import Decider, EventTypes, Loaded, Snapshots, event, execute, load
from aether.memory import MemoryStore, NamespaceSpace


@event("added")
@dataclass(frozen=True)
class Added:
    item: str
    price: Decimal


@event("emptied")
@dataclass(frozen=True)
class Emptied:
    pass


@dataclass(frozen=True)
class Cart:
    items: tuple[tuple[str, Decimal], ...] = ()
    emptied: frozenset[int] = frozenset()


def evolve(cart: Cart, told: Added | Emptied) -> Cart:
    if isinstance(told, Added):
        return Cart((*cart.items, (told.item, told.price)), cart.emptied)
    return Cart((), cart.emptied | {len(cart.items)})


CART = Decider(Cart, evolve, lambda _cart, told: told, EventTypes(Added, Emptied))
commits = st.lists(
    st.lists(
        st.builds(Added, st.text(max_size=3), st.decimals(allow_nan=False, allow_infinity=False)) | st.builds(Emptied),
        min_size=1,
        max_size=4,
    ),
    max_size=12,
)


class Watched(MemoryStore):
    """Knows from where actors were read, and can lose snapshots."""

    def __init__(self) -> None:
        super().__init__(NamespaceSpace())
        self.reads: list[int] = []
        self.down = False

    async def read(self, actor_id: str, **kwargs: Any):
        if kwargs["upto"] is None:
            self.reads.append(kwargs["after"])
        return await super().read(actor_id, **kwargs)

    async def save(self, *args: Any, **kwargs: Any) -> int:
        if self.down:
            raise Unavailable("save", reason="no server")
        return await super().save(*args, **kwargs)


def run(body):
    async def main():
        driver = Watched()
        async with EventStore(driver, namespace="t") as store:
            await body(store, driver)

    asyncio.run(main())


async def state(store: EventStore, snapshots: Snapshots[Any] | None = None, **more: Any) -> Loaded[Cart]:
    return await load(store, evolve, Cart, "a", types=CART.types, snapshots=snapshots, **more)


@given(commits, st.integers(1, 5), st.integers(0, 2))
def test_the_state_is_the_same_with_and_without(commits, every, keep):
    snapshots = Snapshots("cart", Cart, every=every, keep=keep)

    async def body(store, driver):
        with_, without = Cart(), Cart()
        for commit in commits:
            with_ = (await execute(store, CART, "a", commit, snapshots=snapshots)).state
            without = (await execute(store, CART, "b", commit)).state
            assert with_ == without == (await state(store, snapshots)).state == (await state(store)).state
        version = await store.version("a")
        assert (await store.snapshot("a", schema="cart") is not None) == (version >= every)
        for upto in range(version + 1):
            assert await state(store, snapshots, upto=upto) == await state(store, upto=upto)

    run(body)


def test_only_what_is_behind_the_snapshot_is_read():
    snapshots = Snapshots("cart", Cart, every=10)

    async def body(store, driver):
        for number in range(25):
            await execute(store, CART, "a", [Added(str(number), Decimal(1))], snapshots=snapshots)
        assert (await store.snapshot("a", schema="cart")).version == 20
        driver.reads.clear()
        assert (await state(store, snapshots)).version == 25
        assert driver.reads == [19]  # with the event that the snapshot was taken at
        await snapshots.save(store, "a", await state(store))  # by hand
        driver.reads.clear()
        assert (await state(store, snapshots)).version == 25
        assert driver.reads == [24]

    run(body)


def test_a_state_in_memory_saves_reading_and_is_never_older_or_wrong():
    snapshots = Snapshots("cart", Cart, keep=1)
    add = [Added("x", Decimal(1))]

    async def body(store, driver):
        for _ in range(3):
            await execute(store, CART, "a", add, snapshots=snapshots)
        driver.reads.clear()
        await execute(store, CART, "a", add)  # by somebody else
        await execute(store, CART, "a", add, snapshots=snapshots)
        assert driver.reads == [0, 2]
        assert (await state(store, snapshots, upto=2)).version == 2
        assert await state(store, snapshots) == await state(store)
        # Another history of the same actor, as in a store that was restored:
        other = await execute(store, CART, "b", [Emptied()] * 9)
        history = driver._space.actors["a"]
        history[:] = [
            Stored(one.position, "a", one.version, one.data.replace(b'"b"', b'"a"'))
            for one in driver._space.actors["b"]
        ]
        assert other.version == 9
        assert await state(store, snapshots) == await state(store)
        del history[3:]
        assert await state(store, snapshots) == await state(store)
        await execute(store, CART, "c", add, snapshots=snapshots)
        assert snapshots.kept((store.identity, "a")) is None

    run(body)


def test_a_warm_actor_costs_one_read_and_one_append_and_its_snapshot_two_requests():
    snapshots = Snapshots("cart", Cart, every=2, keep=1)
    add = [Added("x", Decimal(1))]

    async def body(store, driver):
        await execute(store, CART, "a", add, snapshots=snapshots)
        asked: list[str] = []

        def watched(name: str, call: Any) -> Any:
            return lambda *args, **more: asked.append(name) or call(*args, **more)

        for name in ("read", "version", "append", "load", "save"):
            setattr(driver, name, watched(name, getattr(driver, name)))
        await execute(store, CART, "a", add, snapshots=snapshots)
        assert asked == ["read", "append", "load", "save"]
        asked.clear()
        await execute(store, CART, "a", add, snapshots=snapshots)
        assert asked == ["read", "append"]

    run(body)


def test_what_is_behind_a_snapshot_may_be_longer_than_a_page():
    snapshots = Snapshots("cart", Cart)

    async def body(store, driver):
        await execute(store, CART, "a", [Added("x", Decimal(1))] * 3)
        await snapshots.save(store, "a", await state(store))
        for _ in range(3):
            await execute(store, CART, "a", [Added("y", Decimal(2))] * 900)
        assert await state(store, snapshots) == await state(store)
        assert await state(store, snapshots, upto=1500) == await state(store, upto=1500)

    run(body)


def test_a_newer_snapshot_is_left_unless_its_event_is_gone():
    snapshots = Snapshots("cart", Cart)
    add = [Added("x", Decimal(1))]

    async def body(store, driver):
        for _ in range(4):
            await execute(store, CART, "a", add)
        for version in (4, 3):
            await snapshots.save(store, "a", await state(store, upto=version))
            assert (await store.snapshot("a", schema="cart")).version == 4
        del driver._space.actors["a"][3:]  # as in a store that was restored
        await snapshots.save(store, "a", await state(store, upto=3))
        assert (await store.snapshot("a", schema="cart")).version == 3
        await execute(store, CART, "a", add, snapshots=Snapshots("cart", Cart, every=1))
        assert (await store.snapshot("a", schema="cart")).version == 4

    run(body)


def test_a_commit_over_several_multiples_saves_once():
    snapshots = Snapshots("cart", Cart, every=3)
    assert [snapshots.due(0, 2), snapshots.due(0, 3), snapshots.due(3, 5), snapshots.due(2, 9)] == [0, 1, 0, 1]
    assert not Snapshots("cart", Cart).due(0, 1000)


@dataclass(frozen=True)
class Renamed:
    items: tuple[tuple[str, Decimal], ...] = ()
    emptied_at: frozenset[int] = frozenset()


def test_a_stale_snapshot_is_dropped_with_a_warning_and_replaced(caplog):
    new = Decider(Renamed, lambda cart, told: Renamed(evolve(Cart(cart.items), told).items), CART.decide, CART.types)
    snapshots = Snapshots("cart", Renamed, every=100)

    async def body(store, driver):
        cart = await execute(store, CART, "a", [Added("x", Decimal(1))], snapshots=Snapshots("cart", Cart, every=1))
        driver.reads.clear()
        with caplog.at_level(logging.WARNING, "aether"):
            done = await execute(store, new, "a", [Added("y", Decimal(2))], snapshots=snapshots)
        assert driver.reads == [0]
        assert done.state.items == (*cart.state.items, ("y", Decimal(2)))
        assert len(caplog.records) == 1
        assert "snapshot 'cart' of 'a', version 1, is dropped" in caplog.text
        caplog.clear()
        driver.reads.clear()
        await execute(store, new, "a", [Added("z", Decimal(3))], snapshots=snapshots)
        assert driver.reads == [1]  # it was replaced at once
        assert not caplog.records
        # The old program drops it in turn, and saves at the same version: the last one wins.
        await Snapshots("cart", Cart).save(store, "a", await state(store))
        assert (await state(store, Snapshots("cart", Cart))) == await state(store)

    run(body)


@pytest.mark.parametrize("damage", ["text", {"fingerprint": ""}, {"state": {}}, {"fingerprint": "ours", "state": 7}])
def test_a_broken_snapshot_is_dropped_with_a_warning(damage, caplog):
    snapshots = Snapshots("cart", Cart)
    if isinstance(damage, dict) and damage.get("fingerprint") == "ours":
        damage = {**damage, "fingerprint": snapshots.fingerprint}

    async def body(store, driver):
        await execute(store, CART, "a", [Added("x", Decimal(1))])
        await store.save_snapshot(Snapshot(actor_id="a", version=1, schema="cart", state=damage))
        with caplog.at_level(logging.WARNING, "aether"):
            assert await state(store, snapshots) == await state(store)
        assert "is dropped and its events are replayed" in caplog.text

    run(body)


def test_a_snapshot_that_cannot_be_saved_fails_no_command(caplog):
    async def body(store, driver):
        driver.down = True
        done = await execute(store, CART, "a", [Emptied()], snapshots=Snapshots("cart", Cart, every=1))
        assert (done.version, await store.version("a")) == (1, 1)
        assert "no snapshot 'cart' of 'a' was saved" in caplog.text

    with caplog.at_level(logging.WARNING, "aether"):
        run(body)


def test_a_state_that_would_not_come_back_is_not_saved():
    @dataclass
    class Loose:
        anything: Any

    class Opaque:
        pass

    async def body(store, driver):
        await execute(store, CART, "a", [Emptied()])
        for value in ((1, 2), Opaque()):
            with pytest.raises(InvalidSnapshot):
                await Snapshots("loose", Loose).save(store, "a", Loaded(Loose(value), 1))
        await Snapshots("loose", Loose).save(store, "a", Loaded(Loose([1, 2]), 1))

    run(body)


def fingerprint(name: str = "C", **fields: Any) -> str:
    return Snapshots("c", dataclass(type(name, (), {"__annotations__": fields}))).fingerprint


def test_the_fingerprint_is_that_of_the_fields():
    @dataclass
    class C:
        """Said to people."""

        description: int

    assert Snapshots("c", C).fingerprint == fingerprint(description=int)
    found = {fingerprint(description=int), fingerprint(title=int), fingerprint(description=str), fingerprint()}
    assert len(found) == 4

    class Inner(pydantic.BaseModel):
        title: str

    class Model(pydantic.BaseModel):
        """Said to people."""

        description: str = pydantic.Field(description="also")
        inner: Inner

    class Other(pydantic.BaseModel):
        inner: Inner

    assert Snapshots("c", Model).fingerprint != Snapshots("c", Other).fingerprint


def test_bad_arguments_are_refused():
    for every in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="every"):
            Snapshots("c", Cart, every=every)
    with pytest.raises(ValueError, match="snapshot schema"):
        Snapshots("", Cart)
    with pytest.raises(ValueError, match="keep"):
        Snapshots("cart", Cart, keep=-1)
    with pytest.raises(TypeError):
        Snapshots("c", field)  # no type
