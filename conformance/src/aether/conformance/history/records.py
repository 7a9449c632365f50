"""What a history is made of: one record per call of a driver, written when the call has ended.

A history is kept as lines of JSON (`History.dump`): a header `{"aether-history": 1, "namespace": …}`, one line for each
call in the order in which they ended, and one line `{"f": "final", …}` for each event that was there in the end. Every
line has `f`, the call; `handle`, which driver was asked; `begin` and `end` in nanoseconds of one monotonic clock; and
`outcome`:

| outcome | means |
|---|---|
| ok | it answered, as the other fields say |
| refused | a conflict: certainly not stored by this call |
| unsent | it was not available: certainly not stored by this call |
| unknown | cancelled, no answer, or an error that nobody knows: stored whole or not at all, now or later |
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """How a call ended; the table above says what that means."""

    OK = "ok"
    REFUSED = "refused"
    UNSENT = "unsent"
    UNKNOWN = "unknown"


class Seen(msgspec.Struct, frozen=True, gc=False):
    """An event as an answer shows it."""

    position: int
    actor: str
    version: int
    id: str


class Part(msgspec.Struct, frozen=True, gc=False):
    """What an append wants to store for one actor."""

    actor: str
    expected: int
    ids: tuple[str, ...]


class Call(msgspec.Struct, frozen=True, kw_only=True, tag_field="f"):
    """What all calls have in common."""

    handle: str
    begin: int
    end: int
    outcome: Outcome
    error: str = ""


class Append(Call, frozen=True, kw_only=True, tag="append"):
    """A commit; `position` is that of its last event, `conflict` the actor that was at version `current`."""

    parts: tuple[Part, ...]
    position: int = 0
    conflict: str = ""
    current: int = 0


class Read(Call, frozen=True, kw_only=True, tag="read"):
    """A page of an actor's events."""

    actor: str
    after: int
    upto: int | None
    limit: int | None
    reverse: bool
    events: tuple[Seen, ...] = ()
    more: bool = False


class Version(Call, frozen=True, kw_only=True, tag="version"):
    """An actor's version."""

    actor: str
    version: int = 0


class Head(Call, frozen=True, kw_only=True, tag="head"):
    """The position of the last event, 0 if there was none."""

    position: int = 0


class Feed(Call, frozen=True, kw_only=True, tag="feed"):
    """A page of the feed."""

    after: int
    upto: int
    events: tuple[Seen, ...] = ()
    more: bool = False


class Delivery(Call, frozen=True, kw_only=True, tag="delivery"):
    """What a tail handed out at once; `tail` is its number, `after` the position that it was opened behind."""

    tail: int
    after: int
    events: tuple[Seen, ...] = ()


Record = Append | Read | Version | Head | Feed | Delivery
