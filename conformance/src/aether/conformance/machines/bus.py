"""The machine of the bus: subscriptions with filters and queues, and what each of them is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from aether.conformance.context import Server, drift
from aether.conformance.machines.bench import Match
from aether.conformance.machines.game import Game, Party
from aether.conformance.machines.names import PALETTES, PATTERNS, WHO, pattern, shown
from aether.conformance.machines.stores import Issued
from aether.core.bus import BusSubscription, EventBus
from aether.core.event import Event
from aether.core.features import Feature
from aether.core.filters import EventFilter
from aether.core.names import namespace_matches

_SUFFIXES = ("", "", ".b", ".b.c", "b")
_PLACES = ("", "on a second handle: ", "in namespace n.b: ", "in namespace n.b.c: ", "in namespace nb: ")
_PLACE = st.sampled_from((0, 0, 0, 1, 1, 2, 3, 4))
_ACROSS = st.sampled_from((None, None, None, ".*", ".>", ".>", ".b", ".b.>"))
_TYPES = st.sampled_from((None, None, None, (), (0,), (0, 1), (2,)))
_MOST = 4  # subscriptions at once
_QUEUE = st.sampled_from((None, None, None, 0, 0, 1))
_MARKER = "marker-"


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

    def wants(self, place: int, event: Event) -> bool:
        """Whether an event that is published at a place is one for it."""
        events = EventFilter(types=self.types, actors=self.actors)
        return self.sees(place) and events.wants_actor(event.actor_id) and events.wants_type(event.type)

    def marker(self, number: int) -> Event | None:
        """An event that it wants, to be published last; None if it wants nothing at all."""
        if self.types == ():
            return None
        actor_id = "m" if self.actors is None else self.actors.replace("*", "") or "m"
        return Event(
            type="Happened" if self.types is None else self.types[0],
            actor_id=actor_id,
            version=1,
            id=f"{_MARKER}{number}",
        )

    def __str__(self) -> str:
        parts = [f"namespaces={self.pattern}"] if self.across is not None else []
        parts += [f"types={', '.join(map(shown, self.types)) or 'none'}"] if self.types is not None else []
        parts += [f"actors={shown(self.actors)}"] if self.actors is not None else []
        parts += [f"queue={shown(self.queue)}"] if self.queue is not None else []
        return " ".join(parts) or "everything"


class BusParty(Party):
    """Handles of four namespaces, and what the open subscriptions have been given."""

    def __init__(self, name: str, server: Server, namespace: str) -> None:
        super().__init__(name, server, namespace)
        self._open: dict[int, EventBus] = {}
        self._reading: dict[int, AsyncExitStack] = {}
        self._got: dict[int, list[Event]] = {}
        self._arrived = asyncio.Event()
        self.stack.push_async_callback(self._leave_all)

    async def at(self, place: int) -> EventBus:
        """The handle of a place."""
        if place not in self._open:
            bus = self.server.bus(self.namespace + _SUFFIXES[place])
            self._open[place] = await self.stack.enter_async_context(bus)
        return self._open[place]

    async def subscribe(self, number: int, wanted: Wanted) -> None:
        """Open a subscription and read from it until it is left."""
        subscription = (await self.at(wanted.place)).subscribe(
            types=wanted.types,
            actors=wanted.actors,
            queue=wanted.queue,
            namespaces=None if wanted.across is None else self.namespace + wanted.across,
        )
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(subscription)
            self._got[number] = []
            stack.push_async_callback(_ended, asyncio.ensure_future(self._read(subscription, self._got[number])))
            self._reading[number] = stack.pop_all()

    async def _read(self, events: BusSubscription, into: list[Event]) -> None:
        async for event in events:
            into.append(event)
            self._arrived.set()

    async def leave(self, number: int) -> None:
        """Leave a subscription."""
        await self._reading.pop(number).aclose()

    async def _leave_all(self) -> None:
        for number in list(self._reading):
            await self.leave(number)

    async def collect(self, numbers: Sequence[int], enough: Callable[[list[Event]], bool]) -> list[Event]:
        """Wait until these subscriptions have been given enough, and take what they have."""
        while not enough([event for number in numbers for event in self._got[number]]):
            self._arrived.clear()
            await self._arrived.wait()
        await drift(3)  # more than enough is a finding
        got = [event for number in numbers for event in self._got[number]]
        for number in numbers:
            self._got[number].clear()
        return got


async def _ended(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


class BusGame(Game[BusParty]):
    """All rules of the bus. What is published is followed by markers: what has not come before them does not come."""

    party_class = BusParty

    def __init__(self, match: Match) -> None:
        super().__init__(match)
        self.names: tuple[str, ...] = ()
        self.issued = Issued()
        self.open: dict[int, Wanted] = {}
        self._ever: list[Wanted] = []
        self._responders: list[Wanted] = []
        self._markers = 0
        self._under_way: set[str] = set()
        """The ids of events that nobody was there for: they may still be on their way to whoever comes next."""

        self._versions = 0

    @initialize(names=PALETTES)
    def begin(self, names: tuple[str, ...]) -> None:
        self.names = names

    def name(self, who: int) -> str:
        """One of the names of this game."""
        return self.names[who % len(self.names)]

    def event(self, who: int, event_type: str) -> Event:
        """A new event."""
        self._versions += 1
        version = self._versions
        data = {"zero": -0.0, "text": "é\u2028'"} if version % 2 else {}
        event = Event(type=event_type, actor_id=self.name(who), version=version, id=f"e{version}", data=data)
        return self.issued.add(event)

    def wanted(
        self, place: int, types: tuple[int, ...] | None, kind: str, who: int, across: str | None, queue: int | None
    ) -> Wanted:
        """What a subscription asks for. All of a queue ask for the same: what others would share is not said."""
        names = None if types is None else tuple(dict.fromkeys(map(self.type_of, types)))
        wanted = Wanted(
            place, names, pattern(kind, self.name(who)), None if queue is None else self.name(queue), across
        )
        for other in self.open.values():
            if wanted.queue is not None and (other.queue, other.pattern) == (wanted.queue, wanted.pattern):
                wanted.types, wanted.actors = other.types, other.actors
        return wanted

    # --- Calls ---

    def publish(
        self, place: int, events: Sequence[Event], *, joining: Sequence[Wanted] = (), quiet: bool = False
    ) -> None:
        """Publish, and see what everybody has been given. `joining` subscribes just before, in the same breath."""
        joined = {len(self._ever) + number: wanted for number, wanted in enumerate(joining, start=1)}
        self.open.update(joined)
        self._ever += joining
        groups = self._groups(place)
        markers = [self._marker(members[0]) for members in groups.values()]
        if not groups:
            self._under_way |= {event.id for event in events}

        async def call(party: BusParty) -> str:
            publisher = await party.at(place)
            for number, wanted in joined.items():
                await party.subscribe(number, wanted)
            await publisher.publish(*events, *(marker for marker in markers if marker is not None))
            parts = []
            for (group, members), marker in zip(groups.items(), markers, strict=True):
                due = {event.id for event in events if self.open[members[0]].wants(place, event)}
                got = await party.collect(members, _enough(due, marker, ordered=len(members) == 1))
                parts.append(f"{group} got {self._given(got, ordered=len(members) == 1)}")
            return "; ".join(parts) or "published"

        published = " ".join(f"{shown(e.actor_id)} {shown(e.type)} ({self.issued.names([e])})" for e in events)
        start = "".join(f"{_PLACES[wanted.place]}subscribe S{n} to {wanted}, then " for n, wanted in joined.items())
        self.ask(f"{start}{_PLACES[place]}publish {published or 'nothing'}", call, quiet=quiet)

    def _marker(self, number: int) -> Event | None:
        self._markers += 1
        return self.open[number].marker(self._markers)

    def _groups(self, place: int) -> dict[str, list[int]]:
        """The open subscriptions that look at the namespace of a place and want something, by who shares."""
        groups: dict[str, list[int]] = {}
        for number, wanted in self.open.items():
            if wanted.sees(place) and wanted.types != ():
                shared = (
                    f"queue {shown(wanted.queue)} of {wanted.pattern}" if wanted.queue is not None else f"S{number}"
                )
                groups.setdefault(shared, []).append(number)
        return groups

    def _given(self, events: Sequence[Event], *, ordered: bool) -> str:
        own = [event for event in events if not event.id.startswith(_MARKER) and event.id not in self._under_way]
        names = [self.issued.names([event]) for event in own]
        return " ".join(names if ordered else sorted(names)) or "nothing"

    # --- Rules ---

    @precondition(lambda self: len(self.open) < _MOST)
    @rule(place=_PLACE, types=_TYPES, kind=PATTERNS, who=WHO, across=_ACROSS, queue=_QUEUE, other=_PLACE)
    def subscribe(
        self,
        place: int,
        types: tuple[int, ...] | None,
        kind: str,
        who: int,
        across: str | None,
        queue: int | None,
        other: int,
    ) -> None:
        wanted = self.wanted(place, types, kind, who, across, queue)
        joining = [wanted]
        if queue is not None:  # a queue of one shares nothing, and one alone is not mixed up with another
            joining.append(self.wanted(place, types, kind, who, across, 1 - queue))
            joining.append(Wanted(1 - place if place < 2 else place, wanted.types, wanted.actors, wanted.queue, across))
        self.publish(other, [self.event(who, "Happened")], joining=joining)

    @rule(place=_PLACE, whos=st.lists(st.tuples(WHO, st.integers(0, 2)), min_size=1, max_size=4))
    def publish_some(self, place: int, whos: list[tuple[int, int]]) -> None:
        self.publish(place, [self.event(who, self.type_of(kind)) for who, kind in whos])

    def type_of(self, kind: int) -> str:
        """A type: the usual one, or one of the names."""
        return self.name(kind) if kind else "Happened"

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, _MOST))
    def leave(self, which: int) -> None:
        """Leave a subscription, and those that share with it: what a member loses that is just leaving is not said."""
        first = list(self.open)[which % len(self.open)]
        queue, looked_at = self.open[first].queue, self.open[first].pattern
        left = [
            n
            for n, one in self.open.items()
            if n == first or (queue and (one.queue, one.pattern) == (queue, looked_at))
        ]

        async def call(party: BusParty) -> str:
            for number in left:
                await party.leave(number)
            return "left"

        self.ask(f"leave {' '.join(f'S{number}' for number in left)}", call)
        for number in left:
            del self.open[number]

    @precondition(lambda self: Feature.NO_RESPONDERS in self.candidate.server.features)
    @rule(place=_PLACE, who=WHO, responder=st.booleans())
    def request(self, place: int, who: int, responder: bool) -> None:
        """Ask where nobody, or just one, is listening.

        Nobody: neither with other filters, which a driver may leave to the core, nor until a moment ago.
        """
        request, answer = self.event(who, "Asked"), self.event(who, "Happened")
        if any(wanted.sees(place) for wanted in [*self._ever, *self._responders]):
            return
        if responder:
            self._responders.append(Wanted(place, (request.type,), None, None, None))

        async def reply(bus: EventBus, events: BusSubscription) -> None:
            await bus.reply(await anext(events), answer)

        async def call(party: BusParty) -> str:
            bus = await party.at(place)
            async with AsyncExitStack() as stack:
                if responder:
                    events = await stack.enter_async_context(bus.subscribe(types={request.type}))
                    stack.push_async_callback(_ended, asyncio.ensure_future(reply(bus, events)))
                return self.issued.names([await bus.request(request, timeout=self._match.bench.deadline / 2)])

        asked = f"{shown(request.actor_id)} {shown(request.type)}"
        who_listens = "with one responder" if responder else "with nobody there"
        self.ask(f"{_PLACES[place]}request {asked} {who_listens}", call)

    def look(self) -> None:
        for place in range(len(_PLACES)):
            self.publish(place, [self.event(who, "Happened") for who in range(len(self.names))], quiet=True)


def _enough(due: set[str], marker: Event | None, *, ordered: bool) -> Callable[[list[Event]], bool]:
    """A subscription has all when its marker has come; a queue when all that is due has, through whomever."""
    wanted = {marker.id} if marker is not None else set[str]()
    if not ordered:
        wanted |= due
    return lambda got: wanted <= {event.id for event in got}
