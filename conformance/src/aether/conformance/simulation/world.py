"""Machines around one backend in memory, in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, NamedTuple

from aether.conformance.simulation.loop import Process, VirtualLoop
from aether.conformance.simulation.network import CALL_TIMEOUT, FaultyBus, FaultyRegister, FaultyStore, Link, new_space
from aether.core import Election, EventBus, EventStore, Term
from aether.core.spi import Entry


class SkewedClock:
    """A clock that shows `offset + rate * time`, and whose timers go by it."""

    def __init__(self, loop: VirtualLoop, *, rate: float, offset: float) -> None:
        self._loop = loop
        self._rate = rate
        self._offset = offset

    def now(self) -> float:
        return self._loop.time() * self._rate + self._offset

    def real(self, shown: float) -> float:
        """The loop's time at which this clock shows `shown`."""
        return (shown - self._offset) / self._rate

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._rate)

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        return asyncio.timeout(None if seconds is None else seconds / self._rate)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds / self._rate, callback)


class Facades(NamedTuple):
    """What a machine sees of the backend."""

    store: EventStore
    bus: EventBus
    election: Election


class Machine:
    """A place where candidates and nodes run: a clock, a process, and a link to the backend."""

    def __init__(self, world: World, name: str, *, rate: float, offset: float) -> None:
        self.world = world
        self.name = name
        self.random = Random(f"{world.seed}/{name}/{len(world.machines)}")
        self.clock = SkewedClock(world.loop, rate=rate, offset=offset)
        self.link = Link(self.random)
        self.process = Process(world.loop)
        self.tasks: list[asyncio.Task[Any]] = []

    def election(self, timeout: float = CALL_TIMEOUT) -> Election:
        register = FaultyRegister(self.world.space, self.link)
        return Election(
            register, namespace="test", timeout=timeout, holder=self.name, clock=self.clock, random=self.random
        )

    async def facades(self, *, timeout: float) -> Facades:
        """A store, a bus and an election, open. Nobody closes them: the machine may crash."""
        self.link.timeout = timeout
        store = EventStore(FaultyStore(self.world.namespace, self.link), namespace="test", timeout=timeout)
        bus = EventBus(FaultyBus(self.world.bus, self.link), namespace="test", timeout=timeout)
        return Facades(await store.open(), await bus.open(), await self.election(timeout).open())

    async def started(self) -> Election:
        """An election that nobody closes: its machine may crash."""
        return await self.election().open()

    async def crashed(self, ttl: float) -> Term:
        """The last term of this machine: it was elected and has crashed just behind a renewal."""
        term = await (await self.started()).campaign("x", ttl=ttl)
        before = term.deadline
        while term.deadline == before:  # noqa: ASYNC110 (it is renewed by nobody who would tell)
            await asyncio.sleep(ttl / 200)
        self.crash()
        term.end("crashed", release=False)
        return term

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.process.start(work)
        self.tasks.append(task)
        return task

    def crash(self) -> None:
        """Nothing that this machine does reaches anybody from now on."""
        self.link.dead = True
        for task in self.tasks:
            task.cancel()

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more. What it has sent is still on its way."""
        self.link.dead = True
        self.process.stopped = True


class World:
    """Machines around one backend."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        self.bus, self.namespace = new_space()
        self.space = self.namespace.registers
        self.machines: list[Machine] = []

    def machine(self, name: str = "m", *, rate: float = 1.0, offset: float = 0.0) -> Machine:
        machine = Machine(self, name, rate=rate, offset=offset)
        self.machines.append(machine)
        return machine

    def stored(self, name: str = "x") -> dict[str, Any]:
        """The record in the register."""
        lease: dict[str, Any] = json.loads(self.space.registers[name].value)
        return lease

    def forge(self, *, revision: int, ttl: float, token: int = 1, holder: str = "ghost") -> None:
        """Put a record into the register as if it had always been there: nobody is told."""
        lease = {"name": "x", "holder": holder, "token": token, "ttl": ttl, "nonce": "ghost"}
        self.space.registers["x"] = Entry("x", revision, json.dumps(lease).encode())

    @property
    def time(self) -> float:
        return self.loop.time()

    def run(self, test: Callable[[], Awaitable[Any]], *, limit: float = 1000.0) -> Any:
        """Run a test; it fails when it takes more than `limit` virtual seconds."""

        async def limited() -> Any:
            async with asyncio.timeout(limit):
                try:
                    return await test()
                finally:
                    await self._end()

        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            return runner.run(limited())

    async def _end(self) -> None:
        """End all tasks, and what they begin at their end. What was stopped goes on for that, cut off from all."""
        self.loop.passing.clear()
        for machine in self.machines:
            machine.link.dead = True
            machine.process.go_on()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
