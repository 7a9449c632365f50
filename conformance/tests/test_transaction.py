"""The cases of CALLER_TRANSACTION: a backend that has it passes, broken ones die by the case that they name.

None of the references has the feature, so one is made of the model: writers wait for the transaction that is open.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from aether.conformance.harness import Harness
from aether.conformance.rules import all_cases
from aether.conformance.runner import Session, Status
from aether.core import Feature, VersionConflict
from aether.core.event import new_id
from aether.core.hookspecs import hookimpl
from aether.core.registry import Registry
from aether.core.spi import SPI_VERSION, BackendInfo, RevisionConflict, Slot, Stored, Write
from aether.memory.bus import MemoryBus
from aether.memory.space import NamespaceSpace
from aether.memory.store import MemoryStore


class Transaction:
    """What a caller has begun: the locks that it holds, and what to do when it ends."""

    def __init__(self) -> None:
        self.stores: dict[NamespaceSpace, list[Write]] = {}
        self.slots: list[tuple[NamespaceSpace, tuple[str, str], bytes]] = []

    def commit(self) -> None:
        for space, writes in self.stores.items():
            for write in writes:
                self.apply(space, write)
            for tail in space.tails:
                tail.set()
        for space, place, value in self.slots:
            space.revisions += 1
            space.slots[place] = Slot(space.revisions, value)

    def apply(self, space: NamespaceSpace, write: Write) -> None:
        for record in write.records:
            stored = Stored(len(space.feed) + 1, write.actor_id, record.version, record.data)
            space.feed.append(stored)
            space.actors.setdefault(write.actor_id, []).append(stored)

    def release(self) -> None:
        for space in self.stores:
            _lock(space).release()


def _lock(space: NamespaceSpace) -> asyncio.Lock:
    lock: asyncio.Lock = vars(space).setdefault("lock", asyncio.Lock())
    return lock


class TransactionalStore(MemoryStore):
    """The model, with the caller's transactions."""

    features = MemoryStore.features | {Feature.CALLER_TRANSACTION}

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        if transaction is None:
            async with _lock(self._space):
                return await super().append(writes)
        assert isinstance(transaction, Transaction)
        mine = await self._joined(transaction)
        for write in writes:
            there = len(self._space.actors.get(write.actor_id, ()))
            current = there + sum(len(one.records) for one in mine if one.actor_id == write.actor_id)
            if current != write.expected:
                raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=current)
        mine.extend(writes)
        return len(self._space.feed) + sum(len(one.records) for one in mine)

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        if transaction is None:
            async with _lock(self._space):
                return await super().save(kind, name, value, expected=expected)
        assert isinstance(transaction, Transaction)
        await self._joined(transaction)
        slot = self._space.slots.get((kind, name))
        if expected != (0 if slot is None else slot.revision):
            raise RevisionConflict
        transaction.slots.append((self._space, (kind, name), value))
        return self._space.revisions + len(transaction.slots)

    async def _joined(self, transaction: Transaction) -> list[Write]:
        if self._space not in transaction.stores:
            await _lock(self._space).acquire()
            transaction.stores[self._space] = []
        return transaction.stores[self._space]


class TransactionalHarness(Harness):
    multiprocess = False
    deadline = 1.0

    async def start(self) -> str:
        return f"transactional://{new_id()}"

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[object]:
        transaction = Transaction()
        try:
            yield transaction
            transaction.commit()
        finally:
            transaction.release()


def _registry(kind: type[TransactionalStore]) -> Registry:
    class Plugin:
        @hookimpl
        def aether_backend(self) -> BackendInfo:
            features = frozenset({*TransactionalStore.features, Feature.NO_RESPONDERS})
            return BackendInfo("transactional", SPI_VERSION, features)

        @hookimpl
        def aether_open_store(self, url: Any, scope: Any) -> TransactionalStore:
            return kind.from_url(url, scope)  # type: ignore[return-value]

        @hookimpl
        def aether_open_bus(self, url: Any, scope: Any) -> MemoryBus:
            return MemoryBus.from_url(url, scope)

    registry = Registry()
    registry.register("transactional", Plugin())
    return registry


