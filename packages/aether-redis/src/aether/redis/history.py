"""What a store has seen of its own past, so that it notices when another history answers.

A failover to a replica that was behind, a restore, or a power cut take events away, and their positions are given to
others. So each entry carries two random tags, those of the batch before it and of its own: whoever goes on from an
entry can tell that what follows was written behind that very entry. It costs no question, and finds the exchange
also where the connection has lived through it, as it may when a primary becomes a replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aether.core.errors import BackendUnusable, CorruptEvent, StoreIdentityChanged
from aether.redis.places import Ask
from aether.redis.scripts import INTRODUCE
from aether.redis.space import Space, make_stamp, stamp_of, tag_before, tag_of

FORMAT = 1
"""The form in which events are stored; another one is not read."""

_MOST_KNOWN = 256  # ends of pages that somebody may go on from


class History:
    """The identity of one store, the highest entry that was seen of it, and where pages have ended."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self.identity = ""
        self.largest = 0
        """The bytes of the largest event, as of `highest`."""

        self.highest = 0
        """The highest position that was seen."""

        self._stamp = 0
        self._tags: dict[int, int] = {0: 0}

    # --- Who answers ---

    async def make(self, ask: Ask, identity: str) -> None:
        """Find the store, or make it. Raises `BackendUnusable` for one of a newer format."""
        found, known, largest = await ask(
            "EVAL", INTRODUCE.text, 1, self._space.meta, *((identity, FORMAT) if identity else ())
        )
        if self.identity and found != self.identity.encode():
            now = "there is none" if found is None else f"it is {found.decode()}"
            raise StoreIdentityChanged(self._what, f"the store was {self.identity}, and now {now}")
        if found is None or known != b"%d" % FORMAT:
            form = "no format" if known is None else f"the format {known.decode(errors='replace')}"
            raise BackendUnusable(f"{self._what} has {form}: a newer aether-redis wrote it, or somebody else; upgrade")
        self.identity = found.decode()
        self.largest = max(self.largest, int(largest))

    async def check(self, ask: Ask) -> None:
        """Make sure that a new connection leads to the same history. Raises `StoreIdentityChanged`."""
        await self.make(ask, "")
        position, stamp = self.highest, self._stamp
        if position:
            found = await ask("XRANGE", self._space.events, position, position)
            if not found or stamp_of(found[0][0]) != (position, stamp):
                stands = "another event stands there" if found else "there is none now"
                raise StoreIdentityChanged(self._what, f"it was seen to reach position {position}, and {stands}")

    def gone(self) -> StoreIdentityChanged:
        """The error for a store whose server says that it is another one."""
        return StoreIdentityChanged(self._what, f"the store {self.identity} is gone, or was made anew")

    @property
    def _what(self) -> str:
        return self._space.meta.decode()

    # --- What was seen ---

    def appended(self, last: int, count: int, before: int, own: int) -> None:
        """This driver has stored `count` events up to position `last`, as one batch."""
        self._note(last, make_stamp(before if count == 1 else own, own))

    def saw(self, entry_id: bytes) -> int:
        """An entry that stands for itself; its position."""
        position, stamp = stamp_of(entry_id)
        self._note(position, stamp)
        return position

    def follows(self, after: int, rows: Sequence[Any]) -> int:
        """Make sure that a page follows what was seen at `after`, without a hole; return its first position.

        Raises `StoreIdentityChanged` or `CorruptEvent`.
        """
        first, stamp = stamp_of(rows[0][0])
        last, last_stamp = (first, stamp) if len(rows) == 1 else stamp_of(rows[-1][0])
        if last - after != len(rows):
            raise self._hole(after, rows)
        known = self._tags.get(after)
        if known is not None and known != tag_before(stamp):
            raise StoreIdentityChanged(self._what, f"what follows position {after} was written behind another event")
        self._note(last, last_stamp)
        return first

    def _note(self, position: int, stamp: int) -> None:
        if position > self.highest:
            self.highest, self._stamp = position, stamp
        tags = self._tags
        tags[position] = tag_of(stamp)
        if len(tags) > _MOST_KNOWN:
            del tags[next(iter(tags))]

    def _hole(self, after: int, rows: Sequence[Any]) -> CorruptEvent:
        for place, (entry_id, _) in enumerate(rows, after + 1):
            if stamp_of(entry_id)[0] != place:
                return CorruptEvent(None, None, place, "it is missing in the stream of events")
        raise AssertionError("no hole")
