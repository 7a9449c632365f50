"""Servers that talk TLS only: who is let in, whose certificates are believed, and what is said where they are not."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from aether.core import Event, InvalidURL, Unavailable, open_store
from aether.core.kit.server import HOST
from aether.sql.servers import DatabaseServer, MariadbServer, PostgresServer

OPTION = {"postgres": "sslrootcert", "mariadb": "ssl_ca"}


class Postgres(PostgresServer):
    """With a certificate, and nobody is let in without TLS."""

    certificate: trustme.LeafCert

    def initialise(self, data: Path) -> None:
        super().initialise(data)
        (data / "pg_hba.conf").write_text(f"hostssl all all {HOST}/32 trust\n")
        put(self, self.certificate, data)

    def command(self) -> list[str]:
        return [*super().command(), "-c", "ssl=on"]


class Mariadb(MariadbServer):
    """With a certificate and a socket, and nobody is let in without either."""

    certificate: trustme.LeafCert

    def initialise(self, data: Path) -> None:
        super().initialise(data)
        put(self, self.certificate, data)

    def command(self) -> list[str]:
        files = [f"--ssl-cert={self.data}/server.crt", f"--ssl-key={self.data}/server.key"]
        return [*super().command(), *files, "--require-secure-transport=on", f"--socket={self.data}/socket"]


def put(server: DatabaseServer, certificate: trustme.LeafCert, data: Path) -> None:
    pems = [pem.bytes() for pem in certificate.cert_chain_pems]
    for name, content in (("server.crt", b"".join(pems)), ("server.key", certificate.private_key_pem.bytes())):
        (data / name).write_bytes(content)
        (data / name).chmod(0o600)
        if server.user is not None:
            os.chown(data / name, *server.user)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    """A file with the certificate of the authority."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    return tmp_path / "authority.pem"


@pytest.fixture(scope="module")
def server(encrypted: str, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseServer]:
    kind = Postgres if encrypted == "postgres" else Mariadb
    found = kind(tmp_path_factory.mktemp("server"))
    found.certificate = authority.issue_cert(HOST)
    found.start_now()
    try:
        yield found
    finally:
        found.stop_now()


async def append(url: str) -> None:
    async with open_store(url) as store:
        version = await store.version("a") + 1
        await store.append(Event(type="Happened", actor_id="a", version=version))
        assert await store.version("a") == version


async def test_a_server_is_believed_that_the_authority_vouches_for(
    encrypted: str, server: DatabaseServer, trusted: Path
) -> None:
    await append(f"{server.url}?{OPTION[encrypted]}={trusted}")


async def test_a_server_of_another_authority_is_not(encrypted: str, server: DatabaseServer, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await append(f"{server.url}?{OPTION[encrypted]}={tmp_path}/another.pem")


async def test_a_certificate_for_another_host_is_not(encrypted: str, server: DatabaseServer, trusted: Path) -> None:
    url = server.url.replace(HOST, "localhost")
    with pytest.raises(Unavailable, match="not valid for 'localhost'"):
        await append(f"{url}?{OPTION[encrypted]}={trusted}")
    if encrypted == "postgres":
        await append(f"{url}?sslmode=verify-ca&{OPTION[encrypted]}={trusted}")


async def test_without_encryption_nobody_is_let_in(encrypted: str, server: DatabaseServer) -> None:
    with pytest.raises(Unavailable, match="check user and password"):
        await append(f"{server.url}?sslmode=disable" if encrypted == "postgres" else server.url)


async def test_what_needs_no_certificate(encrypted: str, server: DatabaseServer) -> None:
    if encrypted == "mariadb":
        await append(f"mariadb://aether@localhost/aether?unix_socket={server.data}/socket")
    else:
        await append(f"{server.url}?sslmode=require")  # encrypted, whoever it is


async def test_a_file_that_is_not_there_is_named(encrypted: str, tmp_path: Path) -> None:
    url = "postgresql://host/name" if encrypted == "postgres" else "mariadb://host/name"
    with pytest.raises(InvalidURL, match=f"{OPTION[encrypted]}' names no file"):
        await append(f"{url}?{OPTION[encrypted]}={tmp_path}/nothing.pem")


async def test_an_authority_is_for_modes_that_look_at_it(trusted: Path) -> None:
    with pytest.raises(InvalidURL, match="verify-full"):
        await append(f"postgresql://host/name?sslmode=require&sslrootcert={trusted}")
