"""Broken backends. Each breaks one promise of a sound one, and names the case that has to find out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import ClassVar

import msgspec

from aether.conformance.wrappers import BusWrapper, RegisterWrapper, StoreWrapper, TailWrapper
from aether.core import Limits, OutcomeUnknown, VersionConflict
from aether.core.event import new_id
from aether.core.spi import (
    BusFilter,
    Entry,
    Message,
    NewRecord,
    Page,
    RevisionConflict,
    Sink,
    Slot,
    Stored,
    Tail,
    Write,
)


def _expecting(write: Write, expected: int, **changes: object) -> Write:
    return msgspec.structs.replace(write, expected=expected, **changes)


# --- Stores: writing ---


class IgnoresExpectation(StoreWrapper):
    caught_by = "store.append.conflict#below"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self.inner.append([_expecting(w, await self.version(w.actor_id)) for w in writes])


class ConflictWithoutTheTruth(StoreWrapper):
    caught_by = "store.append.conflict#commit"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        try:
            return await self.inner.append(writes)
        except VersionConflict as conflict:
            raise VersionConflict(conflict.actor_id, attempted=conflict.attempted, current=0) from None


class StaleCache(StoreWrapper):
    """Remembers versions that other handles have moved on from, and believes them."""

    caught_by = "store.append.conflict#handles"

    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self.known: dict[str, int] = {}

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        for write in writes:
            known = self.known.get(write.actor_id, write.expected)
            if known != write.expected:
                raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=known)
        position = await self.inner.append(writes)
        self.known.update({write.actor_id: write.expected + len(write.records) for write in writes})
        return position


class AllowsGaps(StoreWrapper):
    caught_by = "store.append.gapless"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        found = [await self.version(write.actor_id) for write in writes]
        return await self.inner.append([_expecting(w, min(w.expected, v)) for w, v in zip(writes, found, strict=True)])


class ChecksThenWrites(StoreWrapper):
    """Looks, lets others run, and writes at whatever place is free then."""

    caught_by = "store.append.race"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        for write in writes:
            current = await self.version(write.actor_id)
            if current != write.expected:
                raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=current)
        await asyncio.sleep(0)
        return await self.inner.append([_expecting(w, await self.version(w.actor_id)) for w in writes])


class TearsCommits(StoreWrapper):
    caught_by = "store.append.atomic#readers"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        position = 0
        for write in writes:
            for number, record in enumerate(write.records):
                one = _expecting(write, write.expected + number, records=(record,))
                position = await self.inner.append([one])
                await asyncio.sleep(0)
        return position


class TearsActorsApart(StoreWrapper):
    caught_by = "store.append.many#conflict"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return [await self.inner.append([write]) for write in writes][-1]


class ShowsActorsApart(StoreWrapper):
    """Checks all actors first, but stores them one after the other."""

    caught_by = "store.append.many#readers"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        for write in writes:
            if (current := await self.version(write.actor_id)) != write.expected:
                raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=current)
        position = 0
        for write in writes:
            position = await self.inner.append([write])
            await asyncio.sleep(0)
        return position


class ForgetsRepeats(StoreWrapper):
    """Recognises a repeated append only while it is the latest."""

    caught_by = "store.append.idempotent#later"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        if upto is not None and upto < await self.version(actor_id) - 10:
            return Page([], more=False)
        return page


class SwallowsKnownIds(StoreWrapper):
    """Tells repeated events by an id that counts for the whole store."""

    caught_by = "store.append.idempotent#actors"

    seen: ClassVar[dict[tuple[str, str], int]] = {}

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        key = (self.inner.identity, writes[0].records[0].id)
        if key not in self.seen or writes[0].expected:
            self.seen[key] = await self.inner.append(writes)
        return self.seen[key]


class StoresRepeatsAgain(StoreWrapper):
    """A lost answer is repeated behind the first try, as new versions."""

    caught_by = "store.append.unknown#resolved"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        found = await self.version(writes[0].actor_id)
        fresh = [_renumbered(record, found + n) for n, record in enumerate(writes[0].records, start=1)]
        return await self.inner.append([_expecting(writes[0], found, records=tuple(fresh)), *writes[1:]])


def _renumbered(record: NewRecord, version: int) -> NewRecord:
    data = record.data.replace(b'"version":%d,' % record.version, b'"version":%d,' % version)
    return msgspec.structs.replace(record, version=version, data=data)


class StoresAfterCancellation(StoreWrapper):
    """A cancelled append leaves its first half behind."""

    caught_by = "store.append.unknown#cancelled"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        write = writes[0]
        if len(write.records) == 1:
            return await self.inner.append(writes)
        await self.inner.append([_expecting(write, write.expected, records=write.records[:1])])
        await asyncio.sleep(0)
        return await self.inner.append([_expecting(write, write.expected + 1, records=write.records[1:])])


class TooGenerousLimits(StoreWrapper):
    """Claims to take more in one commit than it does."""

    caught_by = "store.append.limits#events"

    @property
    def limits(self) -> Limits:
        return msgspec.structs.replace(self.inner.limits, max_commit_events=20_000)

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        if sum(len(write.records) for write in writes) > 10_000:
            raise OutcomeUnknown("append", reason="the connection was closed")
        return await self.inner.append(writes)


# --- Stores: reading ---


class DropsLastOfPage(StoreWrapper):
    caught_by = "store.read.order"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        return Page(page.records, more=False)


class RoundsNumbers(StoreWrapper):
    caught_by = "store.read.order#same"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        return Page([msgspec.structs.replace(r, data=r.data.replace(b"-0.0", b"0.0")) for r in page.records], page.more)


class IncludesAfter(StoreWrapper):
    caught_by = "store.read.after"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id, after=max(after - 1, 0), upto=upto, limit=limit, reverse=reverse)


class ExcludesUpto(StoreWrapper):
    caught_by = "store.read.upto"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id, after=after, upto=upto and upto - 1, limit=limit, reverse=reverse)


class IgnoresLimit(StoreWrapper):
    caught_by = "store.read.limit"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id, after=after, upto=upto, limit=None, reverse=reverse)


class ReversesThePage(StoreWrapper):
    """Takes the first events and turns them around, instead of the last ones."""

    caught_by = "store.read.reverse"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=False)
        return Page(page.records[::-1] if reverse else page.records, more=False if reverse else page.more)


class ReadsAReplica(StoreWrapper):
    caught_by = "store.read.own"

    lag = count()

    async def version(self, actor_id: str) -> int:
        found = await self.inner.version(actor_id)
        return max(found - 1, 0) if next(self.lag) % 7 == 6 else found


class FoldsCase(StoreWrapper):
    caught_by = "store.names#actors"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self.inner.append([msgspec.structs.replace(w, actor_id=w.actor_id.lower()) for w in writes])

    async def version(self, actor_id: str) -> int:
        return await self.inner.version(actor_id.lower())

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id.lower(), after=after, upto=upto, limit=limit, reverse=reverse)


class TrimsSlotNames(StoreWrapper):
    caught_by = "store.names#state"

    async def load(self, kind: str, name: str) -> Slot | None:
        return await self.inner.load(kind, name.strip())

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        return await self.inner.save(kind, name.strip(), value, expected=expected)


# --- Stores: the feed ---


class OrdersByActor(StoreWrapper):
    caught_by = "store.feed.order#resume"

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page = await self.inner.feed(after=after, upto=upto, limit=limit)
        return Page(sorted(page.records, key=lambda r: (r.actor_id, r.version)), page.more)


class SkipsOneOnResume(StoreWrapper):
    caught_by = "store.subscribe.seam#after"

    def tail(self, *, after: int) -> object:  # type: ignore[override]
        return self.inner.tail(after=after + 1 if after else 0)


class _TailMutant(StoreWrapper):
    tail_class: type[TailWrapper]

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        async with self.inner.tail(after=after) as tail:
            yield self.tail_class(tail)


class LosesUnderLoad(_TailMutant):
    caught_by = "store.feed.complete#tasks"

    class tail_class(TailWrapper):  # noqa: N801
        async def page(self, limit: int) -> Sequence[Stored]:
            page = await self.inner.page(limit)
            return page[1:] if len(page) > 3 else page


class RepeatsAtTheSeam(_TailMutant):
    caught_by = "store.subscribe.seam"

    class tail_class(TailWrapper):  # noqa: N801
        last: Sequence[Stored] = ()

        async def page(self, limit: int) -> Sequence[Stored]:
            page = await self.inner.page(limit)
            again, self.last = self.last[-1:] if len(self.last) > 1 else (), page
            return [*again, *page]


class PushesEverything(_TailMutant):
    """Ignores how much the consumer can take."""

    caught_by = "store.subscribe.pressure"

    class tail_class(TailWrapper):  # noqa: N801
        async def page(self, limit: int) -> Sequence[Stored]:
            return await self.inner.page(10 * limit)


class LosesOnCancel(_TailMutant):
    caught_by = "store.subscribe.seam#cancelled"

    class tail_class(TailWrapper):  # noqa: N801
        async def page(self, limit: int) -> Sequence[Stored]:
            page = await self.inner.page(limit)
            await asyncio.sleep(0)
            return page


# --- Stores: state and life ---


class LastSnapshotWins(StoreWrapper):
    """Compare-and-set without the compare."""

    caught_by = "store.checkpoint.fenced#race"

    async def load(self, kind: str, name: str) -> Slot | None:
        slot = await self.inner.load(kind, name)
        await asyncio.sleep(0)
        return slot

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        await asyncio.sleep(0)
        slot = await self.inner.load(kind, name)
        return await self.inner.save(kind, name, value, expected=slot.revision if slot else 0)


class SharesSlots(StoreWrapper):
    """One table of slots for all kinds and schemas of a name."""

    caught_by = "store.snapshot.schema"

    async def load(self, kind: str, name: str) -> Slot | None:
        return await self.inner.load("slot", name[:1])

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        return await self.inner.save("slot", name[:1], value, expected=expected)


class IdentityPerHandle(StoreWrapper):
    caught_by = "store.identity"

    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self._identity = new_id()

    @property
    def identity(self) -> str:
        return self._identity


class OneIdentity(StoreWrapper):
    caught_by = "store.identity"

    @property
    def identity(self) -> str:
        return "the-store"


class LeavesATask(StoreWrapper):
    caught_by = "store.close#leaves"

    tasks: ClassVar[set[asyncio.Task[bool]]] = set()

    async def open(self) -> None:
        await self.inner.open()
        self.tasks.add(asyncio.create_task(asyncio.Event().wait()))


class HangsAfterCancel(StoreWrapper):
    """A lock that a cancelled append never gives back."""

    caught_by = "store.close#cancelled"

    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self._lock = asyncio.Lock()

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        await self._lock.acquire()
        await asyncio.sleep(0)
        position = await self.inner.append(writes)
        self._lock.release()
        return position


# --- Buses ---


class LosesEveryTenth(BusWrapper):
    caught_by = "bus.order"

    calls = count(1)

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        return 1 if next(self.calls) % 100 == 0 else await self.inner.publish(message, count=count)


class DeliversTwice(BusWrapper):
    caught_by = "bus.deliver"

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        await self.inner.publish(message, count=count)
        return await self.inner.publish(message, count=count)


class _SinkMutant(BusWrapper):
    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> object:  # type: ignore[override]
        return self.inner.subscribe(self.wanted(wanted), queue=self.queue(queue), sink=self.sink(sink))

    def wanted(self, wanted: BusFilter) -> BusFilter:
        return wanted

    def queue(self, queue: str | None) -> str | None:
        return queue

    def sink(self, sink: Sink) -> Sink:
        return sink


class FiltersByPrefix(_SinkMutant):
    """Only the part in front of the first wildcard counts, and it has to be followed by something."""

    caught_by = "bus.filter"

    def wanted(self, wanted: BusFilter) -> BusFilter:
        return msgspec.structs.replace(wanted, actors=wanted.actors and wanted.actors.replace("*", "*-"))


class IgnoresQueues(_SinkMutant):
    caught_by = "bus.queue"

    def queue(self, queue: str | None) -> str | None:
        return None


class SeesNoOtherNamespace(_SinkMutant):
    caught_by = "bus.namespace#across"

    def wanted(self, wanted: BusFilter) -> BusFilter:
        return msgspec.structs.replace(wanted, namespaces=wanted.namespaces.replace(">", "*"))


class SubscribesLater(BusWrapper):
    """Returns before the server knows of the subscription."""

    caught_by = "bus.ready"

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        async def hold() -> None:
            async with self.inner.subscribe(wanted, queue=queue, sink=sink):
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


class NeverCounts(BusWrapper):
    caught_by = "bus.request#nobody"

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        await self.inner.publish(message)
        return None


# --- Registers ---


class WritesOverOthers(RegisterWrapper):
    caught_by = "election.register.cas"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        found = await self.inner.read(name)
        await asyncio.sleep(0)
        try:
            return await self.inner.cas(name, value, expected=expected)
        except RevisionConflict:
            found = await self.inner.read(name)
            return await self.inner.cas(name, value, expected=found.revision if found else 0)


class CreatesAgain(RegisterWrapper):
    caught_by = "election.register.cas#definite"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        found = await self.inner.read(name)
        return await self.inner.cas(name, value, expected=found.revision if found and not expected else expected)


class RefusesButStores(RegisterWrapper):
    caught_by = "election.register.cas#definite"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        try:
            return await self.inner.cas(name, value, expected=expected)
        except RevisionConflict:
            found = await self.inner.read(name)
            await self.inner.cas(name, value, expected=found.revision if found else 0)
            raise


class ScansAPage(RegisterWrapper):
    caught_by = "election.register.scan"

    async def scan(self, prefix: str) -> Sequence[Entry]:
        return (await self.inner.scan(prefix))[:256]


class FoldsNames(RegisterWrapper):
    caught_by = "election.unique#names"

    async def read(self, name: str) -> Entry | None:
        found = await self.inner.read(name.casefold())
        return found and found._replace(name=name)

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        return await self.inner.cas(name.casefold(), value, expected=expected)


class ForgetsReleased(RegisterWrapper):
    """Deletes a record that is free: its token begins anew."""

    caught_by = "election.token"

    async def read(self, name: str) -> Entry | None:
        found = await self.inner.read(name)
        return None if found and b'"holder":""' in found.value else found

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        found = await self.inner.read(name)
        return await self.inner.cas(name, value, expected=expected or (found.revision if found else 0))


class TakesAnyRevision(RegisterWrapper):
    """Two candidates at once both succeed."""

    caught_by = "election.unique"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        await asyncio.sleep(0)
        found = await self.inner.read(name)
        return await self.inner.cas(name, value, expected=found.revision if found else 0)


def mutants() -> list[type[StoreWrapper] | type[BusWrapper] | type[RegisterWrapper]]:
    """All of them."""
    return [kind for kind in globals().values() if isinstance(kind, type) and "caught_by" in vars(kind)]
