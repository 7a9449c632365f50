"""Checks the history of a store's appends and reads against what was stored in the end.

Checking linearizability is a search in general. Here every accepted append names the versions that it made, so the
order of the writes is given, and checking is a sort (Gibbons and Korach, "Testing shared memories"): put every call
where its answer says that it belongs; then nothing may have ended before something began that stands in front of it.
What is true for each actor is true for all of them together. What was stored resolves a call of unknown outcome.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from aether.conformance.history.findings import Finding
from aether.conformance.history.records import Append, Call, Head, Outcome, Part, Read, Record, Seen, Version

_NEVER = float("inf")

Stored = tuple[Seen, ...]
"""All events in the end, in the order of the feed."""


class _Attempt(NamedTuple):
    call: Append
    part: Part


class Observed(NamedTuple):
    """What a call has seen of one actor: that it was at a version, or had reached it at least."""

    call: Call
    actor: str
    version: int
    exact: bool


def check_set(calls: Sequence[Record], stored: Stored) -> Iterator[Finding]:
    """Acknowledged events are there, once; nothing is there that nobody wrote, or that was refused."""
    attempts = _attempts(calls)
    found: dict[str, Seen] = {}
    for seen in stored:
        if seen.id in found:
            yield Finding(f"event {seen.id} is stored twice", [found[seen.id], seen])
        found[seen.id] = seen
        tried = attempts.get(seen.id, ())
        if not tried:
            yield Finding(f"event {seen.id} is stored, and nobody wrote it", [seen])
        elif not any(each.call.outcome in (Outcome.OK, Outcome.UNKNOWN) for each in tried):
            calls_shown = [seen, *(each.call for each in tried)]
            yield Finding(f"event {seen.id} is stored, though every append of it was refused or unsent", calls_shown)
    for event_id, tried in attempts.items():
        acknowledged = [each.call for each in tried if each.call.outcome is Outcome.OK]
        if acknowledged and event_id not in found:
            yield Finding(f"event {event_id} was acknowledged, and is lost", acknowledged)
        if len(acknowledged) > 1:
            yield Finding(f"event {event_id} was acknowledged twice as new", acknowledged)


def check_cas(calls: Sequence[Record], stored: Stored) -> Iterator[Finding]:
    """Appends, reads, versions and conflicts of each actor are linearizable."""
    attempts = _attempts(calls)
    observations: dict[str, list[Observed]] = defaultdict(list)
    for observed in observations_of(calls):
        observations[observed.actor].append(observed)
    events: dict[str, list[Seen]] = defaultdict(list)
    for seen in stored:
        events[seen.actor].append(seen)
    yield from _check_shown(calls, events)
    for actor in {*events, *observations}:
        yield from _check_actor(sorted(events[actor], key=_version), observations[actor], attempts)


def _version(seen: Seen) -> int:
    return seen.version


def _attempts(calls: Iterable[Record]) -> dict[str, list[_Attempt]]:
    attempts: dict[str, list[_Attempt]] = defaultdict(list)
    for call in calls:
        if isinstance(call, Append):
            for part in call.parts:
                for event_id in part.ids:
                    attempts[event_id].append(_Attempt(call, part))
    return attempts


def observations_of(calls: Iterable[Record]) -> Iterator[Observed]:
    """What calls have seen of the versions of actors."""
    for call in calls:
        if isinstance(call, Append) and call.conflict:
            yield Observed(call, call.conflict, call.current, exact=True)
        elif isinstance(call, Version) and call.outcome is Outcome.OK:
            yield Observed(call, call.actor, call.version, exact=True)
        elif isinstance(call, Read) and call.outcome is Outcome.OK:
            yield from _seen_by(call)


def _seen_by(call: Read) -> Iterator[Observed]:
    latest = max((seen.version for seen in call.events), default=0)
    cut = call.limit is not None and len(call.events) >= call.limit
    if call.reverse:
        # The first page from the end begins with the latest version, however much of the rest it shows.
        whole = call.upto is None and bool(call.events)
    else:
        whole = call.upto is None and not call.more and not cut and (bool(call.events) or not call.after)
    if latest or whole:
        yield Observed(call, call.actor, latest, exact=whole)


def _check_shown(calls: Sequence[Record], events: dict[str, list[Seen]]) -> Iterator[Finding]:
    """What a read shows is what stands there in the end."""
    kept = {(seen.actor, seen.version): seen for several in events.values() for seen in several}
    for call in calls:
        for seen in call.events if isinstance(call, Read) else ():
            if kept.get((seen.actor, seen.version)) != seen:
                what = f"version {seen.version} of {seen.actor!r}"
                yield Finding(f"{what} was read, and is another event in the end, or none", [call, seen])
                break


def _check_actor(
    events: Sequence[Seen], observations: Iterable[Observed], attempts: dict[str, list[_Attempt]]
) -> Iterator[Finding]:
    """Go through the states that an actor had, in their order, with the latest beginning of all calls so far."""
    at: dict[int, list[Observed]] = defaultdict(list)
    for observed in observations:
        if observed.version > len(events):
            yield Finding(
                f"{observed.actor!r} was seen at version {observed.version}, and ended at {len(events)}",
                [observed.call],
            )
        at[observed.version].append(observed)
    latest = _Latest()
    yield from latest.pass_by(observed.call for observed in at[0])
    place = 0
    while place < len(events):
        seen = events[place]
        if seen.version != place + 1:
            yield Finding(f"{seen.actor!r} has version {seen.version} behind {place}", [seen])
            return
        attempt = _stored_by(seen, attempts)
        if attempt is None:
            return  # reported by check_set
        ids = attempt.part.ids
        found = tuple(each.id for each in events[place : place + len(ids)])
        if found != ids or attempt.part.expected != place:
            yield Finding(
                f"a commit of {seen.actor!r} at version {place} was stored in part, or elsewhere", [attempt.call]
            )
            return
        torn = [each.call for version in range(place + 1, place + len(ids)) for each in at[version] if each.exact]
        if torn:
            yield Finding(f"a part of a commit of {seen.actor!r} was visible", [attempt.call, *torn])
        place += len(ids)
        begin = min((each.call.begin for each in attempts[seen.id]), default=0)
        yield from latest.write(attempt.call, begin)
        for version in range(place - len(ids) + 1, place + 1):
            yield from latest.look(each.call for each in at[version] if not each.exact)
        yield from latest.pass_by(each.call for each in at[place] if each.exact)


def _stored_by(seen: Seen, attempts: dict[str, list[_Attempt]]) -> _Attempt | None:
    tried = attempts.get(seen.id, ())
    for outcome in (Outcome.OK, Outcome.UNKNOWN):
        for attempt in tried:
            if attempt.call.outcome is outcome:
                return attempt
    return None


class _Latest:
    """The call that began last among those which stand in front."""

    def __init__(self) -> None:
        self._begin = -1
        self._call: Call | None = None

    def write(self, call: Append, begin: int) -> Iterator[Finding]:
        """A write comes next."""
        if call.outcome is Outcome.OK:
            begin = call.begin
            yield from self.look([call])
        self._note(call, begin)

    def pass_by(self, calls: Iterable[Call]) -> Iterator[Finding]:
        """Calls come next that saw exactly the state that there is now."""
        several = list(calls)
        yield from self.look(several)
        for call in several:
            self._note(call, call.begin)

    def look(self, calls: Iterable[Call]) -> Iterator[Finding]:
        """Calls saw the state that there is now, or a later one."""
        for call in calls:
            if call.end < self._begin:
                yield Finding("a call ended before another one began that stands in front of it", [call, self._call])

    def _note(self, call: Call, begin: int) -> None:
        if begin > self._begin:
            self._begin, self._call = begin, call


def check_global(calls: Sequence[Record], stored: Stored) -> Iterator[Finding]:
    """The feed's order agrees with real time, with the positions that were told, and with each actor's versions."""
    attempts = _attempts(calls)
    versions: dict[str, int] = defaultdict(int)
    heads: dict[int, list[Head]] = defaultdict(list)
    for call in calls:
        if isinstance(call, Head) and call.outcome is Outcome.OK:
            heads[call.position].append(call)
    latest = _Latest()
    yield from latest.pass_by(heads.pop(0, ()))
    before = 0
    done: set[int] = set()
    for seen in stored:
        if seen.position <= before:
            yield Finding(f"position {seen.position} stands behind {before}", [seen])
        if seen.version != versions[seen.actor] + 1:
            yield Finding(f"{seen.actor!r} has version {seen.version} behind {versions[seen.actor]}", [seen])
        before, versions[seen.actor] = seen.position, seen.version
        attempt = _stored_by(seen, attempts)
        if attempt is not None and id(attempt.call) not in done:
            done.add(id(attempt.call))
            yield from latest.write(attempt.call, min(each.call.begin for each in attempts[seen.id]))
        told = attempt.call if attempt is not None and attempt.call.outcome is Outcome.OK else None
        if told is not None and told.parts[-1].ids[-1] == seen.id and told.position != seen.position:
            yield Finding(f"an append told position {told.position}", [told, seen])
        yield from latest.pass_by(heads.pop(seen.position, ()))
    for position, several in heads.items():
        yield Finding(f"the head was at position {position}, where no event ends", several)


def check_session(calls: Sequence[Record], _: Stored) -> Iterator[Finding]:
    """No handle sees an older state of an actor than one that it has seen, or written, before."""
    sessions: dict[tuple[str, str], list[Observed]] = defaultdict(list)
    for call in calls:
        if isinstance(call, Append) and call.outcome is Outcome.OK:
            for part in call.parts:
                written = Observed(call, part.actor, part.expected + len(part.ids), exact=False)
                sessions[call.handle, part.actor].append(written)
    for observed in observations_of(calls):
        sessions[observed.call.handle, observed.actor].append(observed)
    for (handle, actor), session in sessions.items():
        ended: list[tuple[int, int, Observed]] = []
        highest: Observed | None = None
        for number, observed in enumerate(sorted(session, key=lambda each: each.call.begin)):
            while ended and ended[0][0] < observed.call.begin:
                last = heappop(ended)[2]
                highest = last if highest is None or last.version > highest.version else highest
            if highest is not None and observed.exact and observed.version < highest.version:
                text = f"{handle} saw {actor!r} at version {observed.version} behind {highest.version}"
                yield Finding(text, [highest.call, observed.call])
            heappush(ended, (observed.call.end, number, observed))
