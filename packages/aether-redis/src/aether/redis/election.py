"""The lease register: a compare-and-set is one script, nothing expires, and no clock of the server is asked.

**URL** as the store's.

**Guarantees** Every rule of the suite, on one primary. A failover to a replica that was behind takes writes back;
tokens still increase if the election is given a `floor`, the highest token that what it governs has seen.

**Under the hood** One hash for the leases of a namespace, each `<revision> <record>`. A write publishes what it wrote;
a watch hears that, and reads all after a lost connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

from aether.core.errors import Unavailable
from aether.core.scope import Scope
from aether.core.spi import Entry, RevisionConflict, Watch
from aether.core.url import BackendURL
from aether.redis.listener import Ear
from aether.redis.opening import Server, shared
from aether.redis.scripts import CAS

_log = logging.getLogger("aether.redis")

_RETRY_SECONDS = 0.1


class RedisRegister:
    """A `LeaseRegister` over one hash."""

    push = True

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        self.opening: partial[AbstractAsyncContextManager[Server]] = partial(shared, url, scope)
        self._namespace = scope.namespace
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        async with AsyncExitStack() as stack:
            self._server = await stack.enter_async_context(self.opening())
            self._line = self._server.line()
            self._leases = self._server.space.leases
            self._channel = self._server.channel("lease") + self._namespace.encode()
            await self._line.call("opening the register", ("PING",), writes=False)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        await self._stack.aclose()

    async def read(self, name: str) -> Entry | None:
        what = f"lease {name!r}"
        (found,) = await self._line.call(what, ("HGET", self._leases, name.encode()), writes=False)
        if found is None:
            return None
        try:
            return _entry(name.encode(), found)
        except ValueError:
            where = self._leases.decode()
            raise Unavailable(what, reason="its record is none of ours", hint=f"see who writes to {where!r}") from None

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        what, arguments = f"lease {name!r}", (name.encode(), expected, value, self._channel)
        (revision,) = await self._line.run(what, CAS, [self._leases], arguments, writes=True)
        if revision < 0:
            raise RevisionConflict(what)
        return int(revision)

    async def scan(self, prefix: str) -> Sequence[Entry]:
        (found,) = await self._line.call("leases", ("HGETALL", self._leases), writes=False)
        entries: list[Entry] = []
        for name, record in zip(found[::2], found[1::2], strict=True):
            try:
                entry = _entry(name, record)
            except ValueError:
                _log.warning("the record of lease %r is none of ours, and is left out", name)
                continue
            if entry.name.startswith(prefix):
                entries.append(entry)
        return entries

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[Watch]:
        watch = _Watch(self, prefix)
        ear = Ear([self._channel], None, watch.heard, watch.interrupted)
        async with self._server.hints.listening(ear):
            yield watch


class _Watch:
    """The latest change of each record that nobody has asked for yet, so its size is bounded by theirs."""

    def __init__(self, register: RedisRegister, prefix: str) -> None:
        self._register = register
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

    def heard(self, _channel: bytes, payload: bytes) -> None:
        name, _, record = payload.partition(b"\n")
        entry = _entry(name, record)
        if entry.name.startswith(self._prefix):
            self._change(entry)

    def interrupted(self) -> None:
        """Changes may have been missed: read all records."""
        self._missed = True
        self._arrived.set()

    async def _read_again(self) -> None:
        self._missed = False
        try:
            for entry in await self._register.scan(self._prefix):
                self._change(entry)
        except Unavailable:
            self._missed = True
            await asyncio.sleep(_RETRY_SECONDS)
        except BaseException:
            self._missed = True
            raise

    def _change(self, entry: Entry) -> None:
        self._changed[entry.name] = entry
        self._arrived.set()


def _entry(name: bytes, record: bytes) -> Entry:
    revision, _, value = record.partition(b" ")
    return Entry(name.decode(), int(revision), value)
