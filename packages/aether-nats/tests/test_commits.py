"""The stored format of a commit: golden bytes, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether.core import CorruptEvent
from aether.core.spi import NewRecord, Write
from aether.nats.commits import (
    INDEX_BITS,
    decode_chain,
    decode_commit,
    decode_records,
    encode_commit,
    sequence_of,
)


def write(actor: str, expected: int, *bodies: bytes) -> Write:
    records = tuple(NewRecord(expected + n, f"id-{n}", "T", body) for n, body in enumerate(bodies, 1))
    return Write(actor, expected, records)


GOLDEN = b'{"aether":1,"actor":"order-123","first":5,"prev":1041}\n{"a":1}\n{"b":2}'


def test_the_format_never_changes() -> None:
    assert encode_commit(write("order-123", 4, b'{"a":1}', b'{"b":2}'), previous=1041) == GOLDEN
    part = encode_commit(write("a", 0, b"{}"), previous=0, part=(1, 3))
    assert part == b'{"aether":1,"actor":"a","first":1,"prev":0,"part":[1,3]}\n{}'


def test_reading_the_golden_bytes() -> None:
    commit = decode_commit(GOLDEN, 7)

    assert (commit.sequence, commit.actor_id, commit.first, commit.last, commit.previous) == (
        7,
        "order-123",
        5,
        6,
        1041,
    )
    assert [r.data for r in commit.records()] == [b'{"a":1}', b'{"b":2}']
    assert [r.position for r in commit.records()] == [7 << INDEX_BITS, 7 << INDEX_BITS | 1]
    assert [r.version for r in commit.records(after=5)] == [6]
    assert [r.version for r in commit.records(upto=5)] == [5]
    assert [sequence_of(r.position) for r in commit.records()] == [7, 7]


def test_later_releases_may_add_keys() -> None:
    assert decode_commit(b'{"aether":1,"actor":"a","first":1,"prev":0,"new":{}}\n{}', 1).actor_id == "a"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"{}",
        b"[]\n{}",
        b'{"aether":2,"actor":"a","first":1,"prev":0}\n{}',
        b'{"aether":1,"actor":"a","first":0,"prev":0}\n{}',
        b'{"aether":1,"actor":"a","first":1,"prev":0}',
        b'{"aether":1,"actor":"\xff","first":1,"prev":0}\n{}',
    ],
)
def test_other_messages_are_corrupt(body: bytes) -> None:
    with pytest.raises(CorruptEvent) as caught:
        decode_commit(body, 9)
    assert caught.value.position == 9 << INDEX_BITS
    with pytest.raises(CorruptEvent):
        decode_records([body], 9)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_commit_or_corrupt(body: bytes) -> None:
    try:
        decode_commit(body, 1)
    except CorruptEvent:
        return


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_a_chain_knows_its_sequences(sizes: list[int]) -> None:
    bodies, sequences = [], []
    version, previous = 0, 0
    for number, size in enumerate(sizes):
        bodies.append(encode_commit(write("a", version, *[b"{}"] * size), previous=previous))
        version += size
        previous = 10 * number + 3
        sequences.append(previous)

    chain = decode_chain(bodies, previous)

    assert [commit.sequence for commit in chain] == sequences
    assert [r.version for commit in chain for r in commit.records()] == list(range(1, version + 1))
