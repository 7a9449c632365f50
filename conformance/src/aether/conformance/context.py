"""What a case is given: facades on a fresh namespace, and waits that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from aether.conformance.faults import Link
from aether.conformance.harness import Faults, Harness
from aether.conformance.violations import SuiteError, Violation
from aether.core.bus import EventBus
from aether.core.election import Election
from aether.core.encoding import encode_event
from aether.core.errors import BackendUnusable, OutcomeUnknown, StaleRead, TimedOut, Unavailable
from aether.core.event import Event
from aether.core.facade import Openable
from aether.core.features import Durability, Feature
from aether.core.registry import Registry
from aether.core.scope import DEFAULT_TIMEOUT, Scope
from aether.core.spi import BusDriver, LeaseRegister, StoreDriver
from aether.core.store import EventStore
from aether.core.url import BackendURL

ResultT = TypeVar("ResultT")
DriverT = TypeVar("DriverT", bound=Openable)

_POLL = 0.005  # seconds between two looks of `eventually`


class Server:
    """The server under test: what it is, and how to open facades on it."""

    def __init__(self, harness: Harness, url: str, registry: Registry, time_factor: float) -> None:
        self.harness = harness
        self.url = url
        self.registry = registry
        self.time_factor = time_factor
        self.faults: Faults = harness.faults()
        self.offers: frozenset[str] = frozenset()
        """What can be opened on it: some of store, bus and election."""

        self.features: frozenset[Feature] = frozenset()
        self.durability = Durability.NONE

    async def probe(self, namespace: str) -> None:
        """Ask the server what it claims, and make sure that it answers at all."""
        self.offers = self.registry.offers(self.backend_url(), self._scope(namespace))
        if not self.offers:
            source = self.registry.backend(self.backend_url().scheme).source
            raise BackendUnusable(f"{source} has no store, no bus and no election; ask its author")
        async with AsyncExitStack() as stack:
            if "store" in self.offers:
                store = await stack.enter_async_context(self.store(namespace))
                self.features, self.durability = store.features, store.durability
            if "bus" in self.offers:
                bus = await stack.enter_async_context(self.bus(namespace))
                self.features |= bus.features
            if self.offers == frozenset({"election"}):
                await stack.enter_async_context(self.election(namespace))

    def backend_url(self, link: Link | None = None) -> BackendURL:
        """A fresh parse of the URL, or of the one through a link; drivers may keep it."""
        return BackendURL(self.url if link is None else link.through(self.url))

    def store(
        self,
        namespace: str,
        *,
        wrap: Callable[[StoreDriver], StoreDriver] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        driver_timeout: float = DEFAULT_TIMEOUT,
        require_durability: Durability | None = None,
        link: Link | None = None,
    ) -> EventStore:
        """A store that is not open yet. `wrap` puts something between facade and driver; `timeout` is the facade's."""
        driver = self.store_driver(namespace, timeout=driver_timeout, link=link)
        return EventStore(
            driver if wrap is None else wrap(driver),
            namespace=namespace,
            backend="the backend under test",
            timeout=timeout * self.time_factor,
            require_durability=require_durability,
        )

    def bus(
        self,
        namespace: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        wrap: Callable[[BusDriver], BusDriver] | None = None,
        link: Link | None = None,
    ) -> EventBus:
        """A bus that is not open yet."""
        driver = self.bus_driver(namespace, link=link)
        return EventBus(
            driver if wrap is None else wrap(driver),
            namespace=namespace,
            backend="the backend under test",
            timeout=timeout * self.time_factor,
        )

    def election(
        self,
        namespace: str,
        *,
        holder: str | None = None,
        wrap: Callable[[LeaseRegister], LeaseRegister] | None = None,
        link: Link | None = None,
    ) -> Election:
        """An election that is not open yet."""
        register = self.register(namespace, link=link)
        return Election(
            register if wrap is None else wrap(register),
            namespace=namespace,
            backend="the backend under test",
            timeout=DEFAULT_TIMEOUT * self.time_factor,
            holder=holder,
        )

    def store_driver(
        self, namespace: str, *, timeout: float = DEFAULT_TIMEOUT, link: Link | None = None
    ) -> StoreDriver:
        """The driver below a store, not open yet. `timeout` is that of its scope."""
        return self.registry.open_store(self.backend_url(link), self._scope(namespace, timeout))

    def bus_driver(self, namespace: str, *, timeout: float = DEFAULT_TIMEOUT, link: Link | None = None) -> BusDriver:
        """The driver below a bus, not open yet."""
        return self.registry.open_bus(self.backend_url(link), self._scope(namespace, timeout))

    def register(self, namespace: str, *, timeout: float = DEFAULT_TIMEOUT, link: Link | None = None) -> LeaseRegister:
        """A lease register that is not open yet."""
        return self.registry.open_election(self.backend_url(link), self._scope(namespace, timeout))

    @property
    def announced(self) -> frozenset[Feature]:
        """All that the backend says it can have, before anything is opened."""
        return self.registry.backend(self.backend_url().scheme).info.features

    def _scope(self, namespace: str, timeout: float = DEFAULT_TIMEOUT) -> Scope:
        return Scope(namespace, timeout=timeout * self.time_factor)


