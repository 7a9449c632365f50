"""Typed events: classes of your own, stored under names that are declared.

    @event("order.placed", schema=2, upcast={1: lambda data: data | {"currency": "EUR"}})
    @dataclass(frozen=True)
    class OrderPlaced:
        total: Decimal
        currency: str

    ORDER = EventTypes(OrderPlaced, OrderShipped)

Any dataclass, msgspec Struct, attrs or pydantic class will do; none of these libraries is imported for it. What is
stored is the declared name and the fields, as JSON: moving or renaming a class changes nothing. A catalogue is passed
to whoever decodes, so what can be read does not depend on which modules happen to be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, Generic, Literal, TypeVar, cast

import msgspec

from aether.core.errors import InvalidEvent, UnreadableEvent
from aether.core.event import Event
from aether.core.names import check_name
from aether.core.state.new_event import NewEvent

SCHEMA = "schema"
"""The key of the metadata that says which schema the data has, absent for 1."""

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes the data of one schema from that of the schema before. It is pure; it gets a copy, and stored bytes stay."""

Told = TypeVar("Told")
_MARK = "__aether_event__"


class _Mark(msgspec.Struct, frozen=True):
    name: str
    schema: int
    aliases: tuple[str, ...]
    upcast: dict[int, Upcaster]


def event(
    name: str, *, schema: int = 1, aliases: Iterable[str] = (), upcast: Mapping[int, Upcaster] | None = None
) -> Callable[[type[Told]], type[Told]]:
    """Declare the name under which events of a class are stored, and the number of its schema.

    `upcast` maps every earlier schema to the function that makes the next one of it; they are chained. `aliases` are
    names under which it was stored before. Returns the class itself, so its constructor keeps its types.

    Raises `InvalidName`, and `ValueError` when an upcaster is missing or not needed: at import, not at the first old
    event.
    """
    check_name("event type", name)
    known = (name, *(check_name("event type", alias) for alias in aliases))
    if type(schema) is not int or schema < 1:
        raise ValueError(f"schema of {name!r} is a whole number of 1 or more, not {schema!r:.80}")
    chain = dict(upcast or {})
    if missing := set(range(1, schema)) - chain.keys():
        raise ValueError(
            f"{name!r} has schema {schema}, and nothing makes schema {min(missing) + 1} of {min(missing)}; "
            f"add upcast={{{min(missing)}: function}}, `lambda data: data` if old data fits as it is"
        )
    if needless := chain.keys() - set(range(1, schema)):
        raise ValueError(f"{name!r} has schema {schema}: nothing is upcast from {min(needless)}; raise schema=")

    def mark(cls: type[Told]) -> type[Told]:
        setattr(cls, _MARK, _Mark(name, schema, known[1:], chain))
        return cls

    return mark


def new_event(payload: object, *, metadata: Mapping[str, str] | None = None) -> NewEvent:
    """The event that a payload is stored as. One that is a `NewEvent` already gets the metadata that it lacks.

    Raises `TypeError` for an object of a class without `@event`, `InvalidEvent` for what JSON cannot hold.
    """
    if isinstance(payload, NewEvent):
        return msgspec.structs.replace(payload, metadata=dict(metadata) | payload.metadata) if metadata else payload
    given = dict(metadata or {})
    mark = _mark_of(type(payload))
    given.pop(SCHEMA, None)  # of another event, whose metadata is handed on
    if mark.schema != 1:
        given[SCHEMA] = str(mark.schema)
    return NewEvent(type=mark.name, data=to_json(payload, mark.name), metadata=given)


def _mark_of(cls: type) -> _Mark:
    mark = vars(cls).get(_MARK)  # its own: a subclass is another event, and says its own name
    if not isinstance(mark, _Mark):
        raise TypeError(f"{cls.__name__} is not declared as an event; write @event('some.name') above the class")
    return mark


def to_json(value: object, what: str) -> Any:
    """The fields of an object as JSON holds them: times, UUIDs, Decimals and bytes are texts. Raises `InvalidEvent`."""
    try:
        if _is_pydantic(type(value)):
            return cast("Any", value).model_dump(mode="json", by_alias=True, round_trip=True)
        return _listed(msgspec.to_builtins(value, str_keys=True, enc_hook=_nested))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidEvent(what, f"it cannot be told as JSON: {error}") from error


