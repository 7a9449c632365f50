"""Cores that break what the facades promise for every backend, whatever it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec

from aether.conformance.wrappers import StoreWrapper
from aether.conformance.zoo import breaks
from aether.core import _commit, _reading, _slots, filters, store
from aether.core._requests import Requests
from aether.core.bus import BusSubscription, EventBus
from aether.core.encoding import decode_event
from aether.core.errors import Closed, CorruptEvent, StoreIdentityChanged, Unavailable, VersionConflict
from aether.core.event import START, Appended, Claim, Event
from aether.core.facade import Facade
from aether.core.features import Feature
from aether.core.filters import EventFilter
from aether.core.scope import Scope
from aether.core.store import EventStore
from aether.core.subscription import Subscription

# --- Appending ---


@breaks(EventStore, "append", caught_by="store.append.empty")
def takes_an_empty_append(original: Any) -> Any:
    """To append nothing succeeds, and says so without a position."""

    async def append(self: EventStore, *events: Event, **options: Any) -> Any:
        return await original(self, *events, **options) if events else Appended(START, replayed=False)

    return append


@breaks(_reading, "decode_events", caught_by="store.append.isolated")
def shares_what_it_decodes(original: Any) -> Any:
    """Keeps decoded events for the next reader, who gets what the last one made of them."""
    kept: dict[bytes, Event] = {}
    return lambda page: [kept.setdefault(one.data, event) for one, event in zip(page, original(page), strict=True)]


@breaks(_commit, "_find", caught_by="store.append.many#replayed")
def looks_at_the_first_actor_only(original: Any) -> Any:
    """A commit counts as repeated when its first actor's events are there."""
    return lambda driver, writes: original(driver, writes[:1])


@breaks(_commit, "_outcome_unknown", caught_by="store.append.unknown#raised")
def calls_the_unknown_a_failure(original: Any) -> Any:
    """An answer that did not come is told as a commit that was not stored."""
    return lambda writes, reason: Unavailable("append", reason=reason)


@breaks(EventStore, "append", caught_by="store.append.limits#order")
def looks_before_it_measures(original: Any) -> Any:
    """Asks for versions first, and for sizes when the backend refuses them."""

    async def append(self: EventStore, *events: Event, **options: Any) -> Any:
        current = await self.version(events[0].actor_id)
        if current >= events[0].version and len(events) > 1:
            raise VersionConflict(events[0].actor_id, attempted=events[0].version, current=current)
        return await original(self, *events, **options)

    return append


class OneActorPerCommit(StoreWrapper):
    """Claims no MULTI_ACTOR, and stores the actors of a call one after the other all the same."""

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset()


@breaks(EventStore, "append", caught_by="store.append.many#refused", over=OneActorPerCommit)
def hopes_for_several_actors(original: Any) -> Any:
    """Hands over commits of several actors without asking whether the backend can store them."""

    async def append(self: EventStore, *events: Event, **options: Any) -> Any:
        writes = _commit.plan_commit(events, self.limits)
        if len(writes) == 1:
            return await original(self, *events, **options)
        return [await original(self, *(one for one in events if one.actor_id == w.actor_id)) for w in writes][-1]

    return append


@breaks(EventStore, "_need_transactions", caught_by="store.append.transaction#refused")
def drops_the_callers_transaction(original: Any) -> Any:
    """Takes a transaction where the backend has none, and commits beside it."""
    return lambda self, driver: None


# --- Reading ---


@breaks(store, "check_count", caught_by="store.read.negative")
def takes_negative_numbers(original: Any) -> Any:
    """Numbers are not looked at."""
    return lambda name, value: None


@breaks(EventStore, "version", caught_by="store.read.fresh")
def forgets_min_version(original: Any) -> Any:
    """Answers from whatever state it finds."""
    return lambda self, actor_id, **options: original(self, actor_id)


@breaks(EventStore, "_ask", caught_by="store.read.fresh#waits")
def asks_once(original: Any) -> Any:
    """Takes the first answer of a server that is behind."""

    async def ask(self: EventStore, question: Any, fresh: Any) -> Any:
        return await question()

    return ask


@breaks(EventFilter, "decode", caught_by="store.read.corrupt")
def skips_what_is_damaged(original: Any) -> Any:
    """What cannot be decoded is left out."""

    def decode(self: EventFilter, stored: Any) -> Any:
        with suppress(CorruptEvent):
            return original(self, stored)
        return None

    return decode


@breaks(store, "read_actor", caught_by="store.read.corrupt#hole")
def reads_over_holes(original: Any) -> Any:
    """Gives what is there, whatever is missing in between."""

    async def read(store: EventStore, actor_id: str, *bounds: Any) -> AsyncIterator[Event]:
        after, upto, limit, reverse, _ = bounds
        page = await store._live().read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        for stored in page.records:
            yield decode_event(stored)

    return read


@breaks(filters, "_matches", caught_by=("store.feed.order#filter", "bus.filter"))
def takes_dots_for_anything(original: Any) -> Any:
    """Makes a regular expression of a pattern, and forgets to quote what is between the stars."""
    return lambda parts, text: original(parts, text) or ("." in parts[0] and len(parts[0]) == len(text))


@breaks(Subscription, "position", caught_by="store.subscribe.filter")
def stays_where_it_delivered(original: Any) -> Any:
    """What was filtered out has to be read again behind every restart."""
    return property(lambda self: self._position)


