"""Real servers, and coroutines as tests."""

import asyncio
import inspect
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from aether.core import EventStore, open_store
from aether.core.scope import Scope
from aether.core.url import BackendURL
from aether.nats.connection import Connection, open_connection
from aether.nats.server import NatsCluster, NatsServer

BOUND = 60.0
"""Seconds after which a test has failed, whatever it waits for. No test depends on being faster."""


Body = Callable[[NatsServer, EventStore, Client], Awaitable[None]]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), BOUND))
    return True


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server for tests that leave it alone."""
    server = NatsServer(tmp_path_factory.mktemp("shared"), sync_always=False)
    server.start_now()
    yield server
    server.stop_now()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of the test's own, to be killed and paused."""
    server = NatsServer(tmp_path / "server", sync_always=False)
    server.start_now()
    yield server
    server.stop_now()


@pytest.fixture
def in_store(tmp_path: Path) -> Callable[[Body], None]:
    """Run a test with a server of its own, an open store on it, and a plain client."""

    def run(body: Body) -> None:
        async def main() -> None:
            async with (
                NatsServer(tmp_path, sync_always=False) as server,
                open_store(server.url, namespace="shop") as store,
            ):
                client = await nats.connect(server.url, reconnect_time_wait=0.05)
                try:
                    await asyncio.wait_for(body(server, store, client), BOUND)
                finally:
                    await client.close()

        asyncio.run(main())

    return run


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """Three servers, for tests that leave them alone."""
    cluster = NatsCluster(tmp_path_factory.mktemp("cluster"), sync_always=False)
    asyncio.run(cluster.start())
    yield cluster
    asyncio.run(cluster.stop())


@pytest.fixture
def connect() -> Callable[..., AbstractAsyncContextManager[Connection]]:
    """Open a connection to a URL."""

    def connect(url: str, *, timeout: float = 20.0, **options: Any) -> AbstractAsyncContextManager[Connection]:
        return open_connection(BackendURL(url, options), Scope("shop", timeout=timeout))

    return connect


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait until a condition holds; the runner bounds it."""

    async def until(condition: Callable[[], Any]) -> Any:
        while not (found := condition()):
            await asyncio.sleep(0.005)
        return found

    return until


@pytest.fixture
def gone() -> Callable[[int], None]:
    """Wait until a process is gone."""

    def gone(pid: int) -> None:
        deadline = time.monotonic() + BOUND
        stat = Path(f"/proc/{pid}/stat")
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline, f"process {pid} still lives"
            time.sleep(0.005)

    return gone


class Certificates:
    """An authority, and a certificate of it for `localhost`."""

    def __init__(self, folder: Path) -> None:
        self.ca = str(folder / "ca.pem")
        self.certificate = str(folder / "server.pem")
        self.key = str(folder / "server.key")
        new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        authority = ["-keyout", str(folder / "ca.key"), "-out", self.ca, "-subj", "/CN=test authority"]
        self._run(*new, *authority, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        signed = ["-CA", self.ca, "-CAkey", str(folder / "ca.key"), "-keyout", self.key, "-out", self.certificate]
        names = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
        self._run(*new, *signed, "-subj", "/CN=localhost", *names)

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))
