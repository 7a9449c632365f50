"""The command: what it is told, what it answers, and its exit codes."""

from dataclasses import replace

import pytest

from aether.conformance.__main__ import main
from aether.conformance.rules import all_cases
from aether.conformance.runner import Result, Status, exit_code, summary


def test_selection_is_partial(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "memory", "-k", "store.append.gapless"]) == 4

    shown = capsys.readouterr().out
    assert "pass         store.append.gapless" in shown
    assert f"1 pass · 0 FAIL · {len(all_cases()) - 1} deselected" in shown
    assert shown.splitlines()[-1].startswith("partial: nothing failed")


@pytest.mark.parametrize("target", ["memory", "memory://here", "aether.memory.testing:MemoryHarness"])
def test_targets(target: str) -> None:
    assert main(["run", target, "-k", "store.append.empty"]) == 4


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing"], "no installed backend has a harness named 'nothing' (there are: memory, nats"),
        (["no.such.module:Harness"], "cannot be loaded"),
        (["aether.core:Event"], "not a class derived from"),
        (["nowhere://"], "no installed backend answers nowhere://"),
        (["memory", "-k", "nonsense"], "no case contains 'nonsense'"),
    ],
)
def test_what_is_no_verdict(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *arguments]) == 3
    assert reason in capsys.readouterr().err


def test_exit_codes() -> None:
    case = next(iter(all_cases().values()))
    passed, failed, claimed, testable, broken = (
        Result(case, status)
        for status in (Status.PASS, Status.FAIL, Status.NOT_CLAIMED, Status.NOT_TESTABLE, Status.SUITE_ERROR)
    )

    assert exit_code([passed, claimed]) == 0
    assert exit_code([passed, claimed], deselected=1) == 4
    assert exit_code([passed, testable]) == 4
    assert exit_code([passed, testable, failed]) == 1
    assert exit_code([passed, failed, broken]) == 3


def test_summary_names_what_was_not_run() -> None:
    case = replace(next(iter(all_cases().values())), id="store.a")
    results = [Result(case, Status.PASS), Result(case, Status.NOT_TESTABLE, "the harness has no restart()")]

    assert summary(results) == (
        "1 pass · 1 not-testable · 0 FAIL\nnot-testable: store.a (the harness has no restart())"
    )


def test_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules"]) == 0
    assert "store.append.race\n    Of N callers" in capsys.readouterr().out
