"""Snapshots and checkpoints: small values under compare-and-set."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from aether.core.encoding import check_json, decode_event
from aether.core.errors import (
    CheckpointMoved,
    InvalidEvent,
    InvalidSnapshot,
    OutcomeUnknown,
    PayloadTooLarge,
    StaleToken,
    StoreIdentityChanged,
)
from aether.core.event import START, Claim, Position, Snapshot
from aether.core.spi import RevisionConflict, Slot, StoreDriver

_log = logging.getLogger("aether")

_CHECKPOINT = "checkpoint"
_SNAPSHOT = "snapshot"


class _StoredSnapshot(msgspec.Struct, frozen=True):
    store: str
    snapshot: Snapshot
    event: str
    """The id of the event at that version: a restored store may have another history there."""


class _StoredCheckpoint(msgspec.Struct, frozen=True):
    position: str
    token: int


_NO_CHECKPOINT = _StoredCheckpoint(str(START), 0)
_LEFT = 1000


class Left:
    """The checkpoints as this store has left them: the next one goes on from there, in one round trip."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, _StoredCheckpoint]] = {}

    def take(self, name: str) -> tuple[int, _StoredCheckpoint] | None:
        """What is known of a checkpoint, which is not known then any more: whatever comes of it is to be `put`."""
        return self._known.pop(name, None)

    def put(self, name: str, revision: int, value: bytes) -> None:
        """Remember what was written, and forget what was written longest ago."""
        self._known.pop(name, None)
        self._known[name] = revision, msgspec.json.decode(value, type=_StoredCheckpoint)
        if len(self._known) > _LEFT:
            del self._known[next(iter(self._known))]


