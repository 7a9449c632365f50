"""The link breaks what it is told to break, and nothing else; what it has passed on arrives."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from aether.conformance import Faults
from aether.conformance.faults import Link, Way
from aether.conformance.resources import Resources
from aether.conformance.violations import SuiteError

BOUND = 10.0


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self, count: int) -> bytes:
        async with asyncio.timeout(BOUND):
            return await self.reader.readexactly(count)

    async def ending(self) -> str:
        """How the connection ends."""
        async with asyncio.timeout(BOUND):
            try:
                while await self.reader.read(1 << 16):
                    pass
            except ConnectionError:
                return "RST"
        return "FIN"


class Echo:
    """A server that gives back what it is sent and remembers it, and its clients on the other side of a link."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.begun = 0
        self.ended: list[str] = []
        self.port = 0
        self.clients: list[Client] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.begun += 1
        try:
            while chunk := await reader.read(1 << 16):
                self.received += chunk
                writer.write(chunk)
                await writer.drain()
            self.ended.append("FIN")
        except ConnectionError:
            self.ended.append("RST")
        finally:
            writer.close()

    async def connect(self) -> Client:
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.clients[-1]

    async def settle(self, port: int) -> None:
        """Wait for the end of what the server has accepted; what comes last shows that nothing is still on its way."""
        marker = Client(*await asyncio.open_connection("127.0.0.1", port))
        marker.send(b"?")
        await marker.receive(1)
        marker.writer.close()
        await until(lambda: len(self.ended) == self.begun)

    async def attempt(self) -> str:
        """How a connection ends that is turned down; at once, or as soon as it is there."""
        try:
            return await (await self.connect()).ending()
        except ConnectionError:
            return "RST"


