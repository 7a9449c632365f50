"""Where an actor belongs when work is divided: the same place in every process, version and language, for ever."""

from __future__ import annotations

from hashlib import blake2b

SHARDS = 1024
"""How many shards there are unless somebody says otherwise: ten for each of a hundred nodes."""

HASH = "blake2b-64/multiply-shift"
"""Names `shard_of`, where data is laid out by it. It never changes: a shard is for ever the same actors."""


def shard_of(actor_id: str, shards: int = SHARDS) -> int:
    """The shard of an actor, from 0 to `shards - 1`.

    The 8 bytes of BLAKE2b (RFC 7693, digest size 8) of the id's UTF-8 text, as a big-endian number, times `shards`,
    divided by 2**64 (Lemire, "Fast random integer generation in an interval", 2019). Python's own `hash` differs from
    process to process. Raises `ValueError` unless `shards` is 1 or more.
    """
    if shards < 1:
        raise ValueError(f"shards is 1 or more, not {shards!r}")
    return int.from_bytes(blake2b(actor_id.encode(), digest_size=8).digest(), "big") * shards >> 64
