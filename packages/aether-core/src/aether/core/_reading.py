"""Reading in pages, each of which is asked for while the one before is consumed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from aether.core._ahead import Ahead
from aether.core.encoding import AT_ONCE, decode_events
from aether.core.errors import CorruptEvent
from aether.core.event import Event, Position
from aether.core.filters import EventFilter
from aether.core.spi import Page

if TYPE_CHECKING:
    from aether.core.store import EventStore

_FIRST_PAGE, _LARGEST_PAGE = 500, 8000  # events; pages of the feed double, a driver may always return less


async def read_short(store: EventStore, actor_id: str, *, after: int, upto: int | None) -> list[Event] | None:
    """What `read` gives, where that is one page: without all that more of them would need. None where it is not."""
    page = await store._live().read(actor_id, after=after, upto=upto, limit=None, reverse=False)
    if page.more:
        return None
    found: list[Event] = []
    for event in decode_events(page.records):
        after += 1
        if event.version != after:
            raise _missing(page, event.version, after)
        found.append(event)
    return found


def _parts(asking: int, size: int) -> Iterator[tuple[int, int]]:
    """A page in parts that are decoded together. One of them begins where the next page is asked for."""
    for first, last in ((0, asking), (asking, size)):
        for start in range(first, last, AT_ONCE):
            yield start, min(start + AT_ONCE, last)


def _asking_at(size: int, *, first: bool) -> int:
    """Where in a page to ask for the next one: at once, but for the first, whose reader may want no more than that."""
    return min(max(1, size // 4), size - 1) if first else 0


def _missing(page: Page, version: int, expected: int) -> CorruptEvent:
    (*_, stored) = (stored for stored in page.records if stored.version == version)
    return CorruptEvent(stored.actor_id, expected, stored.position, f"version {version} stands there")


async def read_actor(
    store: EventStore, actor_id: str, after: int, upto: int | None, limit: int | None, reverse: bool, min_version: int
) -> AsyncIterator[Event]:
    """See `EventStore.read`."""
    if min_version:
        await store.version(actor_id, min_version=min_version)
    if limit == 0 or (upto is not None and upto <= after):
        return
    step = -1 if reverse else 1
    expected = None if reverse else after + step
    ahead = Ahead(store)
    first = True
    try:
        page = await store._live().read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
        while page.records:
            last = page.records[-1].version
            if limit is not None:
                limit -= len(page.records)
            after, upto = (after, last - 1) if reverse else (last, upto)
            more = page.more and limit != 0 and (upto is None or upto > after)
            expected = page.records[0].version if expected is None else expected
            asking, first = _asking_at(len(page.records), first=first), False
            for start, end in _parts(asking, len(page.records)):
                if start == asking and more:
                    question = store._live().read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)
                    await ahead.begin(question)
                for event in decode_events(page.records[start:end]):
                    if event.version != expected:
                        raise _missing(page, event.version, expected)
                    expected += step
                    yield event
            if not more:
                return
            page = await ahead.page()
    finally:
        ahead.leave()


async def read_feed(
    store: EventStore, after: Position, limit: int | None, wanted: EventFilter, min_position: Position
) -> AsyncIterator[tuple[Position, Event]]:
    """See `EventStore.feed`."""
    if limit == 0:
        return
    order = await store._resume(after)
    end = await store._end(min_position)
    identity = store.identity
    left = limit
    size = _FIRST_PAGE
    if order >= end:
        return
    ahead = Ahead(store)
    first = True
    try:
        page = await store._live().feed(after=order, upto=end, limit=size)
        while page.records:
            order = page.records[-1].position
            more = page.more and order < end
            size = min(2 * size, _LARGEST_PAGE)
            asking, first = _asking_at(len(page.records), first=first), False
            for start, stop in _parts(asking, len(page.records)):
                if start == asking and more:
                    await ahead.begin(store._live().feed(after=order, upto=end, limit=size))
                part = page.records[start:stop]
                for stored, event in zip(part, wanted.decode_all(part), strict=True):
                    if event is not None:
                        yield Position.at(identity, stored.position, event.id), event
                        if left is not None:
                            left -= 1
                            if left == 0:
                                return
            if not more:
                return
            page = await ahead.page()
    finally:
        ahead.leave()
