"""Backend URLs: `scheme[+variant]://[user[:secret]@]host[:port][,host…]/path[?option=value]`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from aether.core.errors import InvalidURL

_SHAPE = re.compile(
    r"(?P<scheme>[a-z][a-z0-9]*)(\+(?P<variant>[a-z0-9.+-]+))?://"
    r"((?P<userinfo>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(?P<path>/[^?#]*)?(\?(?P<query>[^#]*))?"
)
_SECRET_OPTIONS = ("password", "secret", "token", "nkey", "seed", "jwt", "key", "pass")


def redact(text: str) -> str:
    """Hide whatever could be a secret in a URL, also in one that is not well formed."""
    scheme, found, rest = text.partition("://")
    if not found:
        return re.sub(r"^.*@", "***@", text)
    place, question, query = rest.partition("?")
    host_end = place.rfind("@")
    if host_end >= 0:
        place = "***" + place[host_end:]
    if question:
        query = "&".join(_redact_option(option) for option in query.split("&"))
    return f"{scheme}://{place}{question}{query}"


def _redact_option(option: str) -> str:
    name, equals, value = option.partition("=")
    if equals and any(word in unquote(name).lower() for word in _SECRET_OPTIONS):
        value = "***"
    elif "//" in (plain := unquote(value)) and "@" in plain:
        value = redact(plain)
    return f"{name}{equals}{value}"


class BackendURL:
    """A parsed backend URL. Its text form hides the secrets."""

    def __init__(self, text: str, options: Mapping[str, Any] | None = None) -> None:
        if not isinstance(text, str):
            raise InvalidURL(redact(str(text)), f"a text is needed, not {type(text).__name__}")
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise InvalidURL(redact(text), "not a backend URL; write it like nats://localhost:4222 or memory://")
        if not text.isprintable():
            raise InvalidURL(redact(ascii(text)), "control characters are not allowed; remove them")
        self.scheme: str = match["scheme"]
        self.variant: str | None = match["variant"]
        user, colon, secret = (match["userinfo"] or "").partition(":")
        self.user: str | None = unquote(user) if match["userinfo"] else None
        self.secret: str | None = unquote(secret) if colon else None
        self.hosts: tuple[str, ...] = tuple(host for host in match["hosts"].split(",") if host)
        self.path: str = unquote(match["path"] or "")
        self.options: dict[str, Any] = {}
        for name, value in parse_qsl(match["query"] or "", keep_blank_values=True):
            if name in self.options:
                raise InvalidURL(redact(text), f"option {name!r} is given twice; keep one")
            self.options[name] = value
        for name, value in (options or {}).items():
            if name in self.options:
                raise InvalidURL(redact(text), f"option {name!r} is given in the URL and as keyword; keep one")
            self.options[name] = value
        self._shown = redact(text)

    def check_options(self, known: Iterable[str]) -> None:
        """Raise `InvalidURL` for an option that is not known, listing those that are."""
        known = sorted(known)
        for name in self.options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                guess = f" Did you mean {near[0]!r}?" if near else ""
                listed = ", ".join(known) if known else "none"
                raise InvalidURL(self._shown, f"unknown option {name!r}.{guess} Known options: {listed}")

    def error(self, reason: str) -> InvalidURL:
        """An `InvalidURL` about this URL."""
        return InvalidURL(self._shown, reason)

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"BackendURL({self._shown!r})"
