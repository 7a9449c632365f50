"""The register on top of a store: what the suite cannot make happen on every backend."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aether.core import OutcomeUnknown, Unavailable
from aether.core.kit import StoreRegister
from aether.core.spi import Entry, RevisionConflict
from aether.memory import MemoryStore, NamespaceSpace


class Slots(MemoryStore):
    """A store that notes what is saved, and loses the answers for one kind of slot."""

    def __init__(self, space: NamespaceSpace) -> None:
        super().__init__(space)
        self.saved: list[tuple[str, str]] = []
        self.largest = 0
        self.loses = ""

    async def save(self, kind: str, name: str, value: bytes, **options: Any) -> int:
        await asyncio.sleep(0)  # as on a server, others come in between
        self.saved.append((kind, name))
        self.largest = max(self.largest, len(value))
        revision = await super().save(kind, name, value, **options)
        if kind == self.loses:
            raise OutcomeUnknown("save", reason="the answer was lost")
        return revision


def run(body: Callable[[Slots, StoreRegister], Awaitable[None]]) -> None:
    slots = Slots(NamespaceSpace())
    asyncio.run(asyncio.wait_for(body(slots, StoreRegister(slots, every=0.01)), 30))


def test_a_cas_is_one_write_and_its_unknown_outcome_is_told() -> None:
    async def body(slots: Slots, register: StoreRegister) -> None:
        revision = await register.cas("a", b"1", expected=0)
        slots.saved.clear()
        slots.loses = "lease"
        with pytest.raises(OutcomeUnknown):
            await register.cas("a", b"2", expected=revision)
        assert slots.saved == [("lease", "a")]
        slots.loses = ""
        with pytest.raises(RevisionConflict):
            await register.cas("a", b"3", expected=revision)

    run(body)


def test_an_unknown_outcome_of_the_index_certainly_wrote_no_record() -> None:
    async def body(slots: Slots, register: StoreRegister) -> None:
        slots.loses = "lease-index"
        with pytest.raises(Unavailable):
            await register.cas("a", b"1", expected=0)
        assert await register.read("a") is None
        assert await register.scan("") == []  # the name is there, its record is not
        slots.loses = ""
        revision = await register.cas("a", b"1", expected=0)
        assert await register.scan("") == [Entry("a", revision, b"1")]

    run(body)


def test_many_names_at_once_share_few_writes_and_small_pages() -> None:
    async def body(slots: Slots, register: StoreRegister) -> None:
        others = StoreRegister(slots), StoreRegister(slots)
        names = [f"{number:03}" + "é" * 250 for number in range(400)]
        creations = [(register, *others)[n % 3].cas(name, b"x", expected=0) for n, name in enumerate(names)]
        await asyncio.gather(*creations)
        pages = {name for kind, name in slots.saved if kind == "lease-index"}
        assert sorted(entry.name for entry in await register.scan("")) == names  # each once
        assert len(pages) > 3
        assert slots.largest < 128 * 1024
        assert sum(kind == "lease-index" for kind, _ in slots.saved) < 100
        assert [entry.name for entry in await others[0].scan("399")] == names[399:]

    run(body)


def test_a_cancelled_creation_leaves_the_register_usable() -> None:
    async def body(slots: Slots, register: StoreRegister) -> None:
        for turns in range(12):
            creation = asyncio.create_task(register.cas(f"gone{turns}", b"x", expected=0))
            for _ in range(turns):
                await asyncio.sleep(0)
            creation.cancel()
            await asyncio.wait([creation])
            await register.cas(f"kept{turns}", b"x", expected=0)
        assert len(await register.scan("kept")) == 12
        assert not register._new  # nothing is kept of what was listed, or given up

    run(body)


def test_a_watch_reports_changes_of_other_processes() -> None:
    async def body(slots: Slots, register: StoreRegister) -> None:
        other = StoreRegister(slots)  # with a bell of its own: nobody here hears it
        first = await other.cas("node/1", b"1", expected=0)
        await other.cas("node/0", b"as it was before", expected=0)
        async with register.watch("node/") as watch:
            assert not register.push
            second = await other.cas("node/1", b"2", expected=first)
            assert await watch.next() == Entry("node/1", second, b"2")
            for number in range(2, 5):
                await other.cas(f"node/{number}", b"x", expected=0)
            await other.cas("other", b"x", expected=0)
            assert {(await watch.next()).name for _ in range(3)} == {"node/2", "node/3", "node/4"}

    run(body)
