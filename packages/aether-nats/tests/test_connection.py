"""The connection: authentication, TLS, lost servers, and the traps of nats-py that it keeps away from its users."""

import asyncio
import importlib.util
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import nats
import pytest

from aether.core.errors import BackendUnusable, Closed, InvalidURL, PayloadTooLarge, Unavailable
from aether.core.kit.server import free_port
from aether.core.scope import Scope
from aether.core.url import BackendURL
from aether.nats.client import cancellation_kept
from aether.nats.connection import ApiError, Connection, NoReply, open_connection
from aether.nats.options import connect_options
from aether.nats.server import NatsServer

SECRET = "s3cret-word"


def with_users(folder: Path, config: str) -> NatsServer:
    return NatsServer(folder, sync_always=False, config=config)


# --- Authentication ---


async def test_user_and_password(tmp_path, connect):
    config = f'authorization {{ user: "alice", password: "{SECRET}" }}'
    async with with_users(tmp_path, config) as server:
        place = server.url.removeprefix("nats://")
        async with connect(f"nats://alice:{SECRET}@{place}") as connection:
            await connection.barrier()
        async with connect(server.url, user="alice", password=SECRET) as connection:
            await connection.barrier()
        for url in (f"nats://alice:wrong-{SECRET}@{place}", f"nats://{SECRET}@{place}"):
            with pytest.raises(Unavailable, match="refuses the credentials") as caught:
                await connect(url).__aenter__()
            assert SECRET not in str(caught.value)
        with pytest.raises(Unavailable, match="asks for credentials"):
            await connect(server.url).__aenter__()


async def test_token(tmp_path, connect):
    async with NatsServer(tmp_path, token=SECRET, sync_always=False) as server:
        async with connect(server.url.replace("://", f"://{SECRET}@")) as connection:
            await connection.barrier()
        async with connect(server.url, token=SECRET) as connection:
            await connection.barrier()


@pytest.mark.parametrize("option", ["creds", "nkey"])
async def test_key_files_without_the_package(option, tmp_path, connect, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnusable, match=r"pip install .*nkeys"):
        await connect("nats://localhost", **{option: str(tmp_path)}).__aenter__()


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("nats+udp://localhost", {}, "unknown variant 'udp'"),
        ("nats://localhost/orders", {}, "no path"),
        ("nats://localhost:none", {}, "not a host and a port"),
        ("nats://localhost:70000", {}, "not a host and a port"),
        ("nats://a:b@localhost", {"token": "c"}, "keep one way"),
        ("nats://a:b@localhost", {"user": "c"}, "keep one"),
        ("nats://localhost", {"user": "c"}, "belong together"),
        ("nats://localhost", {"tls_ca": "/no/such/file"}, "'tls_ca'"),
        ("nats://localhost", {"tls_cert": "/no/such/file"}, "'tls_cert'"),
        ("nats://localhost", {"tls_key": "/no/such/file"}, "'tls_key'"),
        ("nats://localhost", {"tls": True}, "ssl.SSLContext"),
    ],
)
def test_options_that_cannot_be_meant(url, options, message):
    with pytest.raises(InvalidURL, match=message):
        connect_options(BackendURL(url, options))


@pytest.mark.parametrize("option", ["creds", "nkey"])
def test_key_files_are_read_before_connecting(option, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InvalidURL, match=f"option '{option}'.*cannot be read"):
        connect_options(BackendURL("nats://localhost", {option: str(tmp_path / "nothing")}))
    other = tmp_path / "other"
    other.write_text("nothing of that kind")
    with pytest.raises(InvalidURL, match=f"option '{option}'.*holds no {option}"):
        connect_options(BackendURL("nats://localhost", {option: str(other)}))


@pytest.mark.parametrize(
    ("hosts", "servers"),
    [
        ("", ["nats://localhost:4222"]),
        ("a,b:5000", ["nats://a:4222", "nats://b:5000"]),
        ("[::1],[::1]:5000", ["nats://[::1]:4222", "nats://[::1]:5000"]),
    ],
)
def test_hosts(hosts, servers):
    assert connect_options(BackendURL(f"nats://{hosts}"))["servers"] == servers


# --- TLS ---


def tls_config(certificates, more: str = "") -> str:
    return f'tls {{ cert_file: "{certificates.certificate}", key_file: "{certificates.key}"{more} }}'


