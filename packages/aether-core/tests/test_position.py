"""Positions: opaque, ordered within one store, and as text."""

import pytest

from aether.core import START, Position


def test_text_comes_back() -> None:
    position = Position.at("store-1", 42, "an id")
    assert Position.parse(str(position)) == position
    assert Position.parse(str(START)) == START


@pytest.mark.parametrize(
    "text",
    ["", "x", "a:b:c", "a:0:c", "a:-1:c", "a:1:", ":1:c", "a:１:c", "a:1", "a:1:0000000g", "a:01:00000000", "START"],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a position"):
        Position.parse(text)


def test_order() -> None:
    one, two = Position("s", 1, 7), Position("s", 2, 7)
    assert START < one < two
    assert START <= one <= two
    assert two > one


def test_positions_of_different_stores_have_no_order() -> None:
    with pytest.raises(ValueError, match="different stores"):
        assert Position("s", 1, 7) < Position("t", 2, 7)
