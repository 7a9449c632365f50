"""Keeps the secrets of a URL out of what is shown and kept."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

from aether.core.url import redact

_SHORTEST = 3
"""What is shorter guards nothing, and would be found in the middle of other words."""


def without_secrets(text: str, url: str) -> str:
    """The text without what is secret in the URL, in whatever spelling: a client's error may name it."""
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
