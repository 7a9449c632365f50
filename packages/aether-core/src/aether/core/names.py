"""The rules for names, and one reversible encoding of them for backends with a smaller alphabet."""

from __future__ import annotations

import base64
import re
import unicodedata

from aether.core.errors import InvalidName

MAX_NAME_CHARACTERS = 255
MAX_NAMESPACE_CHARACTERS = 64

RESERVED = "aether/"
"""Actors whose ids begin so are Aether's own. Projections and relays pass them by."""

_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*")
_PATTERN_TOKEN = re.compile(r"[a-z0-9][a-z0-9_-]*|\*")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_MAX_ESCAPED = 255


def check_name(kind: str, name: object) -> str:
    """Return `name` if it is 1 to 255 characters without control characters, else raise `InvalidName`.

    Anything else is allowed: spaces, dots, wildcards, quotes, other scripts, emoji. Nothing is normalised or folded.
    """
    if type(name) is str and 0 < len(name) <= MAX_NAME_CHARACTERS and name.isascii() and name.isprintable():
        return name
    if type(name) is not str:
        raise InvalidName(kind, name, f"a text is needed, not {type(name).__name__}")
    if not name or len(name) > MAX_NAME_CHARACTERS:
        raise InvalidName(kind, name, f"1 to {MAX_NAME_CHARACTERS} characters are needed, not {len(name)}")
    for character in name:
        category = unicodedata.category(character)
        if category in ("Cc", "Cs"):
            what = "control characters" if category == "Cc" else "unpaired surrogates"
            raise InvalidName(kind, name, f"{what} are not allowed (found U+{ord(character):04X}); remove them")
    return name


def check_namespace(name: object) -> str:
    """Return `name` if it is a namespace: up to 64 of `a-z 0-9 _ -` in tokens between dots (`shop`, `shop.eu`).

    Lower case only, because some backends keep namespaces as files, and some file systems fold case.
    """
    if not isinstance(name, str) or not _NAMESPACE.fullmatch(name) or len(name) > MAX_NAMESPACE_CHARACTERS:
        raise InvalidName(
            "namespace",
            name,
            f"use 1 to {MAX_NAMESPACE_CHARACTERS} of a-z, 0-9, _ and -, in tokens between dots, like 'shop.eu'",
        )
    return name


def check_namespace_pattern(pattern: object) -> str:
    """Return `pattern` if it is a namespace in which `*` may stand for one token and a last `>` for one or more."""
    if isinstance(pattern, str) and len(pattern) <= MAX_NAMESPACE_CHARACTERS:
        *front, last = pattern.split(".")
        if all(_PATTERN_TOKEN.fullmatch(token) for token in front) and (last == ">" or _PATTERN_TOKEN.fullmatch(last)):
            return pattern
    raise InvalidName("namespace pattern", pattern, "use a namespace, or tokens like 'shop.*' or 'shop.>'")


def namespace_matches(pattern: str, namespace: str) -> bool:
    """Whether a namespace pattern matches, by the token rules of NATS subjects."""
    wanted = pattern.split(".")
    tokens = namespace.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


def encode_token(name: str) -> str:
    """Encode any valid name as 1 to 1,362 characters of `[A-Za-z0-9_=-]`, reversibly; different names never meet.

    Letters, digits, `_` and `-` stay as they are, every other byte of the UTF-8 text becomes `=XX`. Names that would
    become longer than 255 characters that way are `==` and URL-safe base64 instead: an escaped name never starts with
    `==`, because `=` is followed by two digits.
    """
    if len(name) <= _MAX_ESCAPED and _PLAIN.fullmatch(name):
        return name
    raw = name.encode()
    escaped = _UNSAFE.sub(lambda match: b"=%02X" % match[0][0], raw)
    if len(escaped) <= _MAX_ESCAPED:
        return escaped.decode("ascii")
    return "==" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode_token(token: str) -> str:
    """Give back the name that `encode_token` was given. Raises `ValueError` for anything that it cannot have made."""
    if token.startswith("=="):
        body = token[2:].encode("ascii")
        raw = base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4))
    elif "=" not in token:
        raw = token.encode("ascii")
    else:
        raw = re.sub(rb"=([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), token.encode("ascii"))
    name = raw.decode()
    if encode_token(name) != token:
        raise ValueError(f"not an encoded name: {token!a}")
    return name
