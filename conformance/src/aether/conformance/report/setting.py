"""What a run was made with: versions, the machine, the checkout."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

import msgspec

_GIT_SECONDS = 10.0


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that could make the next run come out differently."""

    suite: str
    core: str
    python: str
    system: str
    commit: str
    """Of the checkout in which it was run, with a `+` if files were changed; empty if there is none."""

    seed: int | None
    """Of the machines' games; none for the usual ones."""

    time_factor: float

    @classmethod
    def now(cls, facts: Mapping[str, Any]) -> Self:
        """Here, and what the session says of itself."""
        return cls(
            suite=suite_version(),
            core=_version("aether-core"),
            python=f"{platform.python_implementation()} {platform.python_version()}",
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            commit=_commit(),
            seed=facts.get("seed"),
            time_factor=facts.get("time_factor", 1.0),
        )


def suite_version() -> str:
    """The version of the suite that is installed."""
    return _version("aether-conformance")


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _commit() -> str:
    head = _git("rev-parse", "--short=12", "HEAD").strip()
    return f"{head}+" if head and _git("status", "--porcelain", "--untracked-files=no") else head


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
