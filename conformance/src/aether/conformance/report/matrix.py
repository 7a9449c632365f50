"""One page from many reports."""

from __future__ import annotations

import os
from pathlib import Path

from aether.conformance.profiles import Profile
from aether.conformance.report.markdown import grid
from aether.conformance.report.model import Report
from aether.conformance.report.text import server_of
from aether.conformance.status import Status
from aether.conformance.violations import SuiteError


def matrix(directory: Path, *, seen_from: Path) -> str:
    """A Markdown page over all report.json below a directory; its links start at `seen_from`.

    Raises `SuiteError` if there is none, or if one cannot be read.
    """
    from aether.conformance.report.files import read

    found = [(path, read(path)) for path in sorted(directory.rglob("report.json"))]
    if not found:
        raise SuiteError(f"there is no report.json below {directory}")
    suites = sorted({report.setting.suite for _, report in found}, key=_numbers, reverse=True)
    lines = [
        "# Backends",
        "",
        "Made by `make matrix`, which runs the conformance suite on every backend of this repository.",
        "The verdicts are those of the reports that the names lead to; each says how to repeat it.",
        "`conformant` means that every case of the profile passed on that server with those settings, and no more.",
        "",
    ]
    for suite in suites:
        cells = [["backend", "server", *Profile, "passed", "failed", "features", "durability"]]
        cells += [_row(report, _link(path, seen_from)) for path, report in found if report.setting.suite == suite]
        lines += [f"## Suite {suite}", "", *grid(cells), ""]
    return "\n".join(lines)


def _row(report: Report, link: str) -> list[str]:
    counts = {status: sum(profile.counts[status] for profile in report.profiles) for status in Status}
    backend = report.backend
    return [
        f"[{backend.title}, {Path(link).parent.name}]({link})",
        server_of(backend),
        *(str(profile.verdict) for profile in report.profiles),
        str(counts[Status.PASS]),
        str(counts[Status.FAIL]),
        ", ".join(backend.features) or "none",
        backend.durability or "not known",
    ]


def _link(path: Path, seen_from: Path) -> str:
    return Path(os.path.relpath(path.parent / "README.md", seen_from)).as_posix()


def _numbers(version: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in version.split(".")]
