"""The interface that backends implement: records and `Protocol`s, no logic.

A backend author reads this file and `aether.core.hookspecs`, nothing else; what a server has no means for can be built
on `aether.core.kit`. Users never see these classes: they hold the facades `EventStore`, `EventBus` and `Election`,
which validate, encode, check limits, resolve repeated appends and keep the closed state, so a driver may trust its
arguments: names are valid, numbers are in range, and the limits that the driver declares are respected.

Obligations that hold for every driver:

* `open()` is called once, before anything else; `close()` may be called twice, also after `open()` has failed, and
  while calls are waiting: those end, with their answer or an `AetherError`; the core leaves tails, subscriptions and
  watches before. After `close()` no task, thread or socket of the driver is left.
* Drivers of one process may be opened in one event loop after another, each used in its own.
* Every method may be called from many tasks of one event loop at once.
* Every method returns or raises within `Scope.timeout` seconds, unless its docstring says that it waits.
* A cancelled call leaves the driver usable. `CancelledError` is never swallowed.
* The client's exceptions are translated: `Unavailable` when certainly nothing was sent, `OutcomeUnknown` when a write
  may or may not have happened, `Unavailable` for a read that got no answer. No secret appears in any of them.
* No hidden retries of a write, in the driver or in its client library.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from aether.core.features import Durability, Feature, Limits

SPI_VERSION = 1
"""The version of this interface. A backend names the one it was written for in `BackendInfo.spi`."""


class BackendInfo(msgspec.Struct, frozen=True):
    """What the hook `aether_backend` answers, without I/O and without importing a client library."""

    name: str
    """The distribution's name, for messages: `aether-nats`."""

    spi: int
    features: frozenset[Feature] = frozenset()
    """All features that the backend can have; an opened driver may have fewer, depending on its server."""

    options: tuple[str, ...] = ()
    """The options that its URLs and keywords may carry; others are refused before the backend is asked."""


# --- Store -----------------------------------------------------------------------------------------------------------


class NewRecord(msgspec.Struct, frozen=True, gc=False):
    """One event to store. `data` is the encoded event: UTF-8 JSON on one line, to be given back byte for byte."""

    version: int
    id: str
    type: str
    data: bytes


class Write(msgspec.Struct, frozen=True, gc=False):
    """The events of one actor in one commit: versions `expected + 1`, `expected + 2` … in order, at least one."""

    actor_id: str
    expected: int
    records: tuple[NewRecord, ...]


class Stored(msgspec.Struct, frozen=True, gc=False):
    """One stored event.

    `position` is an integer above 0 that strictly increases in the order of the namespace's feed, has holes as it
    likes, never changes, and is never given to another event, also after a restart.
    """

    position: int
    actor_id: str
    version: int
    data: bytes


class Page(NamedTuple):
    """A part of an answer. `more` is False only when nothing that was asked for follows `records`."""

    records: Sequence[Stored]
    more: bool


class Slot(NamedTuple):
    """A small named value with a revision above 0 that strictly increases with every change."""

    revision: int
    value: bytes


class RevisionConflict(Exception):
    """A compare-and-set found another revision. Definite: the value was not and will not be stored by this call."""


class Tail(Protocol):
    """A cursor that follows the feed."""

    async def page(self, limit: int) -> Sequence[Stored]:
        """Wait until there is at least one more event, then return up to `limit` of them, in feed order.

        The first call starts behind the position given to `StoreDriver.tail`. MUST deliver every event exactly once,
        with no seam between stored and live ones. Waits without bound. A cancelled call loses nothing: the next call
        continues where it was. A driver holds no more than about `limit` undelivered events or 4 MiB of them,
        whichever is more, and never slows a writer.

        Reconnects by itself; raises `Unavailable` only when it has given up, and may be called again.
        """
        ...


