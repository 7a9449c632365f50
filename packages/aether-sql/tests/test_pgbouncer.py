"""PostgreSQL behind a proxy that gives each transaction to whatever connection is free. It comes in no wheel."""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from aether.core import Event, OutcomeUnknown, StoreIdentityChanged, Unavailable, connect, open_store
from aether.core.kit.server import HOST
from aether.sql.servers import DatabaseServer, PostgresServer

CONFIGURATION = """\
[databases]
* = host={host} port={behind}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
auth_type = trust
auth_file = {data}/users
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 200
logfile = {data}/log
pidfile = {data}/pid
unix_socket_dir =
"""
POOL = 2  # connections: fewer than the store has, so that they are shared in earnest
SETTINGS = ("lock_timeout", "synchronous_commit", "statement_timeout", "search_path")


class Pgbouncer(DatabaseServer):
    """The proxy, in front of one server."""

    program = "pgbouncer"
    accounts = ("postgres", "nobody")

    def __init__(self, directory: Path, behind: PostgresServer, *, mode: str, size: int) -> None:
        super().__init__(directory)
        self.behind = behind.port
        self._options = {"mode": mode, "size": size}

    @property
    def url(self) -> str:
        return f"postgresql://aether@{HOST}:{self.port}/aether"

    def find(self) -> Path:
        found = shutil.which(self.program, path=f"{os.environ['PATH']}:/usr/sbin")
        assert found is not None, "conftest.py leaves this file out where it is not installed"
        return Path(found).parent

    def initialise(self, data: Path) -> None:
        (data / "users").write_text('"aether" ""\n')

    def read_version(self) -> str:
        return self.run(self.program, "--version").splitlines()[0]

    def command(self) -> list[str]:
        place = self.data / "pgbouncer.ini"
        values = {"host": HOST, "behind": self.behind, "port": self.port, "data": self.data, **self._options}
        place.write_text(CONFIGURATION.format(**values))
        return [str(self.binaries / self.program), str(place)]

    def answers(self) -> bool:
        try:
            return (self.data / "pid").read_text().strip() == str(self.pid)
        except FileNotFoundError:
            return False


@pytest.fixture
def proxy(postgres_url: str, postgres: PostgresServer, tmp_path: Path) -> Iterator[Pgbouncer]:
    server = Pgbouncer(tmp_path / "pgbouncer", postgres, mode="transaction", size=POOL)
    server.start_now()
    try:
        yield server
    finally:
        server.stop_now()


@pytest.fixture
def url(proxy: Pgbouncer, postgres_url: str) -> str:
    return f"postgresql://aether@{HOST}:{proxy.port}/{postgres_url.rpartition('/')[2]}?statement_cache_size=0"


def event(version: int, actor: str = "a") -> Event:
    return Event(type="Happened", actor_id=actor, version=version)


async def settings(url: str) -> list[dict[str, Any]]:
    """What each connection of the proxy has, as whoever gets it next finds it."""
    clients = [await asyncpg.connect(url.partition("?")[0], statement_cache_size=0) for _ in range(POOL)]
    async with AsyncExitStack() as stack:
        for client in clients:
            stack.push_async_callback(client.close)
            await stack.enter_async_context(client.transaction())
        return [{name: await client.fetchval(f"SHOW {name}") for name in SETTINGS} for client in clients]


async def test_whoever_gets_a_connection_next_finds_it_as_it_was(url: str) -> None:
    """Commits that did not wait for the disk, because a message of ours had not, would be lost by a crash."""
    before = await settings(url)
    async with connect(url) as aether:
        for version in range(1, 9):
            await aether.store.append(event(version), event(version, "b"))
            await aether.store.append(event(version, "c"))
            await aether.bus.publish(event(version))
            assert await settings(url) == before


async def test_appenders_race_and_everybody_sees_everything(url: str, until: Callable[..., Any]) -> None:
    async with open_store(url) as one, open_store(url) as other, other.subscribe() as events:
        seen: list[tuple[str, int]] = []

        async def follow() -> None:
            async for _, found in events:
                seen.append((found.actor_id, found.version))

        async def write(store: Any, actor: str) -> None:
            version = 1
            while version <= 10:
                try:
                    await store.append(event(version, actor))
                except Exception as error:  # noqa: BLE001  (whoever lost looks where it is)
                    version = getattr(error, "current", version - 1)
                version += 1

        following = asyncio.create_task(follow())
        await asyncio.gather(*(write(store, f"a{number % 4}") for store in (one, other) for number in range(8)))
        await until(lambda: len(seen) >= 40)
        following.cancel()
        assert sorted(seen) == [(f"a{number}", version) for number in range(4) for version in range(1, 11)]
        assert [(found.actor_id, found.version) async for _, found in one.feed()] == seen


async def test_a_server_that_took_over_behind_it_is_asked_what_it_has(url: str, postgres_url: str) -> None:
    """Its clients stay when it is led to a server that lacks the last events: nothing may go behind a gap."""
    async with open_store(url) as store:
        await store.append(*(event(version) for version in range(1, 6)))
        await _run(postgres_url, "DELETE FROM aether_events WHERE version > 3")
        with pytest.raises(Exception, match="version"):
            await store.append(event(6))
        await store.append(event(4))
        assert [found.version async for found in store.read("a")] == [1, 2, 3, 4]


async def test_another_store_behind_it_is_noticed(url: str, postgres_url: str) -> None:
    async with open_store(url) as store:
        await store.append(event(1))
        await _run(postgres_url, "UPDATE aether_namespaces SET identity = 'another'")
        with pytest.raises(StoreIdentityChanged):
            await store.append(event(2))


async def test_it_may_go_and_come_back(url: str, proxy: Pgbouncer) -> None:
    async with open_store(url, timeout=30) as store:
        await store.append(event(1))
        proxy.kill()
        proxy.start_now()
        version = 2
        while version < 5:
            try:
                await store.append(event(version))
            except (Unavailable, OutcomeUnknown):
                continue
            version += 1
        assert [found.version async for found in store.read("a")] == [1, 2, 3, 4]


async def _run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()
