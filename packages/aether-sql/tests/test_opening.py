"""From a URL to a database: what is said where something is missing."""

import sys

import pytest

from aether.core.errors import BackendUnusable, InvalidURL
from aether.core.scope import Scope
from aether.core.url import BackendURL
from aether.sql.opening import make


@pytest.mark.parametrize(
    ("scheme", "client", "extra"),
    [("mysql", "asyncmy", "mysql"), ("mariadb", "asyncmy", "mysql"), ("postgresql", "asyncpg", "postgresql")],
)
def test_without_its_client_the_error_has_the_command(scheme, client, extra, monkeypatch):
    for name in list(sys.modules):
        if name.startswith(("aether.sql.mysql", "aether.sql.postgresql", "aether.sql.connections")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, client, None)
    with pytest.raises(BackendUnusable, match=rf'pip install "aether-sql\[{extra}\]"'):
        make(BackendURL(f"{scheme}://host/database"), Scope("shop"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://host", "database is missing"),
        ("mariadb://a,b/database", "one host"),
        ("mysql+pymysql://host/database", "asyncmy"),
        ("mysql://host:port/database", "number"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused(url, reason):
    with pytest.raises(InvalidURL, match=reason):
        make(BackendURL(url), Scope("shop"))
