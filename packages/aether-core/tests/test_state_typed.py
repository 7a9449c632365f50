"""Typed events: what comes back is what went in, whatever library made the class, and old bytes stay readable."""

import enum
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether.core import Event, InvalidEvent, InvalidName, UnreadableEvent
from aether.core.encoding import decode_event, encode_event
from aether.core.spi import Stored
from aether.core.state import EventTypes, NewEvent, event, new_event


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Part:
    name: str
    price: Decimal


FIELDS: dict[str, Any] = {
    "at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    "there": datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))),
    "day": date(2026, 1, 2),
    "key": UUID("0190a1b2-0000-7000-8000-000000000000"),
    "total": Decimal("12.340"),
    "colour": Colour.BLUE,
    "blob": b"\x00\xff",
    "part": Part("é", Decimal("0.1")),
    "parts": (Part("a", Decimal(1)),),
    "by_number": {1: "one"},
    "tags": frozenset({"x"}),
    "maybe": None,
}
TYPES: dict[str, Any] = {
    "at": datetime,
    "there": datetime,
    "day": date,
    "key": UUID,
    "total": Decimal,
    "colour": Colour,
    "blob": bytes,
    "part": Part,
    "parts": tuple[Part, ...],
    "by_number": dict[int, str],
    "tags": frozenset[str],
    "maybe": str | None,
}


class _Model(pydantic.BaseModel, frozen=True):
    model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", strict=True)


CLASSES = {
    "dataclass": dataclass(frozen=True, slots=True)(type("All", (), {"__annotations__": TYPES})),
    "attrs": attrs.frozen(type("All", (), {"__annotations__": TYPES})),
    "msgspec": msgspec.defstruct("All", list(TYPES.items()), frozen=True),
    "pydantic": pydantic.create_model("All", __base__=_Model, **{name: (kind, ...) for name, kind in TYPES.items()}),
}


def stored(new: NewEvent, version: int = 1) -> Event:
    """The event as a store gives it back."""
    data = encode_event(new.at("a", version))
    return decode_event(Stored(1, "a", version, data))


def through(types: EventTypes[Any], payload: object) -> Any:
    return types.decode(stored(types.encode(payload)))


@pytest.mark.parametrize("library", CLASSES)
def test_every_type_comes_back(library):
    cls = event("all", schema=1)(CLASSES[library])
    payload = cls(**FIELDS)
    found = through(EventTypes(cls), payload)
    assert type(found) is cls
    assert found == payload
    for name, value in FIELDS.items():
        assert type(getattr(found, name)) is type(value), name
    assert new_event(payload).type == "all"


@given(
    st.builds(
        CLASSES["msgspec"],
        **{
            **{name: st.from_type(kind) for name, kind in TYPES.items()},
            "at": st.datetimes(timezones=st.just(UTC)),
            "there": st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30))])),
            "total": st.decimals(allow_nan=False, allow_infinity=False),
            "part": st.builds(Part, st.text(), st.decimals(allow_nan=False, allow_infinity=False)),
            "parts": st.just(()),
        },
    )
)
def test_whatever_the_values_are(payload):
    cls = event("all")(type(payload))
    assert through(EventTypes(cls), payload) == payload


def test_pydantic_inside_of_a_dataclass():
    class Money(pydantic.BaseModel):
        amount: Decimal

    paid = event("paid")(dataclass(type("Paid", (), {"__annotations__": {"money": Money, "more": list[Money]}})))
    payload = paid(Money(amount=Decimal("1.10")), [Money(amount=Decimal(2))])
    assert through(EventTypes(paid), payload) == payload


def test_the_name_is_stored_and_never_the_class():
    @event("order.placed", schema=3, upcast={1: dict, 2: dict})
    class Whatever(msgspec.Struct):
        x: int

    new = new_event(Whatever(1), metadata={"user": "ada"})
    assert (new.type, new.data, new.metadata) == ("order.placed", {"x": 1}, {"schema": "3", "user": "ada"})


def test_the_class_stays_what_it_is():
    class Placed(msgspec.Struct):
        x: int

    assert event("placed")(Placed) is Placed


# --- Names ---


def test_a_name_that_two_classes_have_is_refused():
    one = event("placed")(type("One", (msgspec.Struct,), {}))
    two = event("put", aliases=["placed"])(type("Two", (msgspec.Struct,), {}))
    with pytest.raises(ValueError, match="One and Two are both called 'placed'"):
        EventTypes(one, two)
    assert EventTypes(one, one).names == {"placed"}
    assert EventTypes(two).names == {"put", "placed"}


def test_an_alias_is_read_and_never_written():
    cls = event("new.name", aliases=["old.name"])(msgspec.defstruct("Named", [("x", int)]))
    types = EventTypes(cls)
    assert types.decode(stored(NewEvent(type="old.name", data={"x": 1}))) == cls(1)
    assert types.encode(cls(1)).type == "new.name"


def test_classes_that_are_no_events_are_refused():
    @event("base")
    class Base(msgspec.Struct):
        pass

    class Derived(Base):
        pass

    class Plain:
        pass

    for cls in (Derived, Plain):
        with pytest.raises(TypeError, match=f"{cls.__name__} is not declared as an event"):
            EventTypes(cls)
        with pytest.raises(TypeError, match="not declared as an event"):
            new_event(cls())
    with pytest.raises(InvalidName):
        event("")
    impossible = event("x")(msgspec.defstruct("Impossible", [("x", dict[str, int] | msgspec.Struct)]))
    with pytest.raises(TypeError):
        EventTypes(impossible)


