"""A world in virtual time: machines with clocks of their own around one lease register behind a bad network."""

import asyncio
import json
import selectors
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from aether.core import Election, OutcomeUnknown, Term, Unavailable
from aether.core.spi import Entry, RevisionConflict, Watch
from aether.memory import MemoryRegister
from aether.memory.election import RegisterSpace

CALL_TIMEOUT = 5.0


class _Selector(selectors.SelectSelector):
    """Instead of waiting, it lets the loop's time pass."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits for something that will never happen")
            # Each turn of the loop takes a nanosecond, or rounding could leave a timer for ever before its time.
            self.loop.advance(max(timeout, 1e-9))
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when there is nothing to do."""

    def __init__(self) -> None:
        self._time = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self._time

    def advance(self, seconds: float) -> None:
        """Let time pass at once, as a blocking call does."""
        self._time += seconds


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


class Link:
    """The network between one machine and the register. Everything that can go wrong on it is an attribute."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.delay = (0.001, 0.001)  # seconds, there and back; drawn up to twice as long
        self.cut = False  # nothing arrives, nowhere
        self.dead = False  # calls are refused at once; what was sent before is still on the way
        self.deaf = False  # its watches die and say nothing, as if all were well
        self.lossy = 0.0  # the share of messages that get lost
        self.fates: deque[str | float] = deque()
        """What becomes of the next writes: `lost` on the way there, `unanswered`, `ok`, or arrives so much later."""

        self.stale: deque[Entry] = deque()
        """What the next reads answer."""

        self.arrived: Callable[[bytes], None] = lambda value: None
        """Called when a write arrives at the register."""

        self.answering: Callable[[], None] = lambda: None
        """Called when an answer arrives at the machine."""

    def loses(self) -> bool:
        return self.cut or self.random.random() < self.lossy

    def draw(self, seconds: float) -> float:
        slow = 50.0 if self.random.random() < self.lossy else 1.0
        return seconds * self.random.uniform(1.0, 2.0) * slow


def _at_once(operation: Coroutine[Any, Any, Any]) -> Any:
    """Run what never waits: it happens when the message arrives, whether anybody still waits for the answer or not."""
    try:
        operation.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("the memory register has waited")


class FaultyRegister:
    """A memory register at the other end of a link."""

    push = True

    def __init__(self, space: RegisterSpace, link: Link) -> None:
        self._register = MemoryRegister(space)
        self.link = link

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def read(self, name: str) -> Entry | None:
        if self.link.stale:
            return self.link.stale.popleft()
        try:
            return await self._call(lambda: self._register.read(name))
        except TimeoutError:
            raise Unavailable("read", reason="no answer") from None

    async def scan(self, prefix: str) -> Sequence[Entry]:
        return await self._call(lambda: self._register.scan(prefix))

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        def write() -> Coroutine[Any, Any, int]:
            self.link.arrived(value)
            return self._register.cas(name, value, expected=expected)

        fate = self.link.fates.popleft() if self.link.fates else "ok"
        try:
            return await self._call(write, fate)
        except TimeoutError:
            raise OutcomeUnknown("cas", reason="no answer") from None

    async def _call(self, operate: Callable[[], Coroutine[Any, Any, Any]], fate: str | float = "ok") -> Any:
        if self.link.dead:
            raise Unavailable("call", reason="refused")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def arrive() -> None:
            if fate == "lost" or self.link.loses():
                return
            try:
                result, error = _at_once(operate()), None
            except RevisionConflict as conflict:
                result, error = None, conflict
            if fate != "unanswered" and not self.link.loses():
                loop.call_later(self.link.draw(self.link.delay[1]), deliver, result, error)

        def deliver(result: Any, error: Exception | None) -> None:
            if answer.done() or self.link.cut:
                return
            self.link.answering()
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        loop.call_later(fate if isinstance(fate, float) else self.link.draw(self.link.delay[0]), arrive)
        async with asyncio.timeout(CALL_TIMEOUT):
            return await answer

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[Watch]:
        async with self._register.watch(prefix) as watch:
            yield _FaultyWatch(watch, self.link)


class _FaultyWatch:
    def __init__(self, watch: Watch, link: Link) -> None:
        self._watch = watch
        self._link = link
        self._dead = False

    async def next(self) -> Entry:
        while True:
            entry = await self._watch.next()
            self._dead = self._dead or self._link.deaf
            if not (self._dead or self._link.loses()):
                await asyncio.sleep(self._link.draw(self._link.delay[1]))
                return entry


class Machine:
    """A place where candidates run: a clock, and a link to the register."""

    def __init__(self, world: "World", name: str, *, rate: float, offset: float) -> None:
        self.world = world
        self.name = name
        self.random = Random(f"{world.seed}/{name}/{len(world.machines)}")
        self.clock = SkewedClock(world.loop, rate=rate, offset=offset)
        self.link = Link(self.random)
        self.tasks: list[asyncio.Task[Any]] = []

    def election(self, timeout: float = CALL_TIMEOUT) -> Election:
        register = FaultyRegister(self.world.space, self.link)
        return Election(
            register, namespace="test", timeout=timeout, holder=self.name, clock=self.clock, random=self.random
        )

    async def started(self) -> Election:
        """An election that nobody closes: its machine may crash."""
        return await self.election().open()

    async def crashed(self, ttl: float) -> Term:
        """The last term of this machine: it was elected and has crashed just behind a renewal."""
        term = await (await self.started()).campaign("x", ttl=ttl)
        before = term.deadline
        while term.deadline == before:
            await asyncio.sleep(ttl / 200)
        self.crash()
        term.end("crashed", release=False)
        return term

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self.tasks.append(task)
        return task

    def crash(self) -> None:
        """Nothing that this machine does reaches anybody from now on."""
        self.link.dead = True
        for task in self.tasks:
            task.cancel()


class World:
    """Machines around one register."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        self.space = RegisterSpace()
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
                return await test()

        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            return runner.run(limited())


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def new_world() -> type[World]:
    return World


@pytest.fixture
def virtual() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on a loop of its own, whose time passes only when there is nothing to do."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(work)

    return run
