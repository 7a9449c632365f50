"""Records what drivers are asked and what they answer.

It sits between facade and driver, where a backend answers: what the core repeats is several calls here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from aether.conformance.history.feeds import check_pages, check_subs
from aether.conformance.history.findings import FORMAT, Disproved, first, write
from aether.conformance.history.records import (
    Append,
    Delivery,
    Feed,
    Head,
    Outcome,
    Part,
    Read,
    Record,
    Seen,
    Version,
)
from aether.conformance.history.store import check_cas, check_global, check_session, check_set
from aether.conformance.wrappers import StoreWrapper
from aether.core.encoding import decode_event
from aether.core.errors import Unavailable, VersionConflict
from aether.core.spi import Page, Stored, StoreDriver, Tail, Write

_CHECKS = (
    ("every acknowledged event once, and none that was refused", check_set),
    ("appends and reads of each actor to be linearizable", check_cas),
    ("one order that agrees with real time", check_global),
    ("no handle to see an older state than before", check_session),
    ("pages of the feed without holes", check_pages),
    ("subscribers to miss, repeat and swap nothing", check_subs),
)


class StoreHistory:
    """What the stores of one namespace were asked, and what they answered."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.calls: list[Record] = []
        self._handles = count(1)
        self._tails = count(1)

    def wrap(self, driver: StoreDriver) -> StoreDriver:
        """A driver that is recorded; give it to `ctx.store(wrap=...)`."""
        return _Recorded(driver, self, f"store-{next(self._handles)}", self._tails)

    def check(self, stored: Sequence[Seen]) -> None:
        """Raise a `Violation` with what no sound store could have answered. `stored` is its feed in the end."""
        for expected, check in _CHECKS:
            findings = first(check(self.calls, tuple(stored)))
            if findings:
                total = f"a history of {len(self.calls)} calls and {len(stored)} events"
                raise Disproved(expected, findings, total=total, dump=self.dump(stored))

    def dump(self, stored: Sequence[Seen]) -> Path:
        """Write the history into the directory of temporary files."""
        header = {"aether-history": FORMAT, "namespace": self.namespace}
        final = [{"f": "final", **msgspec.structs.asdict(seen)} for seen in stored]
        return write(self.namespace, [header, *self.calls, *final])


def _seen_of(stored: Stored) -> Seen:
    """What an answer shows of an event."""
    return Seen(stored.position, stored.actor_id, stored.version, decode_event(stored).id)


def _all_seen(records: Sequence[Stored]) -> tuple[Seen, ...]:
    return tuple(_seen_of(stored) for stored in records)


class _Recorded(StoreWrapper):
    def __init__(self, inner: StoreDriver, history: StoreHistory, handle: str, tails: Iterator[int]) -> None:
        super().__init__(inner)
        self._history = history
        self._handle = handle
        self._tails = tails

    @contextmanager
    def _recorded(self, kind: Callable[..., Record], **asked: Any) -> Iterator[dict[str, Any]]:
        """Record a call when it has ended. The block puts into the dictionary what it answered."""
        begin = time.monotonic_ns()
        answer: dict[str, Any] = {"outcome": Outcome.OK}
        try:
            yield answer
        except BaseException as error:
            answer.update(_failed(error))
            raise
        finally:
            call = kind(handle=self._handle, begin=begin, end=time.monotonic_ns(), **asked, **answer)
            self._history.calls.append(call)

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        parts = tuple(Part(w.actor_id, w.expected, tuple(record.id for record in w.records)) for w in writes)
        with self._recorded(Append, parts=parts) as answer:
            answer["position"] = await self.inner.append(writes, transaction=transaction)
            position: int = answer["position"]
            return position

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        with self._recorded(Read, actor=actor_id, after=after, upto=upto, limit=limit, reverse=reverse) as answer:
            page = await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
            answer.update(events=_all_seen(page.records), more=page.more)
            return page

    async def version(self, actor_id: str) -> int:
        with self._recorded(Version, actor=actor_id) as answer:
            answer["version"] = version = await self.inner.version(actor_id)
            return version

    async def head(self) -> Stored | None:
        with self._recorded(Head) as answer:
            head = await self.inner.head()
            answer["position"] = 0 if head is None else head.position
            return head

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        with self._recorded(Feed, after=after, upto=upto) as answer:
            page = await self.inner.feed(after=after, upto=upto, limit=limit)
            answer.update(events=_all_seen(page.records), more=page.more)
            return page

    def tail(self, *, after: int) -> AbstractAsyncContextManager[Tail]:
        return self._tail(after)

    @asynccontextmanager
    async def _tail(self, after: int) -> AsyncIterator[Tail]:
        async with self.inner.tail(after=after) as tail:
            yield _RecordedTail(tail, self, next(self._tails), after)


class _RecordedTail:
    def __init__(self, inner: Tail, driver: _Recorded, number: int, after: int) -> None:
        self._inner = inner
        self._driver = driver
        self._number = number
        self._after = after

    async def page(self, limit: int) -> Sequence[Stored]:
        with self._driver._recorded(Delivery, tail=self._number, after=self._after) as answer:
            page = await self._inner.page(limit)
            answer["events"] = _all_seen(page)
            return page


def _failed(error: BaseException) -> dict[str, Any]:
    described = f"{type(error).__name__}: {error}"
    if isinstance(error, VersionConflict):
        found = {"conflict": error.actor_id, "current": error.current}
        return {"outcome": Outcome.REFUSED, "error": described, **found}
    return {"outcome": Outcome.UNSENT if isinstance(error, Unavailable) else Outcome.UNKNOWN, "error": described}
