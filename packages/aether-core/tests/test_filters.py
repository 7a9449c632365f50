"""Filters: patterns match as a glob does, and no pattern takes long."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether.core import InvalidName
from aether.core.filters import EventFilter

TEXT = st.text("ab*", min_size=1, max_size=12)


@given(TEXT, TEXT)
def test_stars_match_any_run(pattern: str, actor: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), actor, re.DOTALL) is not None
    assert EventFilter(actors=pattern).wants_actor(actor) is expected


@pytest.mark.parametrize("actor", ["a\u2028b", "a[b]", "a?b", "A"])
def test_nothing_else_is_special(actor: str) -> None:
    assert EventFilter(actors=actor).wants_actor(actor)
    assert EventFilter(actors="*").wants_actor(actor)
    assert not EventFilter(actors="a").wants_actor(actor)
    assert not EventFilter(actors="a?").wants_actor("ab")


def test_a_hostile_pattern_is_linear() -> None:
    """With a backtracking regular expression this would take longer than the universe has."""
    wanted = EventFilter(actors="*-" * 100 + "eu")
    assert not wanted.wants_actor("-" * 255)


def test_bad_filters_are_refused() -> None:
    with pytest.raises(InvalidName):
        EventFilter(types={""})
    with pytest.raises(InvalidName):
        EventFilter(actors="")
