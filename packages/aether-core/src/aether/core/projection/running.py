"""Projections and reactors that run here: elected, fenced, supervised."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

import msgspec

from aether.core.clock import SYSTEM_CLOCK, Clock
from aether.core.election import DEFAULT_TTL, Election
from aether.core.errors import FeatureMissing, StaleToken
from aether.core.event import START, Event, Position
from aether.core.features import Feature
from aether.core.filters import EventFilter
from aether.core.projection.checkpoint import Checkpoint
from aether.core.projection.consumer import Consumer
from aether.core.projection.journal import Begun, Journal, Kind, checkpoint_of
from aether.core.projection.policy import OnError, is_superseded, is_transient
from aether.core.projection.worker import Share, Transaction, Work, Worker
from aether.core.store import EventStore

_log = logging.getLogger("aether")

BATCH = 500
"""Events that are read, handled and checkpointed together at most."""

Handler = Callable[..., Awaitable[object] | object]
"""`handler(event)`, or `handler(event, connection)` with `transaction=`. `async def`, or a function that is quick."""

_OUTAGE = OnError(then="stop", first=0.1, longest=5.0)  # the pauses while the store cannot be reached


class batched:  # noqa: N801 - it reads as a function, and is one that is marked
    """Mark a handler that takes a sequence of events, up to `batch` of them, in place of one."""

    def __init__(self, handler: Callable[..., Awaitable[object] | object]) -> None:
        self.handler = handler

    def __call__(self, events: Sequence[Event], *connection: Any) -> Awaitable[object] | object:
        return self.handler(events, *connection)


class State(msgspec.Struct, frozen=True):
    """What one partition does in this process."""

    partition: int
    state: Literal["stopped", "standing by", "running", "retrying", "no store"]
    error: str = ""


class Running(Consumer):
    """A projection or reactor with its handler. `run()` it for ever, or enter it to run it beside the block.

    When it ends with an error, the block is cancelled and `async with` raises the error: it is never silent.
    """

    def __init__(
        self,
        store: EventStore,
        name: str,
        work: Work,
        *,
        kind: Kind,
        version: int,
        election: Election | None,
        ttl: float,
        partitions: int,
        begin: Position | Literal["now"],
    ) -> None:
        super().__init__(store, name, kind=kind, version=version)
        if type(partitions) is not int or partitions < 1:
            raise ValueError(f"partitions is a whole number of 1 or more, not {partitions!r:.80}")
        self._work = work
        self._number = version
        self._election = election
        self._ttl = ttl
        self._partitions = partitions
        self._begin = begin
        self._states = [State(number, "stopped") for number in range(partitions)]
        self._claimed: dict[int, int] = {}
        """The token of each partition that was taken without an election."""

        self._group: asyncio.TaskGroup | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def states(self) -> tuple[State, ...]:
        """What each partition does in this process, with the error that it is retrying."""
        return tuple(self._states)

    async def run(self) -> NoReturn:
        """Run until cancelled.

        Raises what the handler raised where `on_error` says stop, `StaleToken` where another process without an
        election has taken over, `FeatureMissing` for `transaction=` on a store without CALLER_TRANSACTION,
        `ValueError` for other `partitions` than it began with, and `CorruptEvent`, `StoreIdentityChanged`, `Closed`.
        An outage of the store is waited for.
        """
        if self._work.transaction is not None and Feature.CALLER_TRANSACTION not in self.store.features:
            missing = [Feature.CALLER_TRANSACTION]
            raise FeatureMissing(self.store.backend, missing, hint="leave transaction= out: it is at least once then")
        self._claimed.clear()
        async with _single(), asyncio.TaskGroup() as group:
            for number in range(self._partitions):
                group.create_task(self._supervise(number), name=f"{self} {number}")
        raise AssertionError("its tasks never return")

    async def __aenter__(self) -> Self:
        if self._group is not None:
            raise RuntimeError(f"{self} runs here already")
        self._group = await asyncio.TaskGroup().__aenter__()
        self._task = self._group.create_task(self.run(), name=str(self))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        group, task = self._group, self._task
        assert group is not None
        assert task is not None
        task.cancel()
        self._group = self._task = None
        async with _single():
            if isinstance(error, asyncio.CancelledError):  # perhaps by the group, because the task has failed
                await group.__aexit__(kind, error, traceback)
            else:
                await group.__aexit__(None, None, None)

    def _begins(self, version: int) -> bool:
        return version == self._number and self._task is not None

    # --- One partition ---

    async def _supervise(self, number: int) -> NoReturn:
        checkpoint = checkpoint_of(self.key, self._number, number, self._partitions)
        outages = 0
        try:
            while True:
                try:
                    await self._lead(number, checkpoint)
                except Exception as error:
                    superseded = is_superseded(error, checkpoint)
                    if superseded and self._election is None and isinstance(error, StaleToken):
                        error.add_note(f"{self} was started elsewhere; give both an election=, and one stands by")
                        raise
                    if not (superseded or is_transient(error)):
                        raise
                    outages = 0 if self._states[number].state == "running" else outages + 1
                    self._report(number, "standing by" if superseded else "no store", error)
                    await self._work.clock.sleep(_OUTAGE.pause(outages, random.random()))
        finally:
            self._report(number, "stopped", None)

    async def _lead(self, number: int, checkpoint: str) -> None:
        """Work on a partition for as long as it is this process's; without an election it is taken."""
        if self._election is None:
            # Behind an outage with the token of before: whoever was started meanwhile is the last one.
            await self._run(number, checkpoint, self._claimed.get(number))
        self._report(number, "standing by", None)

        async def floor() -> int:
            return await self.store.checkpoint_token(checkpoint)

        async with self._election.lead(checkpoint, ttl=self._ttl, floor=floor) as term:
            await self._run(number, checkpoint, term.token)

    async def _run(self, number: int, checkpoint: str, token: int | None) -> NoReturn:
        journal, begun = await self._begun()
        claim = await self.store.claim_checkpoint(checkpoint, token=token)
        if self._election is None:
            self._claimed[number] = claim.token
        await Worker(
            self.store,
            self._work,
            journal,
            version=self._number,
            share=Share(number, self._partitions),
            checkpoint=Checkpoint(self.store, checkpoint, claim, clock=self._work.clock, moved=self._arrived),
            start=Position.parse(begun.position) if claim.position == START else claim.position,
            report=lambda state, error: self._report(number, state, error),
        ).run()

    async def _begun(self) -> tuple[Journal, Begun]:
        """The journal, and how this version began; it begins now if it never ran."""
        journal = await self._journal()
        if self._number not in journal.begun:
            position = await self.store.head() if self._begin == "now" else self._begin
            await journal.note(Begun(self._number, self._partitions, str(position)))
        begun = journal.begun[self._number]
        if begun.partitions != self._partitions:
            raise ValueError(
                f"{self} began with partitions={begun.partitions}, whose checkpoints say nothing about "
                f"{self._partitions}; keep that number, or run it as another version and switch"
            )
        return journal, begun

    def _report(self, number: int, state: Any, error: Exception | None) -> None:
        """Keep what a partition does, and log it once per change."""
        before = self._states[number]
        told = "" if error is None else f"{type(error).__name__}: {error}"[:500]
        self._states[number] = State(number, state, told)
        if state != before.state:
            level = logging.INFO if error is None else logging.WARNING
            _log.log(level, "%s, partition %d: %s%s", self, number, state, f" ({told})" if told else "")


