"""The outbox: stored events reach a bus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from aether.core.bus import EventBus
from aether.core.election import DEFAULT_TTL, Election
from aether.core.event import START, Event, Position
from aether.core.projection import BATCH, STOP, Running, batched, react
from aether.core.store import EventStore


def relay(
    store: EventStore,
    bus: EventBus,
    *,
    name: str = "relay",
    begin: Position | Literal["now"] = START,
    election: Election | None = None,
    ttl: float = DEFAULT_TTL,
    types: Iterable[str] | None = None,
    actors: str | None = None,
    batch: int = BATCH,
) -> Running:
    """Prepare a relay: every event that is stored behind `begin` is published on the bus, in order, at least once.

        async with relay(store, bus, election=election): ...

    The checkpoint moves when the backend has confirmed that it has the messages, so a crash or an outage repeats some
    and leaves none out; whoever must not see an event twice remembers the version of its actor. An event that the bus
    cannot take at all ends the relay with the error (`PayloadTooLarge`), in front of it. The rest is as in `react`.
    """

    async def carry(events: Sequence[Event]) -> None:
        await bus.publish(*events, confirm=True)

    return react(
        store,
        name,
        batched(carry),
        begin=begin,
        on_error=STOP,
        election=election,
        ttl=ttl,
        types=types,
        actors=actors,
        batch=batch,
    )
