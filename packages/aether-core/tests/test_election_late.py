"""What a leader that comes late may do to others, and what its own mistakes cost it; in virtual time."""

import asyncio

import pytest

from aether.core import Election, InvalidEvent, PayloadTooLarge
from aether.memory import MemoryRegister, NamespaceSpace

TTL = 10.0


def test_a_release_behind_the_deadline_never_frees_the_lease_of_another(world) -> None:
    """The register was lost and filled again, up to the very revision that the sleeper remembers."""

    async def test() -> None:
        space = NamespaceSpace().registers
        elections = [
            Election(MemoryRegister(space), namespace="shop", holder=name, clock=world.machine(name).clock)
            for name in "abc"
        ]
        for election in elections:
            await election.open()
        sleeper, awake, challenger = elections
        old = await sleeper.campaign("x", ttl=TTL)
        await asyncio.sleep(0.7 * TTL)
        old._alarm.cancel()  # it is stopped, like a process by SIGSTOP
        old._keeper.cancel()
        space.registers.clear()
        new = await awake.campaign("x", ttl=TTL, floor=1)
        while new._revision != old._revision:
            await asyncio.sleep(0.01)
        old._expire()
        third = asyncio.create_task(challenger.campaign("x", ttl=TTL))
        await asyncio.sleep(0.2 * TTL)
        assert new.valid()
        assert not third.done()
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        for election in elections:
            await election.close()

    world.run(test)


def test_meta_that_is_too_large_is_refused_and_the_term_goes_on(world) -> None:
    machine = world.machine("a")

    async def test() -> None:
        term = await (await machine.started()).campaign("x", ttl=TTL)
        with pytest.raises(PayloadTooLarge):
            term.update({"a": "x" * 10_000})
        with pytest.raises(InvalidEvent):
            term.update({"a": (1,)})
        await asyncio.sleep(3 * TTL)
        assert term.valid()

    world.run(test)


def test_a_second_start_waits_for_what_the_first_left_behind(world) -> None:
    """Two starts of one node are two candidates: the first may still act while the second begins."""
    first, second = world.machine("node"), world.machine("node")

    async def test() -> None:
        old = await (await first.started()).campaign("x", ttl=TTL)
        first.link.cut = True
        new = await (await second.started()).campaign("x", ttl=TTL)
        assert not old.valid()
        assert new.token == 2

    world.run(test)
