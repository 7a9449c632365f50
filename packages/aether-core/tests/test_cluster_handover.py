"""What stands between two owners of a shard, in virtual time: acknowledgements, leases, heirs and the fence."""

import asyncio
import json

import msgspec
import pytest

from aether.conformance.simulation.nodes import HOP, SHARDS, TTL, Nodes, play
from aether.core import Cluster, VersionConflict
from aether.core.cluster.duties import Rules
from aether.core.cluster.membership import Member, MemberChanged


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


async def promised(nodes: Nodes) -> tuple[list[Cluster], asyncio.Event, list[int]]:
    """A leader `a`, an owner `b` that has to give shards up to the heir `d`, what lets it do so, and the shards."""
    rules = Rules(debounce=0.01, wave=1.0)
    a, b = [await nodes.up(name, rules=rules) for name in "ab"]
    await nodes.until(lambda: nodes.even("ab"))
    may_end = asyncio.Event()
    lost: list[frozenset[int]] = []

    @b.on_loss
    async def slow(shards: frozenset[int]) -> None:
        lost.append(shards)
        await may_end.wait()

    d = await nodes.up("d")  # a name for which the plan would find other shards than these
    await nodes.until(lambda: bool(lost))
    await nodes.until(lambda: set(a._follower.state.heirs) == lost[0])  # what `a` gave up itself has arrived
    await nodes.until(lambda: d.version == a.version == b.version)
    return [a, b, d], may_end, sorted(lost[0])


def test_an_heir_needs_the_acknowledgement_and_not_the_leader(world) -> None:
    """It is told of as soon as it is stored; the leader, whom it takes two more messages to learn of it, is cut off."""
    nodes = Nodes(world)

    async def test() -> None:
        (a, _, d), may_end, (shard, *_) = await promised(nodes)
        assert a.leads
        assert shard not in d.shards
        nodes.machines["a"].link.cut = True
        may_end.set()
        assert await nodes.until(lambda: shard in d.shards) < 4 * HOP
        assert d._follower.state.owners[shard] == "b"  # the leader has not even seen it
        nodes.machines["a"].link.cut = False
        await nodes.until(lambda: nodes.even("abd"))

    play(nodes, test)


def test_an_heir_owns_nothing_before_the_acknowledgement(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        (_, b, d), may_end, (shard, *_) = await promised(nodes)
        await asyncio.sleep(4.0)  # it renews meanwhile, twice, and says nothing of the kind
        assert shard not in d.shards
        assert d._presence.owner_of(shard) == b._presence.owner_of(shard) == ""
        may_end.set()
        await nodes.until(lambda: nodes.even("abd"))

    play(nodes, test)


def test_only_the_owner_itself_acknowledges_to_the_heir(world) -> None:
    nodes = Nodes(world)

    async def test() -> None:
        (_, _, d), may_end, (shard, *_) = await promised(nodes)
        lease = d._watch.tracks["b"].lease
        assert lease is not None
        for other in ({"holder": "b/another"}, {"token": lease.token + 1}):
            said = msgspec.structs.replace(lease, **other, nonce="n", meta={**lease.meta, "applied": 1000})
            d._watch._noted("b", 1000, said)
            assert shard not in d.shards
        may_end.set()
        await nodes.until(lambda: nodes.even("abd"))

    play(nodes, test)


def test_what_an_heir_has_taken_stays_its_own_when_the_owner_dies(world) -> None:
    """The leader has never seen the acknowledgement: the owner is dead before the leader can look again."""
    nodes = Nodes(world)

    async def test() -> None:
        (a, _, d), may_end, shards = await promised(nodes)
        nodes.machines["a"].link.cut = True
        may_end.set()
        await nodes.until(lambda: d.shards >= set(shards))
        nodes.machines["b"].kill()
        del world.space.registers["cluster/c/node/b"]
        nodes.machines["a"].link.cut = False
        await nodes.until(lambda: a.members == {"a", "d"})
        assert d.shards >= set(shards)
        await nodes.until(lambda: nodes.even("ad"))

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
