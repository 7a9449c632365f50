"""Stores whose drivers break what only a driver's caller can see: claims, places, pages, slots."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from aether.conformance.wrappers import StoreWrapper, TailWrapper
from aether.core import CommitTooLarge, Feature, Limits
from aether.core.spi import Page, RevisionConflict, Slot, Stored, Tail, Write

# --- Claims ---


class ClaimsMoreThanAnnounced(StoreWrapper):
    """Has a feature that its plugin never spoke of."""

    caught_by = "store.driver.features"
    unseen = "only claims show it"

    @property
    def features(self) -> frozenset[Feature]:
        return self.inner.features | {Feature.CALLER_TRANSACTION}


class UnlimitedCommits(StoreWrapper):
    """0 stands for "no limit" in the configuration of its server."""

    caught_by = "store.driver.limits"

    @property
    def limits(self) -> Limits:
        return msgspec.structs.replace(self.inner.limits, max_commit_bytes=0)


class IdentityIsAPath(StoreWrapper):
    """Takes the place where it lies for its identity."""

    caught_by = "store.driver.identity"
    unseen = "the facade hides the form of an identity"

    @property
    def identity(self) -> str:
        return f"/stores/{self.inner.identity}"


# --- Commits ---


class StoresInTurns(StoreWrapper):
    """Stores the events of a commit one by one, and lets others in between."""

    caught_by = "store.driver.append"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        position = 0
        for write in writes:
            for number, record in enumerate(write.records):
                one = msgspec.structs.replace(write, expected=write.expected + number, records=(record,))
                position = await self.inner.append([one])
                await asyncio.sleep(0)
        return position


class AnswersTheHead(StoreWrapper):
    """Asks for the highest position behind its commit, when others may have written."""

    caught_by = "store.driver.append#position"
    unseen = "only appends of others at the same time show it"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        position = await self.inner.append(writes)
        await asyncio.sleep(0)
        head = await self.inner.head()
        return head.position if head else position


class SortsActors(StoreWrapper):
    """Locks actors in the order of their names, which is right, and writes them in that order, which is not."""

    caught_by = "store.append.many#order"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self.inner.append(sorted(writes, key=lambda write: write.actor_id))


class WritesActorsInChunks(StoreWrapper):
    """Refuses the rest of a commit when the first part of it is stored."""

    caught_by = "store.append.many#wide"
    unseen = "it takes more than 1,000 actors in a commit"

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        position = await self.inner.append(writes[:1000])
        if len(writes) > 1000:
            raise CommitTooLarge(size=len(writes), limit=1000, unit="actors")
        return position


class _Rewrites(StoreWrapper):
    """Gives back other records than those that were stored, from everywhere."""

    def rewritten(self, stored: Stored) -> Stored:
        raise NotImplementedError

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        return Page([self.rewritten(one) for one in page.records], page.more)


class EncodesAgain(_Rewrites):
    """Keeps events in a column of JSON."""

    caught_by = "store.driver.append#bytes"
    unseen = "the facade decodes what it gets"

    def rewritten(self, stored: Stored) -> Stored:
        return msgspec.structs.replace(stored, data=json.dumps(json.loads(stored.data), separators=(",", ":")).encode())


class PositionsOfTheActor(_Rewrites):
    """Takes an actor's own numbers for positions."""

    caught_by = "store.driver.append#alike"

    def rewritten(self, stored: Stored) -> Stored:
        return msgspec.structs.replace(stored, position=stored.version + 1)


# --- Pages ---


class SaysMoreTooEarly(StoreWrapper):
    """A page that `limit` has cut is taken for the end."""

    caught_by = "store.driver.read"
    unseen = "the facade asks again, and gets the rest"

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        return page if limit is None else Page(page.records, page.more and len(page.records) < limit)


class FeedsWholeCommits(StoreWrapper):
    """Looks for the commits that `after` and `upto` lie in, and forgets that they may lie inside."""

    caught_by = "store.driver.feed"
    unseen = "the facade asks for the feed up to the end of a commit"

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page = await self.inner.feed(after=after, upto=upto, limit=limit)
        head = await self.inner.head()
        if page.more or not page.records or head is None or head.position == upto:
            return page
        behind = (await self.inner.feed(after=upto, upto=head.position, limit=1)).records
        last = page.records[-1]
        same = [one for one in behind if (one.actor_id, one.version) == (last.actor_id, last.version + 1)]
        return Page([*page.records, *same], page.more)


class FeedsWithoutLimit(StoreWrapper):
    """Takes the limit for a hint."""

    caught_by = "store.driver.feed#limit"
    unseen = "the facade cuts what is too much"

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        return await self.inner.feed(after=after, upto=upto, limit=max(limit, 10))


class ShowsCommitsLate(StoreWrapper):
    """An event with a lower position comes to light behind one with a higher: its transaction took longer."""

    caught_by = "store.driver.feed#settled"

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page = await self.inner.feed(after=after, upto=upto, limit=limit)
        head = await self.inner.head()
        newest = head.position if head else 0
        kept = [one for one in page.records if one.position != newest - 1 or one.position % 5]
        return Page(kept, page.more)


# --- Tails ---


