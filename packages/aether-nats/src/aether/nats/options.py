"""From a URL and its options to the arguments of nats-py's `connect`."""

from __future__ import annotations

import importlib.util
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aether.core.errors import BackendUnusable
from aether.core.url import BackendURL

DEFAULT_PORT = 4222
_TLS_OPTIONS = ("tls", "tls_ca", "tls_cert", "tls_key", "tls_hostname")
_CREDENTIALS = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")


def connect_options(url: BackendURL) -> dict[str, Any]:
    """The servers, the credentials and the TLS settings of a URL, as keywords of `nats.aio.client.Client.connect`.

    Raises `InvalidURL` for what contradicts itself, and for files that are missing or hold something else.
    """
    if url.variant not in (None, "tls"):
        raise url.error(f"unknown variant {url.variant!r}; write nats://, nats+tls:// or nats+embedded:///directory")
    if url.path not in ("", "/"):
        raise url.error("a NATS URL has no path; the namespace is given as namespace=")
    options: dict[str, Any] = {"servers": [_server(url, host) for host in url.hosts or ("localhost",)]}
    for name in ("name", "inbox_prefix"):
        if url.options.get(name) is not None:
            options[name] = url.options[name]
    options.update(_credentials(url))
    if needs_tls(url):
        options["tls"] = _tls_context(url)
        if url.options.get("tls_hostname") is not None:
            options["tls_hostname"] = url.options["tls_hostname"]
    return options


def replicas_of(url: BackendURL) -> int | None:
    """The option `replicas`, None if it is not given."""
    value = url.options.get("replicas")
    if value is None:
        return None
    if str(value) not in ("1", "2", "3", "4", "5"):
        raise url.error(f"replicas is 1 to 5, not {str(value)[:20]!r}")
    return int(value)


def needs_tls(url: BackendURL) -> bool:
    """Whether the URL asks for TLS: by its scheme, or by any option about it."""
    return url.variant == "tls" or any(url.options.get(name) is not None for name in _TLS_OPTIONS)


def _server(url: BackendURL, host: str) -> str:
    name, colon, port = host.rpartition(":")
    if host.endswith("]") or not colon:  # an IPv6 address without a port, or no port at all
        name, port = host, str(DEFAULT_PORT)
    if not name or not port.isdecimal() or not 0 < int(port) < 65536:
        raise url.error(f"{host!r} is not a host and a port from 1 to 65535, like localhost:4222")
    return f"nats://{name}:{port}"


def _credentials(url: BackendURL) -> dict[str, Any]:
    user, secret = _option(url, "user", url.user), _option(url, "password", url.secret)
    token = url.options.get("token")
    if user is not None and secret is None and token is None and url.user is not None:
        user, token = None, user  # nats://token@host, as the other NATS clients read it
    given: dict[str, Any] = {"user and password": user or secret, "token": token}
    given |= {name: url.options.get(name) for name in ("creds", "nkey")}
    kinds = [name for name, value in given.items() if value is not None]
    if len(kinds) > 1:
        raise url.error(f"{' and '.join(kinds)} are given; keep one way to authenticate")
    if (user is None) != (secret is None):
        raise url.error("user and password belong together; give both")
    if given["creds"] is not None:
        _require_nkeys("creds")
        return {"user_credentials": _checked_file(url, "creds", _CREDENTIALS)}
    if given["nkey"] is not None:
        _require_nkeys("nkey")
        return {"nkeys_seed": _checked_file(url, "nkey", (b"S",))}
    if token is not None:
        return {"token": token}
    return {} if user is None else {"user": user, "password": secret}


def _option(url: BackendURL, name: str, in_url: str | None) -> Any:
    value = url.options.get(name)
    if value is not None and in_url is not None:
        raise url.error(f"{name} is given before the host and as an option; keep one")
    return in_url if value is None else value


def _require_nkeys(option: str) -> None:
    if importlib.util.find_spec("nkeys") is None:
        raise BackendUnusable(f'option {option!r} needs the package nkeys; run: pip install "aether-nats[nkeys]"')


def _checked_file(url: BackendURL, option: str, holds: Sequence[bytes]) -> str:
    """The path in an option, if its file can be read and holds what is needed.

    nats-py reads these files late: it fails at the first reconnect, and one without a JWT is read without end.
    """
    path = Path(url.options[option])
    try:
        content = path.read_bytes()
    except OSError as error:
        raise url.error(f"option {option!r}: {path} cannot be read: {error.strerror}") from error
    for text in holds:
        if text not in content:
            raise url.error(f"option {option!r}: {path} holds no {option}: there is no {text.decode()!r} in it")
    return str(path)


def _tls_context(url: BackendURL) -> ssl.SSLContext:
    context = url.options.get("tls")
    authority, certificate, key = (url.options.get(name) for name in ("tls_ca", "tls_cert", "tls_key"))
    if context is not None:
        if not isinstance(context, ssl.SSLContext):
            raise url.error("option 'tls' is an ssl.SSLContext, given as keyword; for TLS alone write nats+tls://")
        if authority or certificate or key:
            raise url.error("option 'tls' already has its certificates; leave tls_ca, tls_cert and tls_key out")
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