@asynccontextmanager
async def echo_behind_link() -> AsyncIterator[tuple[Echo, Link]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    target = ("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        with Link([target]) as link:
            echo.port = link.port(target)
            yield echo, link
    finally:
        for client in echo.clients:
            client.writer.close()
        await echo.settle(target[1])
        server.close()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(BOUND):
        while not true():
            await asyncio.sleep(0.001)


def run(body: Callable[[Echo, Link], Awaitable[None]]) -> None:
    async def main() -> None:
        async with echo_behind_link() as (echo, link):
            await body(echo, link)

    asyncio.run(main())


def test_passes_on_what_comes() -> None:
    async def body(echo: Echo, link: Link) -> None:
        data = bytes(range(256)) * 4096
        client = await echo.connect()
        client.send(data)

        assert await client.receive(len(data)) == data
        assert {way: traffic.passed for way, traffic in link.traffic.items()} == dict.fromkeys(Way, len(data))
        assert (link.accepted, len(link.connections)) == (1, 1)

    run(body)


def test_half_of_a_connection_ends_alone() -> None:
    async def body(echo: Echo, link: Link) -> None:
        client = await echo.connect()
        client.send(b"last words")
        client.writer.write_eof()

        assert await client.receive(10) == b"last words"
        assert await client.ending() == "FIN"
        await until(lambda: not link.connections)

    run(body)


@pytest.mark.parametrize(("verb", "ending"), [("cut", "FIN"), ("reset", "RST")])
def test_ends_all_connections_or_one(verb: str, ending: str) -> None:
    async def body(echo: Echo, link: Link) -> None:
        clients = [await echo.connect() for _ in range(3)]
        for client in clients:
            client.send(b"a")
            await client.receive(1)
        getattr(link.connections[1], verb)()

        assert await clients[1].ending() == ending
        for client in (clients[0], clients[2]):
            client.send(b"b")
            assert await client.receive(1) == b"b"
        getattr(link, verb)()
        assert [await client.ending() for client in (clients[0], clients[2])] == [ending] * 2
        assert link.connections == ()
        await until(lambda: echo.ended == [ending] * 3)
        again = await echo.connect()
        again.send(b"c")
        assert await again.receive(1) == b"c"

    run(body)


@pytest.mark.parametrize("way", list(Way))
def test_black_hole_in_one_direction_keeps_what_comes_until_it_is_healed(way: Way) -> None:
    async def body(echo: Echo, link: Link) -> None:
        client, other = await echo.connect(), await echo.connect()
        link.blackhole(way)
        client.send(b"held")
        await until(lambda: link.traffic[way].arrived == 4)

        assert (link.traffic[way].passed, link.traffic[way].held) == (0, 4)
        assert bytes(echo.received) == (b"" if way is Way.REQUESTS else b"held")
        link.heal()
        assert await client.receive(4) == b"held"
        other.send(b"x")
        assert await other.receive(1) == b"x"

    run(body)


def test_black_hole_holds_ends_too_and_new_connections() -> None:
    async def body(echo: Echo, link: Link) -> None:
        client = await echo.connect()
        link.blackhole()
        late = await echo.connect()
        late.send(b"late")
        client.writer.write_eof()
        await until(lambda: link.traffic[Way.REQUESTS].arrived == 4)

        assert echo.ended == []
        link.heal()
        assert await late.receive(4) == b"late"
        assert await client.ending() == "FIN"

    run(body)


def test_what_is_held_is_lost_with_its_connection() -> None:
    async def body(echo: Echo, link: Link) -> None:
        client = await echo.connect()
        link.blackhole(Way.REPLIES)
        client.send(b"stored")
        await until(lambda: link.traffic[Way.REPLIES].arrived == 6)
        link.reset()

        assert bytes(echo.received) == b"stored"
        assert await client.ending() == "RST"
        link.heal()
        assert (link.traffic[Way.REPLIES].passed, link.traffic[Way.REPLIES].held) == (0, 0)

    run(body)


def test_one_connection_is_held_alone() -> None:
    async def body(echo: Echo, link: Link) -> None:
        held, other = await echo.connect(), await echo.connect()
        await until(lambda: len(link.connections) == 2)
        link.connections[0].blackhole(Way.REQUESTS)
        held.send(b"a")
        await until(lambda: link.traffic[Way.REQUESTS].arrived == 1)
        other.send(b"b")

        assert await other.receive(1) == b"b"
        assert bytes(echo.received) == b"b"
        link.connections[0].heal()
        assert await held.receive(1) == b"a"

    run(body)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_resets_in_the_middle_of_a_message(count: int) -> None:
    async def body(echo: Echo, link: Link) -> None:
        client = await echo.connect()
        link.reset_after(Way.REQUESTS, count)
        client.send(b"hello")

        assert await client.ending() == "RST"
        await until(lambda: echo.ended)
        assert bytes(echo.received) == b"hello"[:count]
        again = await echo.connect()
        again.send(b"hello")
        assert await again.receive(5) == b"hello"

    run(body)


def test_delays() -> None:
    async def body(echo: Echo, link: Link) -> None:
        client = await echo.connect()
        link.delay(0.05)
        begin = asyncio.get_running_loop().time()
        client.send(b"late")

        assert await client.receive(4) == b"late"
        assert asyncio.get_running_loop().time() - begin >= 0.1
        link.delay(BOUND * 10)
        client.send(b"now")
        await until(lambda: link.traffic[Way.REQUESTS].arrived == 7)
        link.heal()
        assert await client.receive(3) == b"now"

    run(body)


def test_refuses_new_connections_only() -> None:
    async def body(echo: Echo, link: Link) -> None:
        client = await echo.connect()
        client.send(b"a")
        await client.receive(1)
        link.refuse()

        assert await echo.attempt() == "RST"
        client.send(b"b")
        assert await client.receive(1) == b"b"
        assert link.accepted == 1
        link.heal()
        again = await echo.connect()
        again.send(b"c")
        assert await again.receive(1) == b"c"

    run(body)


def test_server_that_is_gone_ends_the_connection() -> None:
    async def main() -> None:
        server = await asyncio.start_server(Echo().serve, "127.0.0.1", 0)
        target = ("127.0.0.1", server.sockets[0].getsockname()[1])
        server.close()
        await server.wait_closed()
        with Link([target]) as link:
            echo = Echo()
            echo.port = link.port(target)
            assert await echo.attempt() == "RST"
            for client in echo.clients:
                client.writer.close()

    asyncio.run(main())


def test_works_while_the_event_loop_of_the_case_is_blocked() -> None:
    async def body(echo: Echo, link: Link) -> None:
        client = await echo.connect()
        client.send(b"blocked")
        deadline = time.monotonic() + BOUND
        while link.traffic[Way.REQUESTS].passed < 7 and time.monotonic() < deadline:
            pass  # nothing else runs here, and nothing has to

        assert link.traffic[Way.REQUESTS].passed == 7
        assert await client.receive(7) == b"blocked"

    run(body)


def test_closing_leaves_nothing() -> None:
    async def main() -> None:
        async with echo_behind_link() as (echo, _):
            await echo.connect()
        gc.collect()
        before = Resources.now()
        for fault in ("blackhole", "refuse", "heal"):
            async with echo_behind_link() as (echo, link):
                clients = [await echo.connect() for _ in range(3)]
                getattr(link, fault)()
                clients[0].send(b"x" * 100_000)
                link.close()
                link.close()
                for client in clients:
                    await client.ending()
                    client.writer.close()
            clients.clear()
        gc.collect()
        await until(lambda: Resources.now().within(before))

    asyncio.run(main())


def test_every_host_of_a_url_gets_a_link() -> None:
    url = "db+tls://user:p@ss@h1:1,[::1]:2,h3:3/path?option=a:1,b:2"
    with Link.to(url) as link:
        ports = [link.port(target) for target in (("h1", 1), ("::1", 2), ("h3", 3))]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)

        assert link.through(url) == f"db+tls://user:p@ss@{hosts}/path?option=a:1,b:2"
        assert len(set(ports)) == 3


@pytest.mark.parametrize("url", ["db://host/path", "db://host:1,other"])
def test_url_without_a_port_is_the_harness_s_mistake(url: str) -> None:
    with pytest.raises(SuiteError, match="needs the port of"):
        Link.to(url)


async def _fault() -> None: ...


@pytest.mark.parametrize(
    ("faults", "names"),
    [
        (Faults(), set()),
        (Faults(restart=_fault), {"restart"}),
        (Faults(kill=_fault), {"kill"}),
        (Faults(kill=_fault, start=_fault), {"kill", "start", "restart"}),
        (Faults(pause=_fault, resume=_fault, link=True), {"pause", "resume", "link"}),
    ],
)
def test_what_can_be_killed_and_started_can_be_restarted(faults: Faults, names: set[str]) -> None:
    assert faults.names() == names
