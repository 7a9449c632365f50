"""From a URL and its options to addresses, the arguments of redis-py's connections, and what the store is to do."""

from __future__ import annotations

import re
import ssl
from typing import Any, NamedTuple

from aether.core.url import BackendURL

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
MOST_REPLICAS = 16

_TLS = ("tls", "tls_ca", "tls_cert", "tls_key")


class Address(NamedTuple):
    """Where one server listens: a host and a port, or the path of a socket and 0."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


class Options(NamedTuple):
    """Everything that a URL says."""

    seeds: tuple[Address, ...]
    """Servers of which at least one has to answer; with `service` they are sentinels."""

    service: str | None
    """What the sentinels call the server that is wanted."""

    login: dict[str, Any]
    sentinel_login: dict[str, Any]
    tls: ssl.SSLContext | None
    db: int
    wait_replicas: int
    evicts: bool
    """Whether a server that may evict events is accepted."""


def read_options(url: BackendURL) -> Options:
    """Raises `InvalidURL` for what cannot be meant."""
    if url.variant not in (None, "cluster", "sentinel", "unix"):
        raise url.error(f"unknown variant {url.variant!r}; write redis://, redis+unix:// or redis+sentinel://")
    service, db = _path(url)
    return Options(
        seeds=_seeds(url),
        service=service,
        login=_login(url, _option(url, "user", url.user), _option(url, "password", url.secret)),
        sentinel_login=_login(url, url.options.get("sentinel_user"), url.options.get("sentinel_password")),
        tls=_tls(url),
        db=db,
        wait_replicas=_number(url, "wait_replicas", MOST_REPLICAS),
        evicts=_evicts(url),
    )


def _seeds(url: BackendURL) -> tuple[Address, ...]:
    if url.variant == "unix":
        if url.hosts or url.path in ("", "/"):
            raise url.error("a socket is named by its path, like redis+unix:///run/redis.sock?db=0")
        return (Address(url.path, 0),)
    default = SENTINEL_PORT if url.variant == "sentinel" else DEFAULT_PORT
    return tuple(_address(url, host, default) for host in url.hosts or ("localhost",))


def _address(url: BackendURL, host: str, default: int) -> Address:
    name, colon, port = host.rpartition(":")
    if host.endswith("]") or not colon:  # an IPv6 address without a port, or no port at all
        name, port = host, str(default)
    if not name or not port.isdecimal() or not 0 < int(port) < 65536:
        raise url.error(f"{host!r} is not a host and a port from 1 to 65535, like localhost:{default}")
    name = name.strip("[]")
    try:
        name.encode("idna")
    except UnicodeError:
        raise url.error(f"{name!r:.80} cannot be the name of a host: its parts have 1 to 63 characters") from None
    return Address(name, int(port))


def _path(url: BackendURL) -> tuple[str | None, int]:
    """The name of the service behind sentinels, and the number of the database."""
    named = _number(url, "db", 2**31 - 1) if "db" in url.options else None
    if url.variant == "unix":
        return None, named or 0
    parts = [part for part in url.path.split("/") if part]
    service = None
    if url.variant == "sentinel":
        if not parts:
            raise url.error("the path names the service, like redis+sentinel://host:26379/mymaster")
        service = parts.pop(0)
    if len(parts) > 1 or (parts and not re.fullmatch("[0-9]{1,9}", parts[0])):
        raise url.error("the path is the number of a database, like redis://localhost:6379/0")
    if parts and named is not None:
        raise url.error("the database is given in the path and as an option; keep one")
    return service, int(parts[0]) if parts else named or 0


def _option(url: BackendURL, name: str, in_url: str | None) -> Any:
    value = url.options.get(name)
    if value is not None and in_url is not None:
        raise url.error(f"{name} is given before the host and as an option; keep one")
    return in_url if value is None else value


def _login(url: BackendURL, user: Any, password: Any) -> dict[str, Any]:
    if user and not password:
        raise url.error("a user needs a password; redis://:password@host gives one without a user")
    return {"username": user or None, "password": password or None}


def _tls(url: BackendURL) -> ssl.SSLContext | None:
    """What verifies the server. Made once, because redis-py would read all authorities again for each connection."""
    given = [name for name in _TLS if url.options.get(name) is not None]
    if url.scheme not in ("rediss", "valkeys"):
        if given:
            raise url.error(f"option {given[0]!r} is for TLS; write rediss:// or valkeys://")
        return None
    if url.variant == "unix":
        raise url.error("a socket has no TLS; write redis+unix://")
    context, authority, certificate, key = (url.options.get(name) for name in _TLS)
    if context is not None:
        if not isinstance(context, ssl.SSLContext) or len(given) > 1:
            raise url.error("option 'tls' is an ssl.SSLContext, given as keyword, with its certificates in it")
        return context
    if key and not certificate:
        raise url.error("option 'tls_key' is given without 'tls_cert'; give both")
    option, path = "tls_ca", authority
    try:
        made = ssl.create_default_context(cafile=authority)
        if certificate:
            option, path = "tls_cert", certificate
            made.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise url.error(f"option {option!r}: {path} cannot be loaded: {error.strerror or error}") from error
    return made


def _number(url: BackendURL, name: str, most: int) -> int:
    value = str(url.options.get(name, 0))
    if not re.fullmatch("[0-9]{1,10}", value) or int(value) > most:
        raise url.error(f"option {name!r} is a number from 0 to {most}, not {value[:20]!r}")
    return int(value)


def _evicts(url: BackendURL) -> bool:
    value = url.options.get("eviction", "refuse")
    if value not in ("refuse", "allow"):
        raise url.error("option 'eviction' is refuse or allow")
    return bool(value == "allow")
