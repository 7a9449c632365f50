"""Where the server is: an address, one of several, whoever sentinels name, or the owner of a slot of a cluster.

A connection that is made here leads to a server that takes writes: `greet` finds that out, and is told where to go
by a node of a cluster that does not own the slot.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import hiredis

from aether.core.errors import Unavailable
from aether.redis.options import Address, Options
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, RedisError, ResponseError

Word = str | bytes | int
Command = tuple[Word, ...]
Ask = Callable[..., Awaitable[Any]]
Greet = Callable[[Ask], Awaitable[None]]
"""Asks a new connection what it leads to, before anybody uses it."""

CLIENT_NAME = "aether"
_MOST_HOPS = 5
_REPEATED = ", with args beginning with"  # what follows may be a password, or an event
_CLOSE_SECONDS = 2.0


class Place:
    """Makes connections to the server that one URL, and one slot, mean."""

    def __init__(
        self, options: Options, *, timeout: float, make: Callable[[Address], AbstractConnection] | None = None
    ) -> None:
        """`make` replaces how connections are made, for clients of one's own."""
        self._options = options
        self._timeout = timeout
        self._make = make or self._connection
        self._known: Address | None = None
        """Where the owner of the slot was last, in a cluster."""

    async def connect(self, greet: Greet) -> AbstractConnection:
        """A connection to the first server that passes `greet`. Raises what the last one raised."""
        addresses, failure = await self._addresses()
        for address in addresses:
            try:
                # One that is silent leaves time for the others.
                async with asyncio.timeout(self._timeout / (len(addresses) + 1)):
                    return await self._follow(address, greet)
            except (RedisError, OSError) as error:
                self._known = None
                failure = error
        raise failure

    def moved(self, error: MovedError) -> None:
        """The slot has another owner; the next connection goes there."""
        host = error.host or (self._known.host if self._known else self._options.seeds[0].host)
        self._known = Address(host, error.port)

    async def _addresses(self) -> tuple[Sequence[Address], Exception]:
        """Where to look, and what is wrong if there is nothing."""
        options = self._options
        if options.service is None:
            known = () if self._known is None else (self._known,)
            return (*known, *options.seeds), Unavailable("connecting", reason="there is no address")
        found: list[Address] = []
        failure: Exception = Unavailable(
            "connecting", reason=f"no sentinel knows a service {options.service!r}", hint="check the name in the URL"
        )
        for seed in options.seeds:
            try:
                async with asyncio.timeout(self._timeout / (2 * len(options.seeds))):
                    address = await self._sentinel(seed, options.service)
            except (RedisError, OSError) as error:
                failure = Unavailable(
                    "connecting", reason=f"sentinel {seed}: {error_text(error)}", hint="check it, or name others"
                )
            else:
                found += () if address is None else (address,)
        return found, failure

    async def _follow(self, address: Address, greet: Greet) -> AbstractConnection:
        for _ in range(_MOST_HOPS):
            connection = self._make(address)
            try:
                await _begin(connection)
                await greet(asking(connection))
            except MovedError as error:
                await part(connection)
                self._known = address
                self.moved(error)
                address = self._known
            except BaseException:
                await part(connection)
                raise
            else:
                return connection
        raise ResponseError(f"the nodes of the cluster send each other on: {_MOST_HOPS} times, last to {address}")

    async def _sentinel(self, seed: Address, service: str) -> Address | None:
        """What one sentinel says."""
        connection = self._connection(seed, sentinel=True)
        try:
            await _begin(connection)
            found = await asking(connection)("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        finally:
            await part(connection)
        return Address(found[0].decode(), int(found[1])) if found else None

    def _connection(self, address: Address, *, sentinel: bool = False) -> AbstractConnection:
        options = self._options
        arguments = connection_arguments(self._timeout)
        arguments |= options.sentinel_login if sentinel else {**options.login, "db": options.db}
        if not address.port:
            return UnixDomainSocketConnection(path=address.host, **arguments)
        arguments |= {"host": address.host, "port": address.port}
        if options.tls is None:
            return Connection(**arguments)
        connection = SSLConnection(**arguments)
        connection.ssl_context.context = options.tls
        return connection


async def _begin(connection: AbstractConnection) -> None:
    """Connect and log in. A server without AUTH repeats what it was sent: nobody else gets to see that."""
    try:
        await connection.connect()  # type: ignore[no-untyped-call]  # it says nothing of types
    except ResponseError as error:
        text = str(error)
        if _REPEATED not in text:
            raise
    else:
        return
    raise ResponseError(text.partition(_REPEATED)[0])


def connection_arguments(timeout: float) -> dict[str, Any]:
    """What every connection is told: no time-out in the middle of a reply, and no retries of anything."""
    return {
        "socket_timeout": None,  # replies are waited for in `Line`, and a blocking read is allowed to block
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),  # by default redis-py sent an append twice (measured)
        "protocol": 2,  # its pushes and its maps are not needed, and its greeting is a round trip
        "client_name": CLIENT_NAME,
        "driver_info": None,
        "decode_responses": False,
    }


def asking(connection: AbstractConnection) -> Ask:
    """One call at a time over a connection that nobody else uses yet."""

    async def ask(*command: Word) -> Any:
        await connection.send_packed_command(connection.pack_command(*command), check_health=False)
        return await connection.read_response(disable_decoding=True, timeout=math.inf)

    return ask


def send(connection: AbstractConnection, commands: Iterable[Command]) -> None:
    """Send commands in one piece, without waiting; to a connection that was closed meanwhile, nothing."""
    # Not redis-py's method, which closes the connection when its caller is cancelled while a buffer is full.
    writer = connection._writer
    if writer is not None:
        pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # it takes any number of words
        writer.write(b"".join(map(pack, commands)))


async def part(connection: AbstractConnection) -> None:
    """Drop a connection, whatever state it is in, and whether or not the server still answers."""
    # There is no other way to the socket, and closing it in order waits for what was not sent yet.
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()  # before anything is awaited: whoever is cancelled here leaves no socket
    with suppress(Exception):
        await connection.disconnect(nowait=True)
    if writer is None:
        return
    with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await writer.wait_closed()


def code_of(error: BaseException) -> str:
    """The word that an error of the server begins with, like `READONLY`; `ERR` for the rest."""
    known = getattr(error, "status_code", None)
    if known:
        return str(known)
    word = str(error).partition(" ")[0]
    return word if word.isupper() else "ERR"


def error_text(error: BaseException) -> str:
    """What an error says, with the word in front that redis-py takes off."""
    if isinstance(error, TimeoutError):
        return "no answer within the time-out"
    text = (str(error) or type(error).__name__).partition(_REPEATED)[0]
    code = getattr(error, "status_code", None)
    return f"{code} {text}" if code and not text.startswith(str(code)) else text
