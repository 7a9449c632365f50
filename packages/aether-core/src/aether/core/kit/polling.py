"""Finding out that something has changed where no server tells: by looking again, and by a bell in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeVar
from weakref import WeakValueDictionary

from aether.core.errors import StaleRead, StoreIdentityChanged, Unavailable
from aether.core.spi import Page, Stored

Found = TypeVar("Found")

_SHORTEST = 0.005  # seconds: the pause behind the first look that found nothing; each one after it is twice as long

EVERY = 0.1
"""Seconds: the longest pause between two looks, unless a backend says otherwise."""

_PATIENCE = 30.0  # seconds of nothing but failures, after which a tail gives up


class Bell:
    """Tells those who wait in this process that something has changed. To others it is silent: they find out later.

    Drivers of one place share one: `Bell.shared("mydb", url, namespace)`. Any thread may ring it, and tasks of several
    event loops may wait for it.
    """

    _shared: ClassVar[WeakValueDictionary[tuple[Hashable, ...], Bell]] = WeakValueDictionary()

    def __init__(self) -> None:
        self._counter = count(1)
        self._waiting: set[asyncio.Future[None]] = set()
        self.rung = 0
        """Changes with every ring. Whoever looks takes note of it before, or a ring in between would be lost."""

    @classmethod
    def shared(cls, *place: Hashable) -> Bell:
        """The one bell of a place, as long as somebody holds it."""
        return cls._shared.setdefault(place, cls())

    def ring(self) -> None:
        """Something has changed, and whoever looks now finds it."""
        self.rung = next(self._counter)
        for waiter in tuple(self._waiting):
            with suppress(RuntimeError):  # its event loop was closed
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    async def wait(self, rung: int, seconds: float) -> None:
        """Wait until it no longer stands at `rung`, at most `seconds`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            if self.rung == rung:
                await asyncio.wait([waiter], timeout=seconds)
        finally:
            self._waiting.discard(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Poll:
    """Looks until there is something: at once when the bell rings, else after pauses that grow up to `every` seconds.

    A look that raises `Unavailable` or `StaleRead` has found nothing; when nothing else came of looking for `patience`
    seconds, the error is raised.
    """

    def __init__(self, bell: Bell, *, every: float = EVERY, patience: float = _PATIENCE) -> None:
        self._bell = bell
        self._every = every
        self._patience = patience

    async def until(self, look: Callable[[], Awaitable[Found | None]]) -> Found:
        """Return the first answer of `look` that is not None. Waits without bound."""
        clock = asyncio.get_running_loop().time
        pause, healthy = min(_SHORTEST, self._every), clock()
        while True:
            rung = self._bell.rung
            try:
                found = await look()
                if found is not None:
                    return found
                healthy = clock()
            except (Unavailable, StaleRead):
                if clock() - healthy > self._patience:
                    raise
            await self._bell.wait(rung, pause)
            pause = min(2 * pause, self._every)


class Feed(Protocol):
    """The part of a `StoreDriver` that a tail is made of."""

    async def head(self) -> Stored | None: ...

    async def feed(self, *, after: int, upto: int, limit: int) -> Page: ...


class Questions:
    """Questions that are under way, so that as many tails as have come to one place ask the server once.

    Whoever asks what somebody else is asking gets that answer. It knows all that had happened when the bell rang last,
    and may know nothing of what happened since: for a tail that is good enough, because the bell rings again.
    """

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._asked: dict[Hashable, asyncio.Task[Any]] = {}

    async def ask(self, question: Hashable, ask: Callable[[], Awaitable[Found]]) -> Found:
        """Ask, or wait for the answer to the same question."""
        key = (self._bell.rung, question)
        task: asyncio.Task[Found] | None = self._asked.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(_ask(question, ask))
            self._asked[key] = task
            task.add_done_callback(lambda done: self._answered(key, done))
        return await asyncio.shield(task)  # whoever is cancelled takes nothing from the others

    def _answered(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._asked[key]
        if not task.cancelled():
            task.exception()  # nobody may be left to hear of it

    async def close(self) -> None:
        """Wait for the answers that are still to come."""
        while self._asked:
            await asyncio.wait(self._asked.values())


async def _ask(_question: Hashable, ask: Callable[[], Awaitable[Found]]) -> Found:
    return await ask()


class PollingTail:
    """A `Tail` over a store's own `head` and `feed`. `StoreDriver.tail` returns it; it is its own context.

    It holds nothing but a position, and asks for no more than one page of the store's feed: it slows no writer, and a
    cancelled wait loses nothing. The store rings `bell` behind each append. Tails of one store may share `questions`.
    """

    def __init__(
        self,
        store: Feed,
        *,
        after: int,
        bell: Bell | None = None,
        every: float = EVERY,
        questions: Questions | None = None,
    ) -> None:
        self._store = store
        self._after = after
        self._end = after
        self._ask = _ask if questions is None else questions.ask
        self._poll = Poll(bell or Bell(), every=every)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to free."""

    async def page(self, limit: int) -> Sequence[Stored]:
        """See `Tail.page`. Gives up when the store was `Unavailable` for 30 seconds."""
        page = await self._poll.until(lambda: self._look(limit))
        self._after = page[-1].position
        return page

    async def _look(self, limit: int) -> Sequence[Stored] | None:
        if self._end <= self._after:
            # Whoever has come to this place knows that the store reaches so far: so does every answer.
            head = await self._ask(("head", self._after), self._store.head)
            self._end = 0 if head is None else head.position
            if self._end < self._after:
                raise StoreIdentityChanged(self._after, "it lies behind the end of the store")
            if self._end == self._after:
                return None
        after, upto = self._after, self._end
        page = await self._ask((after, upto, limit), lambda: self._store.feed(after=after, upto=upto, limit=limit))
        return page.records or None
