"""Which events a reader wants: by type and by actor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aether.core.encoding import decode_event, decode_events
from aether.core.event import Event
from aether.core.names import check_name
from aether.core.spi import Stored


class EventFilter:
    """`types` is an OR over names, `actors` a pattern in which `*` is any run of characters; both together an AND."""

    def __init__(self, *, types: Iterable[str] | None = None, actors: str | None = None) -> None:
        if isinstance(types, str):
            raise TypeError(f"types is a collection of names; write types={{{types!r}}}")
        self.types = None if types is None else frozenset(check_name("event type", name) for name in types)
        self.actors = None if actors is None else check_name("actor pattern", actors)
        self._parts: list[str] | None = None
        if self.actors is not None and self.actors != "*":
            self._parts = self.actors.split("*")

    def wants_actor(self, actor_id: str) -> bool:
        """Whether events of this actor may match."""
        return self._parts is None or _matches(self._parts, actor_id)

    def wants_type(self, event_type: str) -> bool:
        """Whether events of this type may match."""
        return self.types is None or event_type in self.types

    def decode(self, stored: Stored) -> Event | None:
        """The event, if it is wanted. What certainly is not is not decoded."""
        if self._parts is not None and not self.wants_actor(stored.actor_id):
            return None
        event = decode_event(stored)
        return event if self.types is None or event.type in self.types else None

    def decode_all(self, page: Sequence[Stored]) -> Iterable[Event | None]:
        """`decode` for each; what cannot be decoded is raised when it is reached."""
        return decode_events(page) if self._parts is None and self.types is None else map(self.decode, page)


def _matches(parts: list[str], text: str) -> bool:
    """Whether `text` is the parts in this order with anything in between. Linear, where backtracking would not be."""
    if len(parts) == 1:
        return text == parts[0]
    head, *middle, tail = parts
    if len(text) < len(head) + len(tail) or not text.startswith(head) or not text.endswith(tail):
        return False
    start, end = len(head), len(text) - len(tail)
    for part in middle:
        found = text.find(part, start, end)
        if found < 0:
            return False
        start = found + len(part)
    return True


def check_count(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is None or a whole number of 0 or more."""
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"{name} is a whole number of 0 or more, not {value!r:.80}")