@asynccontextmanager
async def _single() -> AsyncIterator[None]:
    """Raise the error of a task as it is, where it is the only one."""
    task = asyncio.current_task()
    assert task is not None
    asked = task.cancelling()
    try:
        yield
    except BaseExceptionGroup as group:
        # A group cancels its owner when a task fails, and up to Python 3.12 does not always take that back: up to
        # 3.11.2 time-outs of a task that was caught that way end with CancelledError.
        while task.cancelling() > asked:
            task.uncancel()
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


def _work(
    handler: Handler,
    on_error: OnError,
    transaction: Transaction | None,
    types: Iterable[str] | None,
    actors: str | None,
    batch: int,
    clock: Clock,
) -> Work:
    if not isinstance(on_error, OnError):
        raise ValueError(f"on_error is STOP, PARK or retry(...), not {on_error!r:.80}")
    if type(batch) is not int or batch < 1:
        raise ValueError(f"batch is a whole number of 1 or more, not {batch!r:.80}")
    return Work(
        handler=handler,
        batched=isinstance(handler, batched),
        transaction=transaction,
        on_error=on_error,
        wanted=EventFilter(types=types, actors=actors),
        batch=batch,
        clock=clock,
    )


def project(
    store: EventStore,
    name: str,
    handler: Handler,
    *,
    on_error: OnError,
    election: Election | None = None,
    ttl: float = DEFAULT_TTL,
    transaction: Transaction | None = None,
    types: Iterable[str] | None = None,
    actors: str | None = None,
    version: int = 1,
    partitions: int = 1,
    batch: int = BATCH,
    clock: Clock = SYSTEM_CLOCK,
) -> Running:
    """Prepare a projection: every event, from the first one on, goes through `handler` into a view.

        async with project(store, "order-list", handler, on_error=STOP, election=election) as orders:
            await orders.wait(executed.position, timeout=5)

    Events come in the order of the feed, so those of an actor in theirs, and each at least once: behind a crash those
    since the last checkpoint come again. With `transaction=engine.begin` on a store in the same database, what
    `handler(event, connection)` writes and the checkpoint are one commit: each event has its effect exactly once.

    `election` lets one process be active while others stand by, failing over within `ttl` seconds. Without one
    whoever starts last takes over, and the other ends with `StaleToken`. Either way what was superseded moves no
    checkpoint. `partitions` divides the actors by shard; each part is elected, ordered and checkpointed on its own.

    `on_error` is `STOP`, `PARK` or `retry(...)`. `types` is an OR over names (`EventTypes.names`), `actors` a pattern;
    the rest is passed by. A new `version` starts from the first event beside the others; `switch` makes it the one
    that readers use. `batched(handler)` takes up to `batch` events at once.
    """
    work = _work(handler, on_error, transaction, types, actors, batch, clock)
    return Running(
        store,
        name,
        work,
        kind="projection",
        version=version,
        election=election,
        ttl=ttl,
        partitions=partitions,
        begin=START,
    )


