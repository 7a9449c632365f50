"""Stores that write what they should not, or not what they should."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count
from typing import ClassVar

import msgspec

from aether.conformance.context import drift
from aether.conformance.wrappers import StoreWrapper
from aether.core import Limits, OutcomeUnknown, VersionConflict
from aether.core.spi import (
    NewRecord,
    Page,
    StoreDriver,
    Write,
)


def _expecting(write: Write, expected: int, **changes: object) -> Write:
    return msgspec.structs.replace(write, expected=expected, **changes)


class IgnoresExpectation(StoreWrapper):
    """Appends at the end, whatever version was expected."""

    caught_by = ("store.append.conflict#below", "store.append.idempotent#overlap", "election.fence")

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self.inner.append([_expecting(w, await self.version(w.actor_id)) for w in writes])


class ConflictWithoutTheTruth(StoreWrapper):
    """Says that the actor is unknown whenever it refuses."""

    caught_by = "store.append.conflict#commit"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        try:
            return await self.inner.append(writes)
        except VersionConflict as conflict:
            raise VersionConflict(conflict.actor_id, attempted=conflict.attempted, current=0) from None


class StaleCache(StoreWrapper):
    """Remembers versions that other handles have moved on from, and believes them."""

    caught_by = "store.append.conflict#handles"

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
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
    """Refuses versions that exist, and takes any above them."""

    caught_by = "store.append.gapless"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        found = [await self.version(write.actor_id) for write in writes]
        return await self.inner.append([_expecting(w, min(w.expected, v)) for w, v in zip(writes, found, strict=True)])


class ChecksThenWrites(StoreWrapper):
    """Looks, lets others run, and writes at whatever place is free then."""

    caught_by = ("store.append.race", "store.append.idempotent#together")

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        for write in writes:
            current = await self.version(write.actor_id)
            if current != write.expected:
                raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=current)
        await asyncio.sleep(0)
        return await self.inner.append([_expecting(w, await self.version(w.actor_id)) for w in writes])


class TearsCommits(StoreWrapper):
    """Stores the events of a commit one after the other."""

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
    """Commits each actor for itself."""

    caught_by = "store.append.many#conflict"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return [await self.inner.append([write]) for write in writes][-1]


class ShowsActorsApart(StoreWrapper):
    """Checks all actors first, but stores them one after the other."""

    caught_by = "store.append.many#readers"
    unseen = "only a reader in between shows it"

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

    caught_by = ("store.append.unknown#resolved", "store.append.idempotent")

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
    unseen = "only more events than a game appends show it"

    @property
    def limits(self) -> Limits:
        return msgspec.structs.replace(self.inner.limits, max_commit_events=20_000)

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        if sum(len(write.records) for write in writes) > 10_000:
            raise OutcomeUnknown("append", reason="the connection was closed")
        return await self.inner.append(writes)


class ChecksTheWholeStore(StoreWrapper):
    """Guards the position of the store, not the version of the actor: whoever writes beside somebody else loses."""

    caught_by = "store.append.conflict#spurious"
    unseen = "only writers at once show it"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        before = await self.inner.head()
        await asyncio.sleep(0)
        if await self.inner.head() != before:
            raise VersionConflict(writes[0].actor_id, attempted=writes[0].expected + 1, current=writes[0].expected)
        return await self.inner.append(writes)


class ExpectsTheStoresNumber(StoreWrapper):
    """Hands a version to a guard that counts in the whole store: it fits while nobody else writes."""

    caught_by = "store.append.conflict#spurious"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        for write in writes:
            last = await self.inner.read(write.actor_id, after=0, upto=None, limit=1, reverse=True)
            if last.records and last.records[0].position != write.expected:
                current = await self.version(write.actor_id)
                raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=current)
        return await self.inner.append(writes)


class AcceptsTheLatestAgain(StoreWrapper):
    """Off by one: the latest version may be written once more, and becomes the next one."""

    caught_by = "store.append.conflict#below"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        found = {write.actor_id: await self.version(write.actor_id) for write in writes}
        late = [_expecting(w, found[w.actor_id] if found[w.actor_id] == w.expected + 1 else w.expected) for w in writes]
        return await self.inner.append(late)


class AnswersTheFirstPosition(StoreWrapper):
    """Gives back where a commit begins, not where it ends."""

    caught_by = "store.append.atomic#last"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        await self.inner.append(writes)
        after = writes[-1].expected
        first = await self.inner.read(writes[-1].actor_id, after=after, upto=after + 1, limit=1, reverse=False)
        return first.records[0].position


class StoresTheRest(StoreWrapper):
    """Of a commit that is stored in part already it stores what is missing."""

    caught_by = "store.append.idempotent#overlap"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        current = [await self.version(write.actor_id) for write in writes]
        missing = [
            _expecting(write, version, records=write.records[version - write.expected :])
            if write.expected < version < write.expected + len(write.records)
            else write
            for write, version in zip(writes, current, strict=True)
        ]
        return await self.inner.append(missing)


class LosesAcknowledged(StoreWrapper):
    """Answers from a buffer that is lost now and then."""

    caught_by = "store.read.own"

    calls = count(1)

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        if next(self.calls) % 20:
            return await self.inner.append(writes)
        head = await self.inner.head()
        return (head.position if head else 0) + 1


class LocksLastFirst(StoreWrapper):
    """Locks the actors of a commit in an order of its own, and stores them in that order, too."""

    caught_by = "store.append.many"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self.inner.append(sorted(writes, key=lambda write: write.actor_id, reverse=True))


class LocksInTheOrderOfTheCall(StoreWrapper):
    """Two commits over the same actors in opposite order wait for each other for ever."""

    caught_by = "store.append.many#crossing"
    unseen = "only writers at once show it"

    locks: ClassVar[defaultdict[tuple[str, str], asyncio.Lock]] = defaultdict(asyncio.Lock)

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        async with AsyncExitStack() as stack:
            for write in writes:
                await stack.enter_async_context(self.locks[self.inner.identity, write.actor_id])
                await asyncio.sleep(0)
            return await self.inner.append(writes)


class CutsLongValues(StoreWrapper):
    """Columns of 64 KiB, in a database that cuts off what is longer."""

    caught_by = ("store.append.limits#event", "store.append.limits#bytes", "store.append.limits#snapshot")
    unseen = "only sizes near the limit show it"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self.inner.append([_expecting(w, w.expected, records=tuple(map(_cut, w.records))) for w in writes])

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        return await self.inner.save(kind, name, value[:65_535], expected=expected)


def _cut(record: NewRecord) -> NewRecord:
    return msgspec.structs.replace(record, data=record.data[:65_535])


class StopsHalfwayWhenClosed(StoreWrapper):
    """Closing it in the middle of a commit leaves the first half behind."""

    caught_by = "store.close#busy"
    unseen = "a machine closes nothing in the middle"

    closed = False

    async def close(self) -> None:
        self.closed = True
        await self.inner.close()

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        write = writes[0]
        if len(write.records) == 1:
            return await self.inner.append(writes)
        await self.inner.append([_expecting(write, write.expected, records=write.records[:1])])
        await drift(20)
        if self.closed:
            raise OutcomeUnknown("append", reason="the connection was closed")
        return await self.inner.append([_expecting(write, write.expected + 1, records=write.records[1:])])