async def test_tls(tmp_path, connect, certificates):
    async with with_users(tmp_path, tls_config(certificates)) as server:
        url = f"nats+tls://localhost:{server.port}"
        async with connect(url, tls_ca=certificates.ca) as connection:
            await connection.barrier()
        context = ssl.create_default_context(cafile=certificates.ca)
        async with connect(url, tls=context) as connection:
            await connection.barrier()
        with pytest.raises(Unavailable, match=r"certificate is not trusted.*tls_ca="):
            await connect(url).__aenter__()
        with pytest.raises(Unavailable, match="certificate is not trusted"):
            await connect(f"nats+tls://127.0.0.1:{server.port}", tls_ca=certificates.ca).__aenter__()
        async with connect(
            f"nats+tls://127.0.0.1:{server.port}", tls_ca=certificates.ca, tls_hostname="localhost"
        ) as connection:
            await connection.barrier()


async def test_tls_with_a_certificate_of_the_client(tmp_path, connect, certificates):
    config = tls_config(certificates, f', ca_file: "{certificates.ca}", verify: true')
    async with with_users(tmp_path, config) as server:
        url = f"nats+tls://localhost:{server.port}"
        mine = {"tls_ca": certificates.ca, "tls_cert": certificates.certificate, "tls_key": certificates.key}
        async with connect(url, **mine) as connection:
            await connection.barrier()
        with pytest.raises(Unavailable):
            await connect(url, tls_ca=certificates.ca).__aenter__()


