"""TLS: who is trusted, who may come, and that nothing is said to anybody else."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

import aether.redis
from aether.core import Event, Unavailable, connect, open_store
from aether.core.kit.server import HOST, free_port
from aether.redis.servers import POWER_SAFE, RedisServer, find_server


class Certificates:
    """An authority, a certificate of it for `localhost`, and one for whoever comes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = str(folder / "ca.pem")
        new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        authority = ["-keyout", str(folder / "ca.key"), "-out", self.ca, "-subj", "/CN=test authority"]
        self._run(*new, *authority, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        signed = ["-CA", self.ca, "-CAkey", str(folder / "ca.key"), "-addext", "basicConstraints=critical,CA:FALSE"]
        for name in ("server", "client"):
            place = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
            self._run(*new, *signed, *place, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    def options(self, name: str = "client") -> dict[str, str]:
        """What a client needs that has a certificate."""
        return {"tls_ca": self.ca, "tls_cert": str(self.folder / f"{name}.pem"), "tls_key": self.key(name)}

    def key(self, name: str) -> str:
        return str(self.folder / f"{name}.key")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def in_front_of(server: RedisServer, certificates: Certificates, *, clients: bool) -> AsyncIterator[int]:
    """TLS in front of a server that has none: the port; `clients` need a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.ca)
    context.load_cert_chain(certificates.options("server")["tls_cert"], certificates.key("server"))
    context.verify_mode = ssl.CERT_REQUIRED if clients else ssl.CERT_NONE
    under_way: set[asyncio.Task[None]] = set()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while chunk := await source.read(1 << 16):
                target.write(chunk)
                await target.drain()
        except OSError:
            pass  # whoever is behind it has gone
        finally:
            target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(HOST, server.port)
        ways = {asyncio.create_task(copy(reader, there[1])), asyncio.create_task(copy(there[0], writer))}
        under_way.update(ways)
        await asyncio.wait(ways)

    listener = await asyncio.start_server(serve, HOST, 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for way in under_way:
            way.cancel()
        await asyncio.wait(under_way or [asyncio.create_task(asyncio.sleep(0))])


@asynccontextmanager
async def of_its_own(directory: Path, certificates: Certificates, *, clients: bool) -> AsyncIterator[int]:
    """A server that was built with TLS, as those of distributions are, and the wheel's is not."""
    port = free_port()
    settings = {
        "tls-port": str(port),
        "tls-cert-file": certificates.options("server")["tls_cert"],
        "tls-key-file": certificates.key("server"),
        "tls-ca-cert-file": certificates.ca,
        "tls-auth-clients": "yes" if clients else "no",
    }
    async with RedisServer(directory, settings={**POWER_SAFE, **settings}):
        yield port


def knows_tls() -> bool:
    """Whether the server that is there was built with TLS: then it looks for its certificate."""
    command = [find_server(), "--port", "0", "--tls-port", "1", "--tls-cert-file", "/no", "--tls-key-file", "/no"]
    said = subprocess.run(command, check=False, capture_output=True, timeout=60)
    return b"Failed to configure TLS" in said.stdout


@pytest.fixture(params=["in front", "its own"] if knows_tls() else ["in front"])
def secure(request, server, tmp_path, certificates):
    """Makes a server with TLS, and gives its port."""

    def make(*, clients: bool = False):
        if request.param == "in front":
            return in_front_of(server, certificates, clients=clients)
        return of_its_own(tmp_path, certificates, clients=clients)

    return make


async def test_store_bus_and_election_over_tls(secure, certificates):
    async with (
        secure() as port,
        connect(f"rediss://localhost:{port}", namespace="tls", tls_ca=certificates.ca) as place,
        place.bus.subscribe() as heard,
        place.store.subscribe() as events,
        place.election.lead("billing", ttl=5),
    ):
        large = Event(type="A", actor_id="a", version=1, data={"text": "x" * 900_000})
        await place.store.append(large)
        await place.bus.publish(large)
        assert (await anext(events))[1] == await anext(heard) == large
        assert [one async for one in place.store.read("a")] == [large]


async def test_a_context_and_a_client_of_ones_own(secure, certificates):
    async with secure() as port:
        context = ssl.create_default_context(cafile=certificates.ca)
        async with open_store(f"valkeys://localhost:{port}", namespace="context", tls=context) as store:
            await store.append(Event(type="A", actor_id="a", version=1))
        client = Redis(host="localhost", port=port, ssl=True, ssl_ca_certs=certificates.ca)
        async with aether.redis.open_store(client, namespace="context") as same:
            assert await same.version("a") == 1
        await client.aclose()


async def test_who_cannot_be_trusted_is_not_talked_to(secure, certificates):
    async with secure() as port:
        for url, options in (
            (f"rediss://localhost:{port}", {}),  # an authority that nobody knows
            (f"rediss://127.0.0.1:{port}", {"tls_ca": certificates.ca}),  # the certificate is for localhost
        ):
            with pytest.raises(Unavailable, match="certificate verify failed"):
                async with open_store(url, **options):
                    pass


async def test_who_has_no_certificate_may_not_come(secure, certificates):
    async with secure(clients=True) as port:
        url = f"rediss://localhost:{port}"
        async with open_store(url, namespace="known", **certificates.options()) as store:
            await store.append(Event(type="A", actor_id="a", version=1))
        with pytest.raises(Unavailable):
            async with open_store(url, namespace="known", tls_ca=certificates.ca):
                pass


async def test_a_password_is_said_to_nobody_without_tls(certificates):
    """Whoever listens there in plain text hears a greeting of TLS, and nothing of it."""
    heard = asyncio.get_running_loop().create_future()

    async def pretend(reader, writer):
        if not heard.done():
            heard.set_result(await reader.read(4096))
        writer.write(b"+OK\r\n")
        writer.close()

    listener = await asyncio.start_server(pretend, HOST, 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(Unavailable) as caught:
        async with open_store(f"rediss://aether:s3cret@localhost:{port}", tls_ca=certificates.ca, timeout=5.0):
            pass
    assert b"s3cret" not in await heard
    assert "s3cret" not in str(caught.value)
    listener.close()