async def _change(
    driver: StoreDriver,
    kind: str,
    name: str,
    change: Callable[[Slot | None], bytes | None],
    *,
    timeout: float,
    transaction: object | None = None,
) -> Slot | None:
    """Replace a slot by what `change` makes of it, as often as somebody else is faster; None leaves it.

    Returns what was written.
    `change` gives the same answer again for what it has written itself, so a write whose answer was lost is repeated.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout
    while True:
        slot = await driver.load(kind, name)
        value = change(slot)
        if value is None:
            return None
        expected = 0 if slot is None else slot.revision
        try:
            revision = await driver.save(kind, name, value, expected=expected, transaction=transaction)
        except RevisionConflict:
            continue  # somebody made progress: this ends
        except OutcomeUnknown:
            if transaction is not None or clock() >= deadline:
                raise
            continue
        return Slot(revision, value)


# --- Snapshots ---


async def save_snapshot(
    driver: StoreDriver, snapshot: Snapshot, *, timeout: float, event_id: str | None = None
) -> None:
    """Keep the snapshot, unless a newer one of its schema is kept already.

    `event_id` is that of the event at its version, where the caller knows it: it has just appended it.
    """
    value = _encode_snapshot(driver, snapshot, event_id or "")  # bad input is refused before any I/O
    if event_id is None:
        event_id = await _event_at(driver, snapshot.actor_id, snapshot.version)
        if event_id is None:
            current = await driver.version(snapshot.actor_id)
            reason = f"it is of version {snapshot.version}, the actor is at {current}; append the events first"
            raise InvalidSnapshot(snapshot.actor_id, reason)
        value = _encode_snapshot(driver, snapshot, event_id)
    name = _snapshot_name(snapshot.actor_id, snapshot.schema)
    newer: Slot | None = None
    mistrusted: Slot | None = None

    def newest(slot: Slot | None) -> bytes | None:
        nonlocal newer
        newer = None
        if slot is None or slot == mistrusted:
            return value
        found = _decode_snapshot(driver, slot, snapshot.actor_id, snapshot.schema)
        if found is None or snapshot.version >= found.snapshot.version:
            return value
        newer = slot
        return None

    while await _change(driver, _SNAPSHOT, name, newest, timeout=timeout) is None and newer is not None:
        if await _trusted(driver, newer, snapshot.actor_id, snapshot.schema) is not None:
            return
        mistrusted = newer  # of a history that is not there any more


async def load_snapshot(driver: StoreDriver, actor_id: str, schema: str) -> Snapshot | None:
    """The snapshot of that schema, or None; a bad one is None and a warning."""
    slot = await driver.load(_SNAPSHOT, _snapshot_name(actor_id, schema))
    return None if slot is None else await _trusted(driver, slot, actor_id, schema)


async def peek_snapshot(driver: StoreDriver, actor_id: str, schema: str) -> tuple[Snapshot, str] | None:
    """The snapshot of that schema with the id of the event that it was taken at, which the caller has to look for."""
    slot = await driver.load(_SNAPSHOT, _snapshot_name(actor_id, schema))
    stored = None if slot is None else _decode_snapshot(driver, slot, actor_id, schema)
    return None if stored is None else (stored.snapshot, stored.event)


async def _trusted(driver: StoreDriver, slot: Slot, actor_id: str, schema: str) -> Snapshot | None:
    """The snapshot in a slot, if it can be read and the event that it was taken at still stands there."""
    stored = _decode_snapshot(driver, slot, actor_id, schema)
    if stored is None:
        return None
    event_id = await _event_at(driver, actor_id, stored.snapshot.version)
    if event_id != stored.event:
        found = "no event" if event_id is None else "another event"
        _ignore(actor_id, f"the actor has {found} at its version {stored.snapshot.version}")
        return None
    return stored.snapshot


async def _event_at(driver: StoreDriver, actor_id: str, version: int) -> str | None:
    page = await driver.read(actor_id, after=version - 1, upto=version, limit=1, reverse=False)
    return decode_event(page.records[0]).id if page.records else None


def _snapshot_name(actor_id: str, schema: str) -> str:
    # A name of a slot may be longer than an actor id; the length in front keeps (id, schema) pairs apart.
    return f"{len(schema)}.{schema}.{actor_id}"


def _encode_snapshot(driver: StoreDriver, snapshot: Snapshot, event_id: str) -> bytes:
    try:
        check_json(snapshot.state, "state")
        stored = _StoredSnapshot(driver.identity, snapshot, event_id)
        value = msgspec.json.encode(stored)
        if msgspec.json.decode(value, type=_StoredSnapshot) != stored:
            raise InvalidSnapshot(snapshot.actor_id, "it would not come back the same")
    except InvalidEvent as error:
        raise InvalidSnapshot(snapshot.actor_id, str(error)) from error
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        if isinstance(error, InvalidSnapshot):
            raise
        raise InvalidSnapshot(snapshot.actor_id, f"it cannot be encoded as JSON: {error}") from error
    limit = driver.limits.max_snapshot_bytes
    if len(value) > limit:
        raise PayloadTooLarge(f"the snapshot of {snapshot.actor_id!r}", size=len(value), limit=limit)
    return value


def _decode_snapshot(driver: StoreDriver, slot: Slot, actor_id: str, schema: str) -> _StoredSnapshot | None:
    try:
        stored = msgspec.json.decode(slot.value, type=_StoredSnapshot)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        _ignore(actor_id, f"it cannot be decoded: {error}")
        return None
    snapshot = stored.snapshot
    if (snapshot.actor_id, snapshot.schema) != (actor_id, schema) or snapshot.version < 1:
        _ignore(actor_id, f"the place holds version {snapshot.version} of {snapshot.actor_id!r}")
        return None
    if stored.store != driver.identity:
        _ignore(actor_id, "it was taken of another store")
        return None
    return stored


def _ignore(actor_id: str, reason: str) -> None:
    _log.warning("snapshot of %r is ignored, its events are replayed instead: %s", actor_id, reason)


# --- Checkpoints ---


async def save_checkpoint(
    driver: StoreDriver,
    name: str,
    position: Position,
    *,
    token: int,
    expected: Position | None,
    timeout: float,
    left: Left,
    transaction: object | None = None,
) -> None:
    """Keep the position under the name, unless a higher token has written there, or it is not where it should be."""
    value = msgspec.json.encode(_StoredCheckpoint(str(position), token))
    if transaction is None and await _goes_on(driver, name, value, left, token=token, expected=expected):
        return

    def fenced(slot: Slot | None) -> bytes:
        kept = _NO_CHECKPOINT if slot is None else _decode_checkpoint(slot, name)
        if token < kept.token:
            raise StaleToken(name, token=token, current=kept.token)
        ours = transaction is None and slot is not None and slot.value == value  # written by an attempt before
        if expected is not None and kept.position != str(expected) and not ours:
            raise CheckpointMoved(name, expected=expected, found=Position.parse(kept.position))
        return value

    written = await _change(driver, _CHECKPOINT, name, fenced, timeout=timeout, transaction=transaction)
    if written is not None and transaction is None:
        left.put(name, *written)


async def _goes_on(
    driver: StoreDriver, name: str, value: bytes, left: Left, *, token: int, expected: Position | None
) -> bool:
    """Whether the checkpoint is still as it was left here, which allows this move, and was moved.

    Revisions rise with every change: that the compare-and-set holds proves the token and the position as well.
    """
    known = left.take(name)
    if known is None:
        return False
    revision, kept = known
    if token < kept.token or (expected is not None and kept.position != str(expected)):
        return False
    try:
        left.put(name, await driver.save(_CHECKPOINT, name, value, expected=revision), value)
    except (RevisionConflict, OutcomeUnknown):
        return False  # look what is there now: somebody else's, or perhaps this very one
    return True


async def claim_checkpoint(driver: StoreDriver, name: str, *, token: int | None, timeout: float, left: Left) -> Claim:
    """Raise the token, by default to one that nobody had, and return where the checkpoint is: in one step."""
    claimed = Claim(START, 0)

    def raised(slot: Slot | None) -> bytes:
        nonlocal claimed
        kept = _NO_CHECKPOINT if slot is None else _decode_checkpoint(slot, name)
        if token is not None and token < kept.token:
            raise StaleToken(name, token=token, current=kept.token)
        claimed = Claim(_own(driver, name, kept), kept.token + 1 if token is None else token)
        return msgspec.json.encode(_StoredCheckpoint(kept.position, claimed.token))

    written = await _change(driver, _CHECKPOINT, name, raised, timeout=timeout)
    if written is not None:
        left.put(name, *written)
    return claimed


async def load_checkpoint(driver: StoreDriver, name: str) -> Claim:
    """The position that was kept, `START` if there is none, and the token that it was kept with, 0 if there is none."""
    slot = await driver.load(_CHECKPOINT, name)
    kept = _NO_CHECKPOINT if slot is None else _decode_checkpoint(slot, name)
    return Claim(_own(driver, name, kept), kept.token)


def _own(driver: StoreDriver, name: str, kept: _StoredCheckpoint) -> Position:
    position = Position.parse(kept.position)
    if position != START and position.store != driver.identity:
        raise StoreIdentityChanged(position, f"checkpoint {name!r} was taken of another store than {driver.identity}")
    return position


def _decode_checkpoint(slot: Slot, name: str) -> _StoredCheckpoint:
    try:
        checkpoint = msgspec.json.decode(slot.value, type=_StoredCheckpoint)
        Position.parse(checkpoint.position)
    except (msgspec.MsgspecError, ValueError) as error:
        # Never START: that would run every effect of a consumer again.
        raise StoreIdentityChanged(name, f"checkpoint {name!r} cannot be decoded ({error})") from error
    return checkpoint
