"""From a URL to a server, shared by what one opening of the URL makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from aether.core.scope import Scope
from aether.core.url import BackendURL
from aether.redis.lines import Line
from aether.redis.listener import Listener
from aether.redis.options import Address, Options, read_options
from aether.redis.places import Ask, Greet, Place
from aether.redis.space import BUS_HOME, Space
from redis.asyncio.connection import AbstractConnection

Make = Callable[[Address], AbstractConnection]


class Server:
    """Where the namespace and the bus are: two places in a cluster, one elsewhere."""

    def __init__(self, options: Options, scope: Scope, make: Make | None = None) -> None:
        self.options = options
        self.space = Space(scope.namespace)
        self._timeout = scope.timeout
        self._home = Place(options, timeout=scope.timeout, make=make)
        self._bus_home = Place(options, timeout=scope.timeout, make=make)
        self._lines: list[Line] = []
        self.hints = Listener(self._home, self._owns(self.space.leases), timeout=scope.timeout)
        """Who hears of leases."""

        self.messages = Listener(self._bus_home, self._owns(BUS_HOME), timeout=scope.timeout)
        """Who hears the bus."""

    def line(self, greet: Greet | None = None) -> Line:
        """A connection to where the namespace is; it ends with the server."""
        return self._added(Line(self._home, greet or self._owns(self.space.meta), timeout=self._timeout))

    def bus_line(self) -> Line:
        """A connection to where the bus is; it ends with the server."""
        return self._added(Line(self._bus_home, self._owns(BUS_HOME), timeout=self._timeout))

    def channel(self, kind: str) -> bytes:
        """The beginning of the names of channels, which know nothing of databases: those of this one."""
        return f"aether:{kind}:{self.options.db}:".encode()

    async def close(self) -> None:
        """Drop all connections. May be called twice."""
        await self.hints.close()
        await self.messages.close()
        for line in self._lines:
            await line.close()

    def _added(self, line: Line) -> Line:
        self._lines.append(line)
        return line

    def _owns(self, key: bytes) -> Greet:
        async def greet(ask: Ask) -> None:
            """A node of a cluster that does not own the key's slot says who does; a replica refuses the script."""
            await ask("EVAL", "#!lua\nreturn redis.call('EXISTS', KEYS[1])", 1, key)

        return greet


def shared(url: BackendURL, scope: Scope) -> AbstractAsyncContextManager[Server]:
    """The server of a URL: for the first of store, bus and register, until behind the last one."""
    return sharing(read_options(url), scope)


def sharing(options: Options, scope: Scope, make: Make | None = None) -> AbstractAsyncContextManager[Server]:
    """`shared`, for connections that somebody else makes, too."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Server]:
        server = Server(options, scope, make)
        try:
            yield server
        finally:
            await server.close()

    return scope.share("aether-redis", opened)
