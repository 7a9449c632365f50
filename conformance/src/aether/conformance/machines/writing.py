"""What a store is told: appends, repeated and contended ones too. The answers keep a model of what it holds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from aether.conformance.machines.bench import Match
from aether.conformance.machines.game import Game, answered
from aether.conformance.machines.names import PALETTES, WHO, shown
from aether.conformance.machines.stores import PLACES, Issued, StoreParty, space
from aether.core.errors import VersionConflict
from aether.core.event import Event, new_id
from aether.core.features import Feature

PLACE = st.sampled_from((0, 0, 0, 1, 1, 2))
_FIRST = st.sampled_from(((1, 1),) * 5 + ((1, 0), (1, 2), (0, 1), (0, 2), (0, 3)))
"""The first version to append, as (a, b) in a * latest + b: mostly the right one, also near it, also absolute."""

_DATA: tuple[dict[str, Any], ...] = (
    {},
    {"n": 1},
    {"zero": -0.0, "large": 1e308, "whole": 2**62, "text": "é\u2028\U0010ffff'\"\\"},
    {"": "", "none": None, "nested": [{"b": 1, "a": [True, [], {}]}], " a ": "  "},
)
_DATUM = st.integers(0, len(_DATA) - 1)

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)  # no game looks at a clock

_MANY = 1100  # events: more than backends give on one page


class Writing(Game[StoreParty]):
    """The rules that write events."""

    party_class = StoreParty

    def __init__(self, match: Match) -> None:
        super().__init__(match)
        self.names: tuple[str, ...] = ()
        self.issued = Issued()
        self.histories: dict[tuple[int, str], list[Event]] = {}
        self.feeds: tuple[list[Event], list[Event]] = ([], [])
        self.marks: tuple[list[int], list[int]] = ([], [])
        """The numbers of events whose position everybody has been given."""

        self.ids = 0
        self.prefix = new_id()[-12:]

    @initialize(names=PALETTES, long=st.sampled_from((False,) * 5 + (True,)))
    def begin(self, names: tuple[str, ...], long: bool) -> None:
        """Some games start with more events than a page has."""
        self.names = names
        if long:
            self.append(0, self.run_of(0, 0, (1, 1), min(_MANY, self.most(0)), 0))

    # --- The model ---

    def name(self, who: int) -> str:
        """One of the names of this game."""
        return self.names[who % len(self.names)]

    def history(self, place: int, actor_id: str) -> list[Event]:
        """What an actor's history is, by all answers so far."""
        return self.histories.setdefault((space(place), actor_id), [])

    def event(self, actor_id: str, version: int, datum: int = 0, event_id: str = "") -> Event:
        """A new event."""
        self.ids += 1
        return self.issued.add(
            Event(
                type=self.name(datum) if datum > 1 else "Happened",
                actor_id=actor_id,
                version=version,
                data=_DATA[datum % len(_DATA)],
                id=event_id or f"{self.prefix}-{self.ids}",
                metadata={"correlationid": actor_id} if datum == 1 else {},
                timestamp=_EPOCH + timedelta(microseconds=self.ids),
            )
        )

    def run_of(self, place: int, who: int, first: tuple[int, int], count: int, datum: int) -> list[Event]:
        """New events of one actor, from a version that is right or not."""
        actor_id = self.name(who)
        version = max(1, first[0] * len(self.history(place, actor_id)) + first[1])
        return [self.event(actor_id, version + number, datum) for number in range(count)]

    def stored(self, place: int, events: Sequence[Event]) -> None:
        """Take note of what was stored."""
        for event in events:
            self.history(place, event.actor_id).append(event)
            self.feeds[space(place)].append(event)
        self.mark(place, events[-1])

    def mark(self, place: int, event: Event) -> None:
        """Take note of an event whose position is known."""
        number = self.issued.number(event)
        if number not in self.marks[space(place)]:
            self.marks[space(place)].append(number)

    # --- Calls ---

    def append(self, place: int, events: Sequence[Event]) -> None:
        """One append by everybody."""
        where = space(place)

        async def call(party: StoreParty) -> str:
            store = await party.at(place)
            try:
                appended = await store.append(*events)
            except VersionConflict as conflict:
                if len({event.actor_id for event in events}) > 1:
                    return self._conflict(place, events, conflict)
                raise
            kind = "replayed" if appended.replayed else "stored"
            return kind + party.behind(where, appended.position, self.issued.number(events[-1]))

        answer = self.ask(f"{PLACES[place]}append {self.described(events)}", call)
        if answer == "stored":
            self.stored(place, events)

    def _conflict(self, place: int, events: Sequence[Event], conflict: VersionConflict) -> str:
        """Of several actors that are not where they should be any may be named, with the truth about it."""
        firsts = {event.actor_id: event.version for event in reversed(events)}
        current = len(self.history(place, conflict.actor_id))
        true = conflict.current == current and firsts.get(conflict.actor_id, current + 1) != current + 1
        return "VersionConflict of one of them" if true else f"VersionConflict that is none: {conflict}"

    def described(self, events: Sequence[Event]) -> str:
        """Events as a line of a transcript has them."""
        parts = []
        for actor_id in dict.fromkeys(event.actor_id for event in events):
            own = [event for event in events if event.actor_id == actor_id]
            versions = f"{own[0].version}" if len(own) == 1 else f"{own[0].version}..{own[-1].version}"
            ids = f"#{self.issued.number(own[0])}"
            parts.append(f"{shown(actor_id)}:{versions} ({ids if len(own) == 1 else f'{ids} and up'})")
        return ", ".join(parts)

    # --- Rules ---

    @rule(parts=st.lists(st.tuples(PLACE, WHO, _FIRST, st.sampled_from((1, 1, 2, 3)), _DATUM), min_size=1, max_size=3))
    def append_some(self, parts: list[tuple[int, int, tuple[int, int], int, int]]) -> None:
        for place, who, first, count, datum in parts:
            self.append(place, self.run_of(place, who, first, count, datum))

    @precondition(lambda self: Feature.MULTI_ACTOR in self.candidate.server.features)
    @rule(place=PLACE, parts=st.lists(st.tuples(WHO, _FIRST, st.integers(1, 2)), min_size=2, max_size=3), datum=_DATUM)
    def append_many(self, place: int, parts: list[tuple[int, tuple[int, int], int]], datum: int) -> None:
        actors = {self.name(who): (who, first, count) for who, first, count in parts}
        runs = [self.run_of(place, *part, datum) for part in actors.values()]
        self.append(place, [event for run in runs for event in run])

    @precondition(lambda self: self.feeds[0] or self.feeds[1])
    @rule(place=PLACE, which=st.integers(0, 30), count=st.integers(1, 3), grow=st.sampled_from((0, 0, 1)))
    def append_again(self, place: int, which: int, count: int, grow: int) -> None:
        """Repeat what is stored: as it was, cut differently, or with something new behind it."""
        where = space(place) if self.feeds[space(place)] else 1 - space(place)
        known = self.feeds[where][which % len(self.feeds[where])]
        history = self.histories[where, known.actor_id]
        again = history[known.version - 1 : known.version - 1 + count]
        more = [self.event(known.actor_id, again[-1].version + 1)] if grow else []
        self.append(place, [*again, *more])

    @precondition(lambda self: self.feeds[0])
    @rule(place=PLACE, which=st.integers(0, 30), who=WHO)
    def append_known_id(self, place: int, which: int, who: int) -> None:
        """An id identifies within its actor only."""
        known = self.feeds[0][which % len(self.feeds[0])]
        actor_id = self.name(who)
        if actor_id != known.actor_id:
            self.append(place, [self.event(actor_id, len(self.history(place, actor_id)) + 1, event_id=known.id)])

    def most(self, place: int) -> int:
        """The most events that everybody takes in one commit."""

        async def limit(party: StoreParty) -> int:
            return (await party.at(place)).limits.max_commit_events

        limits: list[int] = [self._match.bench.run(limit(party)) for party in self.parties]
        return min(limits)

    @rule(who=WHO, first=_FIRST, count=st.integers(1, 2), racers=st.integers(2, 4))
    def race(self, who: int, first: tuple[int, int], count: int, racers: int) -> None:
        """Many append the same at once. Who wins must not matter, or the parties would go different ways from here."""
        events = self.run_of(0, who, first, count, 0)
        number = self.issued.number(events[-1])

        async def append(party: StoreParty, place: int) -> str:
            appended = await (await party.at(place)).append(*events)
            return ("replayed" if appended.replayed else "stored") + party.behind(0, appended.position, number)

        async def call(party: StoreParty) -> str:
            await party.at(0)
            await party.at(1)
            calls = [answered(append(party, racer % 2), self._match.bench.deadline) for racer in range(racers)]
            counts = Counter(answer.text for answer in await asyncio.gather(*calls))
            return ", ".join(f"{count} {text}" for text, count in sorted(counts.items()))

        answer = self.ask(f"{racers} at once: append {self.described(events)}", call)
        if "stored" in answer:
            self.stored(0, events)
