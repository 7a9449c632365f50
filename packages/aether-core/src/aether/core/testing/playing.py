"""Tests of event classes and projections."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from copy import deepcopy
from typing import Any, TypeVar

from aether.core.correlation import handling
from aether.core.encoding import decode_event, encode_event
from aether.core.event import Event
from aether.core.spi import Stored
from aether.core.state.typed import EventTypes, new_event

Seen = TypeVar("Seen")


def history(actor_id: str, *payloads: object) -> list[Event]:
    """Events of an actor from version 1 on, of payloads with `@event` or `NewEvent`s."""
    return [new_event(payload).at(actor_id, version) for version, payload in enumerate(payloads, 1)]


def assert_round_trip(payload: object) -> None:
    """Fail unless a payload comes back from a store as it was: the same class, equal, field by field of equal types."""
    (event,) = history("actor", payload)
    back = EventTypes(type(payload)).decode(decode_event(Stored(1, "actor", 1, encode_event(event))))
    assert back == payload, f"{payload!r} comes back as {back!r}"
    for name in getattr(type(payload), "__annotations__", {}):
        given, found = getattr(payload, name, None), getattr(back, name, None)
        assert type(given) is type(found), f"{name}: {given!r} comes back as {found!r}"


async def play_twice(
    handler: Callable[[Event], Awaitable[object] | object],
    events: Iterable[Event],
    look: Callable[[], Awaitable[Seen] | Seen],
) -> Seen:
    """Play events into a projection, and again from every one of them on, and return what `look` sees of the view.

    That is what a crash does behind a checkpoint: the events since then come again, in order. Fails with the event from
    which on they made a difference.
    """
    played = list(events)
    await _play(handler, played)
    seen: Seen = deepcopy(await _settled(look()))
    for number, event in enumerate(played):
        await _play(handler, played[number:])
        again = await _settled(look())
        assert again == seen, (
            f"played again from {event.type!r}, version {event.version} of {event.actor_id!r}, on:\n"
            f"  before: {seen!r}\n  after:  {again!r}"
        )
    return seen


async def _play(handler: Callable[[Event], Awaitable[object] | object], events: Iterable[Event]) -> None:
    for event in events:
        with handling(event):
            await _settled(handler(event))


async def _settled(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer
