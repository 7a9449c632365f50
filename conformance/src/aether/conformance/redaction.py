"""Keeps out of what is shown and kept: the secrets of a URL, and what neither a terminal nor a file can take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

from aether.core.url import redact

_SHORTEST = 3
"""What is shorter guards nothing, and would be found in the middle of other words."""


_USER = re.compile(r"(?<=://)[^\s/'\"]*@")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """The text with an escape for each character that steers a terminal or that UTF-8 cannot carry."""
    carried = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", carried)


def without_secrets(text: str, url: str = "") -> str:
    """The text without what is secret in the URL, in whatever spelling: a client's error may name it.

    Whoever stands before a host in any other URL is hidden, too: before a harness has started, its URL is not known.
    """
    text = _USER.sub("***@", text)
    for secret in sorted(set(_secrets(url)), key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, "***")
    return text


def _secrets(url: str) -> Iterator[str]:
    place, _, query = url.partition("://")[2].partition("?")
    user, at, _ = place.rpartition("@")
    if at:
        name, colon, secret = user.partition(":")
        yield from _spellings(secret if colon else name)  # a name alone is a token
    for option in query.split("&"):
        if redact(f"x://?{option}") != f"x://?{option}":
            yield from _spellings(option.partition("=")[2])


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    yield unquote(secret)
