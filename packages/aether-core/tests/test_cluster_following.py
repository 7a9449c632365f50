"""Following the membership, in virtual time: what is hinted at is read at once, whatever else is going on."""

import asyncio
from contextlib import suppress
from typing import Any

from aether.core import Event
from aether.core.cluster.follower import Follower
from aether.core.cluster.membership import Formed, TermStarted
from aether.core.sharding import HASH

TTL = 20.0
HOP = 0.002
SLOW = 0.1


def slow_reads(link: Any) -> None:
    """What an answer says is old when it arrives."""
    read = link.read

    async def slow(operate: Any) -> Any:
        result = await read(operate)
        await asyncio.sleep(SLOW)
        return result

    link.read = slow


async def followers(world: Any, *names: str) -> list[tuple[Any, Follower]]:
    found = []
    for name in names:
        machine = world.machine(name)
        there = await machine.facades(timeout=TTL)
        follower = Follower(there.store, there.bus, "c", shards=4, ttl=TTL, clock=machine.clock)
        for work in (follower.listen(), follower.speak(), follower.run()):
            machine.start(work)
        found.append((machine, follower))
    await asyncio.sleep(TTL)
    return found


async def reaches(world: Any, follower: Follower, version: int) -> float:
    """The seconds until the follower is there."""
    began = world.time
    while follower.state.version < version:
        with suppress(TimeoutError):
            async with asyncio.timeout(HOP):
                await follower.changed.wait()
    return world.time - began


def test_a_hint_that_comes_during_a_read_is_not_lost(world) -> None:
    async def test() -> None:
        (_, leader), (machine, follower) = await followers(world, "a", "b")
        await leader.append([Formed(4, HASH)])
        await reaches(world, follower, 1)
        slow_reads(machine.link)
        await leader.append([TermStarted(1, "a", "a/1")])
        await asyncio.sleep(SLOW / 2)  # the follower reads up to here, and the answer is on its way
        await leader.append([TermStarted(2, "a", "a/2")])
        assert await reaches(world, follower, 3) < 3 * SLOW  # two answers; without a hint it is a second

    world.run(test)


def test_a_subscription_lives_through_a_cut(world) -> None:
    """The simulated store has a tail, too: what was stored meanwhile comes afterwards, once."""

    async def test() -> None:
        writer, machine = world.machine("a"), world.machine("b")
        there, here = await writer.facades(timeout=TTL), await machine.facades(timeout=TTL)
        came: list[int] = []

        async def follow() -> None:
            async with here.store.subscribe() as events:
                async for _, event in events:
                    came.append(event.version)

        machine.start(follow())
        for version in range(1, 7):
            machine.link.cut = version in (3, 4)
            await there.store.append(Event(type="Added", actor_id="x", version=version))
            await asyncio.sleep(3.0)
            assert len(came) == (2 if machine.link.cut else version)
        assert came == [1, 2, 3, 4, 5, 6]

    world.run(test)
