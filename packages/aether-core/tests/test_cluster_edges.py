"""What a cluster bears, in virtual time: closing in the middle, handlers that misbehave, settings without sense."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from aether.conformance.simulation.nodes import HOP, SHARDS, TTL, Nodes, command, play
from aether.core import Closed, Cluster, CommandRefused, Event, Host, PayloadTooLarge
from aether.core.cluster import plan
from aether.core.cluster.duties import Rules
from aether.core.cluster.nodes import Profile, profile_of
from aether.core.lease import Lease
from aether.core.state import Decider, NewEvent

# --- Joining that ends early ---


@pytest.mark.parametrize("seconds", [0.0, 0.004, 0.01, 0.02, 0.03])
def test_closing_ends_a_join_at_once(world, seconds: float) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        await nodes.all_up("a")
        facades = await world.machine("b").facades(timeout=TTL)
        cluster = Cluster(facades, name="c", node="b", ttl=TTL, shards=SHARDS, rules=Rules(debounce=5.0))
        opening = asyncio.create_task(cluster.open())
        await asyncio.sleep(seconds)
        began = world.time
        await cluster.close()
        with pytest.raises(Closed):
            await opening
        assert world.time - began < 10 * HOP
        await cluster.close()

    play(nodes, test)


@pytest.mark.parametrize("which", ["_store", "_election"])
def test_a_backend_that_closes_under_it_ends_everything(world, which: str) -> None:
    """It owns nothing, every call says so, it can be closed, and others do not wait for its lease."""
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        await getattr(b, which).close()
        assert await nodes.until(lambda: len(a.shards) == SHARDS) < TTL / 2
        assert not b.shards
        with pytest.raises(Closed):
            await b.ask("order-1", command())
        with pytest.raises(Closed):
            await b.drain()
        began = world.time
        await b.close()
        assert world.time - began < HOP
        assert not b._crew._tasks

    play(nodes, test)


def test_a_node_that_may_not_lead_hears_of_its_shards_by_the_leader(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        await nodes.up("a")
        b = await nodes.up("b", eligible=False)
        await nodes.until(lambda: nodes.even("ab"))
        assert not b._watch.tracks
        await b.close()
        await nodes.until(lambda: nodes.even("a"))

    play(nodes, test)


# --- Handlers ---


def test_a_handler_that_will_not_end_holds_nothing_up(world) -> None:
    """Not even one that takes the cancellation for something else."""
    nodes = Nodes(world)

    async def test() -> None:
        a = await nodes.up("a", drain_timeout=1.0)
        await nodes.until(lambda: nodes.even("a"))
        over = asyncio.Event()

        @a.on_loss
        async def stubborn(_shards: frozenset[int]) -> None:
            while not over.is_set():
                with suppress(asyncio.CancelledError):
                    await over.wait()

        await nodes.up("b", rules=Rules(debounce=0.01, wave=1.0))
        await nodes.until(lambda: nodes.even("ab"), within=2 * SHARDS)
        over.set()

    play(nodes, test)


def test_what_was_lost_and_is_back_was_lost_all_the_same(world) -> None:
    """The handlers of the loss are called, though the node has lost its lease and its shards, and has others by now."""
    nodes = Nodes(world)

    async def test() -> None:
        await nodes.up("a")
        told: list[tuple[str, frozenset[int]]] = []
        over = asyncio.Event()

        async def gain(shards: frozenset[int]) -> None:
            told.append(("gain", shards))
            await over.wait()

        async def loss(shards: frozenset[int]) -> None:
            told.append(("loss", shards))

        b = await nodes.up("b", drain_timeout=1000.0, rules=Rules(wave=1.0))
        b.on_gain(gain)
        b.on_loss(loss)
        await nodes.until(lambda: bool(told))
        first = b.shards
        link = nodes.machines["b"].link
        link.cut = True
        await nodes.until(lambda: not b.shards)
        await nodes.until(lambda: len(nodes.clusters["a"].shards) == SHARDS)
        link.cut = False
        await nodes.until(lambda: bool(b.shards & first))
        over.set()
        await nodes.until(lambda: frozenset().union(*(shards for what, shards in told if what == "loss")) >= first)
        await nodes.until(lambda: nodes.even("ab"))

    play(nodes, test)


def test_a_handler_that_cannot_be_awaited_is_logged_and_harms_nobody(world, caplog) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        a = await nodes.up("a")
        called: list[frozenset[int]] = []
        a.on_loss(called.append)  # type: ignore[arg-type]
        await nodes.up("b")
        await nodes.until(lambda: nodes.even("ab"))
        assert called

    play(nodes, test)
    assert "a handler has failed" in caplog.text


# --- Hosts ---


def balance(state: int, command: Event) -> list[NewEvent]:
    if command.type == "Ask":
        raise ValueError(f"it is {state}")
    return [NewEvent(type="Added", data={"n": 1})]


def added(state: int, _event: Event) -> int:
    return state + 1


async def hosts(nodes: Nodes, names: str) -> dict[str, Cluster]:
    for name in names:
        machine = nodes.machines[name] = nodes.world.machine(name)
        facades = await machine.facades(timeout=TTL / 2)
        rules = Rules(debounce=0.01, wave=1.0)
        cluster = nodes.clusters[name] = Cluster(facades, name="c", node=name, ttl=TTL, shards=SHARDS, rules=rules)
        cluster.host(Host(facades.store, Decider(int, added, balance)))
        await machine.start(cluster.open())
    await nodes.until(lambda: nodes.even(names))
    return nodes.clusters


def test_what_was_kept_warm_is_not_believed_when_the_actor_comes_back(world) -> None:
    """An actor that was still being loaded while its shard was given up must not stay: it is old when it is back."""
    nodes = Nodes(world)

    async def test() -> None:
        clusters = await hosts(nodes, "ab")
        here, there = (clusters[n] for n in ("ab" if clusters["a"].owns("order-1") else "ba"))
        asked_for = asyncio.Event()

        @here.on_loss
        async def lost(_shards: frozenset[int]) -> None:
            asked_for.set()

        read = here._store.read

        async def slow(actor_id: str, **options: Any) -> AsyncIterator[Event]:
            async for event in read(actor_id, **options):
                yield event
            if actor_id == "order-1":
                await asked_for.wait()
                await asyncio.sleep(HOP)

        here._store.read = slow  # type: ignore[method-assign]
        running = asyncio.create_task(here.ask("order-1", command("Add")))
        await asyncio.sleep(HOP)
        await here.drain()
        await running  # by the other one
        here._store.read = read  # type: ignore[method-assign]
        await there.ask("order-1", command("Add"))
        here.fill()
        await nodes.until(lambda: here.owns("order-1"))
        with pytest.raises(CommandRefused, match="it is 2"):
            await here.ask("order-1", command("Ask"))

    play(nodes, test)


def test_a_repeat_is_never_answered_with_less_than_it_has_caused(world) -> None:
    """Found by the simulation: the server that is asked for its events does not have them yet."""
    nodes = Nodes(world)

    async def test() -> None:
        (a,) = await nodes.all_up("a")
        once = command(n=1)
        first = await a.ask("order-1", once)
        link = nodes.machines["a"].link
        link.behind = 0
        again = asyncio.create_task(a.ask("order-1", once, timeout=TTL))
        await asyncio.sleep(10 * HOP)
        assert not again.done()
        link.behind = None
        assert await again == first

    play(nodes, test)


def test_an_actor_that_is_forgotten_in_the_middle_of_a_conflict_is_loaded_again(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        facades = await world.machine("a").facades(timeout=TTL)
        host: Host[int, Event] = Host(facades.store, Decider(int, added, balance))
        append = facades.store.append

        async def meanwhile(*events: Event) -> Any:
            facades.store.append = append
            await append(Event(type="Added", actor_id="order-1", version=1, data={"n": 1}))
            host.forget(lambda _actor_id: True)
            return await append(*events)

        cluster = Cluster(facades, name="c", node="a", ttl=TTL, shards=SHARDS)
        cluster.host(host)
        await cluster.open()
        await nodes.until(lambda: len(cluster.shards) == SHARDS)
        facades.store.append = meanwhile
        (event,) = await cluster.ask("order-1", command("Add"))
        assert event.version == 2

    play(nodes, test)


# --- Settings ---


@pytest.mark.parametrize("weight", [1e308, 1e10, float("inf")])
def test_weights_that_cannot_be_added_up_are_refused(weight: float) -> None:
    said = {"shards": 1, "hash": "h", "weight": weight}
    lease = Lease(name="n", holder="h", token=1, ttl=1.0, nonce="n", meta=said)
    assert profile_of(lease) is None
    assert profile_of(Lease(name="n", holder="h", token=1, ttl=1.0, nonce="n", meta={**said, "weight": 1e9}))
    assert plan({str(n): 1e9 for n in range(100)}, [""] * 100)


@pytest.mark.parametrize(
    "wrong", [{"brake": 0.0}, {"brake": 1.5}, {"wave": 0.0}, {"wave": 2.0}, {"debounce": -1.0}, {"debounce": 1e400}]
)
def test_rules_that_would_stop_everything_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Rules(**wrong)


def test_an_update_is_taken_whole_or_not_at_all(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        (a,) = await nodes.all_up("a")
        before: Profile = a._presence.profile
        with pytest.raises(PayloadTooLarge):
            a.update(weight=2.0, meta={"large": "x" * 5000})
        assert a._presence.profile == before

    play(nodes, test)
