"""Snapshots and checkpoints, contended ones too."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from aether.conformance.machines.game import answered
from aether.conformance.machines.names import WHO, shown
from aether.conformance.machines.reading import MARK, Reading
from aether.conformance.machines.stores import PLACES, StoreParty, space
from aether.conformance.machines.writing import PLACE
from aether.core.event import Snapshot

_STATES: tuple[Any, ...] = (None, 0, {"total": -0.0}, [{"": "é\u2028", "n": 2**62}])
_TOKEN = st.integers(0, 4)


class Keeping(Reading):
    """The rules for what is kept beside the events."""

    def snapshot_of(self, who: int, version: int, schema: int, state: int) -> Snapshot:
        """A snapshot of one of the actors; schemas have names of the game, too."""
        timestamp = self.event("clock", 1).timestamp
        return Snapshot(
            actor_id=self.name(who),
            version=version,
            schema=self.name(schema),
            state=_STATES[state % len(_STATES)],
            timestamp=timestamp,
        )

    def snapshot(self, place: int, who: int, schema: int, *, quiet: bool = False) -> None:
        """One look at a snapshot by everybody."""
        actor_id, name = self.name(who), self.name(schema)

        async def call(party: StoreParty) -> str:
            found = await (await party.at(place)).snapshot(actor_id, schema=name)
            if found is None:
                return "none"
            own = (found.actor_id, found.schema) == (actor_id, name)
            return (
                f"version {found.version}: {found.state!r} of {found.timestamp:%S.%f}{'' if own else ', not its own'}"
            )

        self.ask(f"{PLACES[place]}snapshot {shown(actor_id)} schema={shown(name)}", call, quiet=quiet)

    def checkpoint(self, place: int, who: int, *, quiet: bool = False) -> None:
        """One look at a checkpoint by everybody."""
        name = self.name(who)

        async def call(party: StoreParty) -> str:
            return party.read_as(await (await party.at(place)).checkpoint(name))

        self.ask(f"{PLACES[place]}checkpoint {shown(name)}", call, quiet=quiet)

    # --- Rules ---

    @rule(place=PLACE, who=WHO, back=st.sampled_from((0, 0, 0, 1, -1)), schema=WHO, state=st.integers(0, 3))
    def save_snapshot(self, place: int, who: int, back: int, schema: int, state: int) -> None:
        version = max(1, len(self.history(place, self.name(who))) - back)
        snapshot = self.snapshot_of(who, version, schema, state)

        async def call(party: StoreParty) -> str:
            await (await party.at(place)).save_snapshot(snapshot)
            return "saved"

        what = f"{shown(snapshot.actor_id)} version={version} schema={shown(snapshot.schema)} state={snapshot.state!r}"
        self.ask(f"{PLACES[place]}save snapshot {what}", call)
        self.snapshot(place, who, schema)

    @rule(place=PLACE, who=WHO, mark=MARK, token=_TOKEN)
    def save_checkpoint(self, place: int, who: int, mark: int, token: int) -> None:
        name, number = self.name(who), self.mark_at(space(place), mark)

        async def call(party: StoreParty) -> str:
            position = party.place_of(space(place), number)
            await (await party.at(place)).save_checkpoint(name, position, token=token)
            return "saved"

        at = f"#{number}" if number else "the start"
        self.ask(f"{PLACES[place]}save checkpoint {shown(name)} at {at} token={token}", call)

    @rule(who=WHO, tokens=st.permutations((5, 6, 7)))
    def race_checkpoints(self, who: int, tokens: list[int]) -> None:
        """Whoever is first, the highest token stays."""
        name = self.name(who)
        marks = {token: self.mark_at(0, token) for token in tokens}

        async def call(party: StoreParty) -> str:
            stores = [await party.at(0), await party.at(1)]
            positions = {token: party.place_of(0, marks[token]) for token in tokens}
            saves = [
                stores[turn % 2].save_checkpoint(name, positions[token], token=token)
                for turn, token in enumerate(tokens)
            ]
            answers = await asyncio.gather(*(answered(_done(save), self._match.bench.deadline) for save in saves))
            wrong = sorted(a.text for a in answers if a.text != "done" and not a.text.startswith("StaleToken"))
            return ", ".join(wrong) or party.read_as(await stores[0].checkpoint(name))

        order = " ".join(f"at #{marks[token]} token={token}," for token in tokens)
        self.ask(f"at once: save checkpoint {shown(name)} {order} then checkpoint", call)

    @rule(who=WHO, schema=WHO, order=st.permutations((0, 1, 2)))
    def race_snapshots(self, who: int, schema: int, order: list[int]) -> None:
        """Whoever is first, the newest snapshot stays."""
        latest = len(self.history(0, self.name(who)))
        snapshots = [self.snapshot_of(who, latest - back, schema, back) for back in order if latest > back]

        async def call(party: StoreParty) -> str:
            stores = [await party.at(0), await party.at(1)]
            saves = [stores[turn % 2].save_snapshot(snapshot) for turn, snapshot in enumerate(snapshots)]
            answers = await asyncio.gather(*(answered(_done(save), self._match.bench.deadline) for save in saves))
            return " ".join(answer.text for answer in answers)

        if len(snapshots) > 1:
            versions = " ".join(str(snapshot.version) for snapshot in snapshots)
            schemas = f"{shown(self.name(who))} schema={shown(self.name(schema))}"
            self.ask(f"at once: save snapshot {schemas} versions {versions}", call)
            self.snapshot(0, who, schema)


async def _done(save: Any) -> str:
    await save
    return "done"
