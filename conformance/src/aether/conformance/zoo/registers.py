"""Lease registers whose compare-and-set is none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aether.conformance.wrappers import RegisterWrapper
from aether.core.spi import (
    Entry,
    RevisionConflict,
)


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
