"""The lease register in memory: the executable model of every rule.

**URL** `memory://` or `memory://name`. Registers of one name share their records; they live as long as the process.

**Guarantees** Every rule of the suite. Nobody outside of the process can be a candidate.

**Limits** None of its own. Use one event loop.

**Under the hood** A dictionary of records. Nothing awaits between looking and writing, so `cas` is one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aether.core.spi import Entry, RevisionConflict, Watch


class RegisterSpace:
    """What the registers of one URL and namespace share."""

    def __init__(self) -> None:
        self.registers: dict[str, Entry] = {}
        self.register_watches: list[MemoryWatch] = []


class MemoryWatch:
    """One open watch. It keeps the latest value of each changed record until that is asked for."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._changes: dict[str, Entry] = {}
        self._changed = asyncio.Event()

    def notice(self, entry: Entry) -> None:
        """A record has changed."""
        if entry.name.startswith(self._prefix):
            self._changes[entry.name] = entry
            self._changed.set()

    async def next(self) -> Entry:
        while not self._changes:
            self._changed.clear()
            await self._changed.wait()
        return self._changes.pop(next(iter(self._changes)))


class MemoryRegister:
    """A `LeaseRegister` over a dictionary."""

    push = True

    def __init__(self, space: RegisterSpace) -> None:
        self._space = space

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def read(self, name: str) -> Entry | None:
        return self._space.registers.get(name)

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        found = self._space.registers.get(name)
        if expected != (0 if found is None else found.revision):
            raise RevisionConflict
        entry = Entry(name, expected + 1, value)
        self._space.registers[name] = entry
        for watch in self._space.register_watches:
            watch.notice(entry)
        return entry.revision

    async def scan(self, prefix: str) -> Sequence[Entry]:
        return [entry for name, entry in self._space.registers.items() if name.startswith(prefix)]

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[Watch]:
        watch = MemoryWatch(prefix)
        self._space.register_watches.append(watch)
        try:
            yield watch
        finally:
            self._space.register_watches.remove(watch)
