"""What the drivers of one `memory://` URL and namespace share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aether.core.event import new_id
from aether.core.spi import BusFilter, Message, Sink, Slot, Stored
from aether.core.url import BackendURL
from aether.memory.election import RegisterSpace


class Subscriber:
    """One open subscription of the bus."""

    def __init__(self, wanted: BusFilter, queue: str | None, sink: Sink) -> None:
        self.wanted = wanted
        self.queue = queue
        self.sink = sink
        self.taken = 0
        """How many messages of its queue it has been given: the next goes to the one with the fewest."""


class Turns:
    """Lets other tasks run now and then.

    Nothing in memory ever has to wait, so a task that appends in a loop would keep all others from running.
    """

    EVERY = 64

    def __init__(self) -> None:
        self._left = self.EVERY

    async def take(self) -> None:
        """Give up the turn, once in `EVERY` calls."""
        self._left -= 1
        if self._left == 0:
            self._left = self.EVERY
            await asyncio.sleep(0)


class NamespaceSpace:
    """The data of one namespace: plain dictionaries and lists."""

    def __init__(self) -> None:
        self.identity = new_id()
        self.feed: list[Stored] = []
        self.actors: dict[str, list[Stored]] = {}
        self.slots: dict[tuple[str, str], Slot] = {}
        self.revisions = 0
        self.tails: set[asyncio.Event] = set()
        self.registers = RegisterSpace()
        self.turns = Turns()


class Space:
    """All namespaces of one URL, and its bus, which can look across them."""

    def __init__(self) -> None:
        self.namespaces: dict[str, NamespaceSpace] = {}
        self.subscribers: list[Subscriber] = []
        self.turns = Turns()

    def namespace(self, name: str) -> NamespaceSpace:
        """The namespace's data, empty at first."""
        return self.namespaces.setdefault(name, NamespaceSpace())

    def join(self, subscriber: Subscriber) -> None:
        """Add a subscriber. In a queue it starts level with the others, not with all that they have had."""
        members = [one for one in self.subscribers if one.queue == subscriber.queue is not None]
        subscriber.taken = min((one.taken for one in members), default=0)
        self.subscribers.append(subscriber)

    def publish(self, message: Message, matches: Callable[[BusFilter, Message], bool]) -> int:
        """Give the message to every subscriber that wants it, and to one of each queue."""
        queues: dict[tuple[str, str], list[Subscriber]] = {}
        reached = 0
        for subscriber in list(self.subscribers):
            if not matches(subscriber.wanted, message):
                continue
            if subscriber.queue is None:
                subscriber.sink.deliver(message)
                reached += 1
            else:
                queues.setdefault((subscriber.wanted.namespaces, subscriber.queue), []).append(subscriber)
        for members in queues.values():
            chosen = min(members, key=lambda member: member.taken)
            chosen.taken += 1
            chosen.sink.deliver(message)
            reached += 1
        return reached


_named: dict[str, Space] = {}


def space_of(url: BackendURL) -> Space:
    """The space of `memory://name`, shared by all of the process; `memory://` is a name like another."""
    if url.path.strip("/") or url.user is not None or len(url.hosts) > 1:
        raise url.error("write memory:// or memory://name")
    return _named.setdefault(url.hosts[0] if url.hosts else "", Space())
