"""Load, decide, append: the loop that everybody writes, once and right."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, cast

import msgspec

from aether.core._reading import read_short
from aether.core.errors import AetherError, OutcomeUnknown, VersionConflict
from aether.core.event import START, Appended, Event, Position
from aether.core.names import check_name
from aether.core.state.new_event import NewEvent
from aether.core.state.snapshots import Loaded, Saved, Snapshots
from aether.core.state.typed import EventTypes, new_event
from aether.core.store import EventStore

_log = logging.getLogger("aether")

State = TypeVar("State")
Command = TypeVar("Command")
Told = TypeVar("Told")

ATTEMPTS = 16
"""How often an append is tried. With the pauses below, tens of writers of one actor all get their turn."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5  # seconds; doubled in between, and drawn from 0 on


@dataclass(frozen=True)
class Decider(Generic[State, Command, Told]):
    """An actor's behaviour as plain functions.

    `initial()` makes the state of an actor without events; a class will do. `evolve(state, event)` returns the next
    state, and must neither change the one that it is given nor refuse what has happened. `decide(state, command)`
    returns the events to append, none if there is nothing to do, and raises what the caller should get. Neither does
    I/O; `decide` may be called again with a newer state.

    With `types` both see payloads of these classes, and an event of an unknown name is an error. Without, `evolve`
    gets every `Event` as it is stored and `decide` returns `NewEvent`s.
    """

    initial: Callable[[], State]
    evolve: Callable[[State, Told], State]
    decide: Callable[[State, Command], Iterable[Told | NewEvent]]
    types: EventTypes[Told] | None = None

    def apply(self, state: State, event: Event) -> State:
        """The state behind one more stored event. Raises `UnreadableEvent`."""
        return self.evolve(state, cast("Told", event) if self.types is None else self.types.decode(event))

    def decided(self, state: State, command: Command, *, metadata: Mapping[str, str] | None = None) -> list[NewEvent]:
        """The events that a command leads to, as they are to be stored. Raises what `decide` does, and `TypeError`."""
        told = self.decide(state, command)
        if type(told) is not list and not isinstance(told, Iterable):
            raise TypeError(
                f"decide returns events, not {type(told).__name__}; return a list, an empty one for nothing"
            )
        if self.types is not None:
            return [self.types.encode(one, metadata=metadata) for one in told]
        return [one if type(one) is NewEvent and not metadata else new_event(one, metadata=metadata) for one in told]


class Executed(NamedTuple, Generic[State]):
    """What became of a command: the actor's state and version behind it, and the events that were appended for it."""

    state: State
    version: int
    events: tuple[Event, ...] = ()
    position: Position = START
    """Where the last of the events stands; `START` if there was nothing to append. What is waited for in a view."""

    replayed: bool = False
    """Whether this very command, known by its `key`, had been executed before."""


async def load(
    store: EventStore,
    evolve: Callable[[State, Told], State],
    initial: Callable[[], State],
    actor_id: str,
    *,
    types: EventTypes[Told] | None = None,
    snapshots: Snapshots[State] | None = None,
    upto: int | None = None,
) -> Loaded[State]:
    """Replay an actor's events into its state, in order and in bounded memory.

    `upto` stops at a version: the state as it was then. Raises as `EventStore.read`, and `UnreadableEvent`.
    """
    actor = _Actor(store, Decider(initial, evolve, _decide_nothing, types), actor_id, snapshots)
    await actor.catch_up(upto=upto)
    if upto is None:
        actor.hold()
    return Loaded(actor.state, actor.version)


def _decide_nothing(_state: Any, _command: Any) -> Iterable[Any]:
    return ()


