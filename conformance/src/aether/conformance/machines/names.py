"""Names that belong together: backends mix up what looks alike, so a series of calls needs such names side by side."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote

from hypothesis import strategies as st

from aether.conformance.corpus import HOSTILE_NAMES

_SIZE = 4


def _without_accents(name: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFD", name) if not unicodedata.combining(letter))


def _number(name: str) -> object:
    try:
        return float(name)
    except ValueError:
        return name


_FOLDS: tuple[Callable[[str], object], ...] = (
    str.casefold,
    str.upper,
    lambda name: unicodedata.normalize("NFKC", name),
    _without_accents,
    lambda name: "".join(name.split()),  # white space
    lambda name: re.sub(r"\W|_", "", name),  # wildcards, separators and quotes
    lambda name: unquote(name.replace("=", "%")),  # escapes
    _number,
    lambda name: name[:200],
    lambda name: name.encode()[:250],
)
"""What backends have taken for the identity of a name. Each makes groups of names that it mixes up."""


def _windows(group: list[str]) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(group) - 1, _SIZE - 1):
        yield tuple(group[start : start + _SIZE])


def _folded(fold: Callable[[str], object]) -> list[tuple[str, ...]]:
    groups: dict[object, list[str]] = {}
    for name in HOSTILE_NAMES:
        groups.setdefault(fold(name), []).append(name)
    return [window for group in groups.values() if len(group) > 1 for window in _windows(group)]


def _prefixed() -> list[tuple[str, ...]]:
    """A name and names that start with it."""
    families: list[tuple[str, ...]] = []
    for name in HOSTILE_NAMES:
        longer = [other for other in HOSTILE_NAMES if other != name and other.startswith(name)]
        families += [(name, *window) for window in _windows([*longer, ""]) if len(name) < 100]
    return [tuple(name for name in family if name) for family in families]


FAMILIES = [
    sorted(families, key=lambda family: not (family[0].isascii() and family[0].isalnum()))
    for families in (_prefixed(), *map(_folded, _FOLDS))
]
"""For each way to mix names up, the groups of up to five names that it would mix up, the plainest first."""

_FAMILY = st.one_of(*(st.sampled_from(families) for families in FAMILIES))

PALETTES = st.builds(
    lambda *names: tuple(dict.fromkeys((*names[0][:4], *names[1][:3], names[2]))),
    _FAMILY,
    _FAMILY,
    st.sampled_from(HOSTILE_NAMES),
)
"""The names of one series of calls: two families, and one of all."""

WHO = st.sampled_from((0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7))
"""An index into the names of a game; it wraps around. The first ones are used most."""

PATTERNS = st.sampled_from(("is", "starts", "ends", "around", "all", "none"))


def pattern(kind: str, name: str) -> str | None:
    """A pattern of actors made of a name."""
    half = name[: (len(name) + 1) // 2]
    return {
        "is": name,
        "starts": f"{half}*",
        "ends": f"*{name[len(half) - 1 :]}",
        "around": f"{half[:1]}*{name[-1:]}",
        "all": "*",
        "none": None,
    }[kind]


def shown(name: str) -> str:
    """A name as a line of a transcript has it: in ASCII, and not too long."""
    text = ascii(name)
    return text if len(text) <= 60 else f"{text[:20]}…{text[-12:]} ({len(name)} characters)"
