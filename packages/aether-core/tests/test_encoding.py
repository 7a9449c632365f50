"""The encoding: what comes back is what was given, or it is refused with the place."""

import enum
import uuid
from collections import OrderedDict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether.core import CorruptEvent, Event, InvalidEvent, InvalidName
from aether.core.encoding import MAX_DEPTH, decode_event, decode_events, encode_event
from aether.core.event import new_id
from aether.core.spi import Stored

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


def make(**fields: Any) -> Event:
    return Event(**{"type": "T", "actor_id": "a", "version": 1, **fields})


@given(st.dictionaries(TEXT, JSON), st.dictionaries(TEXT, TEXT))
def test_json_comes_back(data: dict[str, Any], metadata: dict[str, str]) -> None:
    event = make(data=data, metadata=metadata)

    encoded = encode_event(event)

    assert b"\n" not in encoded
    decoded = decode_event(Stored(1, "a", 1, encoded))
    assert decoded == event
    assert repr(decoded.data) == repr(event.data)  # 1 and 1.0 and True are equal, but not the same


ALMOST_JSON = st.recursive(
    JSON | st.floats() | st.binary() | st.tuples(st.integers()) | st.decimals() | st.datetimes() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(TEXT | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(st.dictionaries(TEXT, ALMOST_JSON, min_size=1))
def test_types_are_refused_exactly_when_they_would_not_come_back(data: dict[str, Any]) -> None:
    """The encoder looks at types instead of decoding and comparing; here both are done."""
    event = make(data=data)
    try:
        decoded = msgspec.json.decode(msgspec.json.encode(event), type=Event)
        same = repr(decoded.data) == repr(data)
    except (ValueError, TypeError):
        same = False

    try:
        encode_event(event)
        accepted = True
    except InvalidEvent:
        accepted = False

    assert accepted is same


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


Point = namedtuple("Point", "x y")
cyclic: dict[str, Any] = {}
cyclic["self"] = cyclic
deep: dict[str, Any] = {}
for _ in range(MAX_DEPTH + 1):
    deep = {"d": deep}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (float("nan"), "data.v"),
        (float("inf"), "data.v"),
        ((1, 2), "data.v"),
        ([1, {"k": (1,)}], "data.v[1].k"),
        ({1: "a"}, "data.v"),
        ({None: "a"}, "data.v"),
        (Decimal("1.1"), "data.v"),
        (b"x", "data.v"),
        ({1, 2}, "data.v"),
        (datetime.now(UTC), "data.v"),
        (uuid.uuid4(), "data.v"),
        (Colour.RED, "data.v"),
        (Level.LOW, "data.v"),
        (Point(1, 2), "data.v"),
        (OrderedDict(a=1), "data.v"),
        (object(), "data.v"),
        (cyclic, "data.v.self"),
        (deep, "data.v.d"),
    ],
)
def test_what_json_would_change_is_refused_with_its_place(value: object, place: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        encode_event(make(data={"v": value}))
    assert caught.value.path.startswith(place)


@pytest.mark.parametrize("field", ["data", "metadata"])
def test_surrogates_are_refused(field: str) -> None:
    with pytest.raises(InvalidEvent):
        encode_event(make(**{field: {"v": "\ud800"}}))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"version": 0}, InvalidEvent),
        ({"version": -1}, InvalidEvent),
        ({"version": True}, InvalidEvent),
        ({"version": 1.0}, InvalidEvent),
        ({"version": 2**53}, InvalidEvent),
        ({"data": []}, InvalidEvent),
        ({"data": None}, InvalidEvent),
        ({"metadata": {"a": 1}}, InvalidEvent),
        ({"metadata": {1: "a"}}, InvalidEvent),
        ({"timestamp": datetime(2026, 1, 1)}, InvalidEvent),  # noqa: DTZ001  (that is the point)
        ({"timestamp": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))}, InvalidEvent),
        ({"timestamp": "2026-01-01"}, InvalidEvent),
        ({"type": ""}, InvalidName),
        ({"type": "a\nb"}, InvalidName),
        ({"actor_id": ""}, InvalidName),
        ({"actor_id": None}, InvalidName),
        ({"id": ""}, InvalidName),
        ({"id": "x" * 256}, InvalidName),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        encode_event(make(**fields))


@pytest.mark.parametrize("nonsense", [None, "event", {"type": "T"}, 3])
def test_only_events_are_events(nonsense: Any) -> None:
    with pytest.raises(InvalidEvent, match="an Event is needed"):
        encode_event(nonsense)


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_are_corrupt(data: bytes) -> None:
    try:
        decode_event(Stored(7, "a", 1, data))
    except CorruptEvent as error:
        assert (error.actor_id, error.version, error.position) == ("a", 1, 7)


def test_an_event_in_the_wrong_place_is_corrupt() -> None:
    encoded = encode_event(make(version=2))
    with pytest.raises(CorruptEvent, match="holds version 2 of 'a'"):
        decode_event(Stored(7, "a", 1, encoded))


@pytest.mark.parametrize("damage", [b"{", b'"\xff"', encode_event(make(version=9)), encode_event(make(actor_id="b"))])
def test_what_is_in_front_of_a_damaged_event_is_read(damage: bytes) -> None:
    """Those that are decoded together are given one by one: the damage is raised at its place, not before."""
    page = [Stored(number, "a", number, encode_event(make(version=number))) for number in range(1, 6)]
    page[3] = Stored(4, "a", 4, damage)

    events = iter(decode_events(page))

    assert [next(events).version for _ in range(3)] == [1, 2, 3]
    with pytest.raises(CorruptEvent) as raised:
        next(events)
    assert raised.value.version == 4


def test_later_releases_may_add_fields() -> None:
    encoded = msgspec.json.encode({**msgspec.json.decode(encode_event(make())), "new": 1})
    assert decode_event(Stored(1, "a", 1, encoded)).type == "T"


def test_ids_are_uuid7_and_differ() -> None:
    ids = [new_id() for _ in range(5000)]

    assert len(set(ids)) == len(ids)
    assert {uuid.UUID(text).version for text in ids} == {7}
    assert {uuid.UUID(text).variant for text in ids} == {uuid.RFC_4122}
    assert [text[:13] for text in ids] == sorted(text[:13] for text in ids)


def test_ids_of_threads_differ() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = [text for made in pool.map(lambda _: [new_id() for _ in range(1000)], range(16)) for text in made]
    assert len({text[14:] for text in ids}) == 16_000  # their random parts
