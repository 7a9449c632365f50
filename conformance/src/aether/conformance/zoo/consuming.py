"""Cores on which no consumer can rest: claims, moves of checkpoints, batches, confirmed publishing."""

from __future__ import annotations

import asyncio
from typing import Any

from aether.conformance.zoo import breaks
from aether.core import _slots
from aether.core._requests import Requests
from aether.core.bus import EventBus
from aether.core.event import Claim, Event
from aether.core.store import EventStore
from aether.core.subscription import Subscription

# --- Claims ---


@breaks(EventStore, "claim_checkpoint", caught_by=("store.checkpoint.claimed#race", "store.checkpoint.claimed#writer"))
def claims_in_two_steps(original: Any) -> Any:
    """Reads where the checkpoint is, and writes its token behind that."""

    async def claim(self: EventStore, name: str, *, token: int | None = None) -> Claim:
        kept = await _slots.load_checkpoint(self._driver, name)
        for _ in range(9):
            await asyncio.sleep(0)
        mine = kept.token + 1 if token is None else token
        await self.save_checkpoint(name, kept.position, token=mine)
        return Claim(kept.position, mine)

    return claim


@breaks(EventStore, "claim_checkpoint", caught_by="store.checkpoint.claimed")
def claims_without_a_word(original: Any) -> Any:
    """Tells the next token, and writes it with the first move: until then the last owner goes on."""

    async def claim(self: EventStore, name: str, *, token: int | None = None) -> Claim:
        kept = await _slots.load_checkpoint(self._driver, name)
        return Claim(kept.position, kept.token + 1 if token is None else token)

    return claim


@breaks(EventStore, "checkpoint_token", caught_by="store.checkpoint.claimed")
def tells_no_token(original: Any) -> Any:
    """The floor of an election is 0, whatever was claimed."""

    async def token(self: EventStore, name: str) -> int:
        return 0

    return token


# --- Moves ---


@breaks(_slots, "save_checkpoint", caught_by="store.checkpoint.expected")
def moves_it_from_anywhere(original: Any) -> Any:
    """Where the checkpoint should be is not looked at."""
    return lambda driver, name, position, **options: original(driver, name, position, **options | {"expected": None})


@breaks(
    _slots,
    "_goes_on",
    caught_by=("store.checkpoint.expected", "store.checkpoint.claimed"),
)
def believes_what_it_has_left(original: Any) -> Any:
    """Goes by the position and the token that it remembers, and replaces whatever is there."""

    async def goes_on(driver: Any, name: str, value: bytes, left: Any, *, token: int, expected: Any) -> bool:
        known = left.take(name)
        if known is None or token < known[1].token or (expected is not None and known[1].position != str(expected)):
            return False
        slot = await driver.load("checkpoint", name)
        left.put(name, await driver.save("checkpoint", name, value, expected=slot.revision), value)
        return True

    return goes_on


# --- Batches ---


@breaks(Subscription, "batch", caught_by="store.subscribe.batch")
def stays_where_a_batch_was_wanted(original: Any) -> Any:
    """The position is behind the last event of the batch, not behind those that nobody wanted."""

    async def batch(self: Subscription) -> Any:
        found = await original(self)
        self._passed = None
        return found

    return batch


@breaks(Subscription, "batch", caught_by="store.subscribe.batch#cancelled")
def drops_a_batch_that_is_cancelled(original: Any) -> Any:
    """Takes events out, and waits once more before it hands them over."""

    async def batch(self: Subscription) -> Any:
        found = await original(self)
        await asyncio.sleep(0)
        return found

    return batch


# --- Confirmed publishing ---


@breaks(Requests, "confirm", caught_by=("bus.confirm#swallowed", "bus.confirm#interrupted"))
def confirms_what_it_has_sent(original: Any) -> Any:
    """That the client has taken it is enough."""

    async def confirm(self: Requests, publish: Any, timeout: float) -> None:
        await publish()

    return confirm


@breaks(EventBus, "publish", caught_by="bus.confirm")
def publishes_again_to_be_sure(original: Any) -> Any:
    """Sends everything twice where a confirmation is asked for."""

    async def publish(self: EventBus, *events: Event, confirm: bool = False) -> None:
        if confirm:
            await original(self, *events)
        await original(self, *events, confirm=confirm)

    return publish