CASES = [case for case in all_cases().values() if Feature.CALLER_TRANSACTION in case.needs]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_sound_backend_passes(case: Any) -> None:
    with Session(TransactionalHarness(), registry=_registry(TransactionalStore)) as session:
        result = session.run(case)

    assert result.status is Status.PASS, result.text


def test_rules_of_a_store_hold_beside_transactions() -> None:
    with Session(TransactionalHarness(), registry=_registry(TransactionalStore)) as session:
        ids = [case_id for case_id in all_cases() if case_id.startswith(("store.append.", "store.checkpoint."))]
        results = [session.run(all_cases()[case_id]) for case_id in ids]

    assert [result.text for result in results if result.status is Status.FAIL] == []


def test_harness_without_transactions_is_not_testable() -> None:
    class Bare(TransactionalHarness):
        transaction = Harness.transaction  # type: ignore[assignment]

    with Session(Bare(), registry=_registry(TransactionalStore)) as session:
        result = session.run(CASES[0])

    assert (result.status, result.text) == (Status.NOT_TESTABLE, "the harness has no transaction()")


# --- Broken ones ---


class IgnoresTransactions(TransactionalStore):
    """Stores at once, on a connection of its own."""

    caught_by: ClassVar = ("store.append.transaction#hidden", "store.append.transaction#rollback")

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await super().append(writes)


class CheckpointsOutside(TransactionalStore):
    """Joins with events, but not with checkpoints."""

    caught_by: ClassVar = ("store.append.transaction#checkpoint",)

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        return await MemoryStore.save(self, kind, name, value, expected=expected)


class ForgetsItsOwnWrites(TransactionalStore):
    """Looks for the version outside of the transaction."""

    caught_by: ClassVar = ("store.append.transaction",)

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        for write in writes if transaction else ():
            current = await self.version(write.actor_id)
            if current != write.expected:
                raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=current)
        return await super().append(writes, transaction=transaction)


class ChecksNothingInside(TransactionalStore):
    """Leaves the check to the commit, which does none."""

    caught_by: ClassVar = ("store.append.transaction#conflict",)

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        try:
            return await super().append(writes, transaction=transaction)
        except VersionConflict:
            if transaction is None:
                raise
            return len(self._space.feed)


class TakesItsPlaceEarly(TransactionalStore):
    """Gives positions away at the append, and lets others write behind them before the commit."""

    caught_by: ClassVar = ("store.append.transaction#late",)

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        if transaction is None:
            return await MemoryStore.append(self, writes)
        position = await super().append(writes, transaction=transaction)
        assert isinstance(transaction, Transaction)
        transaction.apply = _in_front  # type: ignore[method-assign]
        return position


def _in_front(space: NamespaceSpace, write: Write) -> None:
    """Put a commit in front of the three events that were stored while it was open."""
    for record in write.records:
        at = max(len(space.feed) - 3, 0)
        stored = Stored(at + 1, write.actor_id, record.version, record.data)
        space.feed.insert(at, stored)
        space.actors.setdefault(write.actor_id, []).append(stored)


MUTANTS = [IgnoresTransactions, CheckpointsOutside, ForgetsItsOwnWrites, ChecksNothingInside, TakesItsPlaceEarly]


@pytest.mark.parametrize(("kind", "case_id"), [(kind, one) for kind in MUTANTS for one in kind.caught_by])
def test_broken_backend_dies_by_its_case(kind: Any, case_id: str, record_property: Any) -> None:
    with Session(TransactionalHarness(), registry=_registry(kind)) as session:
        result = session.run(all_cases()[case_id])

    assert result.status is Status.FAIL, f"{case_id} does not notice {kind.__name__}"
    record_property("zoo", (kind.__name__, [case_id]))


def test_every_case_is_proved() -> None:
    assert {one for kind in MUTANTS for one in kind.caught_by} == {case.id for case in CASES}
