"""A small host for event-sourced actors: their owner keeps them warm, decides, and appends.

What they do is a `Decider`, as for `execute`; its commands are the events that `Cluster.ask` sends.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from aether.core.cluster.routing import Asked
from aether.core.correlation import CAUSATION, CORRELATION
from aether.core.encoding import check_json
from aether.core.errors import AetherError, CommitTooLarge, PayloadTooLarge, VersionConflict
from aether.core.event import Event
from aether.core.names import check_name
from aether.core.state import Decider, Loaded, NewEvent, Snapshots
from aether.core.state.snapshots import Saved
from aether.core.store import EventStore

_log = logging.getLogger("aether.cluster")

State = TypeVar("State")
Told = TypeVar("Told")

_REPEATS = 10_000  # a retry comes within seconds, and no actor has as many events in them
_TRIES = 5  # conflicts behind which a batch is given back: somebody else appends to the actor all the time


class _Warm(Generic[State]):
    """An actor in memory: its state, and which of its versions each command has caused."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.version = 0
        self.caused: dict[str, tuple[int, int]] = {}  # by command: the versions, first and last
        self.dropped = False  # whether there was a snapshot that was of no use

    def take(self, event: Event, decider: Decider[State, Event, Any]) -> None:
        self.state = decider.apply(self.state, event)
        self.version = event.version
        self.note(event)

    def note(self, event: Event) -> None:
        cause = event.metadata.get(CAUSATION)  # names the command: that is how a repeat is recognised
        if cause is not None:
            first, _ = self.caused.get(cause, (event.version, 0))
            self.caused[cause] = (first, event.version)


