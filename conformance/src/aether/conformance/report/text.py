"""A report for a terminal, and the parts of it that are texts everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aether.conformance.report.model import Backend, CaseReport, Report
from aether.conformance.status import Status

_ALWAYS = (Status.PASS, Status.FAIL)
_SKIPPED = (Status.NOT_CLAIMED, Status.NOT_TESTABLE, Status.NOT_RUN)


def heading(report: Report) -> str:
    """What was checked, with what."""
    setting, backend = report.setting, report.backend
    parts = [backend.title, server_of(backend), f"suite {setting.suite}", f"core {setting.core}", setting.python]
    return " · ".join(parts)


def server_of(backend: Backend) -> str:
    """What answers, as far as the harness says it."""
    return backend.server or ("no server" if backend.durability == "NONE" else "server not known")


def rows(report: Report) -> list[list[str]]:
    """The profiles as a table, with its header. Statuses that no case has are left out."""
    shown = [
        status for status in Status if status in _ALWAYS or any(profile.counts[status] for profile in report.profiles)
    ]
    body = [
        [str(profile.name), str(profile.verdict), *(str(profile.counts[status]) for status in shown)]
        for profile in report.profiles
    ]
    return [["profile", "verdict", *(str(status) for status in shown)], *body]


def skipped(report: Report) -> list[tuple[Status, str, list[str]]]:
    """The cases that were not checked, by status and reason."""
    found: dict[tuple[Status, str], list[str]] = {}
    for case in report.cases:
        if case.status in _SKIPPED:
            found.setdefault((case.status, case.text), []).append(case.id)
    return [(status, text, ids) for (status, text), ids in found.items()]


def failures(report: Report) -> list[CaseReport]:
    """What failed, the suite's own errors first."""
    bad = (Status.SUITE_ERROR, Status.FAIL)
    return sorted((case for case in report.cases if case.status in bad), key=lambda case: bad.index(case.status))


def verdict_line(report: Report) -> str:
    """The verdict, and what it rests on."""
    blamed = _listed(_ids(report, Status.FAIL))
    return {
        0: "conformant",
        1: f"not conformant: {blamed}",
        3: "no verdict: the suite, its references or the harness failed"
        + (f": {_listed(suite)}" if (suite := _ids(report, Status.SUITE_ERROR)) else "")
        + (f"; beside it, these rules are broken: {blamed}" if blamed else ""),
        4: f"partial: nothing failed, but not everything was checked ({_unchecked(report)})",
    }[report.exit_code]


def _ids(report: Report, status: Status) -> list[str]:
    return [case.id for case in failures(report) if case.status is status and not case.provisional]


def _unchecked(report: Report) -> str:
    counts = {
        status: sum(case.status is status and not case.provisional for case in report.cases)
        for status in (Status.NOT_RUN, Status.NOT_TESTABLE)
    }
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def table(report: Report) -> str:
    """What a person reads at the end of a run."""
    lines = [heading(report), "", *_aligned(rows(report)), ""]
    for status, text, ids in skipped(report):
        reason = f" ({text})" if text else ""
        lines.append(f"{len(ids)} {status}{reason}: {_listed(ids)}")
    lines += [f"error: {error}" for error in report.errors]
    lines += [f"remark: {remark}" for remark in report.remarks]
    return "\n".join([*lines, verdict_line(report)])


def _listed(ids: Sequence[str], most: int = 3) -> str:
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more


def _aligned(cells: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        words = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join([*words, *numbers])
