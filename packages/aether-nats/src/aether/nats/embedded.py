"""`nats+embedded:///directory`: one nats-server per directory, started by the first who opens it in this process.

It is stopped behind the last one; the data stays. It syncs every write to the disk, is started again when it dies,
and takes only clients that know the token, which is in a file that only its owner can read.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aether.core.errors import Unavailable
from aether.core.kit.server import in_thread
from aether.core.url import BackendURL
from aether.nats.server import NatsServer

_LOCK_SECONDS = 10.0  # longer than a server may take to stop
_POLL_SECONDS = 0.005
_OPTIONS = ("inbox_prefix", "name", "replicas")


class _Embedded:
    """The server of one directory, and how many of this process use it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._users = 0
        self._server: NatsServer | None = None

    @property
    def server(self) -> NatsServer:
        assert self._server is not None
        return self._server

    def acquire(self) -> None:
        """Start the server for the first user. Blocks."""
        with self._lock:
            if self._users == 0:
                self._server = self._start()
            self._users += 1

    def release(self) -> None:
        """Stop the server behind the last user. Blocks."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                server, self._server = self.server, None
                server.stop_now()

    def _start(self) -> NatsServer:
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = self._take_lock()
        except OSError as error:
            reason = f"it cannot be used for the data of a server: {error.strerror}"
            raise Unavailable(f"directory {self._directory}", reason=reason, hint="choose another one") from error
        try:
            # The server inherits the lock: the directory is free when nobody can write to it any more, not already
            # when the process that started the server is gone.
            server = NatsServer(self._directory, token=self._token(), restart=True, keep=(lock,))
            server.start_now()
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps({"pid": os.getpid(), "url": server.url}).encode(), 0)
        finally:
            os.close(lock)
        return server

    def _take_lock(self) -> int:
        lock = os.open(self._directory / "aether.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _LOCK_SECONDS
        try:
            while not _locked(lock):
                owner = _owner(lock)
                # Behind a process that is gone the server takes a moment to stop: wait, do not complain.
                if (owner and _alive(owner["pid"])) or time.monotonic() > deadline:
                    raise self._in_use(owner)
                time.sleep(_POLL_SECONDS)
            os.ftruncate(lock, 0)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _in_use(self, owner: dict[str, Any]) -> Unavailable:
        who = "another process, whose server is starting or stopping"
        if owner:
            who = f"process {owner['pid']}, whose server listens at {owner['url']}"
        return Unavailable(
            f"embedded server in {self._directory}",
            reason=f"the directory is used by {who}",
            hint="stop that process, choose another directory, or run one nats-server for both",
        )

    def _token(self) -> str:
        path = self._directory / "token"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            token = path.read_text(encoding="ascii").strip()
            if token:
                return token
            descriptor = os.open(path, os.O_WRONLY)  # the machine stopped between making and writing it
        token = secrets.token_urlsafe(32)
        with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123  (a descriptor, not a path)
            file.write(token)
        return token


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(lock: int) -> dict[str, Any]:
    """The process that holds the lock and the URL of its server; empty while it has not said so."""
    try:
        owner = json.loads(os.pread(lock, 1000, 0))
        return {"pid": int(owner["pid"]), "url": str(owner["url"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


_servers: dict[Path, _Embedded] = {}
_servers_lock = threading.Lock()


def _entry(directory: str | Path) -> _Embedded:
    path = Path(os.path.realpath(directory))
    with _servers_lock:
        return _servers.setdefault(path, _Embedded(path))


@asynccontextmanager
async def embedded(directory: str | Path) -> AsyncIterator[NatsServer]:
    """The server of a directory, shared by all event loops and threads of this process.

    Raises `Unavailable` when another process uses the directory, naming it.
    """
    entry = _entry(directory)
    await in_thread(entry.acquire, undo=entry.release)
    try:
        yield entry.server
    finally:
        await in_thread(entry.release)


@asynccontextmanager
async def embedded_options(url: BackendURL) -> AsyncIterator[dict[str, Any]]:
    """The server of a URL `nats+embedded:///directory`, as keywords of `nats.aio.client.Client.connect`."""
    if url.hosts or url.path in ("", "/"):
        raise url.error("name a directory, as in nats+embedded:///var/lib/shop; three slashes, then the path")
    url.check_options(_OPTIONS)
    given: dict[str, Any] = {name: url.options[name] for name in ("inbox_prefix", "name") if name in url.options}
    async with embedded(url.path) as server:
        yield {"servers": [server.url], "token": server.token, **given}
