"""Coroutines as tests, and waiting for processes."""

import asyncio
import inspect
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aether.core.errors import BackendUnusable
from aether.sql.servers import find_mariadb

BOUND = 60.0
"""Seconds after which a test has failed, whatever it waits for. No test depends on being faster."""

try:
    find_mariadb()
except BackendUnusable as error:  # it is in no wheel: then these tests are not there, and the header says so
    collect_ignore = ["test_mysql.py"]
    MISSING = [f"not tested: {error}"]
else:
    MISSING = []


def pytest_report_header() -> list[str]:
    return MISSING


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), BOUND))
    return True


@pytest.fixture
def state() -> Callable[[int], str]:
    """The letter that Linux gives to the state of a process, Z when it is gone."""

    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "Z"

    return state


@pytest.fixture
def gone(state: Callable[[int], str]) -> Callable[..., None]:
    """Wait until processes are gone."""

    def gone(*pids: int) -> None:
        deadline = time.monotonic() + BOUND
        while left := [pid for pid in pids if state(pid) != "Z"]:
            assert time.monotonic() < deadline, f"processes {left} still live"
            time.sleep(0.005)

    return gone
