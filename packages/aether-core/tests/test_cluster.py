"""One cluster at a time, in virtual time: joining, leaving, and what is told of it."""

import asyncio
from typing import Any

import pytest

from aether.conformance.simulation.nodes import HOP, SHARDS, TTL, Nodes, command, play
from aether.core import (
    Closed,
    Cluster,
    ClusterMismatch,
    LeaderChanged,
    NodeChanged,
    NodeDown,
    NodeSuspect,
    NodeUp,
    PayloadTooLarge,
    ShardsGained,
    ShardsLost,
    TimedOut,
)


def test_nodes_join_and_shards_spread(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        (a,) = await nodes.all_up("a")
        assert (a.leads, len(a.shards)) == (True, SHARDS)
        b = await nodes.up("b", weight=3.0, meta={"zone": 1})
        await nodes.until(lambda: len(b.shards) == 12)
        assert a.members == b.members == {"a", "b"}
        assert (a.version, a.owns("order-1") != b.owns("order-1")) == (b.version, True)
        b.update(weight=1.0)
        await nodes.until(lambda: nodes.even("ab"))
        began = nodes.world.time
        await b.close()
        assert nodes.world.time - began < 1.0  # no lease had to run out
        await nodes.until(lambda: len(a.shards) == SHARDS and a.members == {"a"}, within=1.0)
        assert [event["data"]["reason"] for event in nodes.log() if event["type"] == "ClusterMemberLeft"] == ["left"]

    play(nodes, test)


def test_events_tell_the_history(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        a = await nodes.up("a")
        told: list[Any] = []

        async def listen() -> None:
            async for event in a.events():
                told.append(event)  # noqa: PERF401 (others look at it meanwhile)

        listening = asyncio.create_task(listen())
        await nodes.until(lambda: len(told) >= 2)
        b = await nodes.up("b", meta={"zone": 1})
        await nodes.until(lambda: nodes.even("ab"))
        b.update(meta={"zone": 2})
        await nodes.until(lambda: any(isinstance(event, NodeChanged) for event in told))
        nodes.machines["b"].kill()
        await nodes.until(lambda: len(a.shards) == SHARDS)
        await a.close()
        with pytest.raises(Closed):
            await listening
        assert isinstance(told[0], LeaderChanged)
        assert isinstance(told[1], NodeUp)
        kinds = [type(event) for event in told]
        for kind in (ShardsGained, ShardsLost, NodeChanged, NodeSuspect, NodeDown):
            assert kind in kinds
        down = next(event for event in told if isinstance(event, NodeDown))
        assert (down.node, down.incarnation, down.reason) == ("b", 1, "expired")
        history = [event.version for event in told[2:] if isinstance(event, NodeUp | NodeDown | LeaderChanged)]
        assert history == sorted(history)

    play(nodes, test)


def test_the_view_is_data_and_a_table(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        a, _ = await nodes.all_up("ab")
        view = a.view()
        assert (view.leader, view.token, view.shards, view.free) == ("a", 1, SHARDS, 0)
        assert [(one.node, one.shards, one.leads, one.suspect) for one in view.members] == [
            ("a", 8, True, False),
            ("b", 8, False, False),
        ]
        assert "leader a (token 1), 16 shards, 0 free" in str(view)
        assert "leads, here" in str(view)

    play(nodes, test)


def test_a_crashed_node_is_replaced_within_the_bound(world) -> None:
    """Its shards are owned again within 1.05 ttl; also when it led, because candidates watch warm."""
    nodes = Nodes(world)

    async def test() -> None:
        await nodes.all_up("abc")
        nodes.machines["c"].kill()
        assert await nodes.until(lambda: nodes.even("ab")) <= 1.05 * TTL + HOP
        nodes.machines["a"].kill()  # the leader
        assert await nodes.until(lambda: nodes.even("b")) <= 1.05 * TTL + 2 * HOP

    play(nodes, test)


def test_a_name_that_is_taken_is_waited_for(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        await nodes.all_up("ab")
        with pytest.raises(TimedOut, match="joining as node 'b'"):
            await nodes.up("b", key="b2", join_timeout=2 * TTL)
        nodes.machines["b"].kill()
        again = await nodes.up("b", key="b3")
        await nodes.until(lambda: len(again.shards) == SHARDS // 2)
        joined = [event["data"]["member"] for event in nodes.log() if event["type"] == "ClusterMemberJoined"]
        assert joined[-1]["incarnation"] == 2

    play(nodes, test)


def test_another_number_of_shards_is_refused(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        await nodes.all_up("a")
        with pytest.raises(ClusterMismatch, match="formed with shards 16, this node has 32"):
            await nodes.up("b", shards=32)
        assert nodes.clusters["a"].members == {"a"}

    play(nodes, test)


def test_a_race_of_two_numbers_of_shards_has_one_winner(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        both = await asyncio.gather(nodes.up("a"), nodes.up("b", shards=32), return_exceptions=True)
        assert sorted(type(one).__name__ for one in both) == ["Cluster", "ClusterMismatch"]

    play(nodes, test)


def test_drain_and_fill(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        await b.drain()
        assert not b.shards
        await nodes.until(lambda: len(a.shards) == SHARDS)
        assert a.members == {"a", "b"}
        await b.ask("order-1", command())
        b.fill()
        await nodes.until(lambda: nodes.even("ab"))

    play(nodes, test)


@pytest.mark.parametrize(
    "wrong",
    [{"weight": 0.0}, {"weight": float("nan")}, {"ttl": 0.0}, {"shards": 0}, {"shards": 1 << 20}, {"node": "x" * 200}],
)
def test_settings_are_checked(world, wrong: dict[str, Any]) -> None:
    async def test() -> None:
        facades = await world.machine("a").facades(timeout=1.0)
        with pytest.raises(ValueError, match="weight|ttl|shards|characters"):
            Cluster(facades, **{"name": "c", **wrong})
        with pytest.raises(PayloadTooLarge):
            Cluster(facades, name="c", meta={"large": "x" * 5000})

    world.run(test)


def test_a_closed_cluster_says_so(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        (a,) = await nodes.all_up("a")
        await a.close()
        await a.close()
        for call in (a.ask("order-1", command()), a.drain()):
            with pytest.raises(Closed, match="node 'a' of cluster 'c'"):
                await call
        assert not a.owns("order-1")
        with pytest.raises(RuntimeError, match="opened before"):
            await a.open()

    play(nodes, test)
