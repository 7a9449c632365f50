"""The machine of the bus: subscriptions with filters and queues, and what each of them is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from aether.conformance.context import Server
from aether.conformance.machines.bench import Match
from aether.conformance.machines.game import Game, Party
from aether.conformance.machines.names import PALETTES, PATTERNS, pattern, shown
from aether.conformance.machines.stores import Issued
from aether.core.bus import BusSubscription, EventBus
from aether.core.event import Event, new_id
from aether.core.features import Feature
from aether.core.names import namespace_matches

_SUFFIXES = ("", "", ".b", ".b.c", "b")
_PLACES = ("", "on a second handle: ", "in namespace n.b: ", "in namespace n.b.c: ", "in namespace nb: ")
_PLACE = st.sampled_from((0, 0, 0, 1, 1, 2, 3, 4))
_WHO = st.integers(0, 5)
_ACROSS = st.sampled_from((None, None, None, None, ".*", ".>", ".b", ".b.>"))
_TYPES = st.sampled_from((None, None, None, (), (0,), (0, 1), (2,)))
_MOST = 4  # subscriptions at once
_MARK = "marker"


class BusParty(Party):
    """Handles of four namespaces, and what the open subscriptions have been given."""

    def __init__(self, name: str, server: Server, namespace: str) -> None:
        super().__init__(name, server, namespace)
        self._open: dict[int, EventBus] = {}
        self.subscriptions: dict[int, BusSubscription] = {}
        self.stacks: dict[int, AsyncExitStack] = {}

    def namespace_of(self, place: int) -> str:
        """The namespace of a place."""
        return self.namespace + _SUFFIXES[place]

    async def at(self, place: int) -> EventBus:
        """The handle of a place."""
        if place not in self._open:
            bus = self.server.bus(self.namespace_of(place))
            self._open[place] = await self.stack.enter_async_context(bus)
        return self._open[place]

    async def subscribe(self, number: int, wanted: Wanted) -> None:
        """Open a subscription."""
        bus = await self.at(wanted.place)
        subscription = bus.subscribe(
            types=wanted.types,
            actors=wanted.actors,
            queue=wanted.queue,
            namespaces=None if wanted.across is None else self.namespace + wanted.across,
        )
        self.subscriptions[number] = await self.stack.enter_async_context(subscription)


class Wanted:
    """What a subscription asks for."""

    def __init__(
        self, place: int, types: tuple[str, ...] | None, actors: str | None, queue: str | None, across: str | None
    ) -> None:
        self.place = place
        self.types = types
        self.actors = actors
        self.queue = queue
        self.across = across

    @property
    def pattern(self) -> str:
        """The namespaces that it looks at, relative to that of the game."""
        return "n" + (_SUFFIXES[self.place] if self.across is None else self.across)

    def sees(self, place: int) -> bool:
        """Whether it looks at the namespace of a place."""
        return namespace_matches(self.pattern, "n" + _SUFFIXES[place])

    def __str__(self) -> str:
        parts = [f"namespaces={self.pattern}"] if self.across is not None else []
        parts += [f"types={', '.join(map(shown, self.types)) or 'none'}"] if self.types is not None else []
        parts += [f"actors={shown(self.actors)}"] if self.actors is not None else []
        parts += [f"queue={shown(self.queue)}"] if self.queue is not None else []
        return " ".join(parts) or "everything"
