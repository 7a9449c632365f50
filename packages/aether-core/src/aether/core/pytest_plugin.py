"""The pytest plugin: stores, buses, elections and clusters for tests, each test in a namespace of its own.

    async def test_orders(aether_store):
        async with aether_store as store:
            ...

They are not open yet, so they work with every plugin for async tests, and with `asyncio.run`.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # imported by the fixtures: loading the plugin costs every run of pytest
    from aether.core import Cluster, Connection, Election, EventBus, EventStore
    from aether.core.testing.clock import FakeClock


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aether")
    group.addoption(
        "--aether-url",
        default="memory://",
        metavar="URL",
        help="the backend of the fixtures: aether_store, _bus, _election, _connection and _cluster",
    )


@pytest.fixture(scope="session")
def aether_url(pytestconfig: pytest.Config) -> str:
    """The URL of the backend, `memory://` unless `--aether-url` names another."""
    return str(pytestconfig.getoption("--aether-url"))


@pytest.fixture
def aether_namespace() -> str:
    """A namespace that nobody else has."""
    return f"test-{secrets.token_hex(8)}"


@pytest.fixture
def aether_connection(aether_url: str, aether_namespace: str) -> Connection:
    """Store, bus and election over one connection, not open yet."""
    from aether.core import connect

    return connect(aether_url, namespace=aether_namespace)


@pytest.fixture
def aether_store(aether_url: str, aether_namespace: str) -> EventStore:
    """A store, not open yet."""
    from aether.core import open_store

    return open_store(aether_url, namespace=aether_namespace)


@pytest.fixture
def aether_bus(aether_url: str, aether_namespace: str) -> EventBus:
    """A bus, not open yet."""
    from aether.core import open_bus

    return open_bus(aether_url, namespace=aether_namespace)


@pytest.fixture
def aether_election(aether_url: str, aether_namespace: str) -> Election:
    """An election, not open yet."""
    from aether.core import open_election

    return open_election(aether_url, namespace=aether_namespace)


@pytest.fixture
def aether_cluster(aether_url: str, aether_namespace: str) -> AbstractAsyncContextManager[Cluster]:
    """The only node of a cluster, with a connection of its own, not open yet."""
    from aether.core import Cluster, connect

    @asynccontextmanager
    async def joined() -> AsyncIterator[Cluster]:
        async with (
            connect(aether_url, namespace=aether_namespace) as connection,
            Cluster(connection, name="test", node="node-1") as cluster,
        ):
            yield cluster

    return joined()


@pytest.fixture
def aether_clock() -> FakeClock:
    """A clock that stands still until `advance` is called."""
    from aether.core.testing.clock import FakeClock

    return FakeClock()