@runtime_checkable
class StoreDriver(Protocol):
    """Stores the events of one namespace.

    Written so that a log of messages (JetStream), rows under group commit (SQL) and one script per batch (Redis) can
    all keep it: a commit is handed over whole, reads are pages without a cursor that could leak, and everything
    beside events is a slot under compare-and-set.
    """

    @property
    def features(self) -> frozenset[Feature]:
        """What this opened driver really has."""
        ...

    @property
    def limits(self) -> Limits:
        """The limits, as the server that it is connected to has them: above 0, and the largest event fits a commit.

        They do not depend on names: an event of the largest size is stored for an actor of any name.
        """
        ...

    @property
    def durability(self) -> Durability:
        """What the server is really set to; when that cannot be read, the least that it could be."""
        ...

    @property
    def identity(self) -> str:
        """1 to 64 characters of `[A-Za-z0-9_-]`, made when the namespace's store was created.

        MUST differ after the store was deleted and made again.
        """
        ...

    async def open(self) -> None:
        """Connect, create what the namespace needs, and read features, limits, durability and identity.

        Raises `Unavailable` when no server answers.
        """
        ...

    async def close(self) -> None:
        """Release everything. Appends that are under way end with their result or with `OutcomeUnknown`."""
        ...

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        """Store all writes as one commit and return the position of the last event.

        Positions of a commit follow each other in the order of `writes` and of their records.

        MUST raise `VersionConflict` with the actor's true current version, and store nothing at all, if any actor is
        not at `expected`. Of several callers with the same expectation one succeeds. A reader MUST never see a part
        of a commit, also after the process or the server is killed in the middle.
        Returns only when the commit is as durable as `durability` says.

        `writes` names each actor once. It holds more than one actor only if MULTI_ACTOR is among `features`; a
        hundred of them are always taken, and what is more than the driver can take raises `CommitTooLarge` before
        anything is stored.

        `transaction` is given only if CALLER_TRANSACTION is among `features`: the commit becomes part of that
        transaction. Nobody else sees it before that is committed, and nobody ever if it is rolled back; its place in
        the feed is still behind all that anybody has seen by then. Whoever wants to append meanwhile may have to wait.

        Raises `Unavailable` if nothing was sent, `OutcomeUnknown` if that cannot be known. Cancelling it leaves the
        outcome unknown, too; repeating it is always safe, because of the expectation.
        """
        ...

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        """Return one page of the actor's events with `after < version <= upto`.

        Ascending from `after + 1`; with `reverse` descending from `upto` (or the latest) instead. At most `limit`
        events; the driver chooses the size of the page below that, so that it stays within a few MiB. The caller
        asks again behind the last one while `more` is True, so a page with more behind it holds at least one.

        MUST reflect every append that was acknowledged to anybody before the call, unless the server itself is
        partitioned; and MUST never answer from an older state than an earlier answer of this driver did.
        """
        ...

    async def version(self, actor_id: str) -> int:
        """Return the actor's latest version, 0 if it has no events. As fresh as `read`."""
        ...

    async def head(self) -> Stored | None:
        """Return the last event of the feed, None while it is empty. As fresh as `read`."""
        ...

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        """Return one page of the events of all actors with `after < position <= upto`, in feed order.

        At most `limit` events, and at least one while something follows; fewer where the page would hold more than a
        few MiB. `upto` is a position that this driver has returned, so the events up to it exist; a driver whose
        server does not hold them yet waits for them, and raises `StaleRead` at its time-out.
        Once a caller has seen position p, no event below p MUST ever appear later: order is the order of commits.
        """
        ...

    def tail(self, *, after: int) -> AbstractAsyncContextManager[Tail]:
        """Follow the feed from behind position `after`; leaving the context frees the cursor."""
        ...

    async def load(self, kind: str, name: str) -> Slot | None:
        """Return the slot `name` of `kind` (`[a-z-]+`), None if it was never saved. As fresh as `read`.

        `name` is any text of 1 to 515 characters without control characters; different ones never meet.
        Slots hold snapshots and checkpoints. They are as durable as events and belong to the namespace.
        """
        ...

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        """Set the slot if its revision is `expected` (0: it does not exist), and return the new revision.

        `value` is any bytes up to `limits.max_snapshot_bytes`, to be given back byte for byte.
        Raises `RevisionConflict` otherwise; it MUST be definite. Raises `Unavailable` or `OutcomeUnknown` as `append`.
        """
        ...


# --- Bus -------------------------------------------------------------------------------------------------------------


class Message(msgspec.Struct, frozen=True, gc=False):
    """One published event: its routing and its encoded bytes, to be delivered byte for byte."""

    namespace: str
    type: str
    actor_id: str
    data: bytes


