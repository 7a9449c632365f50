"""One partition of a projection, while it is the active one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from aether.core.clock import Clock
from aether.core.correlation import begin_handling, end_handling, handling
from aether.core.encoding import decode_event, decode_events
from aether.core.errors import CorruptEvent, VersionConflict
from aether.core.event import Event, Position
from aether.core.filters import EventFilter
from aether.core.names import RESERVED
from aether.core.projection.checkpoint import Checkpoint
from aether.core.projection.journal import Journal, Parked, RetryAsked, Unparked
from aether.core.projection.policy import OnError, is_fatal, is_transient
from aether.core.sharding import shard_of
from aether.core.spi import Stored
from aether.core.store import EventStore
from aether.core.subscription import Subscription

_log = logging.getLogger("aether")

_UNSAVED = 0.25  # seconds after which progress is saved at the latest, in long batches and where nothing was wanted
_CONFLICTS = 100  # in transactions that park: each is another partition's progress

Transaction = Callable[[], AbstractAsyncContextManager[Any]]
Report = Callable[[str, Exception | None], None]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done with which events."""

    handler: Callable[..., object]
    batched: bool
    transaction: Transaction | None
    on_error: OnError
    wanted: EventFilter
    batch: int
    clock: Clock


class Share(NamedTuple):
    """The partition: of so many `parts`, the one whose actors' ids fall into shard `number`."""

    number: int
    parts: int

    def has(self, actor_id: str) -> bool:
        """Whether an actor belongs to it."""
        return self.parts == 1 or shard_of(actor_id, self.parts) == self.number


class _Filter(EventFilter):
    """What a worker looks at: the wanted events of its share, and its own journal. The rest is not decoded."""

    def __init__(self, wanted: EventFilter, share: Share, journal: str) -> None:
        super().__init__(types=wanted.types, actors=wanted.actors)
        self._share = share
        self._journal = journal
        self._all = share.parts == 1 and self.types is None and self._parts is None
        self.met_journal = False
        """Whether an entry of the journal came by since it was last asked."""

    def decode(self, stored: Stored) -> Event | None:
        actor_id = stored.actor_id
        if actor_id.startswith(RESERVED):
            if actor_id != self._journal:
                return None
            self.met_journal = True
            return decode_event(stored)
        if self._all:
            return decode_event(stored)
        return super().decode(stored) if self._share.has(actor_id) else None

    def decode_all(self, page: Sequence[Stored]) -> Iterable[Event | None]:
        reserved = [stored for stored in page if stored.actor_id.startswith(RESERVED)]
        return decode_events(page) if self._all and not reserved else map(self.decode, page)


class Delivered(NamedTuple):
    """An event, and where it stands."""

    position: Position
    event: Event


Page = Sequence[tuple[Position, Event]]


