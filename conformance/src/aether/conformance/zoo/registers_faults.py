"""Lease registers that break their promises only while a connection or a server breaks. They take a real server."""

from __future__ import annotations

import asyncio

from aether.conformance.wrappers import RegisterWrapper
from aether.core import OutcomeUnknown, Unavailable
from aether.core.spi import Entry, LeaseRegister, RevisionConflict

_SLOW = 0.02  # seconds: what these registers take for a broken connection
_PAUSE = 0.005


class RefusesWhatItDoesNotKnow(RegisterWrapper):
    """Says that a write was certainly not applied, when that is not known."""

    needs_server = True
    caught_by = "election.register.cas#ack"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        try:
            return await self.inner.cas(name, value, expected=expected)
        except OutcomeUnknown:
            raise RevisionConflict(name) from None


class WritesAgainByItself(RegisterWrapper):
    """Sends a write again whose answer is lost, and takes its own first try for somebody else's."""

    needs_server = True
    caught_by = "election.register.cas#reset"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        try:
            return await self.inner.cas(name, value, expected=expected)
        except OutcomeUnknown:
            while not await _answers(self.inner, name):  # noqa: ASYNC110  (it has no event)
                await asyncio.sleep(_PAUSE)
            return await self.inner.cas(name, value, expected=expected)


async def _answers(register: LeaseRegister, name: str) -> bool:
    try:
        await register.read(name)
    except Unavailable:
        return False
    return True


class WritesLateWithoutLooking(RegisterWrapper):
    """Keeps a write that was not answered, and applies it to whatever is there when the connection is back."""

    needs_server = True
    caught_by = "election.exclusive#blackhole"

    def __init__(self, inner: LeaseRegister) -> None:
        super().__init__(inner)
        self._kept: list[bytes] = []

    async def read(self, name: str) -> Entry | None:
        found = await self.inner.read(name)
        while found is not None and self._kept:  # others may write at the same moment, and be first
            try:
                await self.inner.cas(name, self._kept[-1], expected=found.revision)
            except RevisionConflict:
                found = await self.inner.read(name)
            else:
                self._kept = []
        return found

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        try:
            return await self.inner.cas(name, value, expected=expected)
        except (OutcomeUnknown, Unavailable, asyncio.CancelledError):
            self._kept = [value]
            raise


class RenewsWithoutAnAnswer(RegisterWrapper):
    """A write that is not answered at once has been applied, it thinks."""

    needs_server = True
    caught_by = "election.exclusive#pause"

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        try:
            async with asyncio.timeout(_SLOW):
                return await self.inner.cas(name, value, expected=expected)
        except TimeoutError:
            return expected + 1


class GoesOnAlone(RegisterWrapper):
    """While the server does not answer at once, it reads and writes a copy of its own."""

    needs_server = True
    caught_by = "election.exclusive#faults"

    def __init__(self, inner: LeaseRegister) -> None:
        super().__init__(inner)
        self._copies: dict[str, Entry | None] = {}

    async def read(self, name: str) -> Entry | None:
        try:
            async with asyncio.timeout(_SLOW):
                self._copies[name] = await self.inner.read(name)
        except (TimeoutError, Unavailable):
            if name not in self._copies:
                raise Unavailable(name, reason="there is no copy yet") from None
        return self._copies[name]

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        try:
            async with asyncio.timeout(_SLOW):
                revision = await self.inner.cas(name, value, expected=expected)
        except (TimeoutError, OutcomeUnknown, Unavailable):
            revision = expected + 1
        self._copies[name] = Entry(name, revision, value)
        return revision
