"""One party of a game over stores: its handles, and how its positions read as texts that can be compared."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from aether.conformance.context import Server
from aether.conformance.machines.game import Party
from aether.core.encoding import encode_event
from aether.core.event import START, Event, Position
from aether.core.store import EventStore
from aether.core.subscription import Subscription

PLACES = ("", "on a second handle: ", "in another namespace: ")
"""Where a call is made: how the lines of a transcript begin."""


def space(place: int) -> int:
    """Which of the two namespaces a place is in."""
    return place // 2


class Issued:
    """The events of a game: numbered, so that answers can name them."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, int, str], int] = {}
        self._bytes: dict[int, bytes] = {}

    def add(self, event: Event) -> Event:
        """Give an event its number."""
        number = len(self._numbers) + 1
        self._numbers[_key(event)] = number
        self._bytes[number] = encode_event(event)
        return event

    def number(self, event: Event) -> int:
        """The number of an event, 0 if nobody has ever made it."""
        return self._numbers.get(_key(event), 0)

    def names(self, events: Iterable[Event]) -> str:
        """Events as `#1 #2`; one that did not come back as it was given is marked."""
        return " ".join(self._name(event) for event in events) or "nothing"

    def _name(self, event: Event) -> str:
        number = self.number(event)
        if not number:
            return f"[never appended: {event!r:.200}]"
        return f"#{number}" if self._bytes[number] == encode_event(event) else f"#{number} altered"


def _key(event: Event) -> tuple[str, int, str]:
    return event.actor_id, event.version, event.id


class StoreParty(Party):
    """Two handles of one namespace and one of a namespace whose name starts like it, opened when first used."""

    def __init__(self, name: str, server: Server, namespace: str) -> None:
        super().__init__(name, server, namespace)
        self._open: dict[int, EventStore] = {}
        self._positions: dict[tuple[int, int], Position] = {}
        self._numbers: dict[Position, int] = {}
        self.subscriptions: dict[int, Subscription] = {}

    async def at(self, place: int) -> EventStore:
        """The handle of a place."""
        if place not in self._open:
            store = self.server.store(f"{self.namespace}.b" if space(place) else self.namespace)
            self._open[place] = await self.stack.enter_async_context(store)
        return self._open[place]

    async def close(self, place: int) -> str:
        """Close a handle; its next use opens another."""
        if store := self._open.pop(place, None):
            await store.close()
        return "closed"

    # --- Positions ---

    def place_of(self, where: int, number: int) -> Position:
        """The position of an event whose position was given before; START for 0."""
        return self._positions[where, number] if number else START

    def behind(self, where: int, position: Position, number: int) -> str:
        """Note that a position is that of an event; empty if there is nothing wrong with it."""
        known = self._positions.setdefault((where, number), position)
        owner = self._numbers.setdefault(position, number)
        if known != position:
            return " at another position than before"
        return "" if owner == number else f" at the position of #{owner}"

    def read_as(self, position: Position) -> str:
        """A position as a text."""
        if position == START:
            return "the start"
        number = self._numbers.get(position)
        return f"behind #{number}" if number else "at a position that was never given"

    def feed_as(self, where: int, fed: list[tuple[Position, Event]], issued: Issued) -> str:
        """A part of the feed as a text: its events, and what is wrong with their positions."""
        names = [issued.names([event]) + self.behind(where, at, issued.number(event)) for at, event in fed]
        order = all(earlier < later for (earlier, _), (later, _) in pairwise(fed))
        return (" ".join(names) or "nothing") + ("" if order else ", positions not in order")
