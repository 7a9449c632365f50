"""Commands to the owners of actors, in virtual time."""

import asyncio

import pytest

from aether.conformance.simulation.nodes import SHARDS, TTL, Nodes, command, play
from aether.core import CommandRefused, Event, TimedOut


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