class BusFilter(msgspec.Struct, frozen=True):
    """What a subscription wants. The core filters again, so a driver may deliver more; never less.

    `namespaces` is a namespace, or a pattern of tokens between dots in which `*` is one token and a last `>` is one
    or more. `types` is an OR of names, None for all. `actors` is a pattern in which `*` is any run of characters,
    None for all.
    """

    namespaces: str
    types: frozenset[str] | None
    actors: str | None


class Sink(Protocol):
    """Where a driver puts what it receives. Never blocks, never raises; call it from the event loop's thread."""

    def deliver(self, message: Message) -> None:
        """Hand over one message, in the order in which the publisher sent it."""
        ...

    def interrupted(self) -> None:
        """Report that messages may have been lost: the connection was gone and is back, and delivery goes on."""
        ...

    def lost(self, count: int) -> None:
        """Report that `count` messages were dropped before the driver could hand them over."""
        ...


@runtime_checkable
class BusDriver(Protocol):
    """Publish and subscribe, at most once, live only."""

    @property
    def features(self) -> frozenset[Feature]:
        """What this opened driver really has."""
        ...

    @property
    def max_message_bytes(self) -> int:
        """The most that `Message.data` may hold, whatever the other fields hold."""
        ...

    async def open(self) -> None:
        """Connect. Raises `Unavailable` when no server answers."""
        ...

    async def close(self) -> None:
        """Release everything; subscriptions that are still open end silently, and can still be left."""
        ...

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        """Hand one message to the backend; return without waiting for any subscriber.

        With `count`, a driver that has NO_RESPONDERS returns 0 when nobody was subscribed and otherwise at least 1;
        one that has not returns None.
        Messages of one driver reach each subscription in the order in which they were published.
        Raises `Unavailable` when the connection is gone; the message was not and will not be sent. A driver that waits
        for the backend's answer raises `OutcomeUnknown` when there is none: the message may be delivered, or not.
        """
        ...

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        """Deliver every matching message to `sink`, once, until the context is left.

        When the context has been entered, messages that anybody publishes afterwards MUST be delivered.
        Subscriptions of one namespace that name the same `queue` share: each message goes to one of them, of those
        whose `types` want it. A driver may choose before it looks at `actors`, so members should name the same.
        After a lost connection the driver subscribes again by itself and calls `sink.interrupted()`.
        """
        ...


# --- Election --------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One record of a lease register. `value` is up to 16 KiB of any bytes, to be given back byte for byte."""

    name: str
    revision: int
    value: bytes


class Watch(Protocol):
    """A stream of hints that records changed."""

    async def next(self) -> Entry:
        """Wait for the next change and return the record as it was then. Waits without bound.

        May lag, leave out intermediate values, repeat, or fall silent: callers read again on silence.
        A cancelled call loses nothing that the contract above does not allow.
        """
        ...


@runtime_checkable
class LeaseRegister(Protocol):
    """Named records under compare-and-set. The election's algorithm lives in the core; this is all it needs.

    The only thing that safety rests on is that `cas` is linearizable per name and that `RevisionConflict` is
    definite. Reads may be stale and watches may die: that costs time, never safety. Nothing in the backend expires:
    no time to live, no server clock. Records are never deleted.
    """

    @property
    def push(self) -> bool:
        """Whether `watch` learns of a change without polling: at once, compared with the shortest lease."""
        ...

    async def open(self) -> None:
        """Connect and create what the namespace needs. Raises `Unavailable` when no server answers."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...

    async def read(self, name: str) -> Entry | None:
        """Return the record, None if it was never written. Fresh where the backend can."""
        ...

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        """Replace the record if its revision is `expected` (0: it does not exist); return the new revision.

        MUST be linearizable per name; revisions MUST strictly increase per name, across releases and restarts.
        Raises `RevisionConflict` if certainly not applied, `Unavailable` if certainly not sent, and `OutcomeUnknown`
        for everything else. No retries.
        """
        ...

    async def scan(self, prefix: str) -> Sequence[Entry]:
        """Return the records whose names start with `prefix`: all that were there before, each once."""
        ...

    def watch(self, prefix: str) -> AbstractAsyncContextManager[Watch]:
        """Follow changes of records whose names start with `prefix`.

        When the context has been entered, later changes are reported, as well as that is possible.
        """
        ...
