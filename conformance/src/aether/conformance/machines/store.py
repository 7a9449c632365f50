"""The machine of the store."""

from __future__ import annotations

from hypothesis.stateful import rule

from aether.conformance.machines.following import Following
from aether.conformance.machines.keeping import Keeping
from aether.conformance.machines.stores import PLACES, StoreParty
from aether.conformance.machines.writing import PLACE


class StoreGame(Following, Keeping):
    """All rules of the store, from two handles of one namespace and one of another."""

    @rule(place=PLACE)
    def reopen(self, place: int) -> None:
        self.leave(place)
        self.ask(f"{PLACES[place]}close", lambda party: party.close(place))
        self.identities()

    def identities(self) -> None:
        async def call(party: StoreParty) -> str:
            first, second, other = [(await party.at(place)).identity for place in range(3)]
            return f"{'the same' if first == second else 'different'}, {'the same' if first == other else 'another'}"

        self.ask("identity of both handles, and in the other namespace", call)

    def look(self) -> None:
        for place in sorted(self.followed):
            self.deliver(place, 5000, quiet=True)
        for place in (1, 2):
            self.feed(place, quiet=True)
            for number, name in enumerate(self.names):
                self.version(place, name, fresh=False, quiet=True)
                self.read(place, name, quiet=True)
                self.checkpoint(place, number, quiet=True)
