"""store.names and store.namespace: what is told apart stays apart, in every method."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aether.conformance.context import Context, event, fed, history, listed
from aether.conformance.corpus import HOSTILE_NAMES, INVALID_NAMES
from aether.conformance.rules import case
from aether.conformance.violations import expect_equal, expect_error
from aether.core import EventStore, InvalidName, Position, Snapshot, VersionConflict

# --- Names ---


async def _each(work: Callable[[int, str], Awaitable[None]]) -> None:
    """Do something for every hostile name, a few at once."""
    names = list(enumerate(HOSTILE_NAMES))
    for start in range(0, len(names), 16):
        await asyncio.gather(*(work(number, name) for number, name in names[start : start + 16]))


@case("store.names#actors")
async def actors(ctx: Context) -> None:
    """Any text of 1 to 255 characters without control characters MUST be an actor id, and no two ids MUST ever meet."""
    store, reader = await ctx.store(), await ctx.store()

    async def write(number: int, name: str) -> None:
        await store.append(event(name, 1, data={"number": number}))

    async def check(number: int, name: str) -> None:
        expect_equal(await reader.version(name), 1, f"the version of {name!r}")
        found = [(each.actor_id, each.data["number"]) async for each in reader.read(name)]
        expect_equal(found, [(name, number)], f"the events of {name!r}")

    await _each(write)
    await _each(check)
    found = {each.actor_id: each.data["number"] for each in await fed(reader)}
    expect_equal(found, {name: number for number, name in enumerate(HOSTILE_NAMES)}, "the actors of the feed")


@case("store.names#state")
async def state(ctx: Context) -> None:
    """Snapshots and checkpoints MUST be kept apart by any name, and snapshots by any schema."""
    store = await ctx.store()
    await store.append(event("a", 1))

    async def write(number: int, name: str) -> None:
        position = (await store.append(event(name, 2 if name == "a" else 1))).position
        await store.save_snapshot(Snapshot(actor_id=name, version=1, schema="s", state=number))
        await store.save_snapshot(Snapshot(actor_id="a", version=1, schema=name, state=number))
        await store.save_checkpoint(name, position, token=1)
        positions[name] = position

    async def check(number: int, name: str) -> None:
        for actor_id, schema in ((name, "s"), ("a", name)):
            found = await store.snapshot(actor_id, schema=schema)
            expect_equal(found and found.state, number, f"the snapshot of {actor_id!r} in schema {schema!r}")
        expect_equal(await store.checkpoint(name), positions[name], f"checkpoint {name!r}")

    positions: dict[str, Position] = {}
    await _each(write)
    await _each(check)


@case("store.names#fields")
async def fields(ctx: Context) -> None:
    """Event types, ids and metadata MUST come back as they were given, whatever text they are."""
    store = await ctx.store()
    commit = [
        event("a", version, type=name, id=name, metadata={name: name})
        for version, name in enumerate(HOSTILE_NAMES, start=1)
    ]
    await store.append(*commit)
    expect_equal(await listed(store.read("a")), commit, "the events")
    for wanted in ("*", ">", "a", "A", "%", "é"):
        found = [each.type for each in await fed(store, types={wanted})]
        expect_equal(found, [wanted], f"the types that feed(types={{{wanted!r}}}) gives")


@case("store.names#refused")
async def refused(ctx: Context) -> None:
    """Control characters, empty and longer names MUST be InvalidName in every method, and store nothing."""
    store = await ctx.store()
    position = (await store.append(event("a", 1))).position
    snapshot = Snapshot(actor_id="a", version=1, schema="s", state=1)
    attempts: dict[str, Callable[[Any], Awaitable[object]]] = {
        "append(actor_id)": lambda wrong: store.append(event(wrong, 1)),
        "append(type)": lambda wrong: store.append(event("b", 1, type=wrong)),
        "append(id)": lambda wrong: store.append(event("b", 1, id=wrong)),
        "read": lambda wrong: listed(store.read(wrong)),
        "version": store.version,
        "snapshot(actor_id)": lambda wrong: store.snapshot(wrong, schema="s"),
        "snapshot(schema)": lambda wrong: store.snapshot("a", schema=wrong),
        "save_snapshot(actor_id)": lambda wrong: store.save_snapshot(_with(snapshot, actor_id=wrong)),
        "save_snapshot(schema)": lambda wrong: store.save_snapshot(_with(snapshot, schema=wrong)),
        "checkpoint": store.checkpoint,
        "checkpoint_token": store.checkpoint_token,
        "claim_checkpoint": store.claim_checkpoint,
        "save_checkpoint": lambda wrong: store.save_checkpoint(wrong, position, token=1),
    }
    for name in INVALID_NAMES:
        for method, attempt in attempts.items():
            with expect_error(InvalidName, f"{method} with {name!r:.60}"):
                await attempt(name)
    expect_equal(len(await fed(store)), 1, "the length of the feed")


def _with(snapshot: Snapshot, **changes: Any) -> Snapshot:
    return Snapshot(**{name: getattr(snapshot, name) for name in snapshot.__struct_fields__} | changes)


# --- Namespaces ---


async def _conflict(store: EventStore) -> object:
    """Where `append` believes the actor to be."""
    with expect_error(VersionConflict, "appending version 99") as caught:
        await store.append(event("shared", 99))
    return caught.error.current


async def _subscribed(store: EventStore) -> object:
    head = await store.head()
    found = []
    async with store.subscribe() as events:
        while events.position != head:
            found.append(await anext(events))
    return found


VIEWS: dict[str, Callable[[EventStore], Awaitable[object]]] = {
    "append": _conflict,
    "read": lambda store: listed(store.read("shared")),
    "version": lambda store: store.version("shared"),
    "feed": lambda store: listed(store.feed()),
    "head": lambda store: store.head(),
    "subscribe": _subscribed,
    "snapshot": lambda store: store.snapshot("shared", schema="s"),
    "save_snapshot": lambda store: store.snapshot("shared", schema="other"),
    "checkpoint": lambda store: store.checkpoint("shared"),
    "checkpoint_token": lambda store: store.checkpoint_token("shared"),
    "claim_checkpoint": lambda store: store.claim_checkpoint("other", token=1),
    "save_checkpoint": lambda store: store.checkpoint("other"),
}
"""For every method of a store: what it shows of a namespace."""


async def _fill(store: EventStore) -> None:
    """Write under the names that the views look at."""
    await store.append(*history("shared", 1, 3, data={"of": store.namespace}))
    for schema in ("s", "other"):
        await store.save_snapshot(Snapshot(actor_id="shared", version=2, schema=schema, state=store.namespace))
    for name in ("shared", "other"):
        await store.save_checkpoint(name, await store.head(), token=1)


async def _check_namespaces(ctx: Context, method: str) -> None:
    """Fill neighbours of similar names one after the other, and look at all of them each time."""
    view = VIEWS[method]
    stores = [await ctx.store(namespace=ctx.namespace + ending) for ending in ("", ".b", "-b", "b", ".b.c")]
    expected = [await ctx.within(view(store), f"`{method}` of an empty namespace") for store in stores]
    for number, store in enumerate(stores):
        await _fill(store)
        expected[number] = await ctx.within(view(store), f"`{method}`")
        for other, wanted in zip(stores, expected, strict=True):
            found = await ctx.within(view(other), f"`{method}`")
            expect_equal(found, wanted, f"`{method}` in {other.namespace}, behind writing to {store.namespace},")


def _register(method: str) -> None:
    async def check(ctx: Context) -> None:
        await _check_namespaces(ctx, method)

    check.__doc__ = (
        f"What is written to one namespace MUST not show in another in `{method}`, however alike their names."
    )
    case(f"store.namespace#{method}")(check)


for _method in VIEWS:
    _register(_method)
