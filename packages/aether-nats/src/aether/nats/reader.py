"""Pages of commits: of one actor, forwards and backwards, and of all actors."""

from __future__ import annotations

import asyncio

from aether.core.errors import CorruptEvent, StaleRead
from aether.core.spi import Page, Stored
from aether.nats.commits import INDEX_BITS, Commit, decode_chain, decode_records, sequence_of
from aether.nats.log import BATCH, BATCH_BYTES, EventLog

_ACTOR_BATCH = 2000
_REVERSE_PAGE = 500
_NEAR = 500  # versions or commits: a page that starts this much too early costs less than another look-up
_NEAR_BYTES = 1 << 18  # and with large ones, this many bytes
_LOOKUPS = 12
_PLACES = 4096  # actors of which a place is remembered
_RETRY_PAUSE = 0.005  # seconds until a replica that is behind is asked again


class Reader:
    """Reads what the leader says is there, from whichever replica answers, and proves that it is all of it."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._places: dict[str, tuple[int, int]] = {}
        """Where actors were read last: (first version, sequence) of a commit. True as long as it is this stream."""

        self._placed_at = 0
        self._events_per_commit = 1  # in the last page of the feed

    async def actor(
        self,
        actor_id: str,
        *,
        after: int,
        upto: int | None,
        limit: int | None,
        reverse: bool,
        tip: tuple[int, int] | None = None,
    ) -> Page:
        """One page of an actor's events. `tip` is the (last version, sequence) of the latest commit that is known."""
        if upto is not None and upto <= after:
            return Page([], more=False)
        subject = self._log.subject(actor_id)
        if tip is not None and not reverse and tip[0] <= after + 1:
            return await self._behind_tip(subject, tip, after=after, upto=upto, limit=limit)
        place = None if reverse else self._near_place(subject, after + 1)
        if place is None:
            latest = await self._log.last(subject)
            if latest is None or latest.last <= after:
                return Page([], more=False)
            end = latest.last if upto is None else min(upto, latest.last)
            if reverse:
                return await self._backwards(subject, latest, after=after, end=end, limit=limit)
            return await self._page(subject, latest, after=after, end=end, limit=limit)
        messages = _messages(limit, after + 1 - place[0])
        if self._log.replicas == 1:
            page = await self._told(subject, place[1], messages, after=after, upto=upto, limit=limit)
            if page is not None:
                return page
        # It is known where to begin: ask for the first page and for its end at once, which costs one round trip.
        first, latest = await self._log.patiently(lambda _: self._first_page(subject, place[1], messages))
        if latest is None or latest.last <= after:
            return Page([], more=False)
        end = latest.last if upto is None else min(upto, latest.last)
        return await self._page(subject, latest, after=after, end=end, limit=limit, first=first)

    async def _behind_tip(
        self, subject: str, tip: tuple[int, int], *, after: int, upto: int | None, limit: int | None
    ) -> Page:
        """Events from the latest commit that is known on: mostly there is no later one, or one that holds them all."""
        latest = await self._log.last(subject)
        if latest is None or latest.last <= after:
            return Page([], more=False)
        end = latest.last if upto is None else min(upto, latest.last)
        first = None
        if after + 1 < latest.first:
            first = await self._batch(tip[1], subject, _messages(limit, after + 1 - tip[0]))
        return await self._page(subject, latest, after=after, end=end, limit=limit, first=first)

    def _near_place(self, subject: str, version: int) -> tuple[int, int] | None:
        """A commit at or shortly before `version`, if one is known: (first version, sequence)."""
        if version == 1:
            return 1, 1
        if self._placed_at != self._log.connection.generation:
            # Of before a reconnect; behind it there may be an older state of the same stream.
            self._places.clear()
            self._placed_at = self._log.connection.generation
        place = self._places.get(subject)
        return place if place is not None and 0 <= version - place[0] <= _NEAR else None

    def _remember(self, subject: str, commit: Commit) -> None:
        self._places.pop(subject, None)
        self._places[subject] = commit.first, commit.sequence
        if len(self._places) > _PLACES:
            del self._places[next(iter(self._places))]

    async def _told(
        self, subject: str, sequence: int, messages: int, *, after: int, upto: int | None, limit: int | None
    ) -> Page | None:
        """The page from a sequence on, if that says enough; the only server knows what there is.

        It ends in front of what was asked for, in messages and in bytes, only where nothing follows. (The number that
        are pending, in the server's last message, counts those that were sent if they have no headers: 2.15.)
        """

        async def ask(_: float) -> tuple[tuple[list[bytes], int], bool]:
            async with self._log.batch(sequence, subject=subject, messages=messages) as batch:
                return await batch.result(), batch.ended

        (bodies, last), ended = await self._log.patiently(ask)
        if not bodies:
            return Page([], more=False) if sequence == 1 else None
        if not ended:
            return None
        self._log.note(last)
        complete = len(bodies) < messages and sum(map(len, bodies)) < BATCH_BYTES // 2
        commits = decode_chain(bodies, last)
        records = [record for commit in commits for record in commit.records(after=after, upto=upto)]
        if not records:
            return Page([], more=False) if complete else None
        self._remember(subject, next(one for one in commits if one.last > after))
        end = commits[-1].last + (not complete)
        return _cut(records, end if upto is None else min(end, upto), limit)

    async def _first_page(
        self, subject: str, sequence: int, messages: int
    ) -> tuple[tuple[list[bytes], int], Commit | None]:
        async with self._log.batch(sequence, subject=subject, messages=messages) as batch:
            latest = await self._log.last(subject)
            return await batch.result(), latest

    async def _page(
        self,
        subject: str,
        latest: Commit,
        *,
        after: int,
        end: int,
        limit: int | None,
        first: tuple[list[bytes], int] | None = None,
    ) -> Page:
        """Events with `after < version <= end`, at least one, where `end` exists and lies behind `after`."""
        if after + 1 >= latest.first:
            self._remember(subject, latest)
            return _cut(list(latest.records(after=after, upto=end)), end, limit)
        deadline = asyncio.get_running_loop().time() + self._log.timeout
        known, sequence = (after + 1, 1) if first is not None else await self._locate(subject, after + 1, latest)
        while True:
            bodies, last = first or await self._batch(sequence, subject, _messages(limit, after + 1 - known))
            first = None
            commits = decode_chain(bodies, last)
            records = [record for commit in commits for record in commit.records(after=after, upto=end)]
            if records:
                self._remember(subject, next(one for one in commits if one.last > after))
                return _cut(records, end, limit)
            if commits:
                known, sequence = commits[-1].last + 1, last + 1  # all of them lie before what is wanted
            elif asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(_RETRY_PAUSE)  # a replica that is behind the leader
            else:
                raise StaleRead(f"actor {latest.actor_id!r}", wanted=f"version {end}", found=f"version {after}")

    async def _backwards(self, subject: str, latest: Commit, *, after: int, end: int, limit: int | None) -> Page:
        size = _REVERSE_PAGE if limit is None else min(limit, _REVERSE_PAGE)
        while True:
            start = max(after, end - size)
            page = await self._page(subject, latest, after=start, end=end, limit=None)
            if not page.more:
                return Page(page.records[::-1], more=start > after)
            size = max(1, min(len(page.records), size // 2))  # too large for one page

    async def _locate(self, subject: str, version: int, latest: Commit) -> tuple[int, int]:
        """A place at or shortly before the commit that holds `version`: (its first version, its sequence).

        Versions of an actor rise with sequences, so this is interpolation search; it ends as soon as reading on from
        there is cheaper than looking further.
        """
        low_version, low_sequence = 0, 1
        high_version, high_sequence = latest.first, latest.sequence
        size = sum(map(len, latest.events)) or 1
        near_commits = max(1, min(_NEAR, _NEAR_BYTES // size))
        near_versions = max(1, min(_NEAR, _NEAR_BYTES * len(latest.events) // size))
        for _ in range(_LOOKUPS):
            if version - low_version <= near_versions or high_sequence - low_sequence <= near_commits:
                break
            share = (version - low_version) / (high_version - low_version)
            guess = low_sequence + int(share * (high_sequence - low_sequence))
            guess = min(max(guess, low_sequence + 1), high_sequence - 1)
            found = await self._log.at_or_after(subject, guess)
            if found is None:
                break  # a replica that is behind; reading from further in front is always right
            if found.first <= version:
                low_version, low_sequence = found.first, found.sequence
                if found.last >= version:
                    break
            else:
                high_version, high_sequence = found.first, guess
        return max(low_version, 1), low_sequence

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        """One page of the events of all actors, of no more than `limit`."""
        commits = min(limit // self._events_per_commit + 2, BATCH)  # what is cut off is read again
        records, more = await self.past(after=after, upto=upto, commits=commits)
        return Page(records[:limit], more=more or len(records) > limit)

    async def past(self, *, after: int, upto: int, commits: int, size: int = BATCH_BYTES) -> Page:
        """One page of the events of all actors: all events of so many commits, of about `size` bytes at most."""
        deadline = asyncio.get_running_loop().time() + self._log.timeout
        start = max(sequence_of(after), 1)
        end = sequence_of(upto)
        while True:
            bodies, last = await self._batch(start, None, min(commits, end - start + 1), size)
            if bodies and last != start + len(bodies) - 1:
                # Nothing can be deleted from this stream: a hole is a loss, and is never passed over.
                reason = f"sequences {start} to {last} hold {len(bodies)} commits"
                raise CorruptEvent(None, None, start << INDEX_BITS, reason)
            records = decode_records(bodies, start)
            if bodies:
                self._events_per_commit = max(1, len(records) // len(bodies))
            while records and records[-1].position > upto:
                records.pop()
            if records and records[0].position <= after:
                records = [record for record in records if record.position > after]
            if records:
                return Page(records, more=last < end)
            if bodies and last >= end:
                return Page([], more=False)
            if bodies:
                start = last + 1  # the commit of `after` was its last one here
            elif asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(_RETRY_PAUSE)  # a replica that is behind
            else:
                raise StaleRead(f"stream {self._log.stream!r}", wanted=f"sequence {end}", found=f"sequence {start - 1}")

    async def _batch(
        self, sequence: int, subject: str | None, messages: int, size: int = BATCH_BYTES
    ) -> tuple[list[bytes], int]:
        async def ask(_: float) -> tuple[list[bytes], int]:
            async with self._log.batch(sequence, subject=subject, messages=messages, size=size) as batch:
                return await batch.result()

        return await self._log.patiently(ask)


def _cut(records: list[Stored], end: int, limit: int | None) -> Page:
    if limit is not None and len(records) > limit:
        records = records[:limit]
    return Page(records, more=records[-1].version < end)


def _messages(limit: int | None, before: int = 0) -> int:
    """How many commits to ask for; up to `before` versions lie in front of what is wanted."""
    return _ACTOR_BATCH if limit is None else max(1, min(limit + before, _ACTOR_BATCH))