class _Actor(Generic[State, Told]):
    """The state of an actor as one call knows it."""

    __slots__ = (
        "_actor_id",
        "_decider",
        "_fresh",
        "_key",
        "_place",
        "_snapshots",
        "_store",
        "dropped",
        "kept",
        "known",
        "last_id",
        "state",
        "version",
    )

    def __init__(
        self,
        store: EventStore,
        decider: Decider[State, Any, Told],
        actor_id: str,
        snapshots: Snapshots[State] | None,
        key: str | None = None,
    ) -> None:
        self._store = store
        self._decider = decider
        self._actor_id = actor_id
        self._place = store.identity, actor_id
        self._snapshots = snapshots if key is None else None  # the command may be older than the snapshot
        self._key = key
        self._fresh = True
        self.state: State
        self.version = 0
        self.last_id = ""
        self.dropped = False
        self.kept = 0
        self.known: list[Event] = []
        """The events that were appended for `key`."""

    async def catch_up(self, upto: int | None = None) -> None:
        """Apply what has been appended since the last time."""
        fresh, self._fresh = self._fresh, False
        if fresh and self._snapshots is not None and await self._begin(self._snapshots, upto):
            return
        if fresh:
            self.state = self._decider.initial()
        async for event in self._store.read(self._actor_id, after=self.version, upto=upto):
            self.apply(event)
            if self._key is not None and event.id == _keyed(self._key, len(self.known)):
                self.known.append(event)

    async def _begin(self, snapshots: Snapshots[State], upto: int | None) -> bool:
        """Begin at a state that is kept in memory, or at one that was saved; whether one of them holds."""
        kept = snapshots.kept(self._place)
        if kept is not None and (upto is None or kept.version <= upto):
            if await self._continue(kept, upto):
                self.kept = kept.version
                return True
            snapshots.forget(self._place)
        saved, self.dropped = await snapshots.saved(self._store, self._actor_id)
        if saved is None or (upto is not None and saved.version > upto):
            return False
        if await self._continue(saved, upto):
            return True
        self.dropped = True
        snapshots.dropped(self._actor_id, saved.version, "the actor has another event there, or none")
        return False

    async def _continue(self, saved: Saved[State], upto: int | None) -> bool:
        """Go on from a state, if the event that it was taken at still stands there: a store may be restored."""
        place = saved.version
        told = await read_short(self._store, self._actor_id, after=place - 1, upto=upto)
        long = told is None
        if told is None:
            told = [event async for event in self._store.read(self._actor_id, after=place - 1, upto=place)]
        if not told or told[0].id != saved.event_id:
            return False
        self.state, self.version, self.last_id = saved.state, place, saved.event_id
        for event in told[1:]:
            self.apply(event)
        if long:
            async for event in self._store.read(self._actor_id, after=place, upto=upto):
                self.apply(event)
        return True

    def hold(self) -> None:
        """Let others begin where this one is."""
        if self._snapshots is not None and self.version:
            self._snapshots.hold(self._place, Saved(self.state, self.version, self.last_id))

    def apply(self, event: Event) -> None:
        """Evolve the state by one event."""
        self.state = self._decider.apply(self.state, event)
        self.version, self.last_id = event.version, event.id


async def execute(
    store: EventStore,
    decider: Decider[State, Command, Told],
    actor_id: str,
    command: Command,
    *,
    snapshots: Snapshots[State] | None = None,
    metadata: Mapping[str, str] | None = None,
    key: str | None = None,
    expected: int | None = None,
    attempts: int = ATTEMPTS,
) -> Executed[State]:
    """Load the actor, decide, and append what was decided as one commit; again, if somebody was faster.

    After a conflict it reads only what is new, waits a little at random, and decides again, at most `attempts` times;
    the last `VersionConflict` is raised. An outcome that is unknown is found out by repeating the append. What
    `decide` raises goes to the caller, and nothing is appended.

    `key` names the command: executed again, also by another process and years later, it appends nothing and answers
    with the events of the first time. It is what makes calls from a reactor, or after `OutcomeUnknown` or a cancel,
    safe to repeat. It makes the whole history be read: snapshots do not help.

    `expected` is the version that the caller has looked at (`If-Match` of HTTP): `VersionConflict` is raised, and
    nothing is decided again, unless the actor is still there.

    Raises as `EventStore.append` and `load`.
    """
    _check(attempts, key)
    actor = _Actor(store, decider, actor_id, snapshots, key)
    for attempt in range(attempts):
        await actor.catch_up()
        if actor.version != actor.kept:
            actor.hold()
        if actor.known:
            appended = await store.append(*actor.known)  # finds them stored, and where
            return Executed(actor.state, actor.version, tuple(actor.known), appended.position, replayed=True)
        if expected is not None and actor.version != expected:
            raise VersionConflict(actor_id, attempted=expected + 1, current=actor.version)
        told = decider.decided(actor.state, command, metadata=metadata)
        if not told:
            return Executed(actor.state, actor.version)
        events = _placed(told, actor_id, actor.version, key)
        try:
            appended = await _append(store, events, attempts - attempt)
        except VersionConflict:
            if expected is not None or attempt + 1 == attempts:
                raise
            await _pause(attempt)
            continue
        if appended.replayed and key is not None:  # by an answer that was lost, or by somebody with the same key
            await actor.catch_up()
            replayed = actor.known != events
            return Executed(actor.state, actor.version, tuple(actor.known), appended.position, replayed=replayed)
        before = actor.version
        for event in events:
            actor.apply(event)
        actor.hold()
        if snapshots is not None and (snapshots.due(before, actor.version) or actor.dropped):
            await _save(store, snapshots, actor_id, actor)
        return Executed(actor.state, actor.version, tuple(events), appended.position)
    raise AssertionError("the last attempt returns or raises")


