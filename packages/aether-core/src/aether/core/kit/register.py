"""A lease register on top of a store: each record is a slot under the store's own compare-and-set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from itertools import islice

import msgspec

from aether.core.errors import OutcomeUnknown, Unavailable
from aether.core.kit.polling import EVERY, Bell, Poll
from aether.core.spi import Entry, RevisionConflict, StoreDriver, Watch

_RECORD = "lease"
_INDEX = "lease-index"

_FULL = 32 * 1024  # bytes: a page of the index that has as many takes no more names
_BATCH = 64  # names that one write adds to a page, so that it stays below 128 KiB

_decoder = msgspec.json.Decoder(list[str])


class StoreRegister:
    """A `LeaseRegister` over the slots of a `StoreDriver`, which it opens and closes.

    As safe as the store's `save`: a record is one slot, `cas` is one `save` of it, and nothing is written twice.
    Slots cannot be listed, so the names stand in an index, pages of names in slots of their own. A name is there before
    its record is, so `scan` misses none; a name without a record means that whoever came to write it did not.

    `scan` and each look of a watch cost one `load` per record that matches, and one per page of the index: meant for
    hundreds of records, not for millions. Snapshots of 128 KiB have to be within the store's limits.
    """

    push = False

    def __init__(self, store: StoreDriver, *, bell: Bell | None = None, every: float = EVERY) -> None:
        """`bell` is shared by the registers of one place; watches of other processes look every `every` seconds."""
        self._store = store
        self._bell = bell or Bell()
        self._every = every
        self._new: set[str] = set()
        self._enlisting = asyncio.Lock()

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def read(self, name: str) -> Entry | None:
        slot = await self._store.load(_RECORD, name)
        return None if slot is None else Entry(name, slot.revision, slot.value)

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        if expected == 0:
            await self._enlist(name)
        revision = await self._store.save(_RECORD, name, value, expected=expected)
        self._bell.ring()
        return revision

    async def scan(self, prefix: str) -> Sequence[Entry]:
        names: list[str] = []
        page = 0
        while (slot := await self._store.load(_INDEX, str(page))) is not None:
            names += (name for name in _decoder.decode(slot.value) if name.startswith(prefix))
            page += 1
        found = [await self.read(name) for name in names]
        return [entry for entry in found if entry is not None]

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[Watch]:
        seen = {entry.name: entry.revision for entry in await self.scan(prefix)}
        yield _PollingWatch(self, prefix, seen, Poll(self._bell, every=self._every))

    # --- The index ---

    async def _enlist(self, name: str) -> None:
        """Put a name into the index. Names that come meanwhile wait, and go there together with the next write."""
        self._new.add(name)
        async with self._enlisting:
            if name in self._new:
                names = frozenset(self._new)
                try:
                    await self._extend(names)
                except OutcomeUnknown as error:  # of the index; the record was not touched
                    raise Unavailable(f"creating the record {name!r}", reason=error.reason) from error
                self._new -= names

    async def _extend(self, names: Collection[str]) -> None:
        missing, page = set(names), 0
        while missing:
            slot = await self._store.load(_INDEX, str(page))
            listed = [] if slot is None else _decoder.decode(slot.value)
            missing.difference_update(listed)
            if slot is not None and len(slot.value) >= _FULL:
                page += 1  # pages never shrink: everybody who adds a name comes to the same one
                continue
            batch = list(islice(missing, _BATCH))
            if batch and await self._save_page(page, [*listed, *batch], expected=slot.revision if slot else 0):
                missing.difference_update(batch)

    async def _save_page(self, page: int, names: Sequence[str], *, expected: int) -> bool:
        try:
            await self._store.save(_INDEX, str(page), msgspec.json.encode(names), expected=expected)
        except RevisionConflict:
            return False  # somebody else added names: this ends
        return True


class _PollingWatch:
    """A `Watch` that compares revisions."""

    def __init__(self, register: StoreRegister, prefix: str, seen: dict[str, int], poll: Poll) -> None:
        self._register = register
        self._prefix = prefix
        self._seen = seen
        self._poll = poll
        self._changed: dict[str, Entry] = {}

    async def next(self) -> Entry:
        return await self._poll.until(self._look)

    async def _look(self) -> Entry | None:
        if not self._changed:
            for entry in await self._register.scan(self._prefix):
                if self._seen.get(entry.name) != entry.revision:
                    self._seen[entry.name] = entry.revision
                    self._changed[entry.name] = entry
        return self._changed.pop(next(iter(self._changed))) if self._changed else None