def react(
    store: EventStore,
    name: str,
    handler: Handler,
    *,
    begin: Position | Literal["now"],
    on_error: OnError,
    election: Election | None = None,
    ttl: float = DEFAULT_TTL,
    types: Iterable[str] | None = None,
    actors: str | None = None,
    partitions: int = 1,
    batch: int = BATCH,
    clock: Clock = SYSTEM_CLOCK,
) -> Running:
    """Prepare a reactor: events lead to effects outside, such as mail, payments, or commands to other actors.

    It differs from a projection in that it has no versions, so no rebuild ever runs it again, and in that `begin` must
    say from where it starts when it runs first: `"now"`, so that it does nothing about the past, or a position. From
    then on it goes on where it was, also behind a standstill.

    Effects are at least once: hand `event.id` on as the key (`execute(..., key=event.id)`, a mail's Message-ID).
    Everything else is as in `project`.
    """
    if not (begin == "now" or isinstance(begin, Position)):
        raise ValueError(f"begin is 'now' or a Position such as START, not {begin!r:.80}")
    work = _work(handler, on_error, None, types, actors, batch, clock)
    return Running(
        store,
        name,
        work,
        kind="reactor",
        version=1,
        election=election,
        ttl=ttl,
        partitions=partitions,
        begin=begin,
    )
