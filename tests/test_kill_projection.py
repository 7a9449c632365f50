"""A projection whose process is killed under load: nothing is skipped, doubled or swapped. `make torture` does more."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "kill_projection.py"


def test_killed_twice_each() -> None:
    kinds = ["sqlite", "nats", "relay"]
    command = [sys.executable, str(SCRIPT), *kinds, "--kills", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert [line.partition(" in ")[0] for line in done.stdout.splitlines()] == [f"{kind}: 2 kills" for kind in kinds]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_projection", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("versions", "once", "least"),
    [
        ([1, 2, 3], True, True),
        ([1, 2, 1, 2, 3], False, True),
        ([1, 2, 2, 3], False, True),
        ([1, 3], False, False),
        ([1, 2], False, False),
        ([], False, False),
        ([1, 3, 2, 3], False, False),
        ([2, 1, 2, 3], False, False),
        ([1, 2, 3, 1], False, False),
        ([1, 2, 3, 4], False, False),
    ],
)
def test_the_checks_find_what_is_wrong(script: ModuleType, versions: list[int], once: bool, least: bool) -> None:
    effects = [("a", version) for version in versions]
    assert (script.exactly_once(effects, {"a": 3}) == []) is once
    assert (script.at_least_once(effects, {"a": 3}) == []) is least
