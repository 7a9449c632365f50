"""The checkers find what is wrong in a history, and nothing else: an exhaustive search is the judge."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import msgspec
import pytest

from aether.conformance.history import Published, Received, RegisterHistory, StoreHistory, check_bus
from aether.conformance.history.election import (
    FencedWrite,
    RegisterCall,
    Tenure,
    check_fence,
    check_register,
    check_tenures,
)
from aether.conformance.history.feeds import check_pages, check_subs
from aether.conformance.history.records import (
    Append,
    Delivery,
    Feed,
    Head,
    Outcome,
    Part,
    Read,
    Record,
    Seen,
    Version,
)
from aether.conformance.history.search import Operation, linearizable
from aether.conformance.history.store import check_cas, check_global, check_session, check_set
from aether.conformance.violations import Violation
from aether.core.spi import Entry

History = tuple[list[Record], list[Seen]]


# --- Making histories: a perfect store, whose calls take effect somewhere between their beginning and their end ---


@dataclass
class Maker:
    rng: random.Random
    actors: int = 2
    calls: list[Record] = field(default_factory=list)
    feed: list[Seen] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def actor(self, name: str) -> list[Seen]:
        return [seen for seen in self.feed if seen.actor == name]

    def make(self, steps: int) -> History:
        moment = 0
        for _ in range(steps):
            moment += 10
            begin = moment - self.rng.choice((1, 1, 5, 25, 60))
            end = moment + self.rng.choice((1, 1, 5, 25, 60))
            name = f"a{self.rng.randrange(self.actors)}"
            common = {"handle": f"h{self.rng.randrange(3)}", "begin": max(begin, 0), "end": end}
            self.rng.choice((self.append, self.append, self.read, self.version, self.head))(name, common)
        return self.calls, self.feed

    def append(self, name: str, common: dict[str, object]) -> None:
        version = len(self.actor(name))
        expected = version if self.rng.random() < 0.7 else max(0, version + self.rng.choice((-1, 1)))
        ids = tuple(f"e{next(self.numbers)}" for _ in range(self.rng.choice((1, 1, 2))))
        parts = (Part(name, expected, ids),)
        unknown = self.rng.random() < 0.2
        if unknown and self.rng.random() < 0.5:
            self.calls.append(Append(outcome=Outcome.UNKNOWN, parts=parts, **common))
        elif expected != version:
            found = Outcome.UNKNOWN if unknown else Outcome.REFUSED
            told = {} if unknown else {"conflict": name, "current": version}
            self.calls.append(Append(outcome=found, parts=parts, **told, **common))
        else:
            for number, event_id in enumerate(ids, start=1):
                self.feed.append(Seen(len(self.feed) + 1, name, expected + number, event_id))
            told = {} if unknown else {"position": len(self.feed)}
            outcome = Outcome.UNKNOWN if unknown else Outcome.OK
            self.calls.append(Append(outcome=outcome, parts=parts, **told, **common))

    def read(self, name: str, common: dict[str, object]) -> None:
        asked = {"after": 0, "upto": None, "limit": None, "reverse": False}
        events = tuple(self.actor(name))
        self.calls.append(Read(outcome=Outcome.OK, actor=name, events=events, **asked, **common))

    def version(self, name: str, common: dict[str, object]) -> None:
        self.calls.append(Version(outcome=Outcome.OK, actor=name, version=len(self.actor(name)), **common))

    def head(self, _: str, common: dict[str, object]) -> None:
        self.calls.append(Head(outcome=Outcome.OK, position=len(self.feed), **common))


def mutated(rng: random.Random, calls: list[Record], feed: list[Seen]) -> History:
    """The same history with one thing changed, which may make it impossible, or not."""
    number = rng.randrange(len(calls))
    call = calls[number]
    change = rng.randrange(4)
    if change == 0:
        call = msgspec.structs.replace(call, begin=call.begin + 40, end=call.end + 40)
    elif change == 1:
        call = msgspec.structs.replace(call, begin=max(0, call.begin - 40), end=max(1, call.end - 40))
    elif isinstance(call, Version):
        call = msgspec.structs.replace(call, version=max(0, call.version + rng.choice((-1, 1))))
    elif isinstance(call, Read):
        call = msgspec.structs.replace(call, events=call.events[:-1])
    elif isinstance(call, Append) and call.outcome is Outcome.OK:
        conflict = {"conflict": call.parts[0].actor, "current": call.parts[0].expected + rng.choice((0, 1))}
        replaced = rng.choice(({"outcome": Outcome.UNKNOWN}, {"outcome": Outcome.REFUSED, **conflict}))
        call = msgspec.structs.replace(call, position=0, **replaced)
    elif isinstance(call, Append):
        call = msgspec.structs.replace(call, outcome=Outcome.OK, conflict="", current=0)
    return [*calls[:number], call, *calls[number + 1 :]], feed


# --- The judge ---


def operations(calls: Sequence[Record], actor: str, final: tuple[str, ...]) -> Iterator[Operation]:
    """What the calls did to one actor, whose state is the tuple of its ids; and a last look at it."""
    for call in calls:
        if isinstance(call, Append) and call.parts[0].actor == actor:
            unknown = call.outcome is Outcome.UNKNOWN
            yield Operation(call.begin, call.end, _appending(call), may=unknown)
        elif isinstance(call, Version) and call.actor == actor:
            yield Operation(call.begin, call.end, _looking(lambda ids, call=call: len(ids) == call.version))
        elif isinstance(call, Read) and call.actor == actor:
            seen = tuple(each.id for each in call.events)
            yield Operation(call.begin, call.end, _looking(lambda ids, seen=seen: ids == seen))
    # Whatever has an unknown outcome has happened by then, or never will.
    yield Operation(10**9, 10**9, _looking(lambda ids: ids == final))


def _appending(call: Append) -> Callable[[tuple[str, ...]], tuple[str, ...] | None]:
    part = call.parts[0]

    def step(ids: tuple[str, ...]) -> tuple[str, ...] | None:
        if call.outcome is Outcome.REFUSED:
            return ids if len(ids) == call.current != part.expected else None
        return ids + part.ids if len(ids) == part.expected else None

    return step


def _looking(saw: Callable[[tuple[str, ...]], bool]) -> Callable[[tuple[str, ...]], tuple[str, ...] | None]:
    return lambda ids: ids if saw(ids) else None


def judged(calls: Sequence[Record], feed: Sequence[Seen]) -> bool:
    return all(
        linearizable(list(operations(calls, actor, tuple(s.id for s in feed if s.actor == actor))), ())
        for actor in ("a0", "a1")
    )


def passes(calls: Sequence[Record], feed: Sequence[Seen]) -> bool:
    return not [*check_set(calls, tuple(feed)), *check_cas(calls, tuple(feed))]


def test_agrees_with_the_search_on_thousands_of_histories() -> None:
    rng = random.Random(20261125)
    verdicts = {True: 0, False: 0}
    for _ in range(4000):
        calls, feed = Maker(rng).make(rng.randrange(2, 11))
        assert passes(calls, feed)
        assert judged(calls, feed)
        for _ in range(rng.randrange(1, 3)):
            calls, feed = mutated(rng, calls, feed)
        verdict = judged(calls, feed)
        assert passes(calls, feed) == verdict, msgspec.json.encode([calls, feed]).decode()
        verdicts[verdict] += 1

    assert min(verdicts.values()) > 500, verdicts


# --- Seeded defects ---


def _large(seed: int) -> History:
    return Maker(random.Random(seed)).make(200)


def _acknowledged(calls: Sequence[Record]) -> list[tuple[int, Append]]:
    return [(n, c) for n, c in enumerate(calls) if isinstance(c, Append) and c.outcome is Outcome.OK]


def _lost(rng: random.Random, calls: list[Record], feed: list[Seen]) -> History:
    lost = rng.choice(_acknowledged(calls))[1].parts[0].ids
    return calls, [seen for seen in feed if seen.id not in lost]


def _twice(rng: random.Random, calls: list[Record], feed: list[Seen]) -> History:
    seen = rng.choice(feed)
    again = msgspec.structs.replace(seen, position=len(feed) + 1, version=1 + sum(s.actor == seen.actor for s in feed))
    return calls, [*feed, again]


def _stale(rng: random.Random, calls: list[Record], feed: list[Seen]) -> History:
    reads = [(n, c) for n, c in enumerate(calls) if isinstance(c, Read) and c.begin > 1000 and len(c.events) > 10]
    number, read = rng.choice(reads)
    return [*calls[:number], msgspec.structs.replace(read, events=read.events[:1]), *calls[number + 1 :]], feed


def _ghost(_: random.Random, calls: list[Record], feed: list[Seen]) -> History:
    return calls, [*feed, Seen(len(feed) + 1, "ghost", 1, "nobody's")]


def _refused_but_stored(rng: random.Random, calls: list[Record], feed: list[Seen]) -> History:
    number, append = rng.choice(_acknowledged(calls))
    refused = msgspec.structs.replace(append, outcome=Outcome.UNSENT, position=0)
    return [*calls[:number], refused, *calls[number + 1 :]], feed


def _cas_broken(rng: random.Random, calls: list[Record], feed: list[Seen]) -> History:
    number, append = rng.choice(_acknowledged(calls))
    part = append.parts[0]
    wrong = msgspec.structs.replace(append, parts=(msgspec.structs.replace(part, expected=part.expected + 1),))
    return [*calls[:number], wrong, *calls[number + 1 :]], feed


def _reordered(rng: random.Random, calls: list[Record], feed: list[Seen]) -> History:
    """Two commits of different actors change places, far apart in time."""
    one = rng.randrange(len(feed) // 4)
    other = next(n for n in range(len(feed) - 10, 0, -1) if feed[n].actor != feed[one].actor)
    swapped = list(feed)
    swapped[one] = msgspec.structs.replace(feed[other], position=feed[one].position)
    swapped[other] = msgspec.structs.replace(feed[one], position=feed[other].position)
    return calls, swapped


DEFECTS = (_lost, _twice, _stale, _ghost, _refused_but_stored, _cas_broken, _reordered)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_defect_is_found(defect: Callable[[random.Random, list[Record], list[Seen]], History]) -> None:
    for seed in range(10):
        calls, feed = defect(random.Random(seed), *_large(seed))
        findings = [
            finding for check in (check_set, check_cas, check_global, check_session) for finding in check(calls, feed)
        ]
        assert findings, f"seed {seed}"


@pytest.mark.parametrize("seed", range(5))
def test_sound_history_is_found_sound(seed: int) -> None:
    calls, feed = _large(seed)
    history = StoreHistory("sound")
    history.calls = [*calls, *_followed(feed)]

    history.check(feed)


# --- Sessions ---


def test_session_that_goes_back_is_found() -> None:
    one, two = Seen(1, "a", 1, "x"), Seen(2, "a", 2, "y")
    looks = [
        Version(handle=handle, begin=begin, end=begin + 1, outcome=Outcome.OK, actor="a", version=version)
        for handle, begin, version in (("h", 10, 2), ("other", 20, 1), ("h", 30, 1))
    ]

    found = list(check_session(looks, (one, two)))
    assert [str(finding).partition("\n")[0] for finding in found] == ["h saw 'a' at version 1 behind 2"]
    assert list(check_session(looks[:2], (one, two))) == []


# --- The feed and subscriptions ---


def _followed(feed: Sequence[Seen]) -> list[Record]:
    """What a subscriber and a reader see of a feed."""
    common = {"handle": "h", "begin": 10**6, "end": 10**6 + 1, "outcome": Outcome.OK, "after": 0}
    deliveries = [Delivery(tail=1, events=tuple(feed[n : n + 3]), **common) for n in range(0, len(feed), 3)]
    last = feed[-1].position if feed else 0
    return [*deliveries, Feed(upto=last, events=tuple(feed), more=False, **common)]


BROKEN_FEEDS: dict[str, Callable[[list[Seen]], list[Seen]]] = {
    "gap": lambda feed: [*feed[:4], *feed[5:]],
    "repeat": lambda feed: [*feed[:5], feed[4], *feed[5:]],
    "swap": lambda feed: [*feed[:4], feed[5], feed[4], *feed[6:]],
    "foreign": lambda feed: [*feed[:4], Seen(feed[4].position, "x", 1, "foreign"), *feed[5:]],
    "moved": lambda feed: [*feed[:4], msgspec.structs.replace(feed[4], position=10**6), *feed[5:]],
}


@pytest.mark.parametrize("name", BROKEN_FEEDS)
@pytest.mark.parametrize("check", [check_pages, check_subs])
def test_broken_feed_is_found(name: str, check: Callable[[Sequence[Record], Sequence[Seen]], Iterator[object]]) -> None:
    _, feed = _large(1)

    assert list(check(_followed(feed), feed)) == []
    assert len(list(check(_followed(BROKEN_FEEDS[name](feed)), feed))) == 1


def test_page_that_ends_too_early_is_found() -> None:
    _, feed = _large(1)
    page = Feed(handle="h", begin=1, end=2, outcome=Outcome.OK, after=0, upto=feed[-1].position, events=tuple(feed[:9]))

    assert [finding.text for finding in check_pages([page], feed)] == [
        "a page says that nothing follows, and something does"
    ]
    assert list(check_pages([msgspec.structs.replace(page, more=True)], feed)) == []


# --- Elections ---


def test_register() -> None:
    calls = [
        RegisterCall("written", b"a", 0, 3, 0, 1),
        RegisterCall("unknown", b"b", 3, 0, 2, 3),
        RegisterCall("read", b"b", 0, 5, 4, 5),
        RegisterCall("written", b"c", 5, 6, 6, 7),
        RegisterCall("refused", b"d", 5, 0, 6, 8),
        RegisterCall("unknown", b"e", 6, 0, 8, 9),
        RegisterCall("unknown", b"f", 3, 0, 8, 9),
    ]
    check_register(calls, final=(6, b"c"))
    check_register(calls, final=(9, b"e"))
    for final in ((6, b"d"), (9, b"f"), (9, b"?"), (5, b"b")):
        with pytest.raises(Violation):
            check_register(calls, final=final)
    for wrong in (
        RegisterCall("written", b"x", 3, 4, 6, 7),
        RegisterCall("written", b"x", 6, 7, 0, 1),
        RegisterCall("read", b"x", 0, 5, 8, 9),
        RegisterCall("read", b"d", 0, 7, 8, 9),
        RegisterCall("read", b"c", 0, 6, 1, 2),
    ):
        with pytest.raises(Violation):
            check_register([*calls, wrong], final=(6, b"c"))


def test_tenures() -> None:
    sound = [Tenure(1, "a", 0, 10), Tenure(2, "b", 11, 20), Tenure(5, "a", 20, 30)]
    check_tenures(sound)
    for wrong in (Tenure(3, "c", 15, 25), Tenure(3, "c", 5, 6), Tenure(5, "c", 40, 50), Tenure(4, "c", 31, 32)):
        with pytest.raises(Violation):
            check_tenures([*sound, wrong])


def test_fence() -> None:
    check_fence([FencedWrite(token, "stored") for token in (1, 1, 3)])
    with pytest.raises(Violation, match="token 2 .* behind .*3"):
        check_fence([FencedWrite(token, "stored") for token in (1, 3, 2)])


# --- Buses ---


def received(*numbers: int) -> list[Received]:
    return [Received("p", number) for number in numbers]


def test_bus() -> None:
    published = {"p": Published(accepted={1, 2, 4, 5, 6, 7}, unsent={3})}
    check_bus(published, received(1, 2, 4, 5, 6, 7), gaps=0)
    check_bus(published, received(2, 4), gaps=0)
    check_bus(published, received(1, 4, 7), gaps=2)
    check_bus(published, received(1, 7))
    for wrong, gaps in ((received(1, 2, 2), 0), (received(1, 4, 2), 9), (received(2, 3), 9), (received(1, 4, 7), 1)):
        with pytest.raises(Violation):
            check_bus(published, wrong, gaps=gaps)


def test_bus_without_gaps_to_count_is_still_checked_for_order() -> None:
    with pytest.raises(Violation, match="at most once"):
        check_bus({"p": Published(accepted={1, 2})}, received(2, 1))


# --- What a person sees ---


def test_failure_shows_five_findings_and_keeps_the_history(
    tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    calls, feed = _large(3)
    history = StoreHistory("c-1")
    history.calls = calls

    with pytest.raises(Violation) as caught:
        history.check(feed[:5])
    lines = caught.value.found.splitlines()
    assert [line[:2] for line in lines if line[0].isdigit()] == ["1.", "2.", "3.", "4.", "5."]
    assert "… and more" in lines
    assert "is lost" in lines[0]
    assert '"f":"append"' in lines[1]
    kept = [json.loads(line) for line in (tmp_path / "aether-history-c-1.jsonl").read_text().splitlines()]
    assert kept[0] == {"aether-history": 1, "namespace": "c-1"}
    assert [line["f"] for line in kept[1:]].count("final") == 5
    assert len(kept) == 1 + len(calls) + 5
    assert str(tmp_path) in lines[-1]


def test_register_that_fails_is_kept(tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    history = RegisterHistory("c-1")
    history.calls["billing"] += [RegisterCall("written", b"a", 0, 1, 0, 1), RegisterCall("refused", b"b", 1, 0, 2, 3)]
    history.check("billing", Entry("billing", 1, b"a"))

    with pytest.raises(Violation) as caught:
        history.check("billing", Entry("billing", 2, b"b"))
    assert str(tmp_path) in caught.value.found
    kept = [json.loads(line) for line in (tmp_path / "aether-history-c-1-register.jsonl").read_text().splitlines()]
    assert kept[0] == {"aether-history": 1, "namespace": "c-1", "register": "billing"}
    assert [(line["kind"], line["value"]) for line in kept[1:]] == [("written", "a"), ("refused", "b")]