class Host(Generic[State, Told]):
    """Handles the commands for the actors that a node owns.

    Commands of one actor are handled in the order of their arrival, those that wait together in one commit. A command
    whose id has caused events of the actor before is answered with those, from the log, and not decided again. An
    actor that is used rarely is forgotten, and replayed when it is needed: `keep` of them stay warm.

    `snapshots` are as for `execute`: they are saved when an actor passes a multiple of `every`, and a replay begins at
    them. It reads `repeats` events before that, too, for the commands that have caused them: a repeat of a command that
    is older than all of these is not recognised, and decided again. Without snapshots none is too old.
    """

    def __init__(
        self,
        store: EventStore,
        decider: Decider[State, Event, Told],
        *,
        keep: int = 10_000,
        snapshots: Snapshots[State] | None = None,
        repeats: int = _REPEATS,
    ) -> None:
        for name, value in (("keep", keep), ("repeats", repeats)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is a whole number of 1 or more, not {value!r:.80}")
        self._snapshots = snapshots
        self._repeats = repeats
        self._store = store
        self._decider = decider
        self._keep = keep
        self._warm: OrderedDict[str, _Warm[State]] = OrderedDict()
        self._loading: dict[str, object] = {}
        self.conflicts = 0
        """How often an append met a version that somebody else had written."""

    def forget(self, lost: Callable[[str], bool]) -> None:
        """Forget the actors for which `lost` is true: others may write to them from now on."""
        for actor_id in [actor_id for actor_id in self._warm if lost(actor_id)]:
            del self._warm[actor_id]
        for actor_id in [actor_id for actor_id in self._loading if lost(actor_id)]:
            del self._loading[actor_id]

    async def work(self, actor_id: str, batch: list[Asked], *, owned: Callable[[], bool]) -> None:
        """Handle commands of one actor. What is left unsettled when it returns is not this node's any more."""
        for attempt in range(1, _TRIES + 1):
            warm = await self._load(actor_id, owned)
            if warm is None:
                return
            before = warm.version
            try:
                caused = await self._commit(actor_id, warm, batch, owned)
            except VersionConflict:
                self.conflicts += 1
                self._warm.pop(actor_id, None)
                if attempt == _TRIES:
                    raise
                continue
            except (PayloadTooLarge, CommitTooLarge):
                self._warm.pop(actor_id, None)
                if len(batch) == 1:
                    raise
                await self._one_by_one(actor_id, batch, owned)
                return
            except BaseException:
                self._warm.pop(actor_id, None)  # whether it was stored is not known: look again
                raise
            if caused is not None:
                await self._settle(actor_id, warm, batch, caused)
                await self._save_if_due(actor_id, warm, before)
            return

    async def _one_by_one(self, actor_id: str, batch: list[Asked], owned: Callable[[], bool]) -> None:
        for asked in batch:
            try:
                await self.work(actor_id, [asked], owned=owned)
            except (PayloadTooLarge, CommitTooLarge) as error:
                asked.refused(error)

    async def _load(self, actor_id: str, owned: Callable[[], bool]) -> _Warm[State] | None:
        """The actor, replayed if need be; None if it is not ours any more."""
        while (warm := self._warm.get(actor_id)) is None:
            read = await self._replay(actor_id)
            if not owned():
                return None
            if read is not None:
                self._warm[actor_id] = read
                if len(self._warm) > self._keep:
                    self._warm.popitem(last=False)
        self._warm.move_to_end(actor_id)
        return warm

    async def _replay(self, actor_id: str) -> _Warm[State] | None:
        """The actor as it is stored; None if it was lost meanwhile: others may have written behind what was read."""
        mark = self._loading[actor_id] = object()
        try:
            warm = await self._begin(actor_id)
            async for event in self._store.read(actor_id, after=warm.version):
                warm.take(event, self._decider)
            return warm if self._loading.get(actor_id) is mark else None
        finally:
            if self._loading.get(actor_id) is mark:
                del self._loading[actor_id]

    async def _begin(self, actor_id: str) -> _Warm[State]:
        """The actor as it was saved, or without events."""
        warm = _Warm(self._decider.initial())
        if self._snapshots is None:
            return warm
        saved, warm.dropped = await self._snapshots.saved(self._store, actor_id)
        if saved is not None:
            begun = await self._continue(actor_id, saved)
            if begun is not None:
                return begun
            warm.dropped = True
            self._snapshots.dropped(actor_id, saved.version, "the actor has another event there, or none")
        return warm

    async def _continue(self, actor_id: str, saved: Saved[State]) -> _Warm[State] | None:
        """The actor at a saved state, with the commands before it; None if its event does not stand there any more."""
        warm = _Warm(saved.state)
        first = max(saved.version - self._repeats, 0)
        cut: str | None = None  # the first of the commands, of which there may be more events before
        async for event in self._store.read(actor_id, after=first, upto=saved.version):
            if event.version == first + 1 > 1:
                cut = event.metadata.get(CAUSATION)
            if cut is None or event.metadata.get(CAUSATION) != cut:
                warm.note(event)
            if event.version == saved.version and event.id == saved.event_id:
                warm.version = saved.version
        return warm if warm.version else None

    async def _save_if_due(self, actor_id: str, warm: _Warm[State], before: int) -> None:
        snapshots = self._snapshots
        if snapshots is None or not (snapshots.due(before, warm.version) or (warm.dropped and warm.version > before)):
            return
        warm.dropped = False
        try:
            await snapshots.save(self._store, actor_id, Loaded(warm.state, warm.version))
        except AetherError as error:  # the events are stored: a cache must not make the command fail
            _log.warning("no snapshot %r of %r was saved: %s", snapshots.name, actor_id, error)

    async def _commit(
        self, actor_id: str, warm: _Warm[State], batch: list[Asked], owned: Callable[[], bool]
    ) -> dict[str, list[Event]] | None:
        """Decide all commands that are new, and append what they cause as one commit; None if it is not ours now."""
        caused: dict[str, list[Event]] = {}
        tried = _Warm(warm.state)
        tried.version = warm.version
        for asked in batch:
            command = asked.command
            if command.id in warm.caused or command.id in caused:
                continue
            try:
                events = self._caused_by(actor_id, tried, command)
            except Exception as error:  # noqa: BLE001 - what the user's code raises answers this one command
                asked.refused(error)
            else:
                caused[command.id] = events
        events = [event for some in caused.values() for event in some]
        if not owned():
            return None
        if events:
            await self._store.append(*events)
        warm.state, warm.version = tried.state, tried.version
        warm.caused.update(tried.caused)
        return caused

    def _caused_by(self, actor_id: str, tried: _Warm[State], command: Event) -> list[Event]:
        """The events that a command causes in this state, which is then the state behind them."""
        decided = self._decider.decided(tried.state, command)
        events = [_event(one, actor_id, tried.version + number, command) for number, one in enumerate(decided, 1)]
        state = tried.state
        for event in events:
            state = self._decider.apply(state, event)
        tried.state = state
        tried.version += len(events)
        if events:
            tried.caused[command.id] = events[0].version, events[-1].version
        return events

    async def _settle(
        self, actor_id: str, warm: _Warm[State], batch: list[Asked], caused: dict[str, list[Event]]
    ) -> None:
        for asked in batch:
            if asked.answer.done():
                continue
            events = caused.get(asked.command.id)
            if events is None:
                first, last = warm.caused[asked.command.id]
                read = self._store.read(actor_id, after=first - 1, upto=last, min_version=last)
                events = [event async for event in read]
            asked.done(events)


def _event(new: NewEvent, actor_id: str, version: int, command: Event) -> Event:
    check_name("event type", new.type)
    check_json(new.data, "data")
    correlation = command.metadata.get(CORRELATION, command.id)
    metadata = {CORRELATION: correlation, **new.metadata, CAUSATION: command.id}
    return msgspec.structs.replace(new, metadata=metadata).at(actor_id, version)
