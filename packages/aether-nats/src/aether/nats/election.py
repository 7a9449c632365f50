"""The lease register on JetStream.

**URL** `nats://[user[:password]@]host[:4222][,host…]`, `nats+tls://…`, or `nats+embedded:///directory` for a server of
one's own. Options: `replicas` and those of the connection.

**Guarantees** Every rule of the suite. Compare-and-set is the server's, per subject; a record's revision is its stream
sequence, which rises across releases and restarts. Nothing expires: no time to live, no server clock.

**Limits** One value per name, up to the server's `max_payload`. A cluster that loses the leader of the stream takes
writes again after 4 to 9 s (its election), so a lease should last longer than that: 15 s is the default.

**Under the hood** The namespace's stream of small values (`state.py`), one subject per name. Reads ask the stream's
leader. The server republishes every record as soon as it is stored, to `aether.r.<namespace>.lease.<name>`; a
watch is a plain subscription to that: no consumer that could fall silent; after a reconnect everything is read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from typing import Self

from aether.core.errors import Unavailable
from aether.core.names import decode_token
from aether.core.scope import DEFAULT_TIMEOUT, Scope
from aether.core.spi import Entry, Watch
from aether.core.url import BackendURL
from aether.nats.connection import Connection, open_connection
from aether.nats.options import replicas_of
from aether.nats.state import State
from nats.aio.msg import Msg

_log = logging.getLogger("aether.nats")

_KIND = "lease"
_AT_ONCE = 64  # reads of one scan that are under way together
_HEARD_SECONDS = (0.1, 1.0)  # behind which the servers of a cluster have told each other of a subscription
_RETRY_SECONDS = 0.1


class NatsRegister:
    """A `LeaseRegister` over a JetStream stream."""

    push = True

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        self._opening: Callable[[], AbstractAsyncContextManager[Connection]] = partial(open_connection, url, scope)
        self._namespace = scope.namespace
        self._timeout = scope.timeout
        self._replicas = replicas_of(url)
        self._stack = AsyncExitStack()

    @classmethod
    def from_connection(
        cls, connection: Connection, namespace: str, *, replicas: int | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Self:
        """A register on a connection of your own, which stays open behind it."""
        register = cls.__new__(cls)
        register._opening = lambda: nullcontext(connection)
        register._namespace = namespace
        register._timeout = timeout
        register._replicas = replicas
        register._stack = AsyncExitStack()
        return register

    # --- Life ---

    async def open(self) -> None:
        async with AsyncExitStack() as stack:
            self._connection = await stack.enter_async_context(self._opening())
            self._state = State(self._connection, self._namespace, timeout=self._timeout, replicas=self._replicas)
            await self._state.open()
            self._stack = stack.pop_all()

    async def close(self) -> None:
        await self._stack.aclose()

    # --- Records ---

    async def read(self, name: str) -> Entry | None:
        value = await self._state.read(self._state.subject(_KIND, name))
        return None if value is None else Entry(name, *value)

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        return await self._state.cas(self._state.subject(_KIND, name), value, expected=expected)

    async def scan(self, prefix: str) -> Sequence[Entry]:
        # A prefix of a name is not a prefix of its token: list all, then choose.
        names = [decode_token(token) for token in await self._state.tokens(_KIND)]
        chosen = sorted(name for name in names if name.startswith(prefix))
        limit = asyncio.Semaphore(_AT_ONCE)

        async def read(name: str) -> Entry | None:
            async with limit:
                return await self.read(name)

        try:
            async with asyncio.TaskGroup() as group:
                reads = [group.create_task(read(name)) for name in chosen]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [entry for task in reads if (entry := task.result()) is not None]

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[Watch]:
        watch = _Watch(self, self._connection, prefix)
        async with AsyncExitStack() as stack:
            subject = self._state.republished(_KIND)
            await stack.enter_async_context(self._connection.subscribe(subject, watch.received))
            stack.callback(self._connection.on_reconnect(watch.interrupted))
            await self._connection.barrier()
            if "cluster" in self._connection.server_info:
                # Other servers hear of the subscription a moment later: what changes before, they tell nobody.
                for seconds in _HEARD_SECONDS:
                    stack.callback(asyncio.get_running_loop().call_later(seconds, watch.interrupted).cancel)
            yield watch


class _Watch:
    """The latest change of each record that nobody has asked for yet, so its size is bounded by theirs."""

    def __init__(self, register: NatsRegister, connection: Connection, prefix: str) -> None:
        self._register = register
        self._connection = connection
        self._prefix = prefix
        self._changed: dict[str, Entry] = {}
        self._arrived = asyncio.Event()
        self._missed = False

    async def next(self) -> Entry:
        while not self._changed:
            if self._missed:
                await self._read_again()
                continue
            self._arrived.clear()
            await self._arrived.wait()
        return self._changed.pop(next(iter(self._changed)))

    def received(self, message: Msg) -> None:
        name = decode_token(message.subject.rpartition(".")[2])
        if name.startswith(self._prefix):
            revision = int((message.headers or {})["Nats-Sequence"])
            self._change(Entry(name, revision, message.data))

    def interrupted(self) -> None:
        """Changes may have been missed: read all records."""
        self._missed = True
        self._arrived.set()

    async def _read_again(self) -> None:
        self._missed = False
        try:
            for entry in await self._register.scan(self._prefix):
                self._change(entry)
        except Unavailable as error:
            self._missed = True
            if self._connection.closed:
                raise
            _log.debug("the watch of %r reads again: %s", self._prefix, error)
            await asyncio.sleep(_RETRY_SECONDS)
        except BaseException:
            self._missed = True
            raise

    def _change(self, entry: Entry) -> None:
        held = self._changed.get(entry.name)
        if held is None or held.revision < entry.revision:
            self._changed[entry.name] = entry
            self._arrived.set()
