"""The network of the world, in virtual time: a backend at the other end of links on which everything can go wrong."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import Any

from aether.conformance.simulation.loop import VirtualLoop
from aether.core.errors import OutcomeUnknown, Unavailable, VersionConflict
from aether.core.features import Durability, Feature, Limits
from aether.core.spi import BusFilter, Entry, Message, Page, RevisionConflict, Sink, Slot, Stored, Tail, Watch, Write
from aether.memory import MemoryBus, MemoryRegister, MemoryStore
from aether.memory.election import RegisterSpace
from aether.memory.space import NamespaceSpace, Space, Turns

CALL_TIMEOUT = 5.0


class Link:
    """The network between one machine and the backend. Everything that can go wrong on it is an attribute."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.timeout = CALL_TIMEOUT
        self.delay = (0.001, 0.001)  # seconds, there and back; drawn up to twice as long
        self.cut = False  # nothing arrives, nowhere
        self.dead = False  # calls are refused at once; what was sent before is still on the way
        self.deaf = False  # its watches die and say nothing, as if all were well
        self.lossy = 0.0  # the share of messages that get lost
        self.fates: deque[str | float] = deque()
        """What becomes of the next writes: `lost` on the way there, `unanswered`, `ok`, or arrives so much later."""

        self.stale: deque[Entry] = deque()
        """What the next reads of a lease answer."""

        self.behind: int | None = None
        """If set, reads of the store see only so many of its events: a server that was cut off from the others."""

        self.arrived: Callable[[bytes], None] = lambda _value: None
        """Called when a write arrives at the register."""

        self.answering: Callable[[], None] = lambda: None
        """Called when an answer arrives at the machine."""

    def loses(self) -> bool:
        return self.cut or self.random.random() < self.lossy

    def draw(self, seconds: float) -> float:
        slow = 50.0 if self.random.random() < self.lossy else 1.0
        return seconds * self.random.uniform(1.0, 2.0) * slow

    async def call(self, operate: Callable[[], Coroutine[Any, Any, Any]], fate: str | float = "ok") -> Any:
        """Do something at the other end, and return what it answers. Raises `TimeoutError`, and `Unavailable`."""
        if self.dead:
            raise Unavailable("call", reason="refused")
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        answer: asyncio.Future[Any] = loop.create_future()

        def arrive() -> None:
            if fate == "lost" or self.loses():
                return
            try:
                result, error = _at_once(operate()), None
            except (RevisionConflict, VersionConflict) as conflict:
                result, error = None, conflict
            if fate != "unanswered" and not self.loses():
                loop.outside(self.draw(self.delay[1]), deliver, result, error)

        def deliver(result: Any, error: Exception | None) -> None:
            if answer.done() or self.cut:
                return
            self.answering()
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        loop.outside(fate if isinstance(fate, float) else self.draw(self.delay[0]), arrive)
        async with asyncio.timeout(self.timeout):
            return await answer

    async def read(self, operate: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """A call that changes nothing. Raises `Unavailable`."""
        try:
            return await self.call(operate)
        except TimeoutError:
            raise Unavailable("read", reason="no answer") from None

    async def write(self, operate: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """A call that changes something. Raises `Unavailable` and `OutcomeUnknown`."""
        fate = self.fates.popleft() if self.fates else "ok"
        try:
            return await self.call(operate, fate)
        except TimeoutError:
            raise OutcomeUnknown("write", reason="no answer") from None


def _at_once(operation: Coroutine[Any, Any, Any]) -> Any:
    """Run what never waits: it happens when the message arrives, whether anybody still waits for the answer or not."""
    try:
        operation.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("the backend in memory has waited")


class _NoTurns(Turns):
    async def take(self) -> None: ...


def new_space() -> tuple[Space, NamespaceSpace]:
    """A backend in memory that never waits, and its one namespace, `test`."""
    space = Space()
    namespace = space.namespace("test")
    space.turns = namespace.turns = _NoTurns()
    return space, namespace


class _Faulty:
    def __init__(self, link: Link) -> None:
        self.link = link

    async def open(self) -> None: ...

    async def close(self) -> None: ...


class FaultyRegister(_Faulty):
    """A memory register at the other end of a link."""

    push = True

    def __init__(self, space: RegisterSpace, link: Link) -> None:
        super().__init__(link)
        self._register = MemoryRegister(space)

    async def read(self, name: str) -> Entry | None:
        if self.link.stale:
            return self.link.stale.popleft()
        entry: Entry | None = await self.link.read(lambda: self._register.read(name))
        return entry

    async def scan(self, prefix: str) -> Sequence[Entry]:
        entries: Sequence[Entry] = await self.link.read(lambda: self._register.scan(prefix))
        return entries

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        def write() -> Coroutine[Any, Any, int]:
            self.link.arrived(value)
            return self._register.cas(name, value, expected=expected)

        revision: int = await self.link.write(write)
        return revision

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


class FaultyStore(_Faulty):
    """A memory store at the other end of a link."""

    features: frozenset[Feature] = frozenset()
    limits: Limits = MemoryStore.limits
    durability = Durability.NONE

    def __init__(self, space: NamespaceSpace, link: Link) -> None:
        super().__init__(link)
        self._store = MemoryStore(space)
        self.identity = "simulated"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        position: int = await self.link.write(lambda: self._store.append(writes))
        return position

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        def read() -> Coroutine[Any, Any, Page]:
            return self._store.read(actor_id, after=after, upto=self._seen(upto), limit=limit, reverse=reverse)

        page: Page = await self.link.read(read)
        return page

    def _seen(self, upto: int | None) -> int | None:
        if self.link.behind is None:
            return upto
        return self.link.behind if upto is None else min(upto, self.link.behind)

    async def version(self, actor_id: str) -> int:
        version: int = await self.link.read(lambda: self._store.version(actor_id))
        return version if self.link.behind is None else min(version, self.link.behind)

    async def head(self) -> Stored | None:
        stored: Stored | None = await self.link.read(self._store.head)
        return stored

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page: Page = await self.link.read(lambda: self._store.feed(after=after, upto=upto, limit=limit))
        return page

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        async with self._store.tail(after=after) as tail:
            yield _FaultyTail(tail, self.link)

    async def load(self, kind: str, name: str) -> Slot | None:
        slot: Slot | None = await self.link.read(lambda: self._store.load(kind, name))
        return slot

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        revision: int = await self.link.write(lambda: self._store.save(kind, name, value, expected=expected))
        return revision


class _FaultyTail:
    """Nothing gets lost on it, for that is promised; while the link is cut, or the machine dead, it waits."""

    def __init__(self, tail: Tail, link: Link) -> None:
        self._tail = tail
        self._link = link
        self._held: list[Stored] = []

    async def page(self, limit: int) -> Sequence[Stored]:
        if not self._held:
            self._held = list(await self._tail.page(limit))
        await asyncio.sleep(self._link.draw(self._link.delay[1]))
        while self._link.cut or self._link.dead:  # noqa: ASYNC110 (links are broken by setting an attribute)
            await asyncio.sleep(self._link.timeout / 10)
        page, self._held = self._held[:limit], self._held[limit:]
        return page


class FaultyBus(_Faulty):
    """A memory bus at the other end of a link."""

    features = MemoryBus.features
    max_message_bytes = MemoryBus.max_message_bytes

    def __init__(self, space: Space, link: Link) -> None:
        super().__init__(link)
        self._bus = MemoryBus(space)

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        reached: int | None = await self.link.write(lambda: self._bus.publish(message, count=count))
        return reached

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        return self._bus.subscribe(wanted, queue=queue, sink=_FaultySink(sink, self.link))


class _FaultySink:
    def __init__(self, sink: Sink, link: Link) -> None:
        self._sink = sink
        self._link = link

    def deliver(self, message: Message) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        if not (self._link.dead or self._link.loses()):
            loop.outside(self._link.draw(self._link.delay[1]), self._arrive, message)

    def _arrive(self, message: Message) -> None:
        if not (self._link.dead or self._link.cut):
            self._sink.deliver(message)

    def interrupted(self) -> None:
        self._sink.interrupted()

    def lost(self, count: int) -> None:
        self._sink.lost(count)
