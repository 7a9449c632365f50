"""A small host for event-sourced actors: their owner keeps them warm, decides, and appends.

What they do is a `Decider`, as for `execute`; its commands are the events that `Cluster.ask` sends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from aether.core.cluster.routing import Asked
from aether.core.correlation import CAUSATION, CORRELATION
from aether.core.encoding import check_json
from aether.core.errors import CommitTooLarge, PayloadTooLarge, VersionConflict
from aether.core.event import Event
from aether.core.names import check_name
from aether.core.state import Decider, NewEvent
from aether.core.store import EventStore

State = TypeVar("State")
Told = TypeVar("Told")

_TRIES = 5  # conflicts behind which a batch is given back: somebody else appends to the actor all the time


class _Warm(Generic[State]):
    """An actor in memory: its state, and which of its versions each command has caused."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.version = 0
        self.caused: dict[str, tuple[int, int]] = {}  # by command: the versions, first and last

    def take(self, event: Event, decider: Decider[State, Event, Any]) -> None:
        self.state = decider.apply(self.state, event)
        self.version = event.version
        cause = event.metadata.get(CAUSATION)  # names the command: that is how a repeat is recognised
        if cause is not None:
            first, _ = self.caused.get(cause, (event.version, 0))
            self.caused[cause] = (first, event.version)


class Host(Generic[State, Told]):
    """Handles the commands for the actors that a node owns.

    Commands of one actor are handled in the order of their arrival, those that wait together in one commit. A command
    whose id has caused events of the actor before is answered with those, from the log, and not decided again. An
    actor that is used rarely is forgotten, and replayed when it is needed: `keep` of them stay warm.
    """

    def __init__(self, store: EventStore, decider: Decider[State, Event, Told], *, keep: int = 10_000) -> None:
        self._store = store
        self._decider = decider
        self._keep = keep
        if keep < 1:
            raise ValueError(f"keep is a number of actors from 1 on, not {keep!r}")
        self._warm: OrderedDict[str, _Warm[State]] = OrderedDict()
        self._loading: dict[str, _Warm[State]] = {}
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
        warm = self._loading[actor_id] = _Warm(self._decider.initial())
        try:
            async for event in self._store.read(actor_id):
                warm.take(event, self._decider)
            return warm if self._loading.get(actor_id) is warm else None
        finally:
            if self._loading.get(actor_id) is warm:
                del self._loading[actor_id]

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