@pytest.mark.parametrize("options", [{}, {"tls_hostname": "localhost"}])
async def test_secrets_are_not_sent_in_plain_text_where_tls_was_asked_for(options, connect):
    received = asyncio.get_running_loop().create_future()

    async def pretend(reader, writer):
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","max_payload":1048576,"auth_required":true}\r\n')
        received.set_result(await reader.read(1000))
        writer.close()

    listener = await asyncio.start_server(pretend, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    scheme = "nats" if options else "nats+tls"
    with pytest.raises(Unavailable, match="offers no TLS"):
        await connect(f"{scheme}://alice:{SECRET}@127.0.0.1:{port}", **options).__aenter__()
    assert await received == b""
    listener.close()


# --- No server ---


async def test_no_server_is_said_at_once(connect):
    with pytest.raises(Unavailable, match=r"connection refused.*nats-server -js") as caught:
        await connect(f"nats://alice:{SECRET}@127.0.0.1:{free_port()}", timeout=50).__aenter__()
    assert SECRET not in str(caught.value)


async def test_a_server_that_says_nothing(connect):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with pytest.raises(Unavailable, match="no server answers within"):
            await connect(f"nats://127.0.0.1:{port}", timeout=0.2).__aenter__()


async def test_the_next_server_is_tried(connect, shared):
    place = shared.url.removeprefix("nats://")
    for hosts in (f"127.0.0.1:{free_port()},{place}", f"{place},127.0.0.1:{free_port()}"):
        async with connect(f"nats://{hosts}") as connection:
            await connection.barrier()


async def test_nothing_is_left_behind(connect, shared):
    before = asyncio.all_tasks()
    with pytest.raises(Unavailable):
        await connect(f"nats://127.0.0.1:{free_port()}").__aenter__()
    async with connect(shared.url) as connection:
        await connection.barrier()
    assert asyncio.all_tasks() == before
    await connection.close()
    with pytest.raises(Closed):
        await connection.barrier()


async def test_drivers_of_one_scope_share_it(shared):
    scope = Scope("shop")
    async with open_connection(BackendURL(shared.url), scope) as one:
        async with open_connection(BackendURL(shared.url), scope) as two:
            assert one is two
        await one.barrier()


# --- Requests ---


async def test_what_the_server_is(connect, shared):
    async with connect(shared.url) as connection:
        assert connection.version >= (2, 10)
        assert connection.max_payload == 1 << 20
        assert connection.server_info["jetstream"] is True
        assert not connection.synced


async def test_requests(connect, shared):
    async with connect(shared.url) as connection:
        nobody = await connection.request("nobody", b"", timeout=20)
        assert nobody.headers["Status"] == "503"
        with pytest.raises(ApiError) as caught:
            await connection.js_api("$JS.API.STREAM.INFO.none", b"", timeout=20)
        assert (caught.value.code, caught.value.err_code) == (404, 10059)
        with pytest.raises(PayloadTooLarge):
            await connection.publish("any", bytes(connection.max_payload + 1))
        async with connection.subscribe("mute", lambda _: None):
            with pytest.raises(NoReply, match="no answer within"):
                await connection.request("mute", b"", timeout=0.05)


async def test_a_request_ends_when_the_server_dies(connect, server, until):
    asked = []
    async with connect(server.url) as connection, connection.subscribe("mute", asked.append):
        request = asyncio.create_task(connection.request("mute", b"", timeout=10_000))
        await until(lambda: asked)
        server.kill()
        with pytest.raises(NoReply, match="lost"):
            await request


async def test_a_cancelled_request_leaves_nothing(connect, shared, until):
    asked = []
    async with connect(shared.url) as connection, connection.subscribe("mute", asked.append):
        request = asyncio.create_task(connection.request("mute", b"", timeout=10_000))
        await until(lambda: asked)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert not connection._handlers
        await connection.barrier()


async def test_it_comes_back(connect, server):
    lost, back, got = [], asyncio.Event(), asyncio.Queue()
    async with connect(server.url) as connection, connection.subscribe("news", got.put_nowait):
        connection.on_disconnect(lambda: lost.append(connection.generation))
        connection.on_reconnect(back.set)
        forget = connection.on_reconnect(lambda: lost.append("forgotten"))
        forget()
        server.kill()
        await server.start()
        await back.wait()
        await connection.wait_connected(20)
        assert lost == [0]
        assert connection.generation == 1
        await connection.publish("news", b"again")
        assert (await got.get()).data == b"again"


async def test_an_error_of_the_server_is_not_the_end(connect, shared):
    """nats-py closes its client for good when the server refuses a command."""
    async with connect(shared.url) as connection:
        back = asyncio.Event()
        connection.on_reconnect(back.set)
        await connection.publish("x" * 5000, b"")
        await back.wait()
        await connection.barrier()


# --- Traps ---


async def test_what_is_refused_while_disconnected_is_never_sent(connect, server, until):
    """nats-py by default keeps it and sends it after the reconnect, long after its caller was told otherwise."""
    async with connect(server.url) as connection:
        server.kill()
        await until(lambda: not connection.client.is_connected)
        with pytest.raises(Unavailable, match="not connected"):
            await connection.publish("news", b"late")
        with pytest.raises(Unavailable, match="not connected"):
            await connection.request("news", b"late", timeout=20)
        await server.start()
        async with connect(server.url) as other:
            got = asyncio.Queue()
            async with other.subscribe("news", got.put_nowait):
                await other.barrier()
                await connection.wait_connected(20)
                await connection.barrier()
                await connection.publish("news", b"marker")
                assert (await got.get()).data == b"marker"


async def test_a_burst_is_delivered_whole_and_in_order_over_two_subscriptions(connect, shared):
    """nats-py drops beyond its pending limits, and gives every subscription a queue and a task of its own."""
    count, got = 20_000, []
    async with (
        connect(shared.url) as connection,
        connection.subscribe("burst.even", lambda message: got.append(int(message.data))),
        connection.subscribe("burst.odd", lambda message: got.append(int(message.data))),
    ):
        await connection.barrier()
        async with connect(shared.url) as other:
            for number in range(count):
                await other.publish("burst.odd" if number % 2 else "burst.even", b"%d" % number)
            await other.barrier()
        await connection.barrier()
        assert got == list(range(count))
        assert not any(sub.pending_msgs for sub in connection.client._subs.values())


async def test_a_handler_that_fails_does_not_end_the_connection(connect, shared, caplog):
    def fail(_):
        raise ValueError("handler")

    async with connect(shared.url) as connection, connection.subscribe("bad", fail):
        await connection.publish("bad", b"")
        await connection.barrier()
        await connection.barrier()
    assert "the handler of 'bad' failed" in caplog.text


async def test_a_message_is_processed_before_its_barrier(connect, shared):
    """nats-py's flush writes its PING past messages that wait in the buffer, so its PONG proves nothing about them."""
    async with connect(shared.url) as connection, connect(shared.url) as other:
        got = []
        async with other.subscribe("seen", got.append):
            await other.barrier()
            for number in range(1, 100):
                await connection.publish("seen", bytes(100_000))
                await connection.barrier()
                await other.barrier()
                assert len(got) == number


async def stalled(server: NatsServer, connection: Connection, until) -> asyncio.Task[None]:
    """A task that publishes to a server that does not read, and that is stuck."""

    async def publish() -> None:
        while True:
            await connection.publish("void", bytes(1 << 20))

    server.pause()
    task = asyncio.create_task(publish())
    writer = connection.client._transport._io_writer.transport
    await until(lambda: writer.get_write_buffer_size() > writer.get_write_buffer_limits()[1])
    return task


async def test_publishing_waits_for_a_server_that_does_not_read(connect, server, until):
    async with connect(server.url, timeout=0.2) as connection:
        task = await stalled(server, connection, until)
        with pytest.raises(Unavailable, match="takes no data"):
            await task
        server.resume()
        await connection.wait_connected(20)
        await until(lambda: connection.client.pending_data_size == 0)


async def test_closing_does_not_wait_for_a_server_that_does_not_read(connect, server, until):
    before = asyncio.all_tasks()
    async with connect(server.url) as connection:
        task = await stalled(server, connection, until)
    with pytest.raises((Closed, Unavailable)):
        await task
    await until(lambda: asyncio.all_tasks() == before)


async def test_closing_without_a_server(connect, server, until):
    before = asyncio.all_tasks()
    async with connect(server.url) as connection:
        server.kill()
        await until(lambda: not connection.client.is_connected)
    await until(lambda: asyncio.all_tasks() == before)


async def test_a_cancellation_is_kept(server, until):
    """nats-py's `_flush_pending` catches it and goes on, here while its buffer is full."""
    client = await nats.connect(server.url, pending_size=1)
    async with Connection.from_client(client) as connection:
        task = await stalled(server, connection, until)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.resume()
    await client.close()


async def test_a_swallowed_cancellation_is_raised_again():
    async def swallow() -> None:
        with cancellation_kept(), suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    task = asyncio.create_task(swallow())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- A client of one's own ---


async def test_a_client_of_ones_own_stays_open_and_is_watched(server, until):
    client = await nats.connect(server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    before = asyncio.all_tasks()
    lost, back = asyncio.Event(), asyncio.Event()
    async with Connection.from_client(client) as connection:
        connection.on_disconnect(lost.set)
        connection.on_reconnect(back.set)
        await connection.barrier()
        server.kill()
        await lost.wait()
        await server.start()
        await back.wait()
        await connection.barrier()
        assert connection.generation == 1
    assert client.is_connected
    await until(lambda: len(asyncio.all_tasks()) == len(before))
    await client.close()
    with pytest.raises(Unavailable, match="not connected"):
        await Connection.from_client(client).open()


@pytest.mark.parametrize("work", ["_ping_interval", "_flusher"])
async def test_tasks_of_overlapping_reconnects_end_with_the_connection(work, shared, connect, until):
    """nats-py starts a second task for pings and for flushing when it connects twice at once, and forgets the first."""

    def running():
        return [task for task in asyncio.all_tasks() if work in repr(task.get_coro())]

    async with connect(shared.url) as connection:
        client = connection.client
        setattr(client, f"{work}_task", asyncio.create_task(getattr(client, work)()))
        await until(lambda: len(running()) == 1)
        await connection.barrier()
    await until(lambda: not running())


async def test_overlapping_reconnects_do_not_fail_at_their_end(server, connect, until):
    async with connect(server.url) as connection:
        client = connection.client
        server.kill()
        await until(lambda: client._reconnection_task_future is not None)
        before = client._reconnection_task_future
        tasks = [client._reconnection_task, asyncio.create_task(client._attempt_reconnect())]
        await until(lambda: client._reconnection_task_future is not before)
        for task in tasks:
            task.cancel()
        assert await asyncio.gather(*tasks) == [None, None]


async def test_overlapping_reconnects_leave_no_socket_behind(shared, connect, until):
    async with connect(shared.url) as connection:
        client, opened = connection.client, []
        connected = client._process_connect_init

        async def process_connect_init():
            opened.append(client._transport._io_writer)
            await connected()

        client._process_connect_init = process_connect_init
        reconnects = [asyncio.create_task(client._attempt_reconnect()) for _ in range(2)]
        await until(lambda: len(opened) >= 2 and any(task.done() for task in reconnects))
        for task in reconnects:
            task.cancel()
        await asyncio.wait(reconnects)

        others = [writer for writer in opened if writer is not client._transport._io_writer]
        assert others
        assert all(writer.transport.is_closing() for writer in others)
