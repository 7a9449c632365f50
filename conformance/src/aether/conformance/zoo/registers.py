"""Lease registers whose compare-and-set is none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from fnmatch import fnmatchcase
from typing import ClassVar

from aether.conformance.wrappers import RegisterWrapper
from aether.core.spi import (
    Entry,
    LeaseRegister,
    RevisionConflict,
    Watch,
)


class WritesOverOthers(RegisterWrapper):
    """Tries again by itself with whatever revision stands there."""

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
    """To create what exists replaces it."""

    caught_by = ("election.register.cas#definite", "election.register.cas#first")

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        found = await self.inner.read(name)
        return await self.inner.cas(name, value, expected=found.revision if found and not expected else expected)


class RefusesButStores(RegisterWrapper):
    """Says that there was a conflict, and writes all the same."""

    caught_by = "election.register.cas#definite"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        try:
            return await self.inner.cas(name, value, expected=expected)
        except RevisionConflict:
            found = await self.inner.read(name)
            await self.inner.cas(name, value, expected=found.revision if found else 0)
            raise


class ScansAPage(RegisterWrapper):
    """Gives the first page of a scan."""

    caught_by = "election.register.scan"
    unseen = "more names than a game has show it"

    async def scan(self, prefix: str) -> Sequence[Entry]:
        return (await self.inner.scan(prefix))[:256]


class FoldsNames(RegisterWrapper):
    """Folds the case of names."""

    caught_by = ("election.unique#names", "election.register.names")

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
    """Takes whatever revision stands there at the moment of writing for the expected one."""

    caught_by = "election.register.cas"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        await asyncio.sleep(0)
        found = await self.inner.read(name)
        return await self.inner.cas(name, value, expected=found.revision if found else 0)


class WritesInTwoSteps(RegisterWrapper):
    """Takes the record first and fills it then; cancelled in between it leaves an empty one."""

    caught_by = "election.register.cas#cancelled"
    unseen = "a machine cancels nothing"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        revision = await self.inner.cas(name, b"", expected=expected)
        await asyncio.sleep(0)
        return await self.inner.cas(name, value, expected=revision)


class GivesARevisionTwice(RegisterWrapper):
    """Revisions are moments of a coarse clock: two changes may have the same one."""

    caught_by = "election.register.revision"

    async def read(self, name: str) -> Entry | None:
        found = await self.inner.read(name)
        return found and found._replace(revision=_coarse(found.revision))

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        found = await self.inner.read(name)
        revision = found.revision if found else 0
        if _coarse(revision) != expected:
            raise RevisionConflict
        return _coarse(await self.inner.cas(name, value, expected=revision))


def _coarse(revision: int) -> int:
    return (revision + 1) // 2


class TakesPrefixesForPatterns(RegisterWrapper):
    """Scans with LIKE or KEYS, in which some characters mean more than themselves."""

    caught_by = "election.register.names"

    async def scan(self, prefix: str) -> Sequence[Entry]:
        return [entry for entry in await self.inner.scan("") if fnmatchcase(entry.name, f"{prefix}*")]


class WatchesEverything(RegisterWrapper):
    """A watch reports what has another name, too."""

    caught_by = "election.register.watch"

    def watch(self, prefix: str) -> AbstractAsyncContextManager[Watch]:
        return self.inner.watch("")


class LeavesATaskOfTheRegister(RegisterWrapper):
    """A poller that outlives its connection."""

    caught_by = "election.close#leaves"
    unseen = "a machine does not count what is left"

    tasks: ClassVar[set[asyncio.Task[bool]]] = set()

    async def open(self) -> None:
        await self.inner.open()
        self.tasks.add(asyncio.create_task(asyncio.Event().wait()))


class LeaksACancelledOpeningOfTheRegister(RegisterWrapper):
    """What it has begun is forgotten when its opening is cancelled."""

    caught_by = "election.close#opening"
    unseen = "a machine does not count what is left"

    task: asyncio.Task[bool] | None = None

    async def open(self) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        await self.inner.open()
        self.task = task

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
        await self.inner.close()


class ExpiresRecords(RegisterWrapper):
    """Lets the database delete what was not renewed for a moment, as a time to live does."""

    caught_by = "election.token"

    async def read(self, name: str) -> Entry | None:
        found = await self.inner.read(name)
        return None if found and found.revision % 4 == 0 else found

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        found = await self.inner.read(name)
        expired = found is not None and found.revision % 4 == 0 and expected == 0
        return await self.inner.cas(name, value, expected=found.revision if found and expired else expected)


class KeepsRecordsInTheHandle(RegisterWrapper):
    """A cache of records that is never written through: each candidate is alone."""

    caught_by: str | tuple[str, ...] = ("election.unique", "election.exclusive", "election.resign#contended")

    def __init__(self, inner: LeaseRegister) -> None:
        super().__init__(inner)
        self.records: dict[str, Entry] = {}

    async def read(self, name: str) -> Entry | None:
        return self.records.get(name)

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        found = self.records.get(name)
        if expected != (found.revision if found else 0):
            raise RevisionConflict
        self.records[name] = Entry(name, expected + 1, value)
        return expected + 1
