"""The bus on pub/sub.

**URL** as the store's.

**Guarantees** Every rule of the suite, NO_RESPONDERS included. At most once and live only, as every bus: what must not
be lost is read with `store.subscribe`. A lost connection is made again, and the gap reported.

**Limits** 1 MiB per message. The server cuts off a subscriber that is 32 MiB behind (`client-output-buffer-limit`),
which is reported as a gap. In a cluster all of the bus goes through one node, and from there to all others.
A queue's message goes to the process that claims it first, so the work is shared, but not evenly.

**Under the hood** One channel per namespace and type, `aether:bus:<db>:<namespace>:<type>`. A subscription to one
namespace names its channels, or a pattern of all types; one that looks across namespaces is a pattern, too. A queue's
message is claimed by `SET NX` on a key that goes after a minute: nothing else depends on the clock of the server.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count as counting

from aether.core.features import Feature
from aether.core.kit import Batcher
from aether.core.scope import Scope
from aether.core.spi import BusFilter, Message, Sink
from aether.core.url import BackendURL
from aether.redis.listener import Ear, Heard
from aether.redis.opening import Server, shared
from aether.redis.queues import Member, Queue
from aether.redis.space import BUS_HOME

MAX_MESSAGE_BYTES = 1 << 20


class RedisBus:
    """A `BusDriver` over pub/sub."""

    features = frozenset({Feature.NO_RESPONDERS})
    max_message_bytes = MAX_MESSAGE_BYTES

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        self.opening: partial[AbstractAsyncContextManager[Server]] = partial(shared, url, scope)
        self._timeout = scope.timeout
        self._stack = AsyncExitStack()
        self._name = os.urandom(6).hex()
        self._sent = counting(1)
        self._queues: dict[tuple[str, str], Queue] = {}

    # --- Life ---

    async def open(self) -> None:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(self.opening())
            self._listener = server.messages
            self._line = server.bus_line()
            self._prefix = server.channel("bus")
            self._db = server.options.db
            self._publishes = Batcher(self._flush, what="publish", timeout=self._timeout, size=_size)
            stack.push_async_callback(self._publishes.close)
            await self._line.call("opening the bus", ("PING",), writes=False)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        await self._stack.aclose()

    # --- Messages ---

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        reached = await self._publishes.ask(message)
        return reached if count else None

    async def _flush(self, messages: Sequence[Message]) -> Sequence[int | Exception]:
        commands = [("PUBLISH", self._channel(one.namespace, one.type), self._packed(one)) for one in messages]
        return await self._line.each("publish", *commands)

    def _channel(self, namespace: str, kind: str) -> bytes:
        return b"%s%s:%s" % (self._prefix, namespace.encode(), kind.encode())

    def _packed(self, message: Message) -> bytes:
        # No name has a control character, so a newline ends it.
        return b"%s.%d\n%s\n%s" % (self._name.encode(), next(self._sent), message.actor_id.encode(), message.data)

    def _unpacked(self, channel: bytes, payload: bytes) -> tuple[bytes, Message]:
        namespace, _, kind = channel[len(self._prefix) :].partition(b":")  # no namespace has a colon
        name, actor, data = payload.split(b"\n", 2)
        return name, Message(namespace.decode(), kind.decode(), actor.decode(), data)

    # --- Subscriptions ---

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        if queue is None:

            def heard(channel: bytes, payload: bytes) -> None:
                sink.deliver(self._unpacked(channel, payload)[1])

            async with self._listener.listening(self._ear(wanted, heard, sink)):
                yield
            return
        member = Member(wanted, sink)
        place = wanted.namespaces, queue
        shared_queue = self._queues.setdefault(place, Queue(self._line, self._claims_of(*place)))
        shared_queue.members.append(member)

        def wanted_by_queue(channel: bytes, payload: bytes) -> None:
            shared_queue.heard(member, *self._unpacked(channel, payload))

        try:
            async with self._listener.listening(self._ear(wanted, wanted_by_queue, sink)):
                yield
        finally:
            shared_queue.members.remove(member)
            if not shared_queue.members:
                self._queues.pop(place, None)
                await shared_queue.close()

    def _ear(self, wanted: BusFilter, heard: Heard, sink: Sink) -> Ear:
        """What to subscribe to. `*` of the server matches any characters: more than is wanted, but never less."""
        namespaces = wanted.namespaces
        if wanted.types is not None and "*" not in namespaces and ">" not in namespaces:
            return Ear([self._channel(namespaces, kind) for kind in wanted.types], None, heard, sink.interrupted)
        return Ear((), self._channel(namespaces.replace(">", "*"), "*"), heard, sink.interrupted)

    def _claims_of(self, namespaces: str, queue: str) -> bytes:
        # A pattern of namespaces has no space, so different pairs never meet.
        return b"%s:claim:%d:%s %s\n" % (BUS_HOME, self._db, namespaces.encode(), queue.encode())


def _size(message: Message) -> int:
    return len(message.data)
