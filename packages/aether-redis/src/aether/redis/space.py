"""The keys of a namespace, all of one hash slot, and the channels of the bus."""

from __future__ import annotations

from aether.redis.scripts import TAG_BITS

BUS_HOME = b"{aether}:bus"
"""In a cluster the bus lives where this key does, so publishers and subscribers of all namespaces meet on one node."""

_TAG = (1 << TAG_BITS) - 1


class Space:
    """Names of one namespace. A namespace has no braces, so the hash tag is all of it."""

    def __init__(self, namespace: str) -> None:
        root = f"{{aether:{namespace}}}:".encode()
        self.events = root + b"events"
        self.meta = root + b"meta"
        self.leases = root + b"leases"
        self.waited = root + b"waited"
        """Written so that replicas have something to confirm, behind a batch that was refused as well."""

        self.actors = root + b"actor:"
        self._slots = root + b"slot:"
        self._claims = root + b"claim:"

    def actor(self, actor_id: str) -> bytes:
        """The list of the positions of an actor's events."""
        return self.actors + actor_id.encode()

    def slot(self, kind: str, name: str) -> bytes:
        """A slot; a kind has no colon."""
        return b"%s%s:%s" % (self._slots, kind.encode(), name.encode())


def stamp_of(entry_id: bytes) -> tuple[int, int]:
    """The position in the id of a stream's entry, and its stamp: the tags of the batch before it, and of its own."""
    position, _, stamp = entry_id.partition(b"-")
    return int(position), int(stamp)


def tag_of(stamp: int) -> int:
    """The tag of the batch that wrote an entry."""
    return stamp & _TAG


def tag_before(stamp: int) -> int:
    """The tag of whatever was written in front of an entry."""
    return stamp >> TAG_BITS


def make_stamp(before: int, own: int) -> int:
    """The stamp of an entry."""
    return before << TAG_BITS | own
