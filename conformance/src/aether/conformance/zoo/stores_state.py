"""Stores that mix up state and identity, or leave something behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from aether.conformance.wrappers import StoreWrapper
from aether.core.event import new_id
from aether.core.spi import (
    RevisionConflict,
    Slot,
    StoreDriver,
    Write,
)


class LastSnapshotWins(StoreWrapper):
    """Compare-and-set without the compare."""

    caught_by = (
        "store.checkpoint.fenced#race",
        "store.checkpoint.claimed#race",
        "store.checkpoint.expected#race",
        "store.snapshot.newer#order",
    )

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
    """Makes up an identity with each opening."""

    caught_by = "store.identity"

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self._identity = new_id()

    @property
    def identity(self) -> str:
        return self._identity


class OneIdentity(StoreWrapper):
    """Is called the same everywhere."""

    caught_by = "store.identity"

    @property
    def identity(self) -> str:
        return "the-store"


class LeavesATask(StoreWrapper):
    """A keep-alive that outlives its connection."""

    caught_by = "store.close#leaves"
    unseen = "tasks are counted behind a machine, not in its games"

    tasks: ClassVar[set[asyncio.Task[bool]]] = set()

    async def open(self) -> None:
        await self.inner.open()
        self.tasks.add(asyncio.create_task(asyncio.Event().wait()))


class HangsAfterCancel(StoreWrapper):
    """A lock that a cancelled append never gives back."""

    caught_by = "store.close#cancelled"

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self._lock = asyncio.Lock()

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        await self._lock.acquire()
        await asyncio.sleep(0)
        position = await self.inner.append(writes)
        self._lock.release()
        return position


class KeepsSlotsInTheHandle(StoreWrapper):
    """A cache of snapshots and checkpoints that is never written through."""

    caught_by: str | tuple[str, ...] = ("store.snapshot.kept", "store.checkpoint.kept", "store.checkpoint.fenced")

    def __init__(self, inner: StoreDriver) -> None:
        super().__init__(inner)
        self.slots: dict[tuple[str, str], Slot] = {}

    async def load(self, kind: str, name: str) -> Slot | None:
        return self.slots.get((kind, name))

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        self.slots[kind, name] = Slot(expected + 1, value)
        return expected + 1


class SharesSlotsAcrossNamespaces(StoreWrapper):
    """The table of snapshots and checkpoints has no column for the namespace."""

    caught_by = ("store.namespace#snapshot", "store.namespace#checkpoint")

    slots: ClassVar[dict[tuple[str, str], Slot]] = {}

    async def load(self, kind: str, name: str) -> Slot | None:
        return self.slots.get((kind, name))

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        found = self.slots.get((kind, name))
        if expected != (found.revision if found else 0):
            raise RevisionConflict
        self.slots[kind, name] = Slot(expected + 1, value)
        return expected + 1


class LeaksACancelledOpening(StoreWrapper):
    """What it has begun is forgotten when its opening is cancelled."""

    caught_by = "store.close#opening"
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
