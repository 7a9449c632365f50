"""The store that users hold: it validates, encodes, resolves repeated appends, and decodes what it reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from aether.core import _slots
from aether.core._commit import commit, plan_commit
from aether.core._reading import read_actor, read_feed
from aether.core.correlation import correlated
from aether.core.encoding import decode_event
from aether.core.errors import FeatureMissing, InvalidSnapshot, StaleRead, StoreIdentityChanged
from aether.core.event import START, Appended, Claim, Event, Position, Snapshot
from aether.core.facade import Facade, leave_all
from aether.core.features import Durability, Feature, Limits
from aether.core.filters import EventFilter, check_count
from aether.core.names import check_name
from aether.core.scope import DEFAULT_TIMEOUT
from aether.core.spi import Page, Stored, StoreDriver
from aether.core.subscription import Subscription

_RETRY_PAUSE = 0.02  # seconds between two looks at a server that is behind

Answer = TypeVar("Answer")


class EventStore(Facade[StoreDriver]):
    """The events of one namespace.

    Safe to use from many tasks of one event loop. Every call ends within about twice `timeout` seconds; iterators take
    that long per page, and `subscribe` waits for events without bound.
    """

    kind = "store"

    def __init__(
        self,
        driver: StoreDriver,
        *,
        namespace: str,
        backend: str = "backend",
        timeout: float = DEFAULT_TIMEOUT,
        require: Iterable[Feature] = (),
        require_durability: Durability | None = None,
    ) -> None:
        super().__init__(driver, namespace=namespace, backend=backend, timeout=timeout)
        self._require = frozenset(require)
        self._require_durability = require_durability
        self._subscriptions: set[Subscription] = set()
        self._ahead: set[asyncio.Task[Page]] = set()
        self._left = _slots.Left()

    async def _opened(self) -> None:
        if missing := self._require - self._driver.features:
            raise FeatureMissing(self.backend, missing, hint="the server that it is connected to cannot do it")
        wanted, found = self._require_durability, self._driver.durability
        if wanted is not None and found < wanted:
            raise FeatureMissing(
                self.backend,
                [f"durability {wanted.name}"],
                hint=f"what can be known of its server is {found.name}; the backend's documentation names the setting, "
                "and how to let it be read",
            )

    async def _closed(self) -> None:
        await leave_all(self._subscriptions)
        for task in self._ahead:
            task.cancel()
        if self._ahead:
            await asyncio.wait(self._ahead)

    # --- What it is ---

    @property
    def features(self) -> frozenset[Feature]:
        """The optional promises that this store keeps."""
        return self._live().features

    @property
    def limits(self) -> Limits:
        """The most that one call may carry."""
        return self._live().limits

    @property
    def durability(self) -> Durability:
        """What an acknowledged append survives, as the server is really set."""
        return self._live().durability

    @property
    def identity(self) -> str:
        """Names this very store: it changes when the store is wiped and made again."""
        return self._live().identity

    # --- Writing ---

    async def append(self, *events: Event, connection: object | None = None) -> Appended:
        """Store the events as one commit: all or none.

        MUST raise `VersionConflict` and store nothing unless each actor is at the version before its first event.
        Of several callers that append the same version, one succeeds. Repeating a call with the same ids succeeds
        with `replayed=True` and stores nothing, for ever.

        Waits for a lost server and repeats what is safe to repeat, until `timeout`. Then it raises `Unavailable` if
        certainly nothing was stored, `OutcomeUnknown` if that cannot be known. The outcome of a cancelled call is
        unknown, too. Repeating is always safe. With the caller's own transaction in `connection` nothing is repeated.

        Events get the metadata of their context (`aether.core.correlation`) that they do not have yet.

        Raises `ValueError` without events, `InvalidEvent`, `InvalidName`, `PayloadTooLarge` or `CommitTooLarge`
        before any I/O, and `FeatureMissing` for several actors where the backend has no MULTI_ACTOR, or for
        `connection` where it has no CALLER_TRANSACTION.
        """
        driver = self._live()
        writes = plan_commit([correlated(event) for event in events], driver.limits)
        if len(writes) > 1 and Feature.MULTI_ACTOR not in driver.features:
            raise FeatureMissing(self.backend, [Feature.MULTI_ACTOR], hint="append to one actor per call")
        if connection is None:
            order, replayed = await commit(driver, writes, timeout=self.timeout)
        else:
            self._need_transactions(driver)
            order, replayed = await driver.append(writes, transaction=connection), False
        return Appended(Position.at(driver.identity, order, writes[-1].records[-1].id), replayed)

    def _need_transactions(self, driver: StoreDriver) -> None:
        if Feature.CALLER_TRANSACTION not in driver.features:
            raise FeatureMissing(self.backend, [Feature.CALLER_TRANSACTION], hint="leave connection= out")

    # --- Reading one actor ---

    def read(
        self,
        actor_id: str,
        *,
        after: int = 0,
        upto: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
        min_version: int = 0,
    ) -> AsyncIterator[Event]:
        """Iterate over the actor's events with `after < version <= upto`, in order, or in exactly the reverse order.

        Reads pages, so memory is bounded; leaving the loop early leaves nothing behind. With `min_version` it answers
        from a state that holds that version, or raises `StaleRead` within the time-out.
        Raises `CorruptEvent` for a stored event that cannot be decoded, or where a version is missing.
        """
        self._live()
        check_name("actor id", actor_id)
        for name, value in (("after", after), ("upto", upto), ("limit", limit), ("min_version", min_version)):
            check_count(name, value)
        return read_actor(self, actor_id, after, upto, limit, reverse, min_version)

    async def version(self, actor_id: str, *, min_version: int = 0) -> int:
        """The actor's latest version, 0 if it is unknown.

        With `min_version`: from a state that holds that version, or `StaleRead` within the time-out.
        """
        driver = self._live()
        check_name("actor id", actor_id)
        check_count("min_version", min_version)
        version = await self._ask(lambda: driver.version(actor_id), lambda found: found >= min_version)
        if version < min_version:
            raise StaleRead(f"version of {actor_id!r}", wanted=min_version, found=version)
        return version

    # --- Reading all actors ---

    async def head(self) -> Position:
        """The position of the last event of the feed, `START` while it is empty."""
        return self._position(await self._live().head())

    def feed(
        self,
        *,
        after: Position = START,
        limit: int | None = None,
        types: Iterable[str] | None = None,
        actors: str | None = None,
        min_position: Position = START,
    ) -> AsyncIterator[tuple[Position, Event]]:
        """Iterate over `(position, event)` of all actors in the one order of the namespace, up to its present end.

        `types` is an OR over names, `actors` a pattern in which `*` is any run of characters. With `min_position` it
        answers from a state that holds that position, or raises `StaleRead` within the time-out.
        Raises `StoreIdentityChanged` when `after` is of a store that was wiped or restored, and `CorruptEvent`.
        """
        self._live()
        check_count("limit", limit)
        _check_position("after", after)
        _check_position("min_position", min_position)
        return read_feed(self, after, limit, EventFilter(types=types, actors=actors), min_position)

    async def _end(self, min_position: Position) -> int:
        if min_position.order and min_position.store != self.identity:
            raise StoreIdentityChanged(min_position, f"this store is {self.identity}")
        head = await self._ask(self._live().head, lambda found: _order(found) >= min_position.order)
        if _order(head) < min_position.order:
            raise StaleRead(f"feed of {self.namespace!r}", wanted=min_position, found=self._position(head))
        return _order(head)

    def subscribe(
        self,
        *,
        after: Position = START,
        types: Iterable[str] | None = None,
        actors: str | None = None,
        buffer: int = 256,
    ) -> Subscription:
        """Follow the feed: what is stored behind `after`, then what is appended, without end, seam, loss or repeat.

            async with store.subscribe(after=position) as events:
                async for position, event in events: ...

        Holds at most `buffer` decoded events and never slows a writer. Raises as `feed` when it is entered.
        """
        self._live()
        _check_position("after", after)
        check_count("buffer", buffer)
        if buffer < 1:
            raise ValueError("buffer is at least 1")
        return Subscription(self, after, EventFilter(types=types, actors=actors), buffer)

    async def _resume(self, after: Position) -> int:
        """The driver's position for `after`, having made sure that the same event still stands there."""
        if after.order == 0:
            return 0
        driver = self._live()
        if after.store != driver.identity:
            raise StoreIdentityChanged(after, f"this store is {driver.identity}")
        head = await self._ask(driver.head, lambda found: _order(found) >= after.order)
        if _order(head) < after.order:
            raise StoreIdentityChanged(after, "it lies behind the end of the store")
        page = await driver.feed(after=after.order - 1, upto=after.order, limit=1)
        found = self._position(page.records[0] if page.records else None)
        if found != after:
            raise StoreIdentityChanged(after, "another event stands there, or none")
        return after.order

    # --- Snapshots and checkpoints ---

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, unless a newer one of the same schema is kept already.

        Raises `InvalidSnapshot` when its state is not JSON, or when it is newer than the actor.
        """
        driver = self._live()
        if type(snapshot) is not Snapshot:
            raise InvalidSnapshot("?", f"a Snapshot is needed, not {type(snapshot).__name__}")
        check_name("actor id", snapshot.actor_id)
        check_name("snapshot schema", snapshot.schema)
        if type(snapshot.version) is not int or snapshot.version < 1:
            raise InvalidSnapshot(snapshot.actor_id, f"its version is 1 or more, not {snapshot.version!r:.80}")
        await _slots.save_snapshot(driver, snapshot, timeout=self.timeout)

    async def snapshot(self, actor_id: str, *, schema: str) -> Snapshot | None:
        """The latest snapshot of this schema; None if there is none that can be trusted. Go on with `read(after=)`.

        One that is damaged, of another store or newer than the actor is ignored with a warning.
        """
        driver = self._live()
        check_name("actor id", actor_id)
        check_name("snapshot schema", schema)
        return await _slots.load_snapshot(driver, actor_id, schema)

    async def save_checkpoint(
        self,
        name: str,
        position: Position,
        *,
        token: int,
        expected: Position | None = None,
        connection: object | None = None,
    ) -> None:
        """Keep how far a consumer has come, fenced: raises `StaleToken` if a higher token has written there.

        With `expected` it raises `CheckpointMoved` unless the checkpoint is there: in the caller's transaction that is
        what keeps a commit whose answer was lost from being done twice.
        """
        driver = self._live()
        check_name("checkpoint name", name)
        _check_position("position", position)
        check_count("token", token)
        if connection is not None:
            self._need_transactions(driver)
        if position.order and position.store != driver.identity:
            raise StoreIdentityChanged(position, f"this store is {driver.identity}")
        if expected is not None:
            _check_position("expected", expected)
        await _slots.save_checkpoint(
            driver,
            name,
            position,
            token=token,
            expected=expected,
            timeout=self.timeout,
            left=self._left,
            transaction=connection,
        )

    async def claim_checkpoint(self, name: str, *, token: int | None = None) -> Claim:
        """Take a checkpoint over, in one step: from now on nobody with a lower token moves it.

        `token` is that of an election's term; without one it becomes higher than every token before, and of several
        callers each gets its own. Raises `StaleToken` if a higher token has written there, `StoreIdentityChanged`.
        """
        driver = self._live()
        check_name("checkpoint name", name)
        check_count("token", token)
        return await _slots.claim_checkpoint(driver, name, token=token, timeout=self.timeout, left=self._left)

    async def checkpoint(self, name: str) -> Position:
        """How far a consumer has come, `START` if nothing was kept. Raises `StoreIdentityChanged`."""
        driver = self._live()
        check_name("checkpoint name", name)
        return (await _slots.load_checkpoint(driver, name)).position

    async def checkpoint_token(self, name: str) -> int:
        """The highest token that has written a checkpoint, 0 if none has: the `floor` of the election behind it."""
        driver = self._live()
        check_name("checkpoint name", name)
        return (await _slots.load_checkpoint(driver, name)).token

    # --- Helpers ---

    def _position(self, stored: Stored | None) -> Position:
        return START if stored is None else Position.at(self.identity, stored.position, decode_event(stored).id)

    async def _ask(self, question: Callable[[], Awaitable[Answer]], fresh: Callable[[Answer], bool]) -> Answer:
        """Ask until the answer is fresh or the time-out is over, and return the last answer."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.timeout
        while True:
            answer = await question()
            if fresh(answer) or clock() >= deadline:
                return answer
            await asyncio.sleep(_RETRY_PAUSE)
            self._live()


def _order(stored: Stored | None) -> int:
    return 0 if stored is None else stored.position


def _check_position(name: str, value: object) -> None:
    if type(value) is not Position:
        raise ValueError(f"{name} is a Position (START, or one that this store gave), not {type(value).__name__}")
