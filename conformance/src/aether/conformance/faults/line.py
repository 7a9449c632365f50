"""One connection through a link, from the inside: two pumps, in the link's event loop."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

Address = tuple[str, int]

_CHUNK = 1 << 16  # bytes: a held line keeps about as many in each direction, then its sender has to wait
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


class Way(StrEnum):
    """A direction on a link."""

    REQUESTS = "requests"
    """From the client to the server."""

    REPLIES = "replies"
    """From the server to the client."""


@dataclass
class Traffic:
    """The bytes of one direction."""

    arrived: int = 0
    """How many have come to the link from their sender."""

    passed: int = 0
    """How many the link has handed to their receiver."""

    held: int = 0
    """How many are at the link now, and may not pass yet."""

    left: int | None = None
    """How many may still pass until the connection is reset that they pass through; None: as many as come."""


class Line:
    """Passes on what comes from a client and from its server, as long as that is allowed."""

    def __init__(self, traffic: dict[Way, Traffic], held: Collection[Way], delay: float) -> None:
        self._traffic = traffic
        self._held = frozenset(held)
        self._delay = delay
        self._changed = asyncio.Event()
        self._broken = False
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: list[asyncio.Task[None]] = []

    # --- Breaking ---

    def hold(self, held: Collection[Way], delay: float) -> None:
        """Keep what comes in some directions, and pass on the rest so much later."""
        self._held = frozenset(held)
        self._delay = delay
        self._changed.set()

    def end(self) -> None:
        """End both sides in order. What is held is lost."""
        self._break(_close)

    def reset(self) -> None:
        """End both sides with RST. What is held is lost."""
        self._break(_abort)

    def _break(self, end: Callable[[asyncio.StreamWriter], None]) -> None:
        self._broken = True
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers:
            end(writer)

    # --- Passing on ---

    async def run(self, client: socket.socket, target: Address) -> None:
        """Connect to the server, and pass on what comes, until both sides have ended and are closed."""
        reader, writer = await asyncio.open_connection(sock=client, limit=_CHUNK)
        self._writers.append(writer)
        try:
            from_server, to_server = await asyncio.open_connection(*target, limit=_CHUNK)
        except OSError:
            self.reset()  # what the client would have met at the server itself
        else:
            self._writers.append(to_server)
            if not self._broken:
                for way, source, sink in ((Way.REQUESTS, reader, to_server), (Way.REPLIES, from_server, writer)):
                    self._pumps.append(asyncio.create_task(self._pump(way, source, sink)))
                await asyncio.wait(self._pumps)
            self.end()
        await asyncio.gather(*(each.wait_closed() for each in self._writers), return_exceptions=True)

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        traffic, chunk = self._traffic[way], b"?"
        while chunk:
            try:
                chunk = await reader.read(_CHUNK)
            except OSError:
                await self._allowed(way)  # not even a reset gets through a black hole
                self.reset()
                return
            traffic.arrived += len(chunk)
            traffic.held += len(chunk)
            try:
                await self._allowed(way)
            finally:
                traffic.held -= len(chunk)
            with suppress(OSError):  # its receiver is gone, which the other pump finds out and passes on
                if chunk:
                    await self._pass(traffic, chunk, writer)
                else:
                    writer.write_eof()

    async def _allowed(self, way: Way) -> None:
        """Wait until what has come may pass."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._delay):
                await self._until(lambda: not self._delay)
        await self._until(lambda: way not in self._held)

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            self._changed.clear()
            await self._changed.wait()

    async def _pass(self, traffic: Traffic, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        last = traffic.left is not None and traffic.left <= len(chunk)
        if traffic.left is not None:
            chunk = chunk[: traffic.left]
            traffic.left = None if last else traffic.left - len(chunk)
        traffic.passed += len(chunk)
        writer.write(chunk)
        await writer.drain()
        if last:
            # A reset would overtake what has just been sent, so its receiver sees an end in order.
            self._break(lambda each: _close(each) if each is writer else _abort(each))


def reset(connection: socket.socket) -> None:
    """Let the end of a connection be RST instead of FIN, and end it."""
    with suppress(OSError):
        _reset_on_close(connection)
    connection.close()


def _reset_on_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def _abort(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        _reset_on_close(writer.get_extra_info("socket"))
    writer.transport.abort()


def _close(writer: asyncio.StreamWriter) -> None:
    if writer.transport.get_write_buffer_size():
        writer.transport.abort()  # who does not read would keep it open
    else:
        writer.close()
