"""Lease registers that are sound under compare-and-set and break something beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aether.conformance.wrappers import RegisterWrapper
from aether.core.spi import Entry, Watch

_PAGE_BYTES = 4 << 20


class ValuesAreText(RegisterWrapper):
    """Keeps values in a column of text."""

    caught_by = "election.register.value"

    async def read(self, name: str) -> Entry | None:
        found = await self.inner.read(name)
        return found and found._replace(value=found.value.decode(errors="replace").encode())


class ScansByOffset(RegisterWrapper):
    """Reads pages of the records by their age; one that changes meanwhile moves to the end, and others move up."""

    caught_by = "election.register.scan#busy"
    unseen = "it takes writers beside a scan"

    async def scan(self, prefix: str) -> Sequence[Entry]:
        found: list[Entry] = []
        while True:
            by_age = sorted(await self.inner.scan(prefix), key=lambda entry: entry.revision)
            page = by_age[len(found) : len(found) + 20]
            if not page:
                return found
            found += page
            await asyncio.sleep(0)


class ScansACache(RegisterWrapper):
    """Remembers what it has written itself, and asks for the rest only once."""

    caught_by = "election.register.scan#changed"

    cached: Sequence[Entry] = ()

    async def scan(self, prefix: str) -> Sequence[Entry]:
        if not self.cached:
            self.cached = await self.inner.scan(prefix)
        return self.cached

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        self.cached = ()
        return await self.inner.cas(name, value, expected=expected)


class ScansOnePage(RegisterWrapper):
    """Reads records until they have 4 MiB, as a page of the feed does, and takes that for all."""

    caught_by = "election.register.scan#large"
    unseen = "it takes records of more than 4 MiB"

    async def scan(self, prefix: str) -> Sequence[Entry]:
        size = 0
        found: list[Entry] = []
        for entry in await self.inner.scan(prefix):
            if size >= _PAGE_BYTES:
                break
            found.append(entry)
            size += len(entry.value)
        return found


class _Around:
    """A watch that is another one."""

    def __init__(self, inner: Watch) -> None:
        self.inner = inner

    async def next(self) -> Entry:
        return await self.inner.next()


class OneWatchPerRegister(RegisterWrapper):
    """A second watch takes the place of the first."""

    caught_by = "election.register.watch#several"
    unseen = "it takes two watches of one handle at once"

    newest: object = None

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[Watch]:
        register = self

        class Replaced(_Around):
            async def next(self) -> Entry:
                while True:
                    found = await self.inner.next()
                    if register.newest is self:
                        return found

        async with self.inner.watch(prefix) as inner:
            self.newest = watch = Replaced(inner)
            yield watch


class ForgetsTheCancelled(RegisterWrapper):
    """A change that was taken for a wait that is cancelled is gone."""

    caught_by = "election.register.watch#cancelled"
    unseen = "it takes a wait that is cancelled"

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[Watch]:
        class Forgets(_Around):
            async def next(self) -> Entry:
                found = await self.inner.next()
                for _ in range(3):
                    await asyncio.sleep(0)
                return found

        async with self.inner.watch(prefix) as inner:
            yield Forgets(inner)


class PollsAndClaimsPush(RegisterWrapper):
    """Looks five times a second."""

    caught_by = "election.register.push"
    unseen = "only the time that a hint takes shows it"

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[Watch]:
        async with self.inner.watch(prefix) as inner:

            class Polls(_Around):
                async def next(self) -> Entry:
                    found = await self.inner.next()
                    over = asyncio.get_running_loop().time() + 0.2
                    while asyncio.get_running_loop().time() < over:  # noqa: ASYNC110  (that is what is wrong with it)
                        await asyncio.sleep(0.01)
                    return found

            yield Polls(inner)


class RegisterClosesOnce(RegisterWrapper):
    """Gives its connection back to the pool twice."""

    caught_by = "election.register.close"

    closed = False

    async def close(self) -> None:
        if self.closed:
            raise RuntimeError("the pool is closed")
        self.closed = True
        await self.inner.close()
