"""The stored format: one message is one commit of one actor.

A message's body is lines of UTF-8 JSON. The first line is the header, every other line is one encoded event:

    {"aether":1,"actor":"order-123","first":5,"prev":1041}
    {"type":"OrderPaid","actor_id":"order-123","version":5,…}
    {"type":"OrderShipped","actor_id":"order-123","version":6,…}

`prev` is the stream sequence of the actor's commit before, 0 for the first one. It is what the server was told to
expect, so it is true; and it lets a reader know the sequence of every commit of an actor from that of the last one,
which makes the server's cheap replies without headers enough. `part` is `[index, count]` in a commit of several
actors. A reader of format 1 ignores keys that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from aether.core.errors import CorruptEvent
from aether.core.spi import Stored, Write

FORMAT = 1
INDEX_BITS = 20
"""A position is `sequence << 20 | index in the commit`: room for 1,048,576 events in one message of 64 MiB at most."""

_INDEX_MASK = (1 << INDEX_BITS) - 1


class _Header(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    aether: int
    actor: str
    first: int
    prev: int
    part: tuple[int, int] | None = None


_header_decoder = msgspec.json.Decoder(_Header)
_header_encoder = msgspec.json.Encoder()


class Commit(msgspec.Struct, frozen=True, gc=False):
    """One stored commit of one actor; `sequence` is its place in the stream."""

    sequence: int
    actor_id: str
    first: int
    previous: int
    events: list[bytes]

    @property
    def last(self) -> int:
        """The version of its last event."""
        return self.first + len(self.events) - 1

    def records(self, *, after: int = 0, upto: int | None = None) -> list[Stored]:
        """Its events with `after < version <= upto`."""
        position = self.sequence << INDEX_BITS
        version = self.first
        if len(self.events) == 1 and after < version and upto is None:
            return [Stored(position, self.actor_id, version, self.events[0])]
        end = self.last if upto is None else upto
        return [
            Stored(position | index, self.actor_id, version + index, data)
            for index, data in enumerate(self.events)
            if after < version + index <= end
        ]


def encode_commit(write: Write, *, previous: int, part: tuple[int, int] | None = None) -> bytes:
    """The body of the message that stores `write`."""
    header = _Header(FORMAT, write.actor_id, write.expected + 1, previous, part)
    return b"\n".join([_header_encoder.encode(header), *(record.data for record in write.records)])


def decode_commit(body: bytes, sequence: int) -> Commit:
    """Read a message's body; raise `CorruptEvent` if it is not a commit of a known format."""
    head, *events = body.split(b"\n")
    header = _decode_header(head, sequence)
    if not events:
        raise _corrupt(header.actor, header.first, sequence, "the commit has no events")
    return Commit(sequence, header.actor, header.first, header.prev, events)


def decode_records(bodies: Iterable[bytes], first_sequence: int) -> list[Stored]:
    """All events of consecutive messages: `decode_commit` for each, without an object for every commit."""
    records: list[Stored] = []
    for sequence, body in enumerate(bodies, first_sequence):
        head, _, event = body.partition(b"\n")
        header = _decode_header(head, sequence)
        if event and b"\n" not in event:
            records.append(Stored(sequence << INDEX_BITS, header.actor, header.first, event))
        else:
            records.extend(decode_commit(body, sequence).records())
    return records


def _decode_header(head: bytes, sequence: int) -> _Header:
    try:
        header = _header_decoder.decode(head)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _corrupt(None, None, sequence, f"the message is not a commit: {error}") from error
    if header.aether != FORMAT or header.first < 1:
        reason = f"format {header.aether} or version {header.first} is unknown; upgrade aether-nats"
        raise _corrupt(header.actor, header.first, sequence, reason)
    return header


def decode_chain(bodies: Sequence[bytes], last_sequence: int) -> list[Commit]:
    """Read consecutive commits of one actor, given in order, when only the sequence of the last is known."""
    commits: list[Commit] = []
    sequence = last_sequence
    for body in reversed(bodies):
        commit = decode_commit(body, sequence)
        commits.append(commit)
        sequence = commit.previous
    commits.reverse()
    return commits


def sequence_of(position: int) -> int:
    """The stream sequence of a position."""
    return position >> INDEX_BITS


def index_of(position: int) -> int:
    """The index within its commit of a position."""
    return position & _INDEX_MASK


def _corrupt(actor_id: str | None, version: int | None, sequence: int, reason: str) -> CorruptEvent:
    return CorruptEvent(actor_id, version, sequence << INDEX_BITS, reason)
