"""The bus in memory: the executable model of every rule.

**URL** `memory://` or `memory://name`. Buses of one name share their subscribers, in one process and event loop.

**Guarantees** Every rule of the suite, NO_RESPONDERS included. There is no connection that could be lost.

**Limits** 1 MiB per message.

**Under the hood** A list of subscribers; publishing calls their sinks, one after the other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aether.core.features import Feature
from aether.core.filters import EventFilter
from aether.core.names import namespace_matches
from aether.core.scope import Scope
from aether.core.spi import BusFilter, Message, Sink
from aether.core.url import BackendURL
from aether.memory.space import Space, Subscriber, space_of


class MemoryBus:
    """A `BusDriver` over a list of subscribers."""

    features = frozenset({Feature.NO_RESPONDERS})
    max_message_bytes = 1 << 20

    def __init__(self, space: Space) -> None:
        self._space = space

    @classmethod
    def from_url(cls, url: BackendURL, scope: Scope) -> MemoryBus:
        """The bus of a URL; the namespace is part of every message."""
        return cls(space_of(url))

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        await self._space.turns.take()
        return self._space.publish(message, _matches)

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        subscriber = Subscriber(wanted, queue, sink)
        self._space.join(subscriber)
        try:
            yield
        finally:
            self._space.subscribers.remove(subscriber)


def _matches(wanted: BusFilter, message: Message) -> bool:
    events = EventFilter(types=wanted.types, actors=wanted.actors)
    return (
        namespace_matches(wanted.namespaces, message.namespace)
        and events.wants_type(message.type)
        and events.wants_actor(message.actor_id)
    )
