"""The machine of the store."""

from __future__ import annotations

from hypothesis.stateful import rule

from aether.conformance.machines.following import ALL, Following
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
        self._look_at_subscriptions()
        self.read(1, self.name(0), limit=2, reverse=True)
        for place in (0, 1, 0):  # what one handle has learned, another has changed
            self.append_some([(place, 0, (1, 1), 1, 0)])
        for number, name in enumerate(self.names):
            self.save_checkpoint(number % 2, number, number, token=9)
            if history := self.history(0, name):
                self.append(1, history[:1])
                self.read(0, name, limit=1)
                self.read(1, name, limit=2, reverse=True)
        self.feed(1, quiet=True)
        self.feed(2, quiet=True)
        for number, name in enumerate(self.names):
            self.read(1, name, quiet=True)
            self.version(2, name, fresh=False, quiet=True)
            self.checkpoint(1, number, quiet=True)

    def _look_at_subscriptions(self) -> None:
        for place in sorted(self.followed):
            self.deliver(place, ALL, quiet=True)
        self.follow(1, 1, "none", 0, 1)
        for _ in range(2):
            self.deliver(1, 2)
        self.follow(0, 0, "none", 0, 256)
        self.deliver(0, ALL)
        if self.ids % 4 == 0:  # it takes a driver longer than the rest
            self.wait_in_vain(0, self.ids % 3, 0)
