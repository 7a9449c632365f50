"""Backends that are right nearly always: their mistakes take a race, a large commit, many pages, or an odd name."""

from __future__ import annotations

import asyncio
import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import msgspec

from aether.conformance.wrappers import BusWrapper, RegisterWrapper, StoreWrapper, TailWrapper
from aether.conformance.zoo.driver_stores import _TailMutant
from aether.core import VersionConflict
from aether.core.spi import BusFilter, Message, Page, Sink, Stored, StoreDriver, Write

# --- Stores ---

_under_way: defaultdict[str, Counter[str]] = defaultdict(Counter)


class ReadsUncommitted(StoreWrapper):
    """Shows versions of commits that are still being decided, and may be refused."""

    caught_by = "store.feed.complete#mixed"
    unseen = "it takes two calls at once"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        shown = Counter({write.actor_id: write.expected + len(write.records) for write in writes})
        before = _under_way[self.identity]
        _under_way[self.identity] = before | shown
        try:
            await asyncio.sleep(0)
            return await self.inner.append(writes)
        finally:
            _under_way[self.identity] = before

    async def version(self, actor_id: str) -> int:
        return max(await self.inner.version(actor_id), _under_way[self.identity][actor_id])


class IsSeldomStale(StoreWrapper):
    """One of two hundred answers comes from a replica that is one version behind."""

    caught_by = "store.feed.complete#mixed"
    unseen = "it takes hundreds of calls"
    answers = 0

    async def version(self, actor_id: str) -> int:
        IsSeldomStale.answers += 1
        found = await self.inner.version(actor_id)
        return found - 1 if found > 1 and IsSeldomStale.answers % 200 == 0 else found


class CallsADeadlockAConflict(StoreWrapper):
    """Whoever is chosen to end a deadlock is told a conflict, with the version that it expected."""

    caught_by = "store.append.conflict#spurious"
    unseen = "it takes many calls at once"
    appends: ClassVar[Counter[str]] = Counter()

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        self.appends[self.identity] += 1
        if self.appends[self.identity] % 31 == 0:
            write = writes[0]
            current = await self.inner.version(write.actor_id)
            raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=current)
        return await self.inner.append(writes)


class TearsWhatIsLarge(StoreWrapper):
    """What is more than one statement can take is stored by several, each committed for itself."""

    caught_by = "store.append.atomic#large"
    unseen = "it takes a large commit"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        write, position = writes[0], 0
        if len(writes) > 1 or sum(len(record.data) for record in write.records) < 1 << 16:
            return await self.inner.append(writes)
        for start in range(0, len(write.records), 100):
            part = write.records[start : start + 100]
            position = await self.inner.append([Write(write.actor_id, write.expected + start, part)])
            await asyncio.sleep(0)
        return position


class RemembersItsOwnVersion(StoreWrapper):
    """Answers with the version that it has written last, until it reads the actor, whoever has written since."""

    caught_by = "store.read.own"

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self._written: dict[str, int] = {}

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        position = await self.inner.append(writes)
        self._written.update((write.actor_id, write.expected + len(write.records)) for write in writes)
        return position

    async def version(self, actor_id: str) -> int:
        known = self._written.get(actor_id)
        return await self.inner.version(actor_id) if known is None else known

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        self._written.pop(actor_id, None)
        return await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)


class _SwapsAtBorders(TailWrapper):
    _next: Sequence[Stored] = ()

    async def page(self, limit: int) -> Sequence[Stored]:
        if self._next:
            page, self._next = self._next, ()
            return page
        page = await self.inner.page(limit)
        if len(page) < max(limit, 50):
            return page
        behind = await self.inner.page(limit)
        self._next = [page[-1], *behind[1:]]
        return [*page[:-1], behind[0]]


class SwapsAtTheBordersOfPages(_TailMutant):
    """Asks for the next page ahead, and mixes up its first event with the last one of a full page."""

    caught_by = "store.driver.tail#pages"
    tail_class = _SwapsAtBorders


# --- Buses ---


class _Filtering(BusWrapper):
    """Filters by itself, and delivers less than it should."""

    def wants(self, wanted: BusFilter, message: Message) -> bool:
        raise NotImplementedError

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        return self.inner.subscribe(
            wanted, queue=queue, sink=_Filtered(sink, lambda message: self.wants(wanted, message))
        )


class _Filtered:
    def __init__(self, inner: Sink, wants: Callable[[Message], bool]) -> None:
        self._inner = inner
        self._wants = wants
        self.interrupted = inner.interrupted
        self.lost = inner.lost

    def deliver(self, message: Message) -> None:
        if self._wants(message):
            self._inner.deliver(message)


class TakesActorsForGlobs(_Filtering):
    """Hands the pattern of actors to a function in which `?` and brackets mean something, too."""

    caught_by = ("bus.filter", "bus.deliver#names")
    unseen = "what it loses is lost to machines, too, only if they come upon brackets"

    def wants(self, wanted: BusFilter, message: Message) -> bool:
        return wanted.actors is None or fnmatch.fnmatchcase(message.actor_id, wanted.actors)


class StopsAtSlashes(_Filtering):
    """A `*` of its server ends at the next slash."""

    caught_by = "bus.filter"
    unseen = "it takes a pattern across a slash"

    def wants(self, wanted: BusFilter, message: Message) -> bool:
        pattern = "[^/]*".join(map(re.escape, (wanted.actors or "*").split("*")))
        return wanted.actors is None or re.fullmatch(pattern, message.actor_id) is not None


def _in_three_bytes(text: str) -> str:
    return "".join(letter if letter <= "\uffff" else "\ufffd" for letter in text)


class KnowsThreeBytesOfTypes(_Filtering):
    """Keeps what is wanted in a table whose UTF-8 ends at U+FFFF."""

    caught_by = "bus.deliver#names"
    unseen = "it takes a type above U+FFFF, and a filter for it"

    def wants(self, wanted: BusFilter, message: Message) -> bool:
        return wanted.types is None or message.type in map(_in_three_bytes, wanted.types)


class KnowsThreeBytesOfQueues(BusWrapper):
    """The same for the names of queues: different ones meet."""

    caught_by = "bus.queue#names"
    unseen = "it takes two queues above U+FFFF"

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        return self.inner.subscribe(wanted, queue=queue and _in_three_bytes(queue), sink=sink)


class WantsFewTypes(BusWrapper):
    """Subscribes to each type for itself, to a hundred of them at most."""

    caught_by = "bus.filter"
    unseen = "it takes a hundred types"

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        types = wanted.types and frozenset(sorted(wanted.types)[:100])
        return self.inner.subscribe(msgspec.structs.replace(wanted, types=types), queue=queue, sink=sink)


# --- Lease registers ---


class WritesWhatDiffersOnly(RegisterWrapper):
    """A write of the value that is there changes nothing, and its revision stays."""

    caught_by = "election.register.revision"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        found = await self.inner.read(name)
        if found is not None and (found.revision, found.value) == (expected, value):
            return expected
        return await self.inner.cas(name, value, expected=expected)