class Worker:
    """Reads the feed from the checkpoint on, handles what is wanted in order, and moves the checkpoint."""

    def __init__(
        self,
        store: EventStore,
        work: Work,
        journal: Journal,
        *,
        version: int,
        share: Share,
        checkpoint: Checkpoint,
        start: Position,
        report: Report,
    ) -> None:
        self._store = store
        self._work = work
        self._journal = journal
        self._version = version
        self._share = share
        self._checkpoint = checkpoint
        self._done = start
        self._report = report
        self._smooth = True
        self._blocked: set[str] = set()

    async def run(self) -> NoReturn:
        """Work until cancelled, or until the policy or the store stops it."""
        self._block()
        wanted = _Filter(self._work.wanted, self._share, self._journal.key)
        try:
            async with Subscription(self._store, self._done, wanted, self._work.batch) as events:
                self._report("running", None)
                while True:
                    page = await self._next(events)
                    met_journal, wanted.met_journal = wanted.met_journal, False
                    await (self._take_apart(page) if met_journal else self._handle(page))
                    self._done = events.position
                    await self._keep(bool(page))
        finally:
            await self._checkpoint.leave()

    async def _next(self, events: Subscription) -> Page:
        if self._done != self._checkpoint.saved:
            try:
                async with self._work.clock.timeout(_UNSAVED):
                    return await events.batch()
            except TimeoutError:
                await self._save()
        return await events.batch()

    async def _keep(self, handled: bool) -> None:
        """Save how far it has come."""
        smooth, self._smooth = self._smooth, True
        if handled and smooth and self._work.transaction is None:
            await self._checkpoint.save_beside(self._done)
        elif handled or self._late():  # where nothing was done, where it is may be told a little later
            await self._save()

    async def _save(self) -> None:
        await self._checkpoint.save(self._done)

    def _late(self) -> bool:
        return self._work.clock.now() - self._checkpoint.saved_at >= _UNSAVED

    async def _take_apart(self, page: Page) -> None:
        """Handle a page that has entries of the journal in it, each of them at its place."""
        ready: list[tuple[Position, Event]] = []
        for position, event in page:
            if event.actor_id != self._journal.key:
                ready.append((position, event))
                continue
            await self._handle(ready)
            ready = []
            await self._heed(event)
            self._done = position
        await self._handle(ready)

    # --- Handling ---

    async def _handle(self, page: Page) -> None:
        if not (self._work.batched or self._work.transaction is not None):
            return await self._handle_each(page)
        ready = [Delivered(*one) for one in page]
        if len(ready) > 1 and self._blocked.isdisjoint(one.event.actor_id for one in ready):
            try:
                return await self._apply(ready)
            except Exception as error:
                if is_fatal(error, self._checkpoint.name):
                    raise
                _log.warning(
                    "%s: %d events failed together, now one by one: %r", self._checkpoint.name, len(ready), error
                )
        for one in ready:
            await self._handle_one(one)
            self._done = one.position
        return None

    async def _handle_each(self, page: Page) -> None:
        """One by one, outside of a transaction. This loop is what a projection costs."""
        handler, now, checkpoint = self._work.handler, self._work.clock.now, self._checkpoint
        for position, event in page:
            error: Exception | None = None
            if not self._blocked or event.actor_id not in self._blocked:
                cause = begin_handling(event)
                try:
                    answer: Any = handler(event)
                    if hasattr(answer, "__await__"):
                        await answer
                except asyncio.CancelledError as cancelled:
                    error = _stray(cancelled)
                except Exception as raised:  # noqa: BLE001  (the policy looks at it)
                    error = raised
                finally:
                    end_handling(cause)
            if error is not None or (self._blocked and event.actor_id in self._blocked):
                await self._handle_one(Delivered(position, event), error)
            self._done = position
            if now() - checkpoint.saved_at >= _UNSAVED:
                await self._save()

    async def _handle_one(self, one: Delivered, error: Exception | None = None) -> None:
        """Handle an event, and do what the policy says; `error` is that of an attempt which was made already."""
        policy = self._work.on_error
        failures = attempts = 0
        while True:
            if one.event.actor_id in self._blocked:
                return await self._park(one, "it waits behind a parked event of its actor", 0)
            if error is None:
                try:
                    await self._apply([one])
                except Exception as raised:  # noqa: BLE001  (the policy looks at it)
                    error = raised
            if error is None:
                if attempts:
                    self._report("running", None)
                return None
            if is_fatal(error, self._checkpoint.name):
                raise error
            attempts += 1
            if not is_transient(error):
                if failures == policy.retries:
                    return await self._give_up(one, error, attempts)
                failures += 1
            await self._save()
            self._report("retrying", error)
            error = None
            await self._work.clock.sleep(policy.pause(attempts - 1, random.random()))

    async def _give_up(self, one: Delivered, error: Exception, attempts: int) -> None:
        if self._work.on_error.then == "stop":
            await self._save()
            error.add_note(f"{self._checkpoint.name}: stopped in front of {_named(one.event)}, at {one.position}")
            raise error
        _log.warning("%s: %s is parked: %r", self._checkpoint.name, _named(one.event), error)
        await self._park(one, f"{type(error).__name__}: {error}"[:2000], attempts)
        self._report("running", None)

    async def _apply(self, unit: Sequence[Delivered]) -> None:
        """Handle events together; in a transaction, with the checkpoint behind them in the same commit."""
        if self._work.transaction is None:
            return await self._call(unit)
        async with self._work.transaction() as connection:
            await self._call(unit, connection)
            await self._checkpoint.save_in(connection, unit[-1].position)
        self._done = unit[-1].position
        self._checkpoint.arrived(self._done)
        return None

    async def _call(self, unit: Sequence[Delivered], *connection: object) -> None:
        if self._work.batched:
            await _settled(self._work.handler([one.event for one in unit], *connection))
            return
        for one in unit:
            with handling(one.event):
                await _settled(self._work.handler(one.event, *connection))

    # --- Parked events ---

    def _block(self) -> None:
        self._blocked = {one.actor_id for one in self._journal.parked(self._version)}

    async def _park(self, one: Delivered, error: str, attempts: int) -> None:
        """Put an event aside. Its actor is blocked, so that its events stay in order."""
        event = one.event
        # Behind a crash between the note and the checkpoint it is parked already, or was dropped since.
        if self._journal.was_dropped(self._version, event.id):
            return
        if not self._journal.is_parked(self._version, event.id):
            await self._note(
                Parked(
                    version=self._version,
                    position=str(one.position),
                    actor_id=event.actor_id,
                    event_version=event.version,
                    event_id=event.id,
                    error=error,
                    attempts=attempts,
                )
            )
        self._blocked.add(event.actor_id)

    async def _note(self, entry: Parked | Unparked, *handled: Delivered) -> None:
        """Write to the journal, fenced: with the checkpoint in one transaction, or right behind it.

        What is `handled` here is handled first, and in the same transaction.
        """
        self._smooth = False  # nothing is handled beyond it before the checkpoint is behind it
        if self._work.transaction is None:
            await self._save()
            await self._checkpoint.fence()
            if handled:
                await self._call(handled)
            await self._journal.note(entry)
            return
        for left in reversed(range(_CONFLICTS)):
            try:
                async with self._work.transaction() as connection:
                    if handled:
                        await self._call(handled, connection)
                    await self._journal.note(entry, connection=connection)
                    await self._checkpoint.save_in(connection, self._done)
                break
            except VersionConflict:
                if not left:
                    raise
        self._checkpoint.arrived(self._done)
        await self._journal.refresh()

    async def _heed(self, event: Event) -> None:
        """Take in an entry of the journal, which somebody else may have written."""
        entry = self._journal.heed(event)
        if isinstance(entry, RetryAsked) and entry.version == self._version:
            await self._journal.refresh()
            await self._retry(entry.actor_id)
        self._block()

    async def _retry(self, actor_id: str | None) -> None:
        stuck: set[str] = set()
        for parked in self._journal.parked(self._version):
            asked = actor_id is None or parked.actor_id == actor_id
            if not asked or parked.actor_id in stuck or not self._share.has(parked.actor_id):
                continue
            event = await self._parked_event(parked)
            error = await self._retry_one(parked, Delivered(Position.parse(parked.position), event))
            if error is not None:
                stuck.add(parked.actor_id)
                _log.warning("%s: %s stays parked: %r", self._checkpoint.name, _named(event), error)
                again = parked.again(f"{type(error).__name__}: {error}"[:2000])
                await self._note(again)

    async def _retry_one(self, parked: Parked, one: Delivered) -> Exception | None:
        """Handle a parked event, as often as it takes while the error says nothing about it; what it failed with."""
        attempts = 0
        while True:
            try:
                await self._note(Unparked(self._version, parked.event_id), one)
            except Exception as error:
                if is_fatal(error, self._checkpoint.name):
                    raise
                if not is_transient(error):
                    return error
                self._report("retrying", error)
                await self._work.clock.sleep(self._work.on_error.pause(attempts, random.random()))
                attempts += 1
            else:
                if attempts:
                    self._report("running", None)
                return None

    async def _parked_event(self, parked: Parked) -> Event:
        version = parked.event_version
        async for event in self._store.read(parked.actor_id, after=version - 1, upto=version):
            if event.id == parked.event_id:
                return event
        raise CorruptEvent(parked.actor_id, version, parked.position, "the parked event is not there")


async def _settled(answer: Any) -> None:
    """Wait for a handler that is `async def`; one that is not is done already."""
    try:
        if hasattr(answer, "__await__"):
            await answer
    except asyncio.CancelledError as error:
        raise _stray(error) from error


def _stray(cancelled: asyncio.CancelledError) -> RuntimeError:
    """Something inside of a handler was cancelled: let through, it would end the projection without a word.

    Raises `cancelled` where it is the projection itself that is cancelled.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise cancelled
    return RuntimeError("the handler ended with CancelledError, and nobody had cancelled it")


def _named(event: Event) -> str:
    return f"{event.type!r}, version {event.version} of {event.actor_id!r}"
