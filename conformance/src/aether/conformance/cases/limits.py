"""store.append.limits: what is allowed works, what is above it is refused before anything is stored."""

from __future__ import annotations

from aether.conformance.context import Context, event, fed, listed, sized
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.core import CommitTooLarge, PayloadTooLarge, Snapshot
from aether.core.encoding import encode_event


@case("store.append.limits#event")
async def limit_event(ctx: Context) -> None:
    """An event of max_event_bytes MUST be stored; one byte more MUST be PayloadTooLarge, and store nothing."""
    store = await ctx.store()
    limit = min(store.limits.max_event_bytes, store.limits.max_commit_bytes)
    largest = sized("a", 1, limit)
    await ctx.within(store.append(largest), f"an append of {limit} bytes")
    expect(await listed(store.read("a")) == [largest], "the largest event back", found="another one")
    if limit == store.limits.max_event_bytes:
        with expect_error(PayloadTooLarge, f"an event of {limit + 1} bytes"):
            await store.append(event("a", 2), sized("a", 3, limit + 1))
    expect_equal(await store.version("a"), 1, "the version")


@case("store.append.limits#events")
async def limit_events(ctx: Context) -> None:
    """A commit of max_commit_events MUST be stored; one more MUST be CommitTooLarge, and store nothing."""
    store = await ctx.store()
    limits = store.limits
    moment = event("a", 1).timestamp
    commit = [event("a", version, timestamp=moment) for version in range(1, limits.max_commit_events + 2)]
    with expect_error(CommitTooLarge, f"{len(commit)} events"):
        await store.append(*commit)
    expect_equal(await store.version("a"), 0, "the version")
    commit.pop()
    size = sum(len(encode_event(each)) for each in commit)
    if size <= limits.max_commit_bytes:
        await ctx.within(store.append(*commit), f"a commit of {len(commit)} events")
        found = [each.id async for each in store.read("a")]
        expect(found == [each.id for each in commit], f"{len(commit)} events back", found=f"{len(found)} or others")


@case("store.append.limits#bytes")
async def limit_bytes(ctx: Context) -> None:
    """A commit of max_commit_bytes MUST be stored; one byte more MUST be CommitTooLarge, and store nothing."""
    store = await ctx.store()
    limits = store.limits
    total = limits.max_commit_bytes
    count = -(-total // limits.max_event_bytes) + 1  # so that one byte more is no event above its own limit
    sizes = [total // count] * (count - 1)
    sizes.append(total - sum(sizes))
    commit = [sized("a", version, size) for version, size in enumerate(sizes, start=1)]
    await ctx.within(store.append(*commit), f"a commit of {total} bytes")
    found = [each.id async for each in store.read("a")]
    expect(found == [each.id for each in commit], f"{len(commit)} events back", found=f"{len(found)} or others")
    above = [sized("b", version, size) for version, size in enumerate(sizes[:-1], start=1)]
    above.append(sized("b", len(sizes), sizes[-1] + 1))
    with expect_error(CommitTooLarge, "one byte more"):
        await store.append(*above)
    expect_equal(await store.version("b"), 0, "the version")


@case("store.append.limits#snapshot")
async def limit_snapshot(ctx: Context) -> None:
    """A snapshot near max_snapshot_bytes MUST be kept; one above it MUST be PayloadTooLarge and change nothing."""
    store = await ctx.store()
    limit = store.limits.max_snapshot_bytes
    await store.append(event("a", 1))
    kept = Snapshot(actor_id="a", version=1, schema="1", state="x" * (limit - 1000))
    await ctx.within(store.save_snapshot(kept), f"a snapshot of almost {limit} bytes")
    await store.append(event("a", 2))
    with expect_error(PayloadTooLarge, "a snapshot above the limit"):
        await store.save_snapshot(Snapshot(actor_id="a", version=2, schema="1", state="x" * limit))
    expect(await store.snapshot("a", schema="1") == kept, "the kept snapshot", found="another one")


@case("store.append.limits#order")
async def limit_first(ctx: Context) -> None:
    """A commit that is too large MUST be refused as such, also where it would be a conflict."""
    store = await ctx.store()
    await store.append(event("a", 1))
    too_many = [event("a", version) for version in range(1, store.limits.max_commit_events + 2)]
    with expect_error(CommitTooLarge, f"{len(too_many)} events, of which the first exists"):
        await store.append(*too_many)
    expect_equal(len(await fed(store)), 1, "the length of the feed")