class Context:
    """One run of one case. Whatever it opens is closed when the case ends."""

    def __init__(self, server: Server, namespace: str, stack: AsyncExitStack) -> None:
        self.server = server
        self.namespace = namespace
        self._stack = stack

    # --- What there is ---

    @property
    def deadline(self) -> float:
        """The longest time that an answer of a healthy server may take, in seconds."""
        return self.server.harness.deadline * self.server.time_factor

    @property
    def lease(self) -> float:
        """The shortest lease of an election, in seconds."""
        return self.server.harness.lease * self.server.time_factor

    @property
    def features(self) -> frozenset[Feature]:
        """What the server claims."""
        return self.server.features

    # --- Opening ---

    async def store(self, *, namespace: str | None = None, **options: Any) -> EventStore:
        """Open a store, with a connection of its own, until the case ends."""
        return await self._stack.enter_async_context(self.server.store(namespace or self.namespace, **options))

    async def bus(self, *, namespace: str | None = None, **options: Any) -> EventBus:
        """Open a bus, with a connection of its own, until the case ends."""
        return await self._stack.enter_async_context(self.server.bus(namespace or self.namespace, **options))

    async def election(self, *, namespace: str | None = None, **options: Any) -> Election:
        """Open an election, with a connection of its own, until the case ends."""
        return await self._stack.enter_async_context(self.server.election(namespace or self.namespace, **options))

    async def store_driver(self, *, namespace: str | None = None, timeout: float = DEFAULT_TIMEOUT) -> StoreDriver:
        """Open a store's driver, with a connection of its own, until the case ends."""
        return await self._opened(self.server.store_driver(namespace or self.namespace, timeout=timeout))

    async def bus_driver(self, *, namespace: str | None = None, timeout: float = DEFAULT_TIMEOUT) -> BusDriver:
        """Open a bus's driver, with a connection of its own, until the case ends."""
        return await self._opened(self.server.bus_driver(namespace or self.namespace, timeout=timeout))

    async def register(self, *, namespace: str | None = None, **options: Any) -> LeaseRegister:
        """Open a lease register, with a connection of its own, until the case ends."""
        return await self._opened(self.server.register(namespace or self.namespace, **options))

    async def _opened(self, driver: DriverT) -> DriverT:
        self._stack.push_async_callback(driver.close)
        await driver.open()
        return driver

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """A transaction of the caller's own: what is entered goes to `connection=`; an error rolls it back."""
        return self.server.harness.transaction()

    # --- Breaking ---

    async def link(self) -> Link:
        """Put a link in front of the server, until the case ends. What is opened with `link=` goes through it."""
        if not self.server.faults.link:
            raise SuiteError("the case uses the fault 'link' without declaring it")
        return self._stack.enter_context(Link.to(self.server.url))

    async def restart(self) -> None:
        """Kill the server and start it again."""
        if self.server.faults.restart is None:
            async with self.gone():
                return
        await self._fault("restart")

    @asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        """Kill the server, and start it again behind the block."""
        await self._fault("kill")
        try:
            yield
        finally:
            await self._fault("start")

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Stop the server for a while."""
        await self._fault("pause")
        try:
            yield
        finally:
            await self._fault("resume")

    async def _fault(self, name: str) -> None:
        fault = getattr(self.server.faults, name)
        if fault is None:
            raise SuiteError(f"the case uses the fault {name!r} without declaring it")
        try:
            await fault()
        except Exception as error:
            raise SuiteError(f"the harness could not {name} the server: {error}") from error

    # --- Waiting ---

    async def within(self, waiting: Awaitable[ResultT], what: str) -> ResultT:
        """Wait, with a bound; a wait that ends there is a violation that says what it waited for."""
        bound = asyncio.timeout(self.deadline)
        try:
            async with bound:
                try:
                    await asyncio.sleep(0)  # calls that never suspend must not keep others from running
                except BaseException:
                    if isinstance(waiting, Coroutine):
                        waiting.close()  # it has not begun, and asyncio would complain that nobody awaited it
                    raise
                return await waiting
        except TimeoutError:
            if not bound.expired():
                raise
            raise Violation(expected=f"{what} within {self.deadline:g} s", found="it did not happen") from None

    async def eventually(self, happened: Callable[[], object], what: str) -> None:
        """Wait until something is true, with a bound."""

        async def poll() -> None:
            while not happened():  # noqa: ASYNC110  (what is waited for has no event: that is the point)
                await asyncio.sleep(_POLL)

        await self.within(poll(), what)

    async def recovers(self, call: Callable[[], Awaitable[ResultT]], what: str) -> ResultT:
        """Repeat a call that fails because the server is not back yet, with a bound."""

        answers: list[ResultT] = []

        async def answered() -> bool:
            try:
                answers.append(await call())
            except (Unavailable, OutcomeUnknown, StaleRead, TimedOut):
                return False
            return True

        async def repeat() -> ResultT:
            while not await answered():  # noqa: ASYNC110  (as above)
                await asyncio.sleep(_POLL)
            return answers[0]

        return await self.within(repeat(), what)

    async def take(self, events: AsyncIterator[ResultT], count: int, what: str) -> list[ResultT]:
        """The next `count` items of an endless iterator, with a bound."""
        taken: list[ResultT] = []

        async def fill() -> None:
            while len(taken) < count:
                taken.append(await anext(events))

        try:
            await self.within(fill(), f"{count} {what}")
        except Violation as violation:
            raise Violation(expected=violation.expected, found=f"{len(taken)} came: {taken!r}") from None
        return taken

    @asynccontextmanager
    async def background(self, *work: Coroutine[Any, Any, object]) -> AsyncIterator[list[asyncio.Task[object]]]:
        """Run work beside the block and end it with the block. Work that fails makes the case fail."""
        tasks = [asyncio.create_task(one) for one in work]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result


# --- Making and reading events ---


def event(actor_id: str, version: int, **fields: Any) -> Event:
    """An event of type `Happened`, unless `fields` say otherwise."""
    fields.setdefault("type", "Happened")
    return Event(actor_id=actor_id, version=version, **fields)


def history(actor_id: str, first: int, last: int, **fields: Any) -> list[Event]:
    """The events `first` to `last` of an actor."""
    return [event(actor_id, version, **fields) for version in range(first, last + 1)]


def sized(actor_id: str, version: int, size: int) -> Event:
    """An event of exactly `size` bytes."""
    bare = event(actor_id, version, data={"x": ""})
    return event(actor_id, version, data={"x": "x" * (size - len(encode_event(bare)))}, timestamp=bare.timestamp)


async def listed(items: AsyncIterator[ResultT]) -> list[ResultT]:
    """All items of an iterator that ends."""
    return [item async for item in items]


async def fed(store: EventStore, **options: Any) -> list[Event]:
    """The events of a store's feed."""
    return [found async for _, found in store.feed(**options)]


async def drift(turns: int) -> None:
    """Let others run for so many turns of the event loop, so that parties that never suspend do not run in step."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def cancelled_after(turns: int, work: Coroutine[Any, Any, ResultT]) -> ResultT | None:
    """Cancel work after so many turns of the event loop; None if that came before its end."""
    task = asyncio.create_task(work)
    await drift(turns)
    task.cancel()
    await asyncio.wait([task])  # it does not raise for the task, so a CancelledError from here is our own
    return None if task.cancelled() else task.result()


CANCEL_TURNS = (0, 1, 2, 3, 4, 5, 7, 10, 15, 25, 40, 70, 120, 250)
"""After how many turns of the event loop to cancel: dense where calls begin, then up to where they have ended."""
