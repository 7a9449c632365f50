"""What a store is asked: histories, versions, the feed and its head."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from aether.conformance.context import listed
from aether.conformance.machines.names import PATTERNS, WHO, pattern, shown
from aether.conformance.machines.stores import PLACES, StoreParty, space
from aether.conformance.machines.writing import PLACE, Writing

MARK = st.integers(0, 12)
"""An index into the events whose position is known, 0 is the start; it wraps around."""

_AFTER = st.sampled_from((0, 0, 0, 1, 2, 3))
_UPTO = st.sampled_from((None, None, None, 0, 1, 2, 3, 4))
_LIMIT = st.sampled_from((None, None, None, 0, 1, 2, 3))
_TYPES = st.sampled_from((None, None, ("Happened",), (2,), (2, 3), ("Happened", 3)))
"""Names of types; numbers are those of the game."""


class Reading(Writing):
    """The rules that read events."""

    def mark_at(self, where: int, mark: int) -> int:
        """The number of an event whose position is known, 0 for the start."""
        known = (0, *self.marks[where])
        return known[mark % len(known)]

    def read(
        self,
        place: int,
        actor_id: str,
        *,
        after: int = 0,
        upto: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        quiet: bool = False,
    ) -> None:
        """One read by everybody."""

        async def call(party: StoreParty) -> str:
            store = await party.at(place)
            events = store.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
            return self.issued.names(await listed(events))

        options = [f"after={after}"] if after else []
        options += [f"upto={upto}"] if upto is not None else []
        options += [f"limit={limit}"] if limit is not None else []
        options += ["reverse"] if reverse else []
        self.ask(f"{PLACES[place]}read {' '.join([shown(actor_id), *options])}", call, quiet=quiet)

    def version(self, place: int, actor_id: str, *, fresh: bool, quiet: bool = False) -> None:
        """One look at a version by everybody."""
        known = len(self.history(place, actor_id)) if fresh else 0

        async def call(party: StoreParty) -> str:
            return str(await (await party.at(place)).version(actor_id, min_version=known))

        option = f" min_version={known}" if known else ""
        self.ask(f"{PLACES[place]}version {shown(actor_id)}{option}", call, quiet=quiet)

    def feed(
        self,
        place: int,
        *,
        after: int = 0,
        limit: int | None = None,
        types: tuple[str, ...] | None = None,
        actors: str | None = None,
        of: int | None = None,
        quiet: bool = False,
    ) -> None:
        """One feed by everybody. `of` is the namespace that `after` is of, where that is not the one that is read."""
        where = space(place)
        source = where if of is None else of

        async def call(party: StoreParty) -> str:
            store = await party.at(place)
            start = party.place_of(source, after)
            fed = await listed(store.feed(after=start, limit=limit, types=types, actors=actors))
            return party.feed_as(where, fed, self.issued)

        options = [f" after=#{after}{'' if source == where else ' of the other namespace'}"] if after else []
        options += [f" limit={limit}"] if limit is not None else []
        options += [f" types={', '.join(map(shown, types))}"] if types is not None else []
        options += [f" actors={shown(actors)}"] if actors is not None else []
        self.ask(f"{PLACES[place]}feed{''.join(options)}", call, quiet=quiet)

    def types_of(self, types: tuple[str | int, ...] | None) -> tuple[str, ...] | None:
        """The names of types that were drawn."""
        if types is None:
            return None
        return tuple(dict.fromkeys(self.name(each) if isinstance(each, int) else each for each in types))

    # --- Rules ---

    @rule(place=PLACE, who=WHO, after=_AFTER, upto=_UPTO, limit=_LIMIT, reverse=st.booleans())
    def read_one(self, place: int, who: int, after: int, upto: int | None, limit: int | None, reverse: bool) -> None:
        self.read(place, self.name(who), after=after, upto=upto, limit=limit, reverse=reverse)
        self.version(place, self.name(who), fresh=after > 0)

    @rule(place=PLACE, mark=MARK, limit=_LIMIT, types=_TYPES, kind=PATTERNS, who=WHO)
    def feed_some(
        self, place: int, mark: int, limit: int | None, types: tuple[str | int, ...] | None, kind: str, who: int
    ) -> None:
        actors = pattern(kind, self.name(who))
        after = self.mark_at(space(place), mark)
        self.feed(place, after=after, limit=limit, types=self.types_of(types), actors=actors)

    @rule(place=PLACE, mark=MARK)
    def feed_all(self, place: int, mark: int) -> None:
        """All, and from anywhere; a position of another store is found out, not read from."""
        self.feed(place)
        for event in self.feeds[space(place)][:20]:
            self.mark(place, event)
        for of in (0, 1):
            if after := self.mark_at(of, mark):
                self.feed(place, after=after, of=of)

    @rule(place=PLACE)
    def head(self, place: int) -> None:
        async def call(party: StoreParty) -> str:
            return party.read_as(await (await party.at(place)).head())

        self.ask(f"{PLACES[place]}head", call)
