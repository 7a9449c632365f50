"""One commit: from events to writes, and from a lost acknowledgement to a known outcome."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from aether.core.encoding import decode_event, encode_event
from aether.core.errors import (
    AetherError,
    CommitTooLarge,
    InvalidEvent,
    OutcomeUnknown,
    PayloadTooLarge,
    StaleRead,
    Unavailable,
    VersionConflict,
)
from aether.core.event import Event
from aether.core.features import Limits
from aether.core.spi import NewRecord, StoreDriver, Write

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5  # seconds; the pause doubles in between


def plan_commit(events: Sequence[Event], limits: Limits) -> list[Write]:
    """Encode the events and group them by actor, in order of first appearance.

    Raises `ValueError` without events, and what `encode_event` raises; `InvalidEvent` for an id that is used twice or
    for versions of one actor that do not follow each other; `PayloadTooLarge` and `CommitTooLarge`.
    """
    if not events:
        raise ValueError("append() needs at least one event")
    if len(events) > limits.max_commit_events:
        raise CommitTooLarge(size=len(events), limit=limits.max_commit_events, unit="events")
    if len(events) == 1:
        record = _record(events[0], limits)
        return [Write(events[0].actor_id, record.version - 1, (record,))]
    by_actor: dict[str, list[NewRecord]] = {}
    for event in events:
        record = _record(event, limits)
        records = by_actor.setdefault(event.actor_id, [])
        if records and record.version != records[-1].version + 1:
            raise InvalidEvent(
                "version",
                f"{record.version} of {event.actor_id!r} follows {records[-1].version} in one append; "
                "versions of one actor are consecutive",
            )
        records.append(record)
    if len({event.id for event in events}) != len(events):
        raise InvalidEvent("id", "two events of one append have the same id; every event needs its own")
    size = sum(len(record.data) for records in by_actor.values() for record in records)
    if size > limits.max_commit_bytes:
        raise CommitTooLarge(size=size, limit=limits.max_commit_bytes, unit="bytes")
    return [Write(actor_id, records[0].version - 1, tuple(records)) for actor_id, records in by_actor.items()]


def _record(event: Event, limits: Limits) -> NewRecord:
    data = encode_event(event)
    if len(data) > limits.max_event_bytes:
        what = f"version {event.version} of {event.actor_id!r}"
        raise PayloadTooLarge(what, size=len(data), limit=limits.max_event_bytes)
    return NewRecord(event.version, event.id, event.type, data)


async def commit(driver: StoreDriver, writes: Sequence[Write], *, timeout: float) -> tuple[int, bool]:
    """Store the writes and return the last position, and whether they were found stored already.

    Repeats what failed until `timeout`: that is safe, because every attempt carries the same expectations, and a
    conflict with ourselves is found out by comparing ids. Raises as `EventStore.append` says.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout
    pause = _FIRST_PAUSE
    unknown: OutcomeUnknown | None = None
    while True:
        try:
            try:
                return await driver.append(writes), False
            except VersionConflict:
                position = await _find(driver, writes)
                if position is None:
                    raise
                return position, True
        except (OutcomeUnknown, Unavailable, StaleRead) as error:
            if isinstance(error, OutcomeUnknown):
                unknown = error
            if clock() + pause >= deadline:
                if unknown is None:
                    raise
                raise _outcome_unknown(writes, unknown.reason) from error
        except VersionConflict:
            raise
        except AetherError as error:  # closed, or another store: an earlier attempt may have been stored all the same
            if unknown is None:
                raise
            raise _outcome_unknown(writes, unknown.reason) from error
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _outcome_unknown(writes: Sequence[Write], reason: str) -> OutcomeUnknown:
    actors = ", ".join(repr(write.actor_id) for write in writes[:3]) + (" …" if len(writes) > 3 else "")
    ids = [record.id for write in writes for record in write.records]
    return OutcomeUnknown(f"append to {actors}", reason=reason, event_ids=ids)


async def _find(driver: StoreDriver, writes: Sequence[Write]) -> int | None:
    """The position of the last event, if exactly these ids are stored at exactly these versions."""
    position = None
    for write in writes:
        upto = write.expected + len(write.records)
        after = write.expected
        while after < upto:
            page = await driver.read(write.actor_id, after=after, upto=upto, limit=upto - after, reverse=False)
            for stored in page.records:
                if decode_event(stored).id != write.records[after - write.expected].id:
                    return None
                after += 1
                position = stored.position
            if after < upto and not (page.more and page.records):
                return None
    return position
