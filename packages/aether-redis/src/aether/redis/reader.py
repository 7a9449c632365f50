"""Reading events: pages of the stream, and of one actor by the positions in its list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from aether.core.errors import CorruptEvent, StoreIdentityChanged
from aether.core.spi import Page, Stored
from aether.redis.history import History
from aether.redis.lines import Line
from aether.redis.places import Command
from aether.redis.scripts import PAGE
from aether.redis.space import Space, stamp_of

PAGE_EVENTS = 1000
PAGE_BYTES = 4 << 20

Row = list[Any]
"""An entry of the stream: its id, and one field whose name is the version and the actor, and whose value the event."""


class Reader:
    """Pages of one namespace.

    A page is read with plain commands where it cannot become too large, because a script halves the speed: the largest
    event of the namespace is known, as of the end of what is read.
    """

    def __init__(self, line: Line, space: Space, history: History) -> None:
        self._line = line
        self._space = space
        self._history = history

    # --- The feed ---

    async def head(self) -> Stored | None:
        """The last event."""
        seen = self._history.highest
        rows, largest = await self._line.call(
            "head",
            ("XREVRANGE", self._space.events, "+", "-", "COUNT", 1),
            ("HGET", self._space.meta, "largest"),
            writes=False,
        )
        position = self._history.saw(rows[0][0]) if rows else 0
        if position < seen:
            raise StoreIdentityChanged(seen, f"the store was seen to reach it, and now ends at {position}")
        self._history.largest = max(self._history.largest, int(largest or 0))
        return stored(rows[0], position) if rows else None

    async def feed(self, after: int, upto: int, limit: int) -> Page:
        """Events with `after < position <= upto`, which is there."""
        if upto <= after:
            return Page([], more=False)
        rows = await self._rows(after, upto, min(limit, PAGE_EVENTS))
        if not rows:
            raise StoreIdentityChanged(upto, f"the store ends at or before position {after}")
        first = self._history.follows(after, rows)
        last = first + len(rows) - 1
        return Page([stored(row, position) for position, row in enumerate(rows, first)], more=last < upto)

    async def _rows(self, after: int, upto: int, count: int) -> Sequence[Row]:
        if self._history.largest * min(count, upto - after) <= 2 * PAGE_BYTES:
            command: Command = ("XRANGE", self._space.events, after + 1, upto, "COUNT", count)
            rows: Sequence[Row] = (await self._line.call("feed", command, writes=False))[0]
            return rows
        return await self._bounded("feed", [(after + 1, min(upto, after + count))])

    async def _bounded(self, what: str, ranges: Sequence[tuple[int, int]]) -> Sequence[Row]:
        """Entries of ranges of positions, until they have as many bytes as a page."""
        bounds = [bound for pair in ranges for bound in pair]
        replies = await self._line.run(what, PAGE, [self._space.events], [PAGE_BYTES, *bounds], writes=False)
        rows: Sequence[Row] = replies[0]
        return rows

    # --- One actor ---

    async def actor(self, actor_id: str, after: int, upto: int | None, limit: int | None, *, reverse: bool) -> Page:
        """A page of an actor's events."""
        what = f"read of {actor_id!r}"
        positions, more = await self._positions(what, actor_id, after, upto, limit, reverse=reverse)
        if reverse:
            positions.reverse()
        if not positions:
            return Page([], more=False)
        rows = await self._entries(what, positions, reverse=reverse)
        records = [_of_actor(row, position, actor_id) for row, position in zip(rows, positions, strict=False)]
        if not records:
            raise _missing(actor_id, positions[0])
        return Page(records, more or len(records) < len(positions))

    async def _entries(self, what: str, positions: Sequence[int], *, reverse: bool) -> Sequence[Row]:
        """The entries at these positions, as many of the first of them as one page takes."""
        if self._history.largest * len(positions) > 2 * PAGE_BYTES:
            return await self._bounded(what, list(_runs(positions)))
        ranges = _runs(positions[::-1] if reverse else positions)
        commands = [("XRANGE", self._space.events, first, last) for first, last in ranges]
        replies = await self._line.call(what, *commands, writes=False)
        rows = [row for reply in replies for row in reply]
        if len(rows) < len(positions):
            there = {stamp_of(row[0])[0] for row in rows}
            raise _missing(None, next(position for position in positions if position not in there))
        return rows[::-1] if reverse else rows

    async def _positions(
        self, what: str, actor_id: str, after: int, upto: int | None, limit: int | None, *, reverse: bool
    ) -> tuple[list[int], bool]:
        """Where the events of a page are, upwards, and whether more follow."""
        if upto is not None and upto <= after:
            return [], False
        size = PAGE_EVENTS if limit is None else min(limit, PAGE_EVENTS)
        if not reverse:
            start, stop = after, (after + size if upto is None else min(after + size, upto)) - 1
        elif upto is None:
            start, stop = -size, -1
        else:
            start, stop = max(after, upto - size), upto - 1
        key = self._space.actor(actor_id)
        found, length, largest = await self._line.call(
            what,
            ("LRANGE", key, start, stop),
            ("LLEN", key),
            ("HGET", self._space.meta, "largest"),  # behind the positions: it is as new as they are
            writes=False,
        )
        self._history.largest = max(self._history.largest, int(largest or 0))
        positions = [int(position) for position in found]
        if not reverse:
            end = length if upto is None else min(length, upto)
            return positions, start + len(positions) < end
        if upto is not None and upto > length:  # the page ends at the latest one
            return await self._positions(what, actor_id, after, length, limit, reverse=True)
        if upto is None:
            start = length - len(positions)
            positions, start = positions[max(0, after - start) :], max(start, after)
        return positions, start > after

    async def version(self, actor_id: str) -> int:
        """The actor's latest version."""
        command = ("LLEN", self._space.actor(actor_id))
        return int((await self._line.call(f"version of {actor_id!r}", command, writes=False))[0])


def stored(row: Row, position: int) -> Stored:
    """The event of an entry. Raises `CorruptEvent`."""
    try:
        name, data = row[1]
        version, _, actor = name.partition(b" ")
        return Stored(position, _text(actor), int(version), data)
    except ValueError as error:
        raise CorruptEvent(None, None, position, "its entry is none of ours") from error


def _of_actor(row: Row, position: int, actor_id: str) -> Stored:
    found = stored(row, position)
    if row[0].partition(b"-")[0] != b"%d" % position:
        raise _missing(actor_id, position)
    if found.actor_id != actor_id:
        raise CorruptEvent(actor_id, None, position, f"an event of {found.actor_id!r} stands there")
    return found


def _missing(actor_id: str | None, position: int) -> CorruptEvent:
    return CorruptEvent(actor_id, None, position, "it is missing in the stream of events")


@lru_cache(maxsize=4096)
def _text(actor: bytes) -> str:
    return actor.decode()


def _runs(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Positions that follow each other, as ranges: of a range the stream holds nothing else."""
    first = last = positions[0]
    for position in positions[1:]:
        if position != last + 1:
            yield first, last
            first = position
        last = position
    yield first, last
