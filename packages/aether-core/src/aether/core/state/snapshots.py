"""Snapshots by policy: a saved state is a cache, and dropping it only costs time."""

from __future__ import annotations

import logging
from hashlib import blake2b
from typing import Any, Generic, NamedTuple, TypeVar, cast

import msgspec

from aether.core._slots import peek_snapshot, save_snapshot
from aether.core.errors import InvalidEvent, InvalidSnapshot
from aether.core.event import Snapshot
from aether.core.names import check_name
from aether.core.state.typed import check_class, from_json, to_json
from aether.core.store import EventStore

_log = logging.getLogger("aether")

State = TypeVar("State")

_PROSE = ("title", "description", "examples")  # what a schema says to people


Place = tuple[str, str]
"""The identity of a store, and the id of an actor in it."""


class Loaded(NamedTuple, Generic[State]):
    """The state of an actor, and the version that it has it at: 0 for an actor without events."""

    state: State
    version: int


class Saved(NamedTuple, Generic[State]):
    """A state from memory or from a snapshot. It holds if the event of this id stands at its version."""

    state: State
    version: int
    event_id: str


class Snapshots(Generic[State]):
    """How states of one class are kept: under a name, with a fingerprint of the class's fields.

        ACCOUNT = Snapshots("account", Account, every=100)

    A state that was saved with other fields, or that cannot be decoded, is dropped with a warning and the history is
    replayed. What the fingerprint cannot see is a change of `evolve` under the same fields: choose another `name`.
    Another name is also what lets two versions of a program run side by side without dropping each other's.
    """

    def __init__(self, name: str, state: type[State], *, every: int | None = None, keep: int = 0) -> None:
        """Take the class of the state: a dataclass, Struct, attrs or pydantic class, or a type of JSON.

        `execute` saves each time that an actor passes a multiple of `every` versions; None leaves it to `save`.
        `keep` is how many states this object keeps in memory, the newest of those actors that were used last: then
        only what is behind them is read. They are handed out as they are, so `evolve` must never change one.
        Raises `TypeError` for a class that cannot be decoded again.
        """
        if every is not None and (type(every) is not int or every < 1):
            raise ValueError(f"every is a number of events of 1 or more, or None, not {every!r:.80}")
        if type(keep) is not int or keep < 0:
            raise ValueError(f"keep is a number of states of 0 or more, not {keep!r:.80}")
        self.name = check_name("snapshot schema", name)
        self.every = every
        self._keep = keep
        self._kept: dict[Place, Saved[State]] = {}
        self._class = state
        check_class(state)
        self.fingerprint = _fingerprint(state)

    def due(self, before: int, after: int) -> bool:
        """Whether a commit that took an actor from one version to another passed a multiple of `every`."""
        return self.every is not None and before // self.every < after // self.every

    async def save(self, store: EventStore, actor_id: str, loaded: Loaded[State]) -> None:
        """Keep a state, unless a newer one is kept already.

        Raises `InvalidSnapshot` for a state that would not come back equal, and as `EventStore.save_snapshot`.
        """
        await store.save_snapshot(self._snapshot(actor_id, loaded))

    def _snapshot(self, actor_id: str, loaded: Loaded[State]) -> Snapshot:
        try:
            data = to_json(loaded.state, "state")
            again = from_json(data, self._class)
        except (InvalidEvent, ValueError, TypeError) as error:
            raise InvalidSnapshot(actor_id, f"the state cannot be kept as JSON: {error}") from error
        if again != loaded.state and type(loaded.state).__eq__ is not object.__eq__:
            raise InvalidSnapshot(actor_id, f"the {type(loaded.state).__name__} would not come back equal")
        state = {"fingerprint": self.fingerprint, "state": data}
        return Snapshot(actor_id=actor_id, version=loaded.version, schema=self.name, state=state)

    # --- For execute and load ---

    async def save_appended(self, store: EventStore, actor_id: str, saved: Saved[State]) -> None:
        """`save` for a state whose last event was just appended, so nobody has to look for it."""
        snapshot = self._snapshot(actor_id, Loaded(saved.state, saved.version))
        await save_snapshot(store._live(), snapshot, timeout=store.timeout, event_id=saved.event_id)

    def kept(self, place: Place) -> Saved[State] | None:
        """The state that is in memory."""
        return self._kept.get(place)

    def hold(self, place: Place, saved: Saved[State]) -> None:
        """Keep a state in memory, in place of the one that was used longest ago."""
        if not self._keep:
            return
        before = self._kept.pop(place, None)
        self._kept[place] = saved if before is None or saved.version >= before.version else before
        if len(self._kept) > self._keep:
            del self._kept[next(iter(self._kept))]

    def forget(self, place: Place) -> None:
        """Drop the state that is in memory: another event stands there."""
        self._kept.pop(place, None)

    async def saved(self, store: EventStore, actor_id: str) -> tuple[Saved[State] | None, bool]:
        """The state that was saved, and whether one had to be dropped. Whoever uses it looks for its event."""
        found = await peek_snapshot(store._live(), check_name("actor id", actor_id), self.name)
        if found is None:
            return None, False
        snapshot, event_id = found
        told = snapshot.state
        try:
            if not isinstance(told, dict) or told.get("fingerprint") != self.fingerprint:
                raise ValueError(f"it was taken of other fields than {self._class.__qualname__} has now")
            return Saved(from_json(told["state"], self._class), snapshot.version, event_id), False
        except (ValueError, TypeError, LookupError) as error:
            self.dropped(actor_id, snapshot.version, error)
            return None, True

    def dropped(self, actor_id: str, version: int, reason: object) -> None:
        """Say that a snapshot is of no use."""
        _log.warning(
            "snapshot %r of %r, version %d, is dropped and its events are replayed: %s",
            self.name,
            actor_id,
            version,
            reason,
        )


def _fingerprint(cls: type) -> str:
    """A digest of the JSON schema of a class, without what it only says to people."""
    schema = cast("Any", cls).model_json_schema() if hasattr(cls, "model_json_schema") else msgspec.json.schema(cls)
    return blake2b(msgspec.json.encode(_bare(schema), order="deterministic"), digest_size=16).hexdigest()


def _bare(schema: Any, *, names: bool = False) -> Any:
    """`names`: the keys of this level are names of fields, not words of JSON schema."""
    if isinstance(schema, list):
        return [_bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = ("properties", "$defs", "default", "const", "enum")
    return {
        key: _bare(value, names=key in inner and not names)
        for key, value in schema.items()
        if names or key not in _PROSE
    }
