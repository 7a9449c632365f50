"""store.snapshot, store.checkpoint, store.identity, store.durability."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from aether.conformance.context import Context, event, fed, history, listed
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.conformance.wrappers import StoreWrapper
from aether.core import (
    START,
    Durability,
    Event,
    EventStore,
    FeatureMissing,
    InvalidSnapshot,
    Position,
    Snapshot,
    StaleToken,
    StoreIdentityChanged,
)
from aether.core.spi import Page, Slot, Stored

# --- Snapshots ---


def _snapshot(version: int, *, schema: str = "1", state: object = None) -> Snapshot:
    return Snapshot(actor_id="a", version=version, schema=schema, state=state or {"sum": version})


async def _kept_version(store: EventStore) -> int | None:
    found = await store.snapshot("a", schema="1")
    return None if found is None else found.version


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What is logged as a warning by Aether in the block."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("aether")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


@case("store.snapshot.kept")
async def snapshot_kept(ctx: Context) -> None:
    """A snapshot MUST come back exactly as it was saved, to every handle; an unknown one MUST be None."""
    one, two = await ctx.store(), await ctx.store()
    await one.append(*history("a", 1, 5))
    expect_equal(await one.snapshot("a", schema="1"), None, "a snapshot that was never saved")
    saved = _snapshot(3, state={"items": [1, 2.5, None, "é"], "nested": {"": {}}})
    await one.save_snapshot(saved)
    for store in (one, two):
        expect_equal(await store.snapshot("a", schema="1"), saved, "the snapshot")
    expect_equal(await two.snapshot("b", schema="1"), None, "the snapshot of another actor")


@case("store.snapshot.newer")
async def snapshot_newer(ctx: Context) -> None:
    """A snapshot newer than its actor MUST be refused when it is saved, and ignored with a warning when it is read."""

    class Shorter(StoreWrapper):
        """The store lost its last event, but not the snapshot."""

        async def version(self, actor_id: str) -> int:
            return min(await super().version(actor_id), 2)

        async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
            page = await super().read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
            return Page([one for one in page.records if one.version <= 2], page.more)

    store = await ctx.store()
    await store.append(*history("a", 1, 3))
    with expect_error(InvalidSnapshot, "saving a snapshot of version 4 at version 3"):
        await store.save_snapshot(_snapshot(4))
    expect_equal(await store.snapshot("a", schema="1"), None, "the snapshot")
    await store.save_snapshot(_snapshot(3))
    await _ignored(await ctx.store(wrap=Shorter), "of version 3 at version 2")


@case("store.snapshot.newer#rewritten")
async def snapshot_rewritten(ctx: Context) -> None:
    """A snapshot of events that were replaced since, in a restored store, MUST be ignored with a warning."""

    class Rewritten(StoreWrapper):
        """Other events stand at the versions of before."""

        async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
            page = await super().read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
            return Page(_other_events(page.records), page.more)

    store = await ctx.store()
    await store.append(*history("a", 1, 3))
    await store.save_snapshot(_snapshot(3))
    await _ignored(await ctx.store(wrap=Rewritten), "whose events were replaced")


async def _ignored(store: EventStore, which: str) -> None:
    with _warnings() as warned:
        expect_equal(await store.snapshot("a", schema="1"), None, f"a snapshot {which}")
    expect(len(warned) == 1, f"one warning of a snapshot {which}", found=warned)


@case("store.snapshot.newer#order")
async def snapshot_order(ctx: Context) -> None:
    """An older snapshot MUST never replace a newer one, also when they are saved at the same time."""
    stores = [await ctx.store(), await ctx.store()]
    await stores[0].append(*history("a", 1, 20))
    await stores[0].save_snapshot(_snapshot(10))
    await stores[1].save_snapshot(_snapshot(7))
    expect_equal(await _kept_version(stores[0]), 10, "the version of the snapshot")
    saves = [stores[version % 2].save_snapshot(_snapshot(version)) for version in (11, 20, 12, 19, 13, 18)]
    await ctx.within(asyncio.gather(*saves), "6 snapshots to be saved")
    expect_equal(await _kept_version(stores[1]), 20, "the version of the snapshot")


@case("store.snapshot.schema")
async def snapshot_schema(ctx: Context) -> None:
    """A snapshot of another schema MUST never be given back, and schemas MUST not replace each other's."""
    store = await ctx.store()
    await store.append(*history("a", 1, 5))
    await store.save_snapshot(_snapshot(4, schema="1"))
    expect_equal(await store.snapshot("a", schema="2"), None, "the snapshot of schema 2")
    await store.save_snapshot(_snapshot(2, schema="2"))
    for version, schema in ((4, "1"), (2, "2")):
        found = await store.snapshot("a", schema=schema)
        expect_equal(found and found.version, version, f"the version of the snapshot of schema {schema}")


