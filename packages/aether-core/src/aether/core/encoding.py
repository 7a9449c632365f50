"""The one encoding of events and snapshots: strict JSON that gives back exactly what it was given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, cast

import msgspec

from aether.core.errors import CorruptEvent, InvalidEvent
from aether.core.event import Event
from aether.core.names import check_name
from aether.core.spi import Message, Stored

MAX_DEPTH = 64
AT_ONCE = 32
"""Events that are decoded together: their bytes and their parts are still near when the reader gets them."""

MAX_VERSION = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8259, section 6)."""

_ZERO = timedelta(0)
_UNCHANGED = frozenset({str, int, bool, type(None)})
_encoder = msgspec.json.Encoder()
_event_decoder = msgspec.json.Decoder(Event)


def _comes_back(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether decoding the encoded `value` gives back an equal value of equal types.

    True for exactly the types that JSON has. Decoding and comparing would cost twice as much and find less: an enum
    member or a named tuple equals what it would come back as. That the two agree is tested with random values.
    """
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    elif kind is not list:
        return False
    for item in value:
        kind = type(item)
        if kind not in _UNCHANGED:
            if kind is float:
                if not isfinite(item):
                    return False
            elif depth == 1 or not _comes_back(item, depth - 1):
                return False
    return True


def _refuse(value: object, path: str, depth: int = 1) -> None:
    """Raise `InvalidEvent` for the first place in `value` that JSON cannot hold, if there is one."""
    kind = type(value)
    if kind is float:
        if not isfinite(cast("float", value)):
            raise InvalidEvent(path, f"JSON has no {value}; store None or a text")
    elif kind is str:
        if not _encodable(cast("str", value)):
            raise InvalidEvent(path, "unpaired surrogates are not text; decode the bytes that they came from")
    elif kind in _UNCHANGED:
        return
    elif kind not in (dict, list):
        raise InvalidEvent(path, f"a {kind.__name__} would not come back as one; convert it to a JSON type first")
    elif depth > MAX_DEPTH:
        raise InvalidEvent(path, f"more than {MAX_DEPTH} levels deep, or contains itself; make it flatter")
    elif kind is dict:
        for key, item in cast("dict[object, object]", value).items():
            if type(key) is not str:
                raise InvalidEvent(path, f"key {key!r:.80} is a {type(key).__name__}; JSON keys are texts")
            _refuse(key, path)
            _refuse(item, f"{path}.{key}", depth + 1)
    else:
        for index, item in enumerate(cast("list[object]", value)):
            _refuse(item, f"{path}[{index}]", depth + 1)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encode_event(event: Event) -> bytes:
    """Encode an event to one line of JSON, having made sure that decoding gives back an equal one.

    Raises `InvalidEvent` with the path of what JSON would change or lose, `InvalidName` for a bad name.
    """
    if type(event) is not Event:
        hint = "; unpack it with *" if isinstance(event, list | tuple) else ""
        raise InvalidEvent("event", f"an Event is needed, not {type(event).__name__}{hint}")
    check_name("actor id", event.actor_id)
    check_name("event type", event.type)
    check_name("event id", event.id)
    version, timestamp = event.version, event.timestamp
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise InvalidEvent("version", f"a whole number from 1 to 2**53 - 1 is needed, not {version!r:.80}")
    if type(timestamp) is not datetime or (timestamp.tzinfo is not UTC and timestamp.utcoffset() != _ZERO):
        raise InvalidEvent("timestamp", "an aware datetime in UTC is needed; use datetime.now(timezone.utc)")
    data, metadata = event.data, event.metadata
    if type(data) is not dict or (data and not _comes_back(data)):
        _refuse_fields(event)
    if type(metadata) is not dict or (metadata and not _are_texts(metadata)):
        _refuse_fields(event)
    try:
        return _encoder.encode(event)
    except (ValueError, OverflowError, RecursionError) as error:
        _refuse_fields(event)
        raise InvalidEvent("event", f"it cannot be encoded as JSON: {error}") from error


def _are_texts(metadata: dict[str, str]) -> bool:
    return all(type(key) is str and type(text) is str for key, text in metadata.items())


def _refuse_fields(event: Event) -> None:
    for name, value in (("data", event.data), ("metadata", event.metadata)):
        if type(value) is not dict:
            raise InvalidEvent(name, f"a dict is needed, not {type(value).__name__}")
        _refuse(value, name)
    for key, text in event.metadata.items():
        if type(text) is not str:
            raise InvalidEvent(f"metadata.{key}", f"a text is needed, not {type(text).__name__}")


def check_json(value: object, path: str) -> None:
    """Raise `InvalidEvent`, naming the place, unless `value` is exactly what JSON can hold."""
    _refuse(value, path)


def decode_event(stored: Stored) -> Event:
    """Decode a stored event; raise `CorruptEvent` if that fails or if it is not the event that it is stored as."""
    try:
        event = _event_decoder.decode(stored.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _undecodable(error, stored.actor_id, stored.version, stored.position) from error
    if event.actor_id != stored.actor_id or event.version != stored.version:
        found = f"version {event.version} of {event.actor_id!r}"
        raise CorruptEvent(stored.actor_id, stored.version, stored.position, f"the place holds {found}")
    return event


def decode_events(page: Sequence[Stored]) -> Iterable[Event]:
    """`decode_event` for each, a fifth faster. What cannot be decoded is raised when it is reached, not before.

    Meant for a few dozen events at a time: all of them are decoded before the first one is given.
    """
    decode = _event_decoder.decode
    try:
        events = [decode(stored.data) for stored in page]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return map(decode_event, page)
    for stored, event in zip(page, events, strict=True):
        if event.version != stored.version or event.actor_id != stored.actor_id:
            return map(decode_event, page)
    return events


def decode_message(message: Message) -> Event:
    """Decode a published event; raise `CorruptEvent` if that fails."""
    try:
        return _event_decoder.decode(message.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _undecodable(error, message.actor_id, None, None) from error


def _undecodable(error: Exception, actor_id: str, version: int | None, position: int | None) -> CorruptEvent:
    return CorruptEvent(actor_id, version, position, f"it cannot be decoded: {error}")
