"""Coroutines as tests, servers, and waiting."""

import asyncio
import inspect
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aether.redis.servers import POWER_SAFE, RedisServer

_SOON = {"repl-diskless-sync-delay": "0"}  # seconds that a primary waits for further replicas

BOUND = 60.0
"""Seconds after which a test has failed, whatever it waits for. No test depends on being faster."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), BOUND))
    return True


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait until a function, or a coroutine function, answers with something true, and return that."""

    async def answer(look: Callable[[], Any]) -> Any:
        found = look()
        return await found if inspect.isawaitable(found) else found

    async def until(look: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + BOUND
        while not (found := await answer(look)):
            assert time.monotonic() < deadline, "it did not happen"
            await asyncio.sleep(0.005)
        return found

    return until


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One server for the tests of a module that leave it as they found it, but for its data."""
    with tempfile.TemporaryDirectory(prefix="aether-redis-") as directory:
        server = RedisServer(directory, settings={**POWER_SAFE, "unixsocket": f"{directory}/socket"})
        server.start_now()
        try:
            yield server
        finally:
            server.stop_now()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Makes servers of the test's own, started."""
    servers: list[RedisServer] = []

    def make(**settings: str) -> RedisServer:
        server = RedisServer(tmp_path / f"server-{len(servers)}", settings={**POWER_SAFE, **_SOON, **settings})
        servers.append(server)
        server.start_now()
        return server

    yield make
    for server in servers:
        server.stop_now()
