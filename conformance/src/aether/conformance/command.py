"""Runs the suite for `aether-conformance run`: pytest, without the settings and plugins that happen to be there."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aether.conformance.plugin import REPORTS
from aether.conformance.rules import all_cases
from aether.conformance.targets import find_harness
from aether.conformance.violations import SuiteError

if TYPE_CHECKING:
    from aether.conformance.report import Report

_ENVIRONMENT = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}

_HERE = Path(__file__).parent


class _Keeper:
    """Keeps what came of a run of pytest beyond its end."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.interrupted = False

    def pytest_keyboard_interrupt(self) -> None:
        self.interrupted = True

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        self.reports = config.stash.get(REPORTS, [])


def run(options: Namespace) -> Report:
    """Run the cases that were asked for and return the report.

    Raises `SuiteError` when there is none, and `KeyboardInterrupt` when the run was interrupted.
    """
    find_harness(options.target)  # says what is wrong with it before anything is started
    if not any(options.keyword in case_id for case_id in all_cases()):
        raise SuiteError(f"no case contains {options.keyword!r}; `aether-conformance rules` lists them")
    keeper = _Keeper()
    with _alone():
        pytest.main(_arguments(options), plugins=[keeper])
    if keeper.interrupted:
        raise KeyboardInterrupt
    if not keeper.reports:
        raise SuiteError("no case was run; read what pytest says above")
    return keeper.reports[0]


def _arguments(options: Namespace) -> list[str]:
    arguments = ["-c", str(_HERE / "suite.ini"), "--rootdir", str(Path.cwd()), str(_HERE / "certify.py")]
    arguments += ["--import-mode=importlib", "-q", "--no-header", "-rN", "--disable-warnings"]
    arguments += ["-p", "aether-conformance", f"--aether-target={options.target}"]
    arguments += [f"--aether-select={options.keyword}", f"--aether-time-factor={options.time_factor}"]
    if options.report is not None:
        arguments.append(f"--aether-report={options.report}")
    if options.seed is not None:
        arguments.append(f"--aether-seed={options.seed}")
    if options.deep:
        arguments.append("--aether-deep")
    if options.exit_first:
        arguments.append("-x")
    if options.last_failed:
        arguments.append("--lf")
    if options.workers:
        _check_workers()
        arguments += ["-p", "xdist", "-n", options.workers]
    return arguments


def _check_workers() -> None:
    try:
        import xdist  # noqa: F401
    except ImportError as error:
        raise SuiteError("-n needs pytest-xdist; pip install pytest-xdist") from error


@contextmanager
def _alone() -> Iterator[None]:
    """Settings from outside are put away, and back."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    sys.stdout.flush()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