@case("store.snapshot.damaged")
async def snapshot_damaged(ctx: Context) -> None:
    """A snapshot that cannot be read, or is of another store, MUST be ignored with a warning, and be replaceable."""

    class Damaged(StoreWrapper):
        async def load(self, kind: str, name: str) -> Slot | None:
            slot = await super().load(kind, name)
            return slot and slot._replace(value=slot.value[:-3])

    store = await ctx.store()
    await store.append(*history("a", 1, 5))
    await store.save_snapshot(_snapshot(3))
    for kind in (Damaged, _Renamed):
        other = await ctx.store(wrap=kind)
        await _ignored(other, f"in a store that is {kind.__name__.strip('_').lower()}")
        expect_equal(len(await listed(other.read("a"))), 5, "the number of events to replay")
    renamed = await ctx.store(wrap=_Renamed)
    with _warnings():
        await renamed.save_snapshot(_snapshot(2))
    expect_equal(await _kept_version(renamed), 2, "the version of the snapshot that replaced it")


# --- Checkpoints ---


async def _positions(store: EventStore, count: int) -> list[Position]:
    await store.append(*history("a", 1, count))
    return [position async for position, _ in store.feed()]


@case("store.checkpoint.kept")
async def checkpoint_kept(ctx: Context) -> None:
    """A checkpoint MUST come back to every handle as it was saved last, START before that; also one further back."""
    one, two = await ctx.store(), await ctx.store()
    positions = await _positions(one, 4)
    expect_equal(await one.checkpoint("c"), START, "a checkpoint that was never saved")
    for position in (positions[1], positions[3], positions[0], START, positions[2]):
        await one.save_checkpoint("c", position, token=1)
        for store in (one, two):
            expect_equal(await store.checkpoint("c"), position, "the checkpoint")
    expect_equal(await two.checkpoint("other"), START, "another checkpoint")


@case("store.checkpoint.fenced")
async def checkpoint_fenced(ctx: Context) -> None:
    """A lower token than one that has written MUST be refused with StaleToken, and change nothing."""
    one, two = await ctx.store(), await ctx.store()
    positions = await _positions(one, 3)
    await one.save_checkpoint("c", positions[0], token=5)
    await two.save_checkpoint("c", positions[1], token=7)
    for token in (0, 5, 6):
        with expect_error(StaleToken, f"saving with token {token} behind token 7") as caught:
            await one.save_checkpoint("c", positions[2], token=token)
        expect_equal((caught.error.token, caught.error.current), (token, 7), "the tokens in the error")
    expect_equal(await one.checkpoint("c"), positions[1], "the checkpoint")
    await one.save_checkpoint("c", positions[2], token=7)
    expect_equal(await two.checkpoint("c"), positions[2], "the checkpoint")


@case("store.checkpoint.fenced#race")
async def checkpoint_race(ctx: Context) -> None:
    """Of writers with different tokens at once, the highest MUST be the last one that counts."""
    stores = [await ctx.store() for _ in range(3)]
    positions = await _positions(stores[0], 9)
    for round_number in range(3):
        tokens = [round_number * 10 + number for number in (4, 1, 8, 3, 7, 2, 6, 5)]
        saves = [stores[token % 3].save_checkpoint("c", positions[token % 10], token=token) for token in tokens]
        results = await ctx.within(asyncio.gather(*saves, return_exceptions=True), "8 checkpoints")
        wrong = [one for one in results if one is not None and not isinstance(one, StaleToken)]
        expect_equal(wrong, [], "other errors than StaleToken")
        expect_equal(await stores[0].checkpoint("c"), positions[8], "the checkpoint of the highest token")


# --- Identity ---


class _Renamed(StoreWrapper):
    """The store was wiped and made again: it has another identity."""

    @property
    def identity(self) -> str:
        return super().identity[:60] + "-new"


