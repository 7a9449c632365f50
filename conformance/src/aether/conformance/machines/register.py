"""The machine of the lease register: compare-and-set, scans and watches on names that look alike."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from aether.conformance.context import Server
from aether.conformance.machines.bench import Match
from aether.conformance.machines.game import Game, Party, answered
from aether.conformance.machines.names import PALETTES, WHO, shown
from aether.core.lease import Lease
from aether.core.spi import Entry, LeaseRegister

_PLACES = ("", "on a second handle: ", "in another namespace: ")
_WILDCARDS = ("*", "?", "%", "_", ">")
"""What means any text to some server, and only itself to a register."""

_PLACE = st.sampled_from((0, 0, 0, 1, 1, 2))
_EXPECTED = st.sampled_from(("right", "right", "right", "right", "none", "before", "above", "another's"))


def _lease(holder: str) -> bytes:
    return msgspec.json.encode(Lease(name="a", holder=holder, token=7, ttl=1.5, nonce="n"))


_VALUES = (_lease("h"), _lease(""), b"{}", b"\0\xff\r\n", b" ", b"x" * 5000)
_VALUE = st.integers(0, len(_VALUES) - 1)


class RegisterParty(Party):
    """Handles of two namespaces, and what revisions they have given."""

    def __init__(self, name: str, server: Server, namespace: str) -> None:
        super().__init__(name, server, namespace)
        self._open: dict[int, LeaseRegister] = {}
        self._given: dict[tuple[bool, str], list[int]] = {}

    async def at(self, place: int) -> LeaseRegister:
        """The handle of a place."""
        if place not in self._open:
            register = self.server.register(f"{self.namespace}.b" if place == 2 else self.namespace)
            self.stack.push_async_callback(register.close)
            await register.open()
            self._open[place] = register
        return self._open[place]

    async def reopen(self, place: int) -> str:
        """Close a handle; its next use opens another."""
        if register := self._open.pop(place, None):
            await register.close()
        return "closed"

    def given(self, place: int, name: str) -> list[int]:
        """The revisions that a record has had."""
        return self._given.setdefault((place == 2, name), [])

    def expected(self, place: int, name: str, which: str, other: str) -> int:
        """A revision to expect, as it is drawn: by what it is, because numbers mean nothing elsewhere."""
        given = [0, *self.given(place, name)]
        if which == "before":
            return given[-2] if len(given) > 1 else 0
        another = [0, *self.given(place, other)][-1]
        return {"right": given[-1], "none": 0, "above": given[-1] + 1, "another's": another}[which]

    async def write(self, place: int, name: str, value: bytes, expected: int) -> str:
        """Compare and set."""
        revision = await (await self.at(place)).cas(name, value, expected=expected)
        given = self.given(place, name)
        rises = revision > max(given, default=0)
        given.append(revision)
        return "written" if rises else "written, and the revision does not rise"

    def entry_as(self, place: int, entry: Entry | None) -> str:
        """A record as a text."""
        if entry is None:
            return "none"
        given = self.given(place, entry.name)
        revision = "" if given and given[-1] == entry.revision else " at a revision that is not its last"
        return f"{shown(entry.name)}: {_value_as(entry.value)}{revision}"


def _value_as(value: bytes) -> str:
    return f"value {_VALUES.index(value)}" if value in _VALUES else f"{value!r:.60}"


class RegisterGame(Game[RegisterParty]):
    """All rules of the register."""

    party_class = RegisterParty

    def __init__(self, match: Match) -> None:
        super().__init__(match)
        self.names: tuple[str, ...] = ()

    @initialize(names=PALETTES)
    def begin(self, names: tuple[str, ...]) -> None:
        self.names = names

    def name(self, who: int) -> str:
        """One of the names of this game."""
        return self.names[who % len(self.names)]

    @rule(place=_PLACE, who=WHO, value=_VALUE, which=_EXPECTED, other=WHO)
    def cas(self, place: int, who: int, value: int, which: str, other: int) -> None:
        name = self.name(who)
        # A revision of another record may be right by chance, and in one party only: its record must have been written.
        if which == "another's" and (self.name(other) == name or not self._alike(place, name, self.name(other))):
            which = "none"

        async def call(party: RegisterParty) -> str:
            expected = party.expected(place, name, which, self.name(other))
            return await party.write(place, name, _VALUES[value], expected)

        self.ask(f"{_PLACES[place]}cas {shown(name)} = value {value}, expecting {self._words(which, other)}", call)
        self.read(place, name, quiet=True)

    def _words(self, which: str, other: int) -> str:
        words = {"right": "its revision", "none": "no record", "before": "the revision before", "above": "one above"}
        return words.get(which, f"the revision of {shown(self.name(other))}")

    def _alike(self, place: int, name: str, other: str) -> bool:
        """Whether everybody's revisions of two records differ."""
        pairs = [(party.given(place, name)[-1:], party.given(place, other)[-1:]) for party in self.parties]
        return all(one != two for one, two in pairs) or all(one == two for one, two in pairs)

    def read(self, place: int, name: str, *, quiet: bool = False) -> None:
        """One read by everybody."""

        async def call(party: RegisterParty) -> str:
            return party.entry_as(place, await (await party.at(place)).read(name))

        self.ask(f"{_PLACES[place]}read {shown(name)}", call, quiet=quiet)

    @rule(place=_PLACE, who=WHO)
    def read_one(self, place: int, who: int) -> None:
        self.read(place, self.name(who))

    def scan(self, place: int, prefix: str, *, quiet: bool = False) -> None:
        """One scan by everybody."""

        async def call(party: RegisterParty) -> str:
            entries = await (await party.at(place)).scan(prefix)
            return "; ".join(party.entry_as(place, entry) for entry in sorted(entries)) or "nothing"

        self.ask(f"{_PLACES[place]}scan {shown(prefix)}", call, quiet=quiet)

    @rule(place=_PLACE, who=WHO, length=st.sampled_from((0, 1, 2, 300)))
    def scan_some(self, place: int, who: int, length: int) -> None:
        self.scan(place, self.name(who)[:length])

    @rule(place=_PLACE, who=WHO, value=_VALUE, racers=st.integers(2, 4), which=st.sampled_from(("right", "before")))
    def race(self, place: int, who: int, value: int, racers: int, which: str) -> None:
        """Many write the same at once: one succeeds, whoever it is."""
        name = self.name(who)
        places = (2, 2) if place == 2 else (0, 1)

        async def call(party: RegisterParty) -> str:
            expected = party.expected(place, name, which, name)
            for each in places:
                await party.at(each)
            calls = [party.write(places[racer % 2], name, _VALUES[value], expected) for racer in range(racers)]
            deadline = self._match.bench.deadline
            counts = Counter(a.text for a in await asyncio.gather(*(answered(call, deadline) for call in calls)))
            return ", ".join(f"{count} {text}" for text, count in sorted(counts.items()))

        what = f"cas {shown(name)} = value {value}, expecting {self._words(which, who)}"
        self.ask(f"{_PLACES[2] if place == 2 else ''}{racers} at once: {what}", call)
        self.read(place, name, quiet=True)

    @rule(place=st.sampled_from((0, 1)), who=WHO, value=_VALUE, length=st.sampled_from((0, 1, 300)))
    def watched(self, place: int, who: int, value: int, length: int) -> None:
        """A watch gives hints, but on a healthy server it gives them: of the last change at least, and of no others."""
        name = self.name(who)
        prefix = name[:length]
        others = [other for other in self.names if not other.startswith(prefix)][:1]

        async def call(party: RegisterParty) -> str:
            register = await party.at(place)
            async with register.watch(prefix) as watch:
                for other in others:
                    await party.write(1 - place, other, _VALUES[0], party.expected(place, other, "right", other))
                await party.write(1 - place, name, _VALUES[value], party.expected(place, name, "right", name))
                last = party.given(place, name)[-1]
                seen = await watch.next()
                while seen.name == name and seen.revision < last:
                    seen = await watch.next()
                return party.entry_as(place, seen)

        noise = "".join(f"cas {shown(other)}, " for other in others)
        self.ask(f"{_PLACES[place]}watch {shown(prefix)}, {noise}cas {shown(name)} = value {value}, next", call)

    @rule(place=_PLACE)
    def reopen(self, place: int) -> None:
        self.ask(f"{_PLACES[place]}close", lambda party: party.reopen(place))

    def look(self) -> None:
        for number in range(len(self.names)):
            self.cas(0, number, number % len(_VALUES), "right", number)
        for place in (1, 2):
            for name in self.names:
                self.read(place, name, quiet=True)
            self.scan(place, "", quiet=True)
        for wildcard in _WILDCARDS:
            self.scan(0, wildcard, quiet=True)
