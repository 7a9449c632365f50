"""One cluster at a time, in virtual time: joining, leaving, handing over, and what stands between two owners."""

import asyncio
import json
from typing import Any

import pytest

from aether.core import (
    Closed,
    Cluster,
    ClusterMismatch,
    CommandRefused,
    Event,
    Host,
    LeaderChanged,
    NodeChanged,
    NodeDown,
    NodeSuspect,
    NodeUp,
    PayloadTooLarge,
    ShardsGained,
    ShardsLost,
    TimedOut,
    VersionConflict,
)
from aether.core.cluster.duties import Rules
from aether.core.cluster.membership import Member, MemberChanged
from aether.core.state import Decider, NewEvent

TTL = 10.0
HOP = 0.05
SHARDS = 16
ACTOR = "aether/cluster/c"


def decide(state: int, command: Event) -> list[tuple[str, dict[str, Any]]]:
    if command.type == "Refuse":
        raise ValueError("no")
    if command.type == "Nothing":
        return []
    return [NewEvent(type="Added", data={"n": command.data.get("n", 1)})]


def evolve(state: int, event: Event) -> int:
    return state + event.data["n"]


def command(kind: str = "Add", **data: Any) -> Event:
    return Event(type=kind, actor_id="x", version=1, data=data)


class Nodes:
    """The nodes of one world, each on a machine of its own."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.machines: dict[str, Any] = {}
        self.clusters: dict[str, Cluster] = {}
        world.loop.passing.append(self.look)
        self.overlap: list[str] = []

    def look(self) -> None:
        owned = [shard for cluster in self.clusters.values() for shard in cluster.shards]
        if len(owned) != len(set(owned)):
            self.overlap.append(f"at {self.world.time}: {[(c.node, sorted(c.shards)) for c in self.clusters.values()]}")

    async def up(self, name: str, *, key: str | None = None, **settings: Any) -> Cluster:
        machine = self.machines[key or name] = self.world.machine(name)
        facades = await machine.facades(timeout=TTL / 2)
        settings = {"ttl": TTL, "shards": SHARDS, "rules": Rules(debounce=0.01), **settings}
        cluster = Cluster(facades, name="c", node=name, **settings)
        cluster.host(Host(facades.store, Decider(int, evolve, decide)))
        self.clusters[key or name] = cluster
        opened = machine.start(cluster.open())
        await opened
        return cluster

    async def all_up(self, names: str) -> list[Cluster]:
        nodes = [await self.up(name) for name in names]
        await self.until(lambda: self.even(names))
        return nodes

    def even(self, names: str) -> bool:
        held = [len(self.clusters[name].shards) for name in names]
        return sum(held) == SHARDS and max(held) - min(held) <= 1

    async def until(self, condition: Any, *, within: float = 3 * TTL) -> float:
        began = self.world.time
        while not condition():
            assert self.world.time - began < within, "it did not come true in time"
            await asyncio.sleep(HOP / 10)
        return self.world.time - began

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(stored.data) for stored in self.world.namespace.actors.get(ACTOR, [])]


@pytest.fixture
def nodes(world) -> Nodes:
    return Nodes(world)


def play(nodes: Nodes, test: Any) -> None:
    nodes.world.run(test)
    assert nodes.overlap == []


# --- Joining and leaving ---


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


# --- The hand-over ---


def test_a_shard_is_nobody_elses_before_its_handlers_have_ended(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        (a,) = await nodes.all_up("a")
        may_end = asyncio.Event()
        lost: list[frozenset[int]] = []

        @a.on_loss
        async def slow(shards: frozenset[int]) -> None:
            assert not shards & a.shards
            lost.append(shards)
            await may_end.wait()

        b = await nodes.up("b", drain_timeout=100.0)
        await nodes.until(lambda: bool(lost))
        await asyncio.sleep(4.0)
        assert not b.shards  # the acknowledgement waits for the handler
        may_end.set()
        await nodes.until(lambda: nodes.even("ab"))

    play(nodes, test)


def test_handlers_that_do_not_end_are_not_waited_for_for_ever(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        a = await nodes.up("a", drain_timeout=1.0)
        await nodes.until(lambda: nodes.even("a"))

        @a.on_loss
        async def never(shards: frozenset[int]) -> None:
            await asyncio.Event().wait()

        gained: list[frozenset[int]] = []
        b = await nodes.up("b")

        @b.on_gain
        async def gain(shards: frozenset[int]) -> None:
            gained.append(shards)
            raise RuntimeError("is logged, and harms nobody")

        await nodes.until(lambda: nodes.even("ab"))
        await nodes.until(lambda: frozenset().union(*gained) == b.shards)

    play(nodes, test)


def test_another_incarnation_owns_nothing_of_the_last_one(world) -> None:
    """It has lost its lease and its place; its map is old, and says that all is as it was."""
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        link = nodes.machines["b"].link
        link.behind = len(nodes.log())
        link.cut = True
        await nodes.until(lambda: len(a.shards) == SHARDS)
        link.cut = False
        await nodes.until(lambda: b._presence.term is not None and b._presence.term.token == 2)
        await asyncio.sleep(TTL)
        assert not b.shards
        link.behind = None
        await nodes.until(lambda: nodes.even("ab"))

    play(nodes, test)


def test_a_lost_record_is_waited_for(world) -> None:
    """The register has lost the lease of a node that cannot know it: others wait until it surely knows."""
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        nodes.machines["b"].link.cut = True
        del world.space.registers["cluster/c/node/b"]
        await a._watch.look()
        assert await nodes.until(lambda: len(a.shards) == SHARDS) >= 0.9 * TTL
        assert not b.shards

    play(nodes, test)


def test_a_node_that_renews_at_the_last_moment_lives(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        judged = a._watch.tracks["b"]
        await nodes.until(lambda: a._watch.tracks["b"] != judged)  # it has renewed
        assert not await a._watch.reap("b", judged, incarnation=1)
        await asyncio.sleep(TTL)
        assert b._presence.term.token == 1
        assert nodes.even("ab")

    play(nodes, test)


def test_death_is_a_fact(world) -> None:
    """Once its lease was replaced, a node that is alive after all cannot renew it: it comes back as another one."""
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        assert await a._watch.reap("b", a._watch.tracks["b"], incarnation=1)
        await nodes.until(lambda: not b.shards)
        await nodes.until(lambda: nodes.even("ab"))
        assert b._presence.term.token == 2

    world.run(test)  # the reap came too soon, on purpose: two did own for a moment


def test_a_node_that_hangs_owns_nothing_when_it_wakes(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        nodes.machines["b"].process.stopped = True
        await nodes.until(lambda: len(a.shards) == SHARDS)
        assert not b.shards
        nodes.machines["b"].process.go_on()
        await nodes.until(lambda: nodes.even("ab"))

    play(nodes, test)


def test_bug_3_what_was_assigned_before_the_lease_was_known_is_owned(world) -> None:
    """Ownership is a level: the assignment may come before the answer that tells a node of its own lease."""
    nodes = Nodes(world)

    async def test() -> None:
        await nodes.all_up("a")
        waiting = asyncio.create_task(nodes.up("b"))
        await nodes.until(lambda: "b" in nodes.machines)
        nodes.machines["b"].link.delay = (0.001, 1.0)
        b = await waiting
        await nodes.until(lambda: len(b.shards) == SHARDS // 2)

    play(nodes, test)


# --- The fence ---


def test_a_leader_that_was_replaced_writes_nothing(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        assert a.leads
        link = nodes.machines["a"].link
        link.behind = len(nodes.log())  # it does not see what its successor writes
        link.cut = True
        await nodes.until(lambda: (b.leads and any(e["data"].get("leader") == "b" for e in nodes.log())) or b.leads)
        await asyncio.sleep(HOP)
        link.cut = False
        late = MemberChanged(1, Member("a", 1, a._follower.state.members["a"].holder, weight=9.0))
        before = nodes.log()
        with pytest.raises(VersionConflict):
            await a._leader._append([late])
        assert nodes.log()[: len(before)] == before
        link.behind = None
        await nodes.until(lambda: nodes.even("ab"))
        assert all(event["data"].get("member", {}).get("weight") != 9.0 for event in nodes.log())

    play(nodes, test)


def test_a_wiped_register_gives_out_no_token_again(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        given: dict[tuple[str, int], set[str]] = {}

        def arrived(value: bytes) -> None:
            lease = json.loads(value)
            if lease["holder"]:
                given.setdefault((lease["name"], lease["token"]), set()).add(lease["holder"])

        waiting = [asyncio.create_task(nodes.up(name)) for name in "ab"]
        await nodes.until(lambda: len(nodes.machines) == 2)
        for machine in nodes.machines.values():
            machine.link.arrived = arrived
        await asyncio.gather(*waiting)
        await nodes.until(lambda: nodes.even("ab"))
        for machine in nodes.machines.values():
            machine.link.cut = True
        await asyncio.sleep(2 * TTL)
        world.space.registers.clear()
        c = await asyncio.gather(nodes.up("c", join_timeout=100.0), self_mend(nodes))
        await nodes.until(lambda: nodes.even("abc"), within=6 * TTL)
        assert c
        assert [key for key, holders in given.items() if len(holders) > 1] == []
        tokens = [event["data"]["term"] for event in nodes.log() if event["type"] == "ClusterTermStarted"]
        assert tokens == sorted(set(tokens))

    async def self_mend(nodes: Nodes) -> None:
        for name in "ab":
            nodes.machines[name].link.cut = False

    play(nodes, test)


# --- Commands ---


def test_commands_reach_the_owner_from_anywhere(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        for number in range(20):
            for cluster in (a, b):
                events = await cluster.ask(f"order-{number}", command(n=2))
                assert [(event.type, event.data, event.actor_id) for event in events] == [
                    ("Added", {"n": 2}, f"order-{number}")
                ]
        assert await a.ask("order-1", command("Nothing")) == ()
        owner = a.locate("order-1")
        assert owner is not None
        assert owner.node == ("a" if a.owns("order-1") else "b")
        with pytest.raises(CommandRefused, match="'order-1' refuses 'Refuse': ValueError: no"):
            await a.ask("order-1", command("Refuse"))
        with pytest.raises(ValueError, match="timeout"):
            await a.ask("order-1", command(), timeout=0)

    play(nodes, test)


def test_commands_of_one_actor_are_handled_in_order_and_together(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        answers = await asyncio.gather(*(one.ask("order-1", command(n=1)) for one in (a, b) for _ in range(50)))
        versions = sorted(event.version for events in answers for event in events)
        assert versions == list(range(1, 101))

    play(nodes, test)


def test_a_repeated_command_is_answered_from_the_log(world) -> None:
    """By the same owner, by the next one, and when both come at once."""
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        once = command(n=5)
        first = await a.ask("order-1", once)
        assert await b.ask("order-1", once) == first
        twice = command(n=6)
        both = await asyncio.gather(a.ask("order-1", twice), a.ask("order-1", twice))
        assert both[0] == both[1]
        await (a if a.owns("order-1") else b).close()
        left = b if a.owns("order-1") is False and a._state == "closed" else a
        await nodes.until(lambda: len(left.shards) == SHARDS)
        assert await left.ask("order-1", once) == first
        assert len(world.namespace.actors["order-1"]) == 2

    play(nodes, test)


def test_a_lost_answer_is_asked_for_again(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        asker, owner = (a, b) if b.owns("order-1") else (b, a)
        link = nodes.machines[owner.node].link
        link.cut = True
        asking = asyncio.create_task(asker.ask("order-1", command(n=1), timeout=5.0))
        await asyncio.sleep(0.5)
        link.cut = False
        (event,) = await asking
        assert event.version == 1
        link.cut = True
        with pytest.raises(TimedOut):
            await asker.ask("order-1", command(n=1), timeout=1.0, once=True)

    play(nodes, test)


def test_a_command_moves_on_with_its_shard(world) -> None:
    """The owner dies with the command: the next owner gets it as soon as there is one."""
    nodes = Nodes(world)

    async def test() -> None:
        a, b = await nodes.all_up("ab")
        asker, owner = (a, b) if b.owns("order-1") else (b, a)
        nodes.machines[owner.node].kill()
        (event,) = await asker.ask("order-1", command(n=1), timeout=2 * TTL)
        assert event.version == 1
        assert asker.owns("order-1")

    play(nodes, test)


def test_somebody_else_may_append_to_an_actor(world) -> None:
    """Versions are the guarantee, ownership is not: the owner reads again, and decides again."""
    nodes = Nodes(world)

    async def test() -> None:
        (a,) = await nodes.all_up("a")
        await a.ask("order-1", command(n=1))
        facades = await world.machine("other").facades(timeout=TTL)
        await facades.store.append(Event(type="Added", actor_id="order-1", version=2, data={"n": 7}))
        (event,) = await a.ask("order-1", command(n=1))
        assert event.version == 3

    play(nodes, test)


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
