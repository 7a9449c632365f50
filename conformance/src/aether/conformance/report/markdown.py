"""A report as Markdown, for a repository."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aether.conformance.report.model import CaseReport, GuaranteeReport, Report
from aether.conformance.report.text import failures, rows, server_of, skipped, verdict_line


def markdown(report: Report) -> str:
    """The whole report on one page."""
    parts = [
        [f"# {report.backend.title}: {report.verdict}", "", "![the verdict as a badge](badge.svg)", ""],
        [cell(verdict_line(report)), "", *grid(rows(report)), ""],
        _failures(report),
        _listed("Errors of the suite or the harness", report.errors),
        _listed("Remarks", report.remarks),
        _skipped(report),
        ["## What this does not say", "", *(f"* {limit}" for limit in report.limits), ""],
        _reproduce(report),
        _guarantees(report),
        _rules(report),
        ["## Slowest", "", *grid([["case", "seconds"], *_slowest(report)]), ""],
    ]
    return "\n".join(line for part in parts for line in part)


def grid(cells: Sequence[Sequence[str]]) -> list[str]:
    """A table; the first row is its header."""
    lines = ["| " + " | ".join(cell(each) for each in row) + " |" for row in cells]
    return [lines[0], "|" + "---|" * len(cells[0]), *lines[1:]]


def cell(text: str) -> str:
    """A text that stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _failures(report: Report) -> list[str]:
    bad = failures(report)
    return ["## Failures", "", *(line for case in bad for line in _fenced(case))] if bad else []


def _fenced(case: CaseReport) -> list[str]:
    fence = "`" * max(3, 1 + max((len(run) for run in case.text.split() if set(run) == {"`"}), default=0))
    new = " (new, not counted)" if case.provisional else ""
    return [f"`{case.id}`: {case.status}{new}", "", f"{fence}text", case.text, fence, ""]


def _listed(title: str, texts: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"* {cell(text)}" for text in texts), ""] if texts else []


def _skipped(report: Report) -> list[str]:
    found = skipped(report)
    if not found:
        return []
    lines = [["status", "reason", "cases"]]
    lines += [[str(status), text, ", ".join(f"`{each}`" for each in ids)] for status, text, ids in found]
    return ["## What was not checked", "", *grid(lines), ""]


def facts(report: Report) -> list[tuple[str, str]]:
    """What is needed to repeat the run, and what the backend claims."""
    backend, setting = report.backend, report.setting
    seed = "the usual games" if setting.seed is None else str(setting.seed)
    return [
        ("backend", backend.title),
        ("target", backend.target),
        ("server", server_of(backend)),
        ("offers", ", ".join(backend.offers) or "not known"),
        ("features", ", ".join(backend.features) or "none"),
        ("durability", backend.durability or "not known"),
        ("faults of the harness", ", ".join(backend.faults) or "none"),
        ("longest answer, says the harness", _seconds(backend.deadline)),
        ("shortest lease, says the harness", _seconds(backend.lease)),
        ("suite", setting.suite),
        ("core", setting.core),
        ("Python", setting.python),
        ("system", setting.system),
        ("commit", setting.commit or "none"),
        ("seed", seed),
        ("time factor", f"{setting.time_factor:g}"),
        ("made", report.made.isoformat()),
        ("seconds", f"{report.seconds:g}"),
    ]


def _seconds(number: float | None) -> str:
    return "not known" if number is None else f"{number:g} s"


def _reproduce(report: Report) -> list[str]:
    lines = [["what", "this run"], *([name, value] for name, value in facts(report))]
    return ["## Reproduce", "", "```console", f"$ {report.command}", "```", "", *grid(lines), ""]


def guarantee_words(guarantee: GuaranteeReport) -> str:
    """How its cases came out, or why there are none."""
    return guarantee.text or ", ".join(f"{count} {status}" for status, count in guarantee.counts.items())


def _guarantees(report: Report) -> list[str]:
    if not report.guarantees:
        return []
    lines = [["", "what may be relied on", "its cases"]]
    lines += [[each.id, each.sentence, guarantee_words(each)] for each in report.guarantees]
    return ["## Guarantees", "", *grid(lines), ""]


def _rules(report: Report) -> Iterable[str]:
    lines = [["case", "status", "profile", "for", "rule", "since", "seconds"]]
    lines += [
        [
            f"`{case.id}`",
            status_words(case),
            str(case.profile),
            " ".join(case.guarantees),
            case.sentence,
            case.since,
            f"{case.seconds:.2f}",
        ]
        for case in report.cases
    ]
    return ["## Rules", "", *grid(lines), ""]


def status_words(case: CaseReport) -> str:
    """The status, and that it does not count if it does not."""
    return f"{case.status}, new in {case.since}, not counted" if case.provisional else str(case.status)


def _slowest(report: Report) -> list[list[str]]:
    return [[f"`{slow.case}`", f"{slow.seconds:.2f}"] for slow in report.slowest]