def _listed(value: Any) -> Any:
    """The same with lists in place of tuples and sets, as JSON has them."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else value


def from_json(data: Any, cls: type[Told]) -> Told:
    """The object of a class, made from what `to_json` made. Raises `ValueError` or `TypeError`."""
    if _is_pydantic(cls):
        # By way of JSON, or a strict model would refuse texts for times and UUIDs.
        return cast("Told", cast("Any", cls).model_validate_json(msgspec.json.encode(data)))
    return msgspec.convert(data, cls, str_keys=True, dec_hook=_from_nested)


def check_class(cls: type) -> None:
    """Raise `TypeError` at once for a class whose fields cannot be decoded, instead of at the first event."""
    if not _is_pydantic(cls):
        msgspec.json.Decoder(cls, dec_hook=_from_nested)


def _is_pydantic(cls: type) -> bool:
    return hasattr(cls, "model_dump") and hasattr(cls, "model_validate_json")


def _nested(value: object) -> Any:
    if _is_pydantic(type(value)):
        return cast("Any", value).model_dump(mode="json", by_alias=True, round_trip=True)
    raise TypeError(f"a {type(value).__name__} has no form in JSON; store its parts")


def _from_nested(cls: type, value: Any) -> Any:
    if _is_pydantic(cls):
        return from_json(value, cls)
    raise TypeError(f"a {cls.__name__} cannot be made from JSON; give the field another type")


class EventTypes(Generic[Told]):
    """The event classes that one kind of actor, or one reader, knows: a catalogue, made once and passed around."""

    def __init__(self, *classes: type[Told], unknown: Literal["raise", "raw"] = "raise") -> None:
        """Take classes that are declared with `@event`.

        An event of a name that none of them has, or of a newer schema, raises `UnreadableEvent` when it is decoded, or
        with `unknown="raw"` comes back as the `Event` that it is. Raises `ValueError` for a name that two of them
        have, `TypeError` for a class that is not declared or has fields that cannot be decoded.
        """
        if unknown not in ("raise", "raw"):
            raise ValueError(f"unknown is 'raise' or 'raw', not {unknown!r:.80}")
        self._raw = unknown == "raw"
        self._by_name: dict[str, tuple[type[Told], _Mark]] = {}
        for cls in classes:
            mark = _mark_of(cls)
            check_class(cls)
            for name in (mark.name, *mark.aliases):
                if name in self._by_name and self._by_name[name][0] is not cls:
                    other = self._by_name[name][0].__qualname__
                    raise ValueError(f"{other} and {cls.__qualname__} are both called {name!r}; rename one of them")
                self._by_name[name] = cls, mark

    @property
    def names(self) -> frozenset[str]:
        """All names that it can decode, aliases included: what to give to `types=` of a subscription or projection."""
        return frozenset(self._by_name)

    def encode(self, payload: Told | NewEvent, *, metadata: Mapping[str, str] | None = None) -> NewEvent:
        """What is stored for a payload. Raises as `new_event`, and `TypeError` for what could not be read back here."""
        new = new_event(payload, metadata=metadata)
        if new.type not in self._by_name and not self._raw:
            raise TypeError(f"{new.type!r} is not among these EventTypes, so it could not be read back; add its class")
        return new

    def decode(self, event: Event) -> Told:
        """The payload of a stored event, brought to the present schema.

        Raises `UnreadableEvent` for a name or schema that is not known here, unless `unknown="raw"`, and always for
        data that does not fit the class.
        """
        found = self._by_name.get(event.type)
        schema = _schema_of(event)
        if found is None or schema > found[1].schema:
            if self._raw:
                return cast("Told", event)
            reason = "its name is not known here" if found is None else f"its schema {schema} is newer than ours"
            raise UnreadableEvent(event.type, event.actor_id, event.version, reason)
        cls, mark = found
        data = event.data
        try:
            if schema < mark.schema:
                data = deepcopy(data)
                for number in range(schema, mark.schema):
                    data = mark.upcast[number](data)
            return from_json(data, cls)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            reason = f"its data (schema {schema}) does not fit {cls.__qualname__}: {error}"
            raise UnreadableEvent(event.type, event.actor_id, event.version, reason) from error


def _schema_of(event: Event) -> int:
    text = event.metadata.get(SCHEMA, "1")
    if not (text.isascii() and text.isdecimal() and text[0] != "0"):
        raise UnreadableEvent(event.type, event.actor_id, event.version, f"its schema is {text!a:.40}, not a number")
    return int(text)