async def _refuses_position(ctx: Context, store: EventStore, position: Position, why: str) -> None:
    for what, attempt in (
        ("feed(after=)", lambda: fed(store, after=position)),
        ("subscribe(after=)", lambda: store.subscribe(after=position).__aenter__()),
    ):
        with expect_error(StoreIdentityChanged, f"{what} with a position of {why}"):
            await ctx.within(attempt(), "StoreIdentityChanged")


@case("store.identity")
async def identity(ctx: Context) -> None:
    """A store MUST have one identity for all handles, for ever, and another one in every namespace."""
    one, two = await ctx.store(), await ctx.store()
    expect_equal(two.identity, one.identity, "the identity that another handle sees")
    await one.append(event("a", 1))
    await one.close()
    expect_equal((await ctx.store()).identity, two.identity, "the identity when it is opened again")
    other = await ctx.store(namespace=f"{ctx.namespace}.b")
    expect(other.identity != two.identity, "another identity in another namespace", found=other.identity)


@case("store.identity#wiped")
async def identity_wiped(ctx: Context) -> None:
    """Positions and checkpoints of a store that was wiped MUST raise StoreIdentityChanged, never be read as START."""
    store = await ctx.store()
    positions = await _positions(store, 3)
    await store.save_checkpoint("c", positions[1], token=1)
    wiped = await ctx.store(wrap=_Renamed)
    await _refuses_position(ctx, wiped, positions[1], "a store that was wiped")
    with expect_error(StoreIdentityChanged, "the checkpoint of a store that was wiped"):
        await wiped.checkpoint("c")
    with expect_error(StoreIdentityChanged, "feed(min_position=) of a store that was wiped"):
        await fed(wiped, min_position=positions[1])
    with expect_error(StoreIdentityChanged, "saving a position of a store that was wiped"):
        await wiped.save_checkpoint("d", positions[1], token=1)


@case("store.identity#foreign")
async def identity_foreign(ctx: Context) -> None:
    """A position of another namespace's store MUST raise StoreIdentityChanged."""
    store, other = await ctx.store(), await ctx.store(namespace=f"{ctx.namespace}.b")
    foreign = (await _positions(other, 3))[1]
    await _positions(store, 3)
    await _refuses_position(ctx, store, foreign, "another namespace")


@case("store.identity#restored")
async def identity_restored(ctx: Context) -> None:
    """A position that a restored store no longer has, or holds another event at, MUST raise StoreIdentityChanged."""
    store = await ctx.store()
    positions = await _positions(store, 5)
    await _refuses_position(
        ctx, await ctx.store(wrap=_restored(positions[2].order), timeout=0.1), positions[3], "later"
    )
    changed = await ctx.store(wrap=_Changed)
    await _refuses_position(ctx, changed, positions[2], "an event that was another one")
    beyond = Position(store.identity, positions[-1].order + 1000, positions[-1].mark)
    await _refuses_position(ctx, await ctx.store(timeout=0.1), beyond, "behind the end")
    expect_equal(len(await fed(store, after=positions[2])), 2, "the events behind a sound position")


def _restored(last: int) -> Callable[[StoreWrapper], StoreWrapper]:
    class Restored(StoreWrapper):
        """A backup was restored: what was behind `last` is gone."""

        async def head(self) -> Stored | None:
            page = await self.inner.feed(after=last - 1, upto=last, limit=1)
            return page.records[0]

    return Restored


class _Changed(StoreWrapper):
    """A backup was restored and written to: other events stand where those of before stood."""

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        page = await super().feed(after=after, upto=upto, limit=limit)
        return Page(_other_events(page.records), page.more)


def _other_events(records: Sequence[Stored]) -> list[Stored]:
    """The same places with other events: each has another id."""
    decoded = [msgspec.json.decode(one.data, type=Event) for one in records]
    others = [msgspec.json.encode(msgspec.structs.replace(one, id=f"{one.id}-other")) for one in decoded]
    return [msgspec.structs.replace(one, data=data) for one, data in zip(records, others, strict=True)]


# --- Durability ---


@case("store.durability")
async def durability(ctx: Context) -> None:
    """`require_durability` MUST refuse a store that claims less with FeatureMissing, and open one that claims it."""
    store = await ctx.store()
    claimed = store.durability
    expect(isinstance(claimed, Durability), "a Durability", found=claimed)
    for wanted in Durability:
        if wanted <= claimed:
            await (await ctx.store(require_durability=wanted)).version("a")
            continue
        with expect_error(FeatureMissing, f"requiring {wanted.name} of a store that claims {claimed.name}"):
            await ctx.store(require_durability=wanted)
