"""Names: what is allowed, and an encoding under which different names never meet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether.core import InvalidName
from aether.core.names import (
    check_name,
    check_namespace,
    check_namespace_pattern,
    decode_token,
    encode_token,
    namespace_matches,
)

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=255)
HOSTILE = [
    ".",
    "..",
    "*",
    ">",
    "a.*",
    "$JS.API",
    "=2E",
    "==",
    "=",
    " ",
    "a b",
    "a\u2028b",
    "\u202eabc",
    "a/../b",
    "%2e",
    "'",
    '"',
    ";--",
    "{}",
]


@given(NAMES)
def test_encoded_names_come_back(name: str) -> None:
    token = encode_token(name)

    assert decode_token(token) == name
    assert 1 <= len(token) <= 1362
    assert all(c.isascii() and (c.isalnum() or c in "_-=") for c in token)


@pytest.mark.parametrize("name", [*HOSTILE, "x" * 255, "é" * 255, "🚀" * 255, "=" * 255])
def test_hostile_names_come_back(name: str) -> None:
    assert decode_token(encode_token(check_name("actor id", name))) == name


@given(NAMES, NAMES)
def test_different_names_have_different_tokens(one: str, other: str) -> None:
    assert (one == other) == (encode_token(one) == encode_token(other))


@given(st.text(max_size=40))
def test_no_other_text_decodes(token: str) -> None:
    try:
        name = decode_token(token)
    except ValueError:
        return
    assert encode_token(name) == token


GOLDEN = {"order-123": "order-123", "a.b": "a=2Eb", "*": "=2A", ">": "=3E", "é": "=C3=A9", "=": "=3D", "a b": "a=20b"}


def test_the_encoding_never_changes() -> None:
    """Golden vectors: stored subjects are read by later releases."""
    assert {name: encode_token(name) for name in GOLDEN} == GOLDEN
    assert encode_token("🚀" * 64).startswith("==8J-agPCf")


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "a\r\nb", "\x00", "\x7f", "\x85", "\ud800", None, 7, b"a"])
def test_bad_names_are_refused(name: object) -> None:
    with pytest.raises(InvalidName) as caught:
        check_name("actor id", name)
    assert "actor id" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["shop", "shop.eu", "a-b_c.9", "x" * 64])
def test_namespaces(name: str) -> None:
    assert check_namespace(name) == name


@pytest.mark.parametrize(
    "name", ["", "Shop", "shop.", ".shop", "a..b", "a b", "shop.*", ">", "_inbox.x", "é", "x" * 65, 3]
)
def test_bad_namespaces_are_refused(name: object) -> None:
    with pytest.raises(InvalidName, match="namespace"):
        check_namespace(name)


@pytest.mark.parametrize(
    ("pattern", "namespace", "expected"),
    [
        ("shop", "shop", True),
        ("shop", "shop.eu", False),
        ("shop.*", "shop.eu", True),
        ("shop.*", "shop", False),
        ("shop.*", "shop.eu.de", False),
        ("shop.>", "shop", False),
        ("shop.>", "shop.eu.de", True),
        ("*.eu", "shop.eu", True),
        (">", "shop", True),
        ("shop", "shopping", False),
    ],
)
def test_patterns_match_by_token(pattern: str, namespace: str, expected: bool) -> None:
    assert namespace_matches(check_namespace_pattern(pattern), namespace) is expected


@pytest.mark.parametrize("pattern", ["", "shop.>.x", "sh*p", "shop..*", None])
def test_bad_patterns_are_refused(pattern: object) -> None:
    with pytest.raises(InvalidName, match="pattern"):
        check_namespace_pattern(pattern)
