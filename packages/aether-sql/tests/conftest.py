"""Coroutines as tests, servers, and waiting."""

import asyncio
import inspect
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncmy
import asyncpg
import pytest

from aether.core.errors import BackendUnusable
from aether.core.kit.server import HOST
from aether.sql.servers import MariadbServer, PostgresServer, find_mariadb, find_postgres

BOUND = 60.0
"""Seconds after which a test has failed, whatever it waits for. No test depends on being faster."""

DATABASES = ["sqlite", "postgres", "mariadb"]

# What is in no wheel: where it is not, its tests are not there, and the header says so.
collect_ignore: list[str] = []
MISSING: list[str] = []
try:
    find_mariadb()
except BackendUnusable as error:
    DATABASES.remove("mariadb")
    collect_ignore.append("test_mysql.py")
    MISSING.append(f"not tested: {error}")
ENCRYPTED = ["postgres", *(["mariadb"] if "mariadb" in DATABASES else [])]
if b"libssl" not in (find_postgres() / "postgres").read_bytes():  # that of the wheel
    ENCRYPTED.remove("postgres")
    MISSING.append("not tested: TLS of PostgreSQL, which this one was built without; run: apt-get install postgresql")
if shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") is None:
    collect_ignore.append("test_pgbouncer.py")
    MISSING.append("not tested: pgbouncer is not installed; run: apt-get install pgbouncer")


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


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait until a function, or a coroutine function, answers with something true, and return that."""

    async def until(look: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + BOUND
        while not (found := await _answer(look())):
            assert time.monotonic() < deadline, "it did not happen"
            await asyncio.sleep(0.005)
        return found

    return until


async def _answer(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests that do not break it."""
    with tempfile.TemporaryDirectory(prefix="aether-postgres-") as directory:
        server = PostgresServer(directory)
        server.start_now()
        try:
            yield server
        finally:
            server.stop_now()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of a database of the test's own."""
    name = f"t{uuid.uuid4().hex}"

    async def make() -> None:
        connection = await asyncpg.connect(postgres.url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(make())
    return f"{postgres.url.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariadbServer]:
    """One server for all tests that do not break it."""
    server = MariadbServer(tmp_path_factory.mktemp("mariadb"))
    server.start_now()
    try:
        yield server
    finally:
        server.stop_now()


@pytest.fixture
def mariadb_url(mariadb: MariadbServer) -> str:
    """The URL of a database of the test's own."""
    name = f"t{uuid.uuid4().hex}"

    async def make() -> None:
        connection = await asyncmy.connect(host=HOST, port=mariadb.port, user="aether")
        await connection.cursor().execute(f"CREATE DATABASE {name}")
        await connection.ensure_closed()

    asyncio.run(make())
    return f"{mariadb.url.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="module", params=ENCRYPTED)
def encrypted(request: pytest.FixtureRequest) -> str:
    """Each kind of server that can do TLS on this machine."""
    return str(request.param)


@pytest.fixture(params=DATABASES)
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of the test's own, of each kind that this machine has."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url
