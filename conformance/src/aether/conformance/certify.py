"""What `aether-conformance run` gives to pytest: the class of the target that the command was told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aether.conformance.harness import Harness
from aether.conformance.pytest_class import make_class
from aether.conformance.targets import find_harness


def _named(config: pytest.Config) -> Callable[[], Harness]:
    target: Any = config.getoption("--aether-target")
    return find_harness(target)


TestBackend = make_class(_named)