class _TailMutant(StoreWrapper):
    tail_class: type[TailWrapper]

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        async with self.inner.tail(after=after) as tail:
            yield self.tail_class(tail)


class GivesWholeCommits(_TailMutant):
    """Gives what it has, whatever the limit."""

    caught_by = "store.driver.tail"

    class tail_class(TailWrapper):  # noqa: N801
        async def page(self, limit: int) -> Sequence[Stored]:
            return await self.inner.page(max(limit, 6))


class BeginsBehindTheCommit(StoreWrapper):
    """Goes on with the next commit, though it was left inside of one."""

    caught_by = "store.driver.tail#after"

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        head = await self.inner.head()
        if after and head is not None:
            page = await self.inner.feed(after=after - 1, upto=head.position, limit=20)
            actor = page.records[0].actor_id
            for one in page.records:
                if one.actor_id != actor:
                    break
                after = one.position
        async with self.inner.tail(after=after) as tail:
            yield tail


class GivesEmptyPages(_TailMutant):
    """Polls, and gives what the poll has found."""

    caught_by = "store.driver.tail#waits"

    class tail_class(TailWrapper):  # noqa: N801
        async def page(self, limit: int) -> Sequence[Stored]:
            try:
                return await asyncio.wait_for(self.inner.page(limit), 0)
            except TimeoutError:
                return []


class PrefetchesAndForgets(_TailMutant):
    """Moves on before its caller has got the page."""

    caught_by = "store.driver.tail#cancelled"

    class tail_class(TailWrapper):  # noqa: N801
        async def page(self, limit: int) -> Sequence[Stored]:
            page = await self.inner.page(limit)
            for _ in range(2):
                await asyncio.sleep(0)
            return page


class OneTailPerStore(_TailMutant):
    """All tails of a driver share one buffer; each page goes to whoever asks first."""

    caught_by = "store.driver.tail#several"
    unseen = "it takes two subscriptions of one handle at once"

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        taken: set[int] = vars(self).setdefault("_taken", set())

        class Shared(TailWrapper):
            async def page(self, limit: int) -> Sequence[Stored]:
                while True:
                    page = [one for one in await self.inner.page(limit) if one.position not in taken]
                    taken.update(one.position for one in page if one.actor_id == "live")
                    if page:
                        return page

        async with self.inner.tail(after=after) as tail:
            yield Shared(tail)


# --- Slots ---


class _SlotMutant(StoreWrapper):
    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        return await self.inner.save(kind, name, value, expected=expected)


class CreatesSlotsAgain(_SlotMutant):
    """0 means "whatever there is"."""

    caught_by = "store.driver.slot"
    unseen = "only two handles that save at once show it"

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        found = await self.inner.load(kind, name)
        return await self.inner.save(kind, name, value, expected=expected or (found.revision if found else 0))


class RevisionIsAChecksum(_SlotMutant):
    """An equal value counts as no change."""

    caught_by = "store.driver.slot#revision"
    unseen = "the facade never saves the same value twice"

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        found = await self.inner.load(kind, name)
        if found is not None and (found.revision, found.value) == (expected, value):
            return expected
        return await self.inner.save(kind, name, value, expected=expected)


class LooksThenSaves(_SlotMutant):
    """Compares first and sets later."""

    caught_by = "store.driver.slot#race"

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        found = await self.inner.load(kind, name)
        if expected != (found.revision if found else 0):
            raise RevisionConflict
        await asyncio.sleep(0)
        found = await self.inner.load(kind, name)
        return await self.inner.save(kind, name, value, expected=found.revision if found else 0)


class CutsSlotNames(_SlotMutant):
    """A column of 512 characters, and a server that cuts what is longer."""

    caught_by = "store.driver.slot#apart"
    unseen = "only names of more than 512 characters show it"

    async def load(self, kind: str, name: str) -> Slot | None:
        return await self.inner.load(kind, name[:512])

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        return await self.inner.save(kind, name[:512], value, expected=expected)


class SlotsAreText(_SlotMutant):
    """Keeps values in a column of text."""

    caught_by = "store.driver.slot#bytes"
    unseen = "the facade saves text only"

    async def load(self, kind: str, name: str) -> Slot | None:
        found = await self.inner.load(kind, name)
        return found and found._replace(value=found.value.decode(errors="replace").encode())


# --- Its end ---


class ClosesOnce(StoreWrapper):
    """Gives its connection back to the pool twice."""

    caught_by = "store.driver.close"
    unseen = "the facade closes a driver once"

    closed = False

    async def close(self) -> None:
        if self.closed:
            raise RuntimeError("the pool is closed")
        self.closed = True
        await self.inner.close()


class LeaksItsClientsErrors(StoreWrapper):
    """A call that finds its connection closed raises what the client library raises."""

    caught_by = "store.driver.close#waiting"
    unseen = "it takes calls that wait when the driver is closed"

    closed = False

    async def close(self) -> None:
        self.closed = True
        await self.inner.close()

    async def version(self, actor_id: str) -> int:
        await asyncio.sleep(0)
        if self.closed:
            raise sqlite3.ProgrammingError("cannot operate on a closed database")
        return await self.inner.version(actor_id)
