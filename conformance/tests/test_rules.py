"""The registry is complete: every rule of the design has a case, and RULES.md says what there is."""

import re
from pathlib import Path

import pytest

from aether.conformance import rules
from aether.conformance.__main__ import rules_markdown
from aether.conformance.cases.names import VIEWS
from aether.conformance.corpus import HOSTILE_NAMES
from aether.conformance.guarantees import GUARANTEES, UNCHECKED, guarantees
from aether.conformance.rules import ELSEWHERE, all_cases
from aether.core import EventBus, EventStore

# From the tables of the design, sections 4.2 to 4.4.
DESIGN = (
    "store.append.conflict",
    "store.append.race",
    "store.append.gapless",
    "store.append.atomic",
    "store.append.idempotent",
    "store.append.unknown",
    "store.append.empty",
    "store.append.limits",
    "store.append.many",
    "store.append.isolated",
    "store.read.own",
    "store.read.fresh",
    "store.read.order",
    "store.read.after",
    "store.read.upto",
    "store.read.limit",
    "store.read.reverse",
    "store.read.early",
    "store.read.corrupt",
    "store.feed.order",
    "store.feed.complete",
    "store.feed.parallel",
    "store.subscribe.seam",
    "store.subscribe.pressure",
    "store.subscribe.filter",
    "store.snapshot.newer",
    "store.snapshot.schema",
    "store.snapshot.damaged",
    "store.names",
    "store.namespace",
    "store.durability",
    "store.identity",
    "store.close",
    "bus.deliver",
    "bus.order",
    "bus.ready",
    "bus.filter",
    "bus.namespace",
    "bus.queue",
    "bus.overflow",
    "bus.request",
    "bus.reconnect",
    "bus.close",
    "election.register.cas",
    "election.unique",
    "election.token",
    "election.exclusive",
    "election.lost",
    "election.fence",
    "election.failover",
    "election.resign",
)

RULES_MD = Path(__file__).parents[1] / "RULES.md"


@pytest.mark.parametrize("rule", DESIGN)
def test_rule_of_the_design_has_a_case(rule: str) -> None:
    assert rule in {case.rule for case in all_cases().values()} or rule in ELSEWHERE


def test_every_guarantee_has_rules_or_a_reason() -> None:
    about = {number for case in all_cases().values() for number in guarantees(case.rule)}

    assert about | set(UNCHECKED) == set(GUARANTEES)
    assert not about & set(UNCHECKED)


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        ("store.append.race", ("G2",)),
        ("store.snapshot.newer", ("G17",)),
        ("store.append.empty", ()),
        ("bus.deliver", ()),
        ("election.register.scan", ("G12", "G14")),
    ],
)
def test_longest_name_says_what_a_rule_is_about(rule: str, numbers: tuple[str, ...]) -> None:
    assert guarantees(rule) == numbers


def test_ids_are_words_between_dots() -> None:
    for case_id in all_cases():
        assert re.fullmatch(r"(store|bus|election)(\.[a-z]+)+(#[a-z_-]+)?", case_id)


def test_every_sentence_obliges() -> None:
    for case in all_cases().values():
        assert " MUST " in case.sentence, case.id
        assert case.sentence.endswith("."), case.id


def test_id_never_repeats() -> None:
    with pytest.raises(ValueError, match="ids never repeat"):
        rules.case("store.append.race")(all_cases()["store.append.race"].body)


def test_case_without_a_rule_is_refused() -> None:
    async def nameless(_: object) -> None: ...

    with pytest.raises(ValueError, match="no docstring"):
        rules.case("store.nothing")(nameless)


def test_every_method_of_a_store_is_looked_at_from_another_namespace() -> None:
    methods = {name for name, value in vars(EventStore).items() if callable(value) and not name.startswith("_")}

    assert methods == set(VIEWS)


def test_closing_is_checked_for_every_method() -> None:
    """A method that is added has to be added to the cases of `close` and `names`, too."""
    assert {name for name, value in vars(EventBus).items() if callable(value) and not name.startswith("_")} == {
        "publish",
        "subscribe",
        "request",
        "reply",
    }


def test_hostile_names_are_different() -> None:
    assert len(set(HOSTILE_NAMES)) == len(HOSTILE_NAMES)


def test_rules_md_is_current() -> None:
    assert RULES_MD.read_text() == rules_markdown() + "\n", (
        "run: aether-conformance rules --markdown > conformance/RULES.md"
    )
