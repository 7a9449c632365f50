"""What a projection remembers beside its checkpoint: an actor of the same store, so it is there on every backend.

The actor `aether/projection/order-list` tells when a version of the projection began, which events were parked and
what became of them, and which version readers use. Its events are part of the feed, so whoever runs the projection
sees them in order with all others; nobody else's projection sees them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from aether.core.errors import InvalidName, VersionConflict
from aether.core.event import Event
from aether.core.names import MAX_NAME_CHARACTERS, RESERVED, check_name
from aether.core.state.new_event import NewEvent
from aether.core.state.typed import EventTypes, event
from aether.core.store import EventStore

Kind = Literal["projection", "reactor"]

_ATTEMPTS = 100  # several partitions may write at once, and each conflict is somebody's progress


@event("aether.begun")
class Begun(msgspec.Struct, frozen=True):
    """A version ran for the first time, from behind a position, in so many partitions."""

    version: int
    partitions: int
    position: str


@event("aether.parked")
class Parked(msgspec.Struct, frozen=True):
    """An event was put aside. One that is parked again, with another error, replaces itself."""

    version: int
    """The version of the projection."""

    position: str
    actor_id: str
    event_version: int
    event_id: str
    error: str
    """What the handler raised, or which parked event of the actor stands before it."""

    attempts: int

    def again(self, error: str) -> Parked:
        """The same behind another attempt."""
        return msgspec.structs.replace(self, error=error, attempts=self.attempts + 1)


@event("aether.retried")
class RetryAsked(msgspec.Struct, frozen=True):
    """Somebody wants the parked events handled again, of one actor or of all."""

    version: int
    actor_id: str | None = None


@event("aether.unparked")
class Unparked(msgspec.Struct, frozen=True):
    """A parked event was handled after all, or given up."""

    version: int
    event_id: str
    dropped: bool = False


@event("aether.switched")
class Switched(msgspec.Struct, frozen=True):
    """Readers use this version from here on."""

    version: int


Entry = Begun | Parked | RetryAsked | Unparked | Switched
# A newer program may write more: it is passed by.
_ENTRIES: EventTypes[Entry] = EventTypes(Begun, Parked, RetryAsked, Unparked, Switched, unknown="raw")


def key_of(kind: Kind, name: str) -> str:
    """The id of the journal's actor, and the name of the election. Raises `InvalidName`."""
    check_name(f"{kind} name", name)
    key = f"{RESERVED}{kind}/{name}"
    if len(key) > MAX_NAME_CHARACTERS - 20:
        raise InvalidName(f"{kind} name", name, f"at most {MAX_NAME_CHARACTERS - 20 - len(RESERVED + kind) - 1} fit")
    if "@" in name or "#" in name:
        raise InvalidName(f"{kind} name", name, "@ and # are taken for its versions and partitions")
    return key


def checkpoint_of(key: str, version: int, partition: int, partitions: int) -> str:
    """The name of the checkpoint of one partition of one version."""
    return f"{key}@{version}" + (f"#{partition}/{partitions}" if partitions > 1 else "")


class Journal:
    """The journal as far as it has been read."""

    def __init__(self, store: EventStore, key: str) -> None:
        self._store = store
        self.key = key
        self.read_to = 0
        self.active = 1
        self.begun: dict[int, Begun] = {}
        self._parked: dict[int, dict[str, Parked]] = {}
        self._dropped: set[tuple[int, str]] = set()

    async def refresh(self) -> Journal:
        """Read what is new."""
        async for told in self._store.read(self.key, after=self.read_to):
            self.heed(told)
        return self

    def heed(self, event: Event) -> Entry | None:
        """Take in an event of the journal; the entry, unless it is of a newer program."""
        entry: object = _ENTRIES.decode(event)
        if not isinstance(entry, Entry):
            return None
        if event.version == self.read_to + 1:
            self.read_to = event.version
            self._apply(entry)
        return entry

    def _apply(self, entry: Entry) -> None:
        if isinstance(entry, Begun):
            self.begun.setdefault(entry.version, entry)
        elif isinstance(entry, Switched):
            self.active = entry.version
        elif isinstance(entry, Parked):
            self._parked.setdefault(entry.version, {})[entry.event_id] = entry
        elif isinstance(entry, Unparked):
            self._parked.get(entry.version, {}).pop(entry.event_id, None)
            if entry.dropped:
                self._dropped.add((entry.version, entry.event_id))

    def parked(self, version: int) -> list[Parked]:
        """What is parked now, in the order in which it was parked first."""
        return list(self._parked.get(version, {}).values())

    def is_parked(self, version: int, event_id: str) -> bool:
        """Whether an event is parked now."""
        return event_id in self._parked.get(version, {})

    def was_dropped(self, version: int, event_id: str) -> bool:
        """Whether somebody has given an event up."""
        return (version, event_id) in self._dropped

    async def note(self, *entries: Entry, connection: object | None = None) -> None:
        """Append entries at the end.

        In the caller's transaction somebody else's entry raises `VersionConflict`: the transaction is to be repeated.
        """
        new = [_ENTRIES.encode(entry) for entry in entries]
        for left in reversed(range(_ATTEMPTS)):
            await self.refresh()
            try:
                await self._append(new, connection)
            except VersionConflict:
                if connection is not None or not left:
                    raise
                continue
            if connection is None:
                await self.refresh()
            return

    async def _append(self, new: list[NewEvent], connection: object | None) -> None:
        placed = [one.at(self.key, self.read_to + number) for number, one in enumerate(new, 1)]
        await self._store.append(*placed, connection=connection)