def _check(attempts: int, key: str | None) -> None:
    if type(attempts) is not int or attempts < 1:
        raise ValueError(f"attempts is a whole number of 1 or more, not {attempts!r:.80}")
    if key is not None:
        check_name("key", _keyed(key, 0))


def _keyed(key: str, number: int) -> str:
    return f"{key}#{number}"


def _placed(told: Sequence[NewEvent], actor_id: str, version: int, key: str | None) -> list[Event]:
    if key is None and len(told) == 1:
        return [told[0].at(actor_id, version + 1)]
    events = [one.at(actor_id, version + number) for number, one in enumerate(told, 1)]
    if key is None:
        return events
    return [msgspec.structs.replace(one, id=_keyed(key, number)) for number, one in enumerate(events)]


async def _append(store: EventStore, events: Sequence[Event], attempts: int) -> Appended:
    """Append, and repeat it while the outcome is unknown: a conflict then says that it was not stored."""
    while True:
        try:
            return await store.append(*events)
        except OutcomeUnknown as error:
            attempts -= 1
            if not attempts:
                error.add_note("the same call is this append, of events with these ids; execute(key=) repeats safely")
                raise


async def _pause(attempt: int) -> None:
    await asyncio.sleep(random.uniform(0, min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)))


async def _save(store: EventStore, snapshots: Snapshots[State], actor_id: str, actor: _Actor[State, Any]) -> None:
    try:
        await snapshots.save_appended(store, actor_id, Saved(actor.state, actor.version, actor.last_id))
    except AetherError as error:  # the events are stored: a cache must not make the command fail
        _log.warning("no snapshot %r of %r was saved: %s", snapshots.name, actor_id, error)


async def record(
    store: EventStore, actor_id: str, *events: object, key: str | None = None, attempts: int = ATTEMPTS
) -> Appended:
    """Append events at the actor's end, whatever its version is: what is only noted, and decided by nobody.

    Events are `NewEvent`s or payloads with `@event`; they are one commit. Of any number of callers each one finds its
    place. `key` is as in `execute`. Raises as `EventStore.append`; the last `VersionConflict` after `attempts`.
    """
    _check(attempts, key)
    told = [new_event(one) for one in events]
    if key is not None and (known := [event async for event in _known(store, actor_id, key)]):
        return await store.append(*known)
    version = await store.version(actor_id)
    for attempt in range(attempts):
        placed = _placed(told, actor_id, version, key)
        try:
            return await _append(store, placed, attempts - attempt)
        except VersionConflict as conflict:
            if attempt + 1 == attempts:
                raise
            await _pause(attempt)
            if key is not None and (known := [event async for event in _known(store, actor_id, key)]):
                return await store.append(*known)
            version = max(conflict.current, await store.version(actor_id))
    raise AssertionError("the last attempt returns or raises")


async def _known(store: EventStore, actor_id: str, key: str) -> AsyncIterator[Event]:
    number = 0
    async for event in store.read(actor_id):
        if event.id == _keyed(key, number):
            number += 1
            yield event