def test_unknown_names_and_newer_schemas_raise_or_come_back_raw():
    cls = event("known")(msgspec.defstruct("Known", [("x", int)]))
    unknown = stored(NewEvent(type="unknown", data={"y": 1}))
    newer = stored(NewEvent(type="known", data={"x": 1}, metadata={"schema": "2"}))
    with pytest.raises(UnreadableEvent, match="'unknown', version 1 of 'a': its name is not known here"):
        EventTypes(cls).decode(unknown)
    with pytest.raises(UnreadableEvent, match="its schema 2 is newer than ours"):
        EventTypes(cls).decode(newer)
    raw = EventTypes(cls, unknown="raw")
    assert raw.decode(unknown) is unknown
    assert raw.decode(newer) is newer
    for types in (EventTypes(cls), raw):
        with pytest.raises(UnreadableEvent, match="does not fit Known"):
            types.decode(stored(NewEvent(type="known", data={"x": "text"})))
        with pytest.raises(UnreadableEvent, match="not a number"):
            types.decode(stored(NewEvent(type="known", metadata={"schema": "01"})))


def test_what_json_cannot_hold_is_refused():
    cls = event("x")(msgspec.defstruct("Holder", [("x", Any)]))
    with pytest.raises(InvalidEvent, match="a complex has no form in JSON"):
        new_event(cls(1j))


# --- Schemas ---


def test_old_data_is_brought_to_the_present_schema_and_stays_as_it_is():
    def two(data):
        data["lines"][0]["currency"] = "EUR"  # in place: it is a copy
        return data

    @event("placed", schema=3, upcast={1: two, 2: lambda data: {"amount": data["lines"][0], "by": "?"}})
    @dataclass
    class Placed:
        amount: dict[str, str]
        by: str

    types = EventTypes(Placed)
    old = stored(NewEvent(type="placed", data={"lines": [{"total": "1"}]}))
    before = encode_event(old)
    assert types.decode(old) == Placed({"total": "1", "currency": "EUR"}, "?")
    assert encode_event(old) == before
    middle = NewEvent(type="placed", data={"lines": [{"total": "1", "currency": "USD"}]}, metadata={"schema": "2"})
    assert types.decode(stored(middle)) == Placed({"total": "1", "currency": "USD"}, "?")
    with pytest.raises(UnreadableEvent, match="schema 1.*does not fit"):
        types.decode(stored(NewEvent(type="placed", data={})))


@pytest.mark.parametrize(
    ("schema", "upcast", "said"),
    [
        (3, {2: dict}, "nothing makes schema 2 of 1"),
        (3, {1: dict}, "nothing makes schema 3 of 2"),
        (2, {1: dict, 2: dict}, "nothing is upcast from 2"),
        (0, {}, "1 or more"),
    ],
)
def test_gaps_are_found_at_import(schema, upcast, said):
    with pytest.raises(ValueError, match=said):
        event("x", schema=schema, upcast=upcast)


# --- Libraries and types ---


def test_no_library_of_the_users_is_imported():
    code = (
        "import sys, aether.core.state, aether.core.correlation;"
        "print([name for name in ('pydantic', 'attr', 'attrs', 'opentelemetry', 'pytest') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


TYPED = """
from dataclasses import dataclass
from typing import assert_type
import attrs, msgspec, pydantic
from aether.core import EventStore
from aether.core.state import Decider, EventTypes, Executed, Loaded, event, execute, load

@event("a")
@dataclass(frozen=True)
class A:
    x: int

@event("b")
class B(msgspec.Struct):
    y: str

@event("c")
@attrs.frozen
class C:
    z: int

@event("d")
class D(pydantic.BaseModel):
    w: int

assert_type(A(x=1), A)
assert_type(D(w=1).w, int)
A(x="")  # WRONG
B(y=1)  # WRONG
C(z="")  # WRONG
A(1, 2)  # WRONG
TYPES = EventTypes(A, B)

def evolve(state: int, told: A | B) -> int:
    return state
def decide(state: int, command: str) -> list[A | B]:
    return [A(x=1)]
def decide_wrong(state: str, command: str) -> list[A | B]:
    return []

DECIDER = Decider(int, evolve, decide, TYPES)
Decider[int, str, A | B](int, evolve, decide_wrong, TYPES)  # WRONG

async def main(store: EventStore) -> None:
    assert_type(await execute(store, DECIDER, "a", "go"), Executed[int])
    assert_type(await load(store, evolve, int, "a", types=TYPES), Loaded[int])
    await execute(store, DECIDER, "a", 1)  # WRONG
"""


def test_pyright_keeps_the_types(tmp_path):
    """Every line that says WRONG is an error, and no other is."""
    file = tmp_path / "typed.py"
    file.write_text(TYPED)
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    found = msgspec.json.decode(done.stdout)["generalDiagnostics"]
    errors = {one["range"]["start"]["line"] + 1: one["message"] for one in found if one["severity"] == "error"}
    wrong = {number for number, line in enumerate(TYPED.splitlines(), 1) if "WRONG" in line}
    assert errors.keys() == wrong, errors


def test_the_schema_in_the_metadata_is_that_of_the_data_whoever_gives_another():
    @event("one")
    @dataclass(frozen=True)
    class One:
        x: int

    @event("two", schema=2, upcast={1: lambda data: data})
    @dataclass(frozen=True)
    class Two:
        x: int

    types = EventTypes(One, Two)
    for told, schema in ((One(1), None), (Two(1), "2")):
        new = types.encode(told, metadata={"schema": "7", "k": "v"})  # that of a cause, which was handed on
        assert new.metadata.get("schema") == schema
        assert new.metadata["k"] == "v"
        assert types.decode(new.at("a", 1)) == told
