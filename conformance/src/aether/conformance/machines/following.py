"""Subscriptions of a store that stay open while others write, one for each place."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from aether.conformance.context import drift
from aether.conformance.machines.bench import Match
from aether.conformance.machines.names import PATTERNS, WHO, pattern, shown
from aether.conformance.machines.reading import MARK, Reading
from aether.conformance.machines.stores import PLACES, StoreParty, space
from aether.conformance.machines.writing import PLACE
from aether.core.event import Event, Position
from aether.core.filters import EventFilter

ALL = 5000
"""More events than a game has."""


class Followed:
    """What a subscription has to deliver, by all answers so far."""

    def __init__(self, number: int, start: int, wanted: EventFilter, buffer: int) -> None:
        self.number = number
        self.start = start
        self.wanted = wanted
        self.buffer = buffer
        self.taken = 0

    def pending(self, feed: list[Event]) -> list[Event]:
        """The events that it has not delivered yet."""
        wanted = self.wanted
        return [e for e in feed[self.start :] if wanted.wants_actor(e.actor_id) and wanted.wants_type(e.type)][
            self.taken :
        ]


class Following(Reading):
    """The rules that follow the feed."""

    def __init__(self, match: Match) -> None:
        super().__init__(match)
        self.followed: dict[int, Followed] = {}
        self._subscriptions = 0

    @rule(place=PLACE, mark=MARK, kind=PATTERNS, who=WHO, buffer=st.sampled_from((1, 2, 256)))
    def follow(self, place: int, mark: int, kind: str, who: int, buffer: int) -> None:
        self.leave(place)
        after = self.mark_at(space(place), mark)
        actors = pattern(kind, self.name(who)) if mark % 2 else None
        self._subscriptions += 1
        number = self._subscriptions

        async def call(party: StoreParty) -> str:
            store = await party.at(place)
            subscription = store.subscribe(after=party.place_of(space(place), after), actors=actors, buffer=buffer)
            party.subscriptions[number] = await party.stack.enter_async_context(subscription)
            return "entered"

        options = f" after=#{after}" if after else ""
        options += f" actors={shown(actors)}" if actors is not None else ""
        self.ask(f"{PLACES[place]}subscribe{options} buffer={buffer}", call)
        numbers = [self.issued.number(event) for event in self.feeds[space(place)]]
        start = numbers.index(after) + 1 if after else 0
        self.followed[place] = Followed(number, start, EventFilter(actors=actors), buffer)

    @precondition(lambda self: self.followed)
    @rule(place=PLACE, count=st.sampled_from((1, 2, 3, ALL)))
    def take(self, place: int, count: int) -> None:
        self.deliver(place, count)

    @precondition(lambda self: self.followed)
    @rule(place=PLACE, who=WHO)
    def take_live(self, place: int, who: int) -> None:
        """Append behind the end of a subscription: what comes next is that, nothing before it and nothing twice."""
        if place not in self.followed:
            return
        self.deliver(place, ALL)
        for _ in range(2):
            self.append(place, self.run_of(place, who, (1, 1), 1, 0))
        self.deliver(place, ALL)

    @precondition(lambda self: self.followed)
    @rule(place=PLACE, turns=st.integers(1, 6), who=WHO)
    def wait_in_vain(self, place: int, turns: int, who: int) -> None:
        """Cancel a wait, with nothing there or with something on its way: nothing is lost."""
        followed = self.followed.get(place)
        if followed is None:
            return
        self.deliver(place, ALL)
        event = self.run_of(place, who, (1, 1), 1, 0)[0]
        if not followed.wanted.wants_actor(event.actor_id):
            return

        async def call(party: StoreParty) -> str:
            wait = asyncio.ensure_future(anext(party.subscriptions[followed.number]))
            await drift(1)
            await (await party.at(place)).append(event)
            await drift(turns)
            wait.cancel()
            with suppress(asyncio.CancelledError):
                _, found = await wait
                return self.issued.names([found])
            _, found = await anext(party.subscriptions[followed.number])
            return self.issued.names([found])

        described = self.described([event])
        self.ask(f"{PLACES[place]}wait, append {described}, cancel the wait, wait again", call)
        self.stored_without_position(place, event)
        followed.taken += 1

    def stored_without_position(self, place: int, event: Event) -> None:
        """Take note of what was stored, where the answer was about something else."""
        self.history(place, event.actor_id).append(event)
        self.feeds[space(place)].append(event)

    @precondition(lambda self: self.followed)
    @rule(place=PLACE)
    def leave(self, place: int) -> None:
        followed = self.followed.pop(place, None)
        if followed is None:
            return

        async def call(party: StoreParty) -> str:
            await party.subscriptions.pop(followed.number).__aexit__(None, None, None)
            return "left"

        self.ask(f"{PLACES[place]}leave the subscription", call)

    def deliver(self, place: int, count: int, *, quiet: bool = False) -> None:
        """Take events until the last one of those that are due has come, so that a lost one is not waited for."""
        followed = self.followed.get(place)
        due = followed.pending(self.feeds[space(place)])[:count] if followed is not None else []
        if followed is None or not due:
            return
        last = due[-1]
        most = len(due) + 3  # more can only be repeats

        async def call(party: StoreParty) -> str:
            subscription = party.subscriptions[followed.number]
            taken: list[tuple[Position, Event]] = []
            while len(taken) < most:
                taken.append(await anext(subscription))
                if taken[-1][1].id == last.id and taken[-1][1].actor_id == last.actor_id:
                    break
            held = "" if subscription.buffered < max(followed.buffer, 2) else f", {subscription.buffered} held"
            text = party.feed_as(space(place), taken, self.issued)
            return f"{text}, then {party.read_as(subscription.position)}{held}"

        self.ask(f"{PLACES[place]}take up to #{self.issued.number(last)}", call, quiet=quiet)
        followed.taken += len(due)
