"""The bus on core NATS.

**URL** `nats://[user[:password]@]host[:4222][,host…]`, `nats+tls://…`, or `nats+embedded:///directory` for a server of
one's own. Options: those of the connection.

**Guarantees** Every rule of the suite, NO_RESPONDERS included. In a cluster `subscribe` waits for every server that can
be reached (`peers.py`); a bus on a client of your own cannot do that, and what others publish on another server in the
milliseconds after `subscribe` may be missed.

**Limits** The server's `max_payload` (1 MiB by default), less 4 KiB for headers. The user needs the permission to
publish to its own inbox. Members of one queue should ask for the same `actors`: a pattern is applied behind the
server's choice of a member, so a member that is given what it does not want keeps it from the others.

**Under the hood** Subjects are `aether.b.<type>.<actor>.<namespace>`, the namespace last, so that `*` and `>` look
across namespaces. Names are encoded as tokens; those above 128 characters as a digest, with the name in a header.
Messages are handed over in the client's read loop, in the order in which the server sent them, across all
subscriptions of a connection: nothing is queued or dropped in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from functools import lru_cache, partial
from typing import Self

from aether.core.errors import Closed, Unavailable
from aether.core.features import Feature
from aether.core.names import decode_token, encode_token
from aether.core.scope import DEFAULT_TIMEOUT, Scope
from aether.core.spi import BusFilter, Message, Sink
from aether.core.url import BackendURL
from aether.nats.connection import Connection, open_connection
from aether.nats.peers import Peers
from nats.aio.msg import Msg

_PREFIX = "aether.b"
_MAX_TOKEN = 128  # two of them and a namespace stay far below what a server takes as one subject
_DIGEST = "==="  # no encoded name starts with it: behind `==` comes base64, which has no `=`
_MAX_TYPE_SUBJECTS = 16
_HEADER_ROOM = 4096
_TYPE = "Aether-Type"
_ACTOR = "Aether-Actor"


class NatsBus:
    """A `BusDriver` over core NATS."""

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        self._opening: Callable[[], AbstractAsyncContextManager[Connection]] = partial(open_connection, url, scope)
        self._timeout = scope.timeout
        self._stack = AsyncExitStack()

    @classmethod
    def from_connection(cls, connection: Connection, *, timeout: float = DEFAULT_TIMEOUT) -> Self:
        """A bus on a connection of your own, which stays open behind it."""
        bus = cls.__new__(cls)
        bus._opening = lambda: nullcontext(connection)
        bus._timeout = timeout
        bus._stack = AsyncExitStack()
        return bus

    # --- Life ---

    async def open(self) -> None:
        async with AsyncExitStack() as stack:
            self._connection = await stack.enter_async_context(self._opening())
            self._peers = Peers(self._connection, timeout=self._timeout)
            stack.push_async_callback(self._peers.close)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        await self._stack.aclose()

    @property
    def features(self) -> frozenset[Feature]:
        return frozenset({Feature.NO_RESPONDERS}) if self._connection.server_info.get("headers") else frozenset()

    @property
    def max_message_bytes(self) -> int:
        return self._connection.max_payload - _HEADER_ROOM

    # --- Messages ---

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        type_token, type_name = _token(message.type)
        actor_token, actor_name = _token(message.actor_id)
        subject = f"{_PREFIX}.{type_token}.{actor_token}.{message.namespace}"
        headers = {}
        if type_name:
            headers[_TYPE] = type_name
        if actor_name:
            headers[_ACTOR] = actor_name
        if not count or not self.features:
            await self._connection.publish(subject, message.data, headers=headers)
            return None
        return await self._count(subject, message.data, headers)

    async def _count(self, subject: str, data: bytes, headers: dict[str, str]) -> int:
        """Publish and find out whether anybody is subscribed: if not, the server says so before it reads on."""
        reached = 1

        def answered(_: Msg) -> None:
            nonlocal reached
            reached = 0

        with self._connection.inbox(answered) as inbox:
            await self._connection.publish(subject, data, reply=inbox, headers=headers)
            await self._connection.barrier()
        return reached

    @asynccontextmanager
    async def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AsyncIterator[None]:
        connection = self._connection
        # The pattern is part of the group: a queue is shared within what its members look at, never beyond it.
        group = "" if queue is None else f"{_token(queue)[0]}.{wanted.namespaces}"

        def received(message: Msg) -> None:
            sink.deliver(_message(message))

        async with AsyncExitStack() as stack:
            if queue is not None:
                stack.push_async_callback(self._left)
            for subject in _subjects(wanted, exact=queue is not None):
                await stack.enter_async_context(connection.subscribe(subject, received, queue=group))
            stack.callback(connection.on_reconnect(sink.interrupted))
            await connection.barrier()
            await self._peers.heard()
            yield

    async def _left(self) -> None:
        """Wait until everybody knows that a member of a queue is gone, or they would go on giving it its share."""
        with suppress(Unavailable, Closed):
            await self._connection.barrier()
            await self._peers.heard()


def _subjects(wanted: BusFilter, *, exact: bool) -> list[str]:
    """What to subscribe to: every message that is wanted matches exactly one of them."""
    actor = "*" if wanted.actors is None or "*" in wanted.actors else _token(wanted.actors)[0]
    if wanted.types is None or (len(wanted.types) > _MAX_TYPE_SUBJECTS and not exact):
        return [f"{_PREFIX}.*.{actor}.{wanted.namespaces}"]
    return [f"{_PREFIX}.{_token(name)[0]}.{actor}.{wanted.namespaces}" for name in sorted(wanted.types)]


@lru_cache(maxsize=4096)
def _token(name: str) -> tuple[str, str]:
    """The token of a name, and what a header has to carry, which is nothing if the token says it all."""
    token = encode_token(name)
    if len(token) <= _MAX_TOKEN:
        return token, ""
    return _DIGEST + hashlib.blake2b(name.encode(), digest_size=16).hexdigest(), token


@lru_cache(maxsize=4096)
def _name(token: str) -> str:
    return decode_token(token)


def _message(message: Msg) -> Message:
    _, _, type_token, actor_token, namespace = message.subject.split(".", 4)
    headers = message.headers or {}
    if type_token.startswith(_DIGEST):
        type_token = headers[_TYPE]
    if actor_token.startswith(_DIGEST):
        actor_token = headers[_ACTOR]
    return Message(namespace, _name(type_token), _name(actor_token), message.data)
