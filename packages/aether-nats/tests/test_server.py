"""Servers of one's own: they start, die with their parent, and keep others out."""

import asyncio
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from aether.core.errors import InvalidURL, Unavailable
from aether.nats.embedded import embedded
from aether.nats.server import NatsServer

PARENT = """
import os, sys
from aether.nats.server import NatsServer
server = NatsServer(sys.argv[1], sync_always=False)
server.start_now()
if sys.argv[2] == "fork" and os.fork() == 0:
    os.write(1, b"%d\\n" % os.getpid())  # one write: `print` may make two, and the parent writes beside it
    sys.stdin.read()
    os._exit(0)
os.write(1, b"%d %d\\n" % (server.pid, server._guard.pid))
sys.stdin.read()
"""

HOLDER = """
import asyncio, sys
from aether.nats.embedded import embedded
async def main():
    async with embedded(sys.argv[1]) as server:
        print(server.pid, server.url, server._guard.pid, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# --- One server ---


async def test_it_keeps_its_port_and_data(tmp_path, connect):
    async with NatsServer(tmp_path, sync_always=False) as server:
        url, pid = server.url, server.pid
        async with connect(url) as connection:
            config = {"name": "kept", "subjects": ["kept"]}
            await connection.js_api("$JS.API.STREAM.CREATE.kept", config, timeout=20)
            await connection.js_api("kept", b"", timeout=20)
        await server.restart()
        assert server.url == url
        assert server.pid != pid
        async with connect(url) as connection:
            info = await connection.js_api("$JS.API.STREAM.INFO.kept", b"", timeout=20)
        assert info["state"]["messages"] == 1
        server.kill()
        assert not server.running
        await server.start()
        assert server.running
    assert not server.running
    await server.stop()


async def test_it_syncs_every_write_unless_told_otherwise(tmp_path):
    async with NatsServer(tmp_path / "one") as server:
        assert "sync_interval: always" in (server.directory / "nats-server.conf").read_text()
    async with NatsServer(tmp_path / "two", sync_always=False) as server:
        assert "sync_interval" not in (server.directory / "nats-server.conf").read_text()


async def test_a_failure_shows_the_log(tmp_path):
    server = NatsServer(tmp_path, config="nonsense {")
    with pytest.raises(Unavailable, match=r"ended at once; its log ends with:\n(.*\n)*.*nats-server.*") as caught:
        await server.start()
    assert "rror" in str(caught.value)
    assert not server.running


@pytest.mark.parametrize("restart", [False, True])
async def test_a_port_that_is_taken(restart, tmp_path, shared):
    server = NatsServer(tmp_path, port=shared.port, restart=restart)
    with pytest.raises(Unavailable, match="ended at once"):
        await server.start()
    assert not server.running


async def test_a_cancelled_start_leaves_no_server(tmp_path, gone):
    server = NatsServer(tmp_path, sync_always=False)
    task = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.running


async def test_a_paused_server_can_be_stopped(server, gone):
    pid = server.pid
    server.pause()
    await server.stop()
    gone(pid)


# --- Parents and children ---


@pytest.mark.parametrize("mode", ["alone", "fork"])
def test_it_dies_with_its_parent(mode, tmp_path, gone):
    """Also when a fork of the parent holds the guard's pipe open."""
    with python(PARENT, str(tmp_path), mode) as parent:
        lines = [parent.stdout.readline().split() for _ in range(2 if mode == "fork" else 1)]
        pid, guard = next(map(int, line) for line in lines if len(line) == 2)
        parent.send_signal(signal.SIGKILL)
        gone(pid)
        gone(guard)
        for line in lines:
            if len(line) == 1:
                os.kill(int(line[0]), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM] + [signal.SIGKILL] * (sys.platform == "linux"))
def test_it_dies_with_its_guard(number, tmp_path, gone):
    with python(PARENT, str(tmp_path), "alone") as parent:
        pid, guard = map(int, parent.stdout.readline().split())
        os.kill(guard, number)
        gone(pid)
        parent.stdin.close()


async def test_it_can_be_started_from_a_thread_that_ends(tmp_path, connect):
    server = NatsServer(tmp_path, sync_always=False)
    thread = threading.Thread(target=server.start_now)
    thread.start()
    thread.join()
    async with connect(server.url) as connection:
        await connection.barrier()
    await server.stop()


# --- Embedded ---


async def test_embedded_twice_is_one_server(tmp_path, connect, gone):
    url = f"nats+embedded://{tmp_path}/data"
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(connect(url))
        assert one.synced
        async with connect(url) as two:
            assert two.server_info["server_id"] == one.server_info["server_id"]
        await one.barrier()
        async with embedded(tmp_path / "data") as server:
            pid = server.pid
    gone(pid)


