"""A world in virtual time: machines with clocks of their own around one lease register behind a bad network."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aether.conformance.simulation import VirtualLoop, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def new_world() -> type[World]:
    return World


@pytest.fixture
def virtual() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on a loop of its own, whose time passes only when there is nothing to do."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(work)

    return run