# --- State and identity ---


@breaks(_slots, "_trusted", caught_by=("store.snapshot.newer", "store.snapshot.newer#rewritten"))
def trusts_every_snapshot(original: Any) -> Any:
    """Does not look whether the event that a snapshot was taken at is still there."""

    async def trusted(driver: Any, slot: Any, actor_id: str, schema: str) -> Any:
        stored = _slots._decode_snapshot(driver, slot, actor_id, schema)
        return stored and stored.snapshot

    return trusted


@breaks(_slots, "_decode_snapshot", caught_by="store.snapshot.damaged")
def fails_on_damaged_snapshots(original: Any) -> Any:
    """A snapshot that cannot be read keeps the actor from being read."""

    def decode(driver: Any, slot: Any, actor_id: str, schema: str) -> Any:
        return msgspec.json.decode(slot.value, type=_slots._StoredSnapshot)

    return decode


@breaks(EventStore, "_resume", caught_by=("store.identity#wiped", "store.identity#foreign", "store.identity#restored"))
def begins_again_elsewhere(original: Any) -> Any:
    """A position that this store does not know is read as the beginning."""

    async def resume(self: EventStore, after: Any) -> Any:
        with suppress(StoreIdentityChanged):
            return await original(self, after)
        return 0

    return resume


@breaks(_slots, "load_checkpoint", caught_by="store.identity#wiped")
def forgets_foreign_checkpoints(original: Any) -> Any:
    """A checkpoint that cannot be used is read as none: every effect of its consumer happens again."""

    async def load(driver: Any, name: str) -> Any:
        with suppress(StoreIdentityChanged):
            return await original(driver, name)
        return Claim(START, 0)

    return load


@breaks(EventStore, "_opened", caught_by="store.durability")
def opens_whatever_it_finds(original: Any) -> Any:
    """Does not compare what was required with what there is."""

    async def opened(self: EventStore) -> None:
        """Nothing is looked at."""

    return opened


# --- Names ---


@breaks(store, "check_name", caught_by="store.names#refused")
def takes_every_name(original: Any) -> Any:
    """Leaves it to the backend to refuse what it cannot store."""
    return lambda kind, name: name


@breaks(
    Scope,
    "__init__",
    caught_by=tuple(
        f"store.namespace#{method}"
        for method in (
            "append",
            "read",
            "version",
            "feed",
            "head",
            "subscribe",
            "snapshot",
            "save_snapshot",
            "checkpoint",
            "checkpoint_token",
            "claim_checkpoint",
            "save_checkpoint",
        )
    ),
)
def cuts_namespaces_at_the_dot(original: Any) -> Any:
    """Everything behind the first dot of a namespace is lost on its way to the backend."""
    return lambda self, namespace, **options: original(self, namespace.partition(".")[0], **options)


# --- Closing ---


@breaks(Facade, "close", caught_by=("store.close#twice", "bus.close#raises"))
def closes_only_once(original: Any) -> Any:
    """To close again what is closed is an error."""

    async def close(self: Facade[Any]) -> None:
        if self._state == "closed":
            raise Closed(str(self))
        await original(self)

    return close


@breaks(Facade, "_live", caught_by=("store.close#raises", "election.close#hands-over"))
def goes_on_behind_close(original: Any) -> Any:
    """Calls reach the driver in whatever state it is."""
    return lambda self: self._driver


@breaks(EventStore, "_closed", caught_by="store.close#waiting")
def leaves_subscriptions_waiting(original: Any) -> Any:
    """Who waits for an event waits for ever."""

    async def closed(self: EventStore) -> None:
        """Nobody is told."""

    return closed


# --- The bus ---


@breaks(EventBus, "publish", caught_by=("bus.deliver#refused", "bus.deliver#large"))
def checks_while_it_publishes(original: Any) -> Any:
    """Looks at an event when those before it were sent already."""

    async def publish(self: EventBus, *events: Event) -> None:
        for event in events:
            await original(self, event)

    return publish


@breaks(Requests, "deliver", caught_by="bus.request")
def answers_whoever_waits(original: Any) -> Any:
    """Gives a reply to the latest request, whichever it is to."""

    def deliver(self: Requests, message: Any) -> None:
        waiting = [one for one in self._waiting.values() if not one.done()]
        if waiting:
            waiting[-1].set_result(message)

    return deliver


@breaks(BusSubscription, "_lose", caught_by="bus.overflow")
def loses_silently(original: Any) -> Any:
    """Drops what does not fit, and tells nobody."""

    def lose(self: BusSubscription, count: int) -> None:
        self.dropped += count

    return lose


@breaks(BusSubscription, "_receive", caught_by="bus.overflow#oldest")
def drops_the_newest(original: Any) -> Any:
    """Keeps what came first, though it was asked for what came last."""

    def receive(self: BusSubscription, message: Any) -> None:
        if len(self._waiting) >= self._buffer and self._wants(message):
            self._lose(1)
        else:
            original(self, message)

    return receive


@breaks(BusSubscription, "_receive", caught_by=("bus.overflow", "bus.overflow#publisher"))
def fails_the_publisher(original: Any) -> Any:
    """A subscriber without room is the publisher's problem."""

    def receive(self: BusSubscription, message: Any) -> None:
        if len(self._waiting) >= self._buffer:
            raise asyncio.QueueFull
        original(self, message)

    return receive