def test_embedded_in_several_event_loops(tmp_path):
    together = threading.Barrier(4)
    servers = []

    async def use() -> None:
        async with embedded(tmp_path) as server:
            servers.append((server.pid, server.url))
            await asyncio.to_thread(together.wait, 60)

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(servers) == 4
    assert len(set(servers)) == 1


async def test_embedded_keeps_its_data(tmp_path, connect):
    url = f"nats+embedded://{tmp_path}/data"
    config = {"name": "kept", "subjects": ["kept"]}
    async with connect(url) as connection:
        await connection.js_api("$JS.API.STREAM.CREATE.kept", config, timeout=20)
    async with connect(url) as connection:
        await connection.js_api("$JS.API.STREAM.INFO.kept", b"", timeout=20)


async def test_embedded_is_started_again_when_it_dies(tmp_path, connect):
    async with connect(f"nats+embedded://{tmp_path}/data") as connection, embedded(tmp_path / "data") as server:
        pid = server.pid
        back = asyncio.Event()
        connection.on_reconnect(back.set)
        server.kill()
        await back.wait()
        await connection.barrier()
        assert server.pid not in (None, pid)


async def test_embedded_keeps_others_out(tmp_path, connect):
    async with embedded(tmp_path) as server:
        with pytest.raises(Unavailable, match="asks for credentials"):
            await connect(server.url).__aenter__()
        for name in ("token", "nats-server.conf", "nats-server.log", "aether.lock"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        token = (tmp_path / "token").read_text()
        assert len(token) > 30
        assert token not in server.log.read_text() + str(server) + server.url
        for pid in (server.pid, server._guard.pid):
            assert token.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_embedded_in_two_processes(tmp_path, gone):
    with python(HOLDER, str(tmp_path)) as holder:
        pid, url, _ = holder.stdout.readline().split()
        with pytest.raises(Unavailable, match=f"process {holder.pid}, whose server listens at {url}") as caught:
            await embedded(tmp_path).__aenter__()
        assert (tmp_path / "token").read_text() not in str(caught.value)
        holder.stdin.close()
        holder.wait()
        gone(int(pid))
    async with embedded(tmp_path) as server:
        assert json.loads((tmp_path / "aether.lock").read_text()) == {"pid": os.getpid(), "url": server.url}


async def test_embedded_directory_is_locked_for_as_long_as_a_server_lives(tmp_path):
    """Its owner may be gone already: two servers on one directory would destroy its data."""
    with python(HOLDER, str(tmp_path)) as holder:
        pid, _, guard = holder.stdout.readline().split()
        os.kill(int(guard), signal.SIGSTOP)  # so the server outlives its owner
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with (tmp_path / "aether.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(int(guard), signal.SIGCONT)
        async with embedded(tmp_path):
            assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("url", ["nats+embedded://", "nats+embedded:///", "nats+embedded://host/path"])
async def test_embedded_needs_a_directory(url, connect):
    with pytest.raises(InvalidURL, match="three slashes"):
        await connect(url).__aenter__()


async def test_embedded_refuses_options_that_mean_nothing_there(tmp_path, connect):
    with pytest.raises(InvalidURL, match="unknown option 'user'"):
        await connect(f"nats+embedded://{tmp_path}", user="a").__aenter__()


# --- Clusters ---


async def test_a_cluster_is_ready_for_streams_with_three_replicas(cluster, connect):
    assert cluster.url.count(",") == 2
    async with connect(cluster.url) as connection:
        config = {"name": "three", "subjects": ["three"], "num_replicas": 3}
        made = await connection.js_api("$JS.API.STREAM.CREATE.three", config, timeout=20)
        assert len(made["cluster"]["replicas"]) == 2


async def test_a_start_that_is_cancelled_twice_leaves_no_server(tmp_path):
    server = NatsServer(tmp_path, sync_always=False)
    starting = asyncio.create_task(server.start())
    while server._guard is None and not starting.done():
        await asyncio.sleep(0.001)
    starting.cancel()
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    async with asyncio.timeout(20):
        while server.running:
            await asyncio.sleep(0.001)


def test_a_forked_child_does_not_keep_the_server_from_stopping_in_order(tmp_path):
    server = NatsServer(tmp_path, sync_always=False)
    server.start_now()
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        server.stop_now()
        assert "Server Exiting" in server.log.read_text()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("below", ["", "/deeper"])
async def test_an_embedded_directory_that_cannot_be_one_says_so(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be used for the data of a server"):
        async with embedded(f"{tmp_path}/file{below}"):
            pass
