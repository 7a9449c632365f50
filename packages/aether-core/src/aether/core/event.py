"""What users hold in their hands: events, snapshots, positions."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self
from zlib import crc32

import msgspec


class _Ids:
    """UUIDs of version 7. Their random parts are made by the hundred: a system call for each would cost more."""

    def __init__(self) -> None:
        self._tails: list[str] = []
        self._head = (0, "")
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._tails.clear)  # or both processes would make the same ids

    def make(self) -> str:
        """Any thread may call it at any time: nothing is read twice of what may be used once."""
        try:
            tail = self._tails.pop()
        except IndexError:
            tail = self._more()
        milliseconds = time.time_ns() // 1_000_000
        then, head = self._head
        if milliseconds != then:
            digits = f"{milliseconds:012x}"
            head = f"{digits[:8]}-{digits[8:]}-7"
            self._head = (milliseconds, head)
        return head + tail

    def _more(self) -> str:
        digits = os.urandom(10 * _AT_ONCE).hex()
        last, *tails = [
            f"{part[:3]}-{_VARIANT[part[3]]}{part[4:7]}-{part[7:19]}"
            for part in (digits[start : start + 20] for start in range(0, 20 * _AT_ONCE, 20))
        ]
        self._tails += tails
        return last


_AT_ONCE = 200
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
_make_id = _Ids().make


def new_id() -> str:
    """Make a UUIDv7: 48 bits of Unix time in milliseconds, then 74 random bits (RFC 9562, section 5.7)."""
    return _make_id()


def now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something that happened to an actor.

    The caller chooses the version: one more than the actor's latest. That is the optimistic concurrency control.
    """

    type: str
    """A declared name, like `OrderPlaced`; never a class path."""

    actor_id: str
    version: int
    """1, 2, 3 … within the actor, without holes."""

    data: dict[str, Any] = {}
    """A JSON object. What would not come back the same is refused with `InvalidEvent`."""

    id: str = msgspec.field(default_factory=new_id)
    """Makes repeated appends safe: the same id at the same version is the same event."""

    metadata: dict[str, str] = {}
    """`correlationid`, `causationid`, `traceparent` …, spelled as in CloudEvents."""

    timestamp: datetime = msgspec.field(default_factory=now)
    """When it happened: aware, UTC. Never used for order."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an actor at a version."""

    actor_id: str
    version: int
    schema: str
    """Names the shape of `state`. A snapshot is only ever given back to those who ask for its schema."""

    state: Any
    """A JSON value."""

    timestamp: datetime = msgspec.field(default_factory=now)


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in the feed of one store. Opaque: compare it, keep it as text, go on from it.

    It knows its store and the event that it stands behind, so that a position from a store that was wiped or restored
    is found out (`StoreIdentityChanged`) instead of being read from the wrong place.
    """

    store: str
    order: int
    mark: int
    """A check sum of the event's id."""

    @classmethod
    def at(cls, store: str, order: int, event_id: str) -> Self:
        """The position of an event."""
        return cls(store, order, crc32(event_id.encode()))

    @classmethod
    def parse(cls, text: str) -> Position:
        """Give back the position that `str()` was taken of."""
        if text == _START_TEXT:
            return START
        store, _, rest = text.partition(":")
        order, _, mark = rest.partition(":")
        position = (
            cls(store, int(order), int(mark, 16)) if _DIGITS.fullmatch(order) and _MARK.fullmatch(mark) else START
        )
        if str(position) != text or not store:
            raise ValueError(f"not a position: {text[:80]!r}; use the text that str(position) gave")
        return position

    def __str__(self) -> str:
        return f"{self.store}:{self.order}:{self.mark:08x}" if self.order else _START_TEXT

    def _comparable(self, other: object) -> bool:
        if not isinstance(other, Position):
            return False
        if self.store != other.store and self.order and other.order:
            raise ValueError(f"{self} and {other} are of different stores and have no order")
        return True

    def __lt__(self, other: object) -> bool:
        return self.order < other.order if self._comparable(other) else NotImplemented  # type: ignore[attr-defined]

    def __le__(self, other: object) -> bool:
        return self.order <= other.order if self._comparable(other) else NotImplemented  # type: ignore[attr-defined]


_START_TEXT = "start"
_DIGITS = re.compile("[1-9][0-9]{0,37}")
_MARK = re.compile("[0-9a-f]{8}")

START = Position("", 0, 0)
"""Before the first event."""


class Claim(NamedTuple):
    """A checkpoint that was taken over: where it stands, and the token that fences everybody who had it before."""

    position: Position
    token: int


class Appended(msgspec.Struct, frozen=True):
    """What `append` answers: where the last event stands, and whether all were found stored already."""

    position: Position
    replayed: bool = False
