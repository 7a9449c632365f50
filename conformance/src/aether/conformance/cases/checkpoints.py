"""store.checkpoint: claims, which take a checkpoint over, and moves, which go on from where it was left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aether.conformance.context import Context, drift, history
from aether.conformance.rules import case
from aether.conformance.violations import expect, expect_equal, expect_error
from aether.core import START, CheckpointMoved, Claim, EventStore, Position, StaleToken


async def _positions(store: EventStore, count: int) -> list[Position]:
    await store.append(*history("a", 1, count))
    return [position async for position, _ in store.feed()]


@case("store.checkpoint.claimed")
async def claimed(ctx: Context) -> None:
    """A claim MUST return where the checkpoint is, move nothing, and fence every lower token; `token` MUST be kept."""
    one, two = await ctx.store(), await ctx.store()
    positions = await _positions(one, 3)
    expect_equal(await two.checkpoint_token("c"), 0, "the token of a checkpoint that nobody has written")
    expect_equal(await one.claim_checkpoint("c"), Claim(START, 1), "the first claim")
    await one.save_checkpoint("c", positions[0], token=1)
    expect_equal(await two.claim_checkpoint("c"), Claim(positions[0], 2), "a claim by another handle")
    with expect_error(StaleToken, "saving with a token that was claimed away"):
        await one.save_checkpoint("c", positions[1], token=1)
    expect_equal(await two.claim_checkpoint("c", token=7), Claim(positions[0], 7), "a claim with an election's token")
    expect_equal(await one.claim_checkpoint("c", token=7), Claim(positions[0], 7), "the same claim again")
    with expect_error(StaleToken, "a claim with a lower token") as caught:
        await one.claim_checkpoint("c", token=6)
    expect_equal((caught.error.token, caught.error.current), (6, 7), "the tokens in the error")
    for store in (one, two):
        expect_equal(await store.checkpoint_token("c"), 7, "the highest token")
        expect_equal(await store.checkpoint("c"), positions[0], "the checkpoint, which no claim has moved")
    await one.save_checkpoint("c", positions[2], token=7)
    expect_equal(await two.claim_checkpoint("c"), Claim(positions[2], 8), "a claim behind the tokens of an election")


@case("store.checkpoint.claimed#race")
async def claimed_race(ctx: Context) -> None:
    """Of callers that claim at once each MUST get a token of its own, and only the highest may save afterwards."""
    stores = [await ctx.store() for _ in range(3)]
    positions = await _positions(stores[0], 12)
    claims = await ctx.within(asyncio.gather(*(stores[n % 3].claim_checkpoint("c") for n in range(12))), "12 claims")
    expect_equal(sorted(one.token for one in claims), list(range(1, 13)), "the tokens of 12 claims at once")
    for number, claim in enumerate(claims):
        if claim.token < 12:
            with expect_error(StaleToken, f"saving with token {claim.token} of 12"):
                await stores[(number + 1) % 3].save_checkpoint("c", positions[number], token=claim.token)
    expect_equal(await stores[0].checkpoint("c"), START, "the checkpoint")


@case("store.checkpoint.claimed#writer")
async def claimed_writer(ctx: Context) -> None:
    """A claim MUST find the last move that its last owner was told of, and none may follow it."""
    old, new = await ctx.store(), await ctx.store()
    positions = await _positions(old, 60)
    for number in range(6):
        name = f"c{number}"
        token = (await old.claim_checkpoint(name)).token
        told: list[Position] = []
        moving = asyncio.create_task(_move(old, name, token, positions, told))
        try:
            await ctx.eventually(lambda: told, "the first move")  # noqa: B023  (in this turn)
            taken = await ctx.within(new.claim_checkpoint(name), "the claim")
            found = (await ctx.within(asyncio.gather(moving, return_exceptions=True), "the last owner to end"))[0]
        finally:
            moving.cancel()
            await asyncio.wait([moving])
        fair = found is None or isinstance(found, StaleToken)
        expect(fair, "the last owner to end with StaleToken, or with its last position", found=found)
        expect_equal(taken.position, told[-1], "the position of the claim, behind the last move")
        expect_equal(await new.checkpoint(name), taken.position, "the checkpoint behind the claim")


async def _move(store: EventStore, name: str, token: int, positions: Sequence[Position], told: list[Position]) -> None:
    for position in positions:
        await store.save_checkpoint(name, position, token=token)
        told.append(position)
        await drift(1)


@case("store.checkpoint.expected")
async def moves_from(ctx: Context) -> None:
    """With `expected` a checkpoint that is elsewhere MUST raise CheckpointMoved and stay, whoever has moved it."""
    one, two = await ctx.store(), await ctx.store()
    positions = await _positions(one, 5)
    await one.save_checkpoint("c", positions[0], token=1, expected=START)
    await one.save_checkpoint("c", positions[1], token=1, expected=positions[0])
    await two.save_checkpoint("c", positions[2], token=1, expected=positions[1])
    for store, expected in ((one, positions[1]), (two, START), (two, positions[3])):
        with expect_error(CheckpointMoved, f"moving it from {expected}") as caught:
            await store.save_checkpoint("c", positions[4], token=1, expected=expected)
        expect_equal((caught.error.expected, caught.error.found), (expected, positions[2]), "the error's positions")
    expect_equal(await one.checkpoint("c"), positions[2], "the checkpoint")
    await one.save_checkpoint("c", positions[3], token=1, expected=positions[2])
    with expect_error(CheckpointMoved, "moving one that nobody has saved, from elsewhere than START"):
        await one.save_checkpoint("other", positions[1], token=1, expected=positions[0])
    expect_equal(await two.checkpoint("c"), positions[3], "the checkpoint")


@case("store.checkpoint.expected#race")
async def moves_from_race(ctx: Context) -> None:
    """Of callers that move it from one place to others at once, exactly one MUST succeed."""
    stores = [await ctx.store() for _ in range(3)]
    positions = await _positions(stores[0], 9)
    at = START
    for round_number in range(3):
        places = positions[round_number * 3 : round_number * 3 + 3]
        moves = (
            store.save_checkpoint("c", place, token=1, expected=at) for store, place in zip(stores, places, strict=True)
        )
        results = await ctx.within(asyncio.gather(*moves, return_exceptions=True), "3 moves")
        wrong = [one for one in results if one is not None and not isinstance(one, CheckpointMoved)]
        expect_equal(wrong, [], "other errors than CheckpointMoved")
        won = [place for place, result in zip(places, results, strict=True) if result is None]
        expect_equal(len(won), 1, "the number of moves that succeeded")
        at = await stores[round_number].checkpoint("c")
        expect_equal(at, won[0], "the checkpoint")
