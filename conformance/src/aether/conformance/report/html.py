"""A report as one HTML file that needs nothing else, in light and in dark."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from aether.conformance.report.markdown import facts, guarantee_words, status_words
from aether.conformance.report.model import CaseReport, Report, RuleReport
from aether.conformance.report.text import failures, heading, rows, skipped, verdict_line
from aether.conformance.status import Status


def html(report: Report) -> str:
    """The whole report on one page: the verdict first."""
    parts = [
        _head(report),
        _profiles(report),
        _failures(report),
        _list("Errors of the suite or the harness", report.errors),
        _list("Remarks", report.remarks),
        _skipped(report),
        _reproduce(report),
        _list("What this does not say", report.limits),
        _guarantees(report),
        _rules(report),
        _slowest(report),
    ]
    title = escape(f"{report.backend.title}: {report.verdict}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{_resource('page.css')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main>\n<script>\n{_resource('page.js')}</script>\n</body>\n</html>\n"
    )


def _resource(name: str) -> str:
    return files("aether.conformance.report").joinpath(name).read_text("utf-8")


def _class(text: str) -> str:
    return text.lower().replace(" ", "-")


def _chip(text: str) -> str:
    return f'<span class="chip {_class(text)}">{escape(text)}</span>'


def _head(report: Report) -> str:
    line = verdict_line(report).removeprefix(report.verdict).removeprefix(": ")
    details = f"<p>{escape(line)}</p>\n" if line else ""
    return (
        f'<header class="{_class(report.verdict)}">\n<p class="kind">Aether conformance</p>\n'
        f"<h1>{escape(report.backend.title)}</h1>\n"
        f'<p class="verdict">{escape(report.verdict)}</p>\n{details}'
        f'<p class="facts">{escape(heading(report))} · {report.made:%Y-%m-%d %H:%M} UTC</p>\n</header>'
    )


def _profiles(report: Report) -> str:
    header, *body = rows(report)
    lines = [
        f"<tr><th scope=row>{escape(name)}<td>{_chip(verdict)}"
        + "".join(f"<td class=number>{each}" for each in numbers)
        for name, verdict, *numbers in body
    ]
    head = "".join(f"<th scope=col{' class=number' if place > 1 else ''}>{each}" for place, each in enumerate(header))
    return (
        f'<section>\n<h2>Profiles</h2>\n<div class="wide"><table>\n<tr>{head}\n'
        + "\n".join(lines)
        + "\n</table></div>\n</section>"
    )


def _failures(report: Report) -> str:
    bad = failures(report)
    if not bad:
        return ""
    shown = [
        f'<article class="{_class(case.status)}"><h3><code>{escape(case.id)}</code> {_chip(status_words(case))}</h3>'
        f"<pre>{escape(case.text)}</pre></article>"
        for case in bad
    ]
    return "<section>\n<h2>Failures</h2>\n" + "\n".join(shown) + "\n</section>"


def _list(title: str, texts: list[str]) -> str:
    items = "\n".join(f"<li>{escape(text)}" for text in texts)
    return f"<section>\n<h2>{title}</h2>\n<ul>\n{items}\n</ul>\n</section>" if texts else ""


def _skipped(report: Report) -> str:
    lines = [
        f"<details><summary>{_chip(status)} {escape(text) or 'deselected, or the run did not come to it'}"
        f" <small>{len(ids)} {'case' if len(ids) == 1 else 'cases'}</small></summary>"
        f"<p>{', '.join(f'<code>{escape(each)}</code>' for each in ids)}</p></details>"
        for status, text, ids in skipped(report)
    ]
    return "<section>\n<h2>What was not checked</h2>\n" + "\n".join(lines) + "\n</section>" if lines else ""


def _reproduce(report: Report) -> str:
    lines = "\n".join(f"<dt>{escape(name)}<dd>{escape(value)}" for name, value in facts(report))
    return f"<section>\n<h2>Reproduce</h2>\n<pre>$ {escape(report.command)}</pre>\n<dl>\n{lines}\n</dl>\n</section>"


def _guarantees(report: Report) -> str:
    lines = "\n".join(
        f"<tr><th scope=row>{escape(each.id)}<td>{escape(each.sentence)}<td>"
        + ("" if each.text else _chip(each.status))
        + f"<td><small>{escape(guarantee_words(each))}</small>"
        for each in report.guarantees
    )
    if not lines:
        return ""
    return f'<section>\n<h2>Guarantees</h2>\n<div class="wide"><table>\n{lines}\n</table></div>\n</section>'


def _rules(report: Report) -> str:
    present = [status for status in Status if any(case.status is status for case in report.cases)]
    boxes = "\n".join(
        f'<label><input type="checkbox" value="{_class(status)}" checked> {escape(status)}</label>'
        for status in present
    )
    areas: dict[str, list[RuleReport]] = {}
    for rule in report.rules:
        areas.setdefault(".".join(rule.id.split(".")[:2]), []).append(rule)
    groups = "\n".join(_area(name, members) for name, members in areas.items())
    return (
        '<section id="rules">\n<h2>Rules</h2>\n<form class="filter">\n'
        f'<input type="search" placeholder="id or words of a rule" aria-label="Filter the rules">\n{boxes}\n'
        f"<output></output>\n</form>\n{groups}\n</section>"
    )


def _area(name: str, rules: list[RuleReport]) -> str:
    cases = "\n".join(_case(case) for rule in rules for case in rule.cases)
    return f'<div class="area"><h3>{escape(name)}</h3>\n<ul class="cases">\n{cases}\n</ul></div>'


def _case(case: CaseReport) -> str:
    conditions = f" <small>{escape(case.conditions)}</small>" if case.conditions else ""
    text = f"<p>{escape(case.text)}</p>" if case.text and case.status not in (Status.FAIL, Status.SUITE_ERROR) else ""
    seconds = f"<small>{case.seconds:.2f} s</small>" if case.seconds else ""
    return (
        f'<li data-status="{_class(case.status)}">{_chip(status_words(case))}'
        f"<div><code>{escape(case.id)}</code> <small>{' '.join([*case.guarantees, ''])}</small>{seconds}"
        f"<p>{escape(case.sentence)}{conditions}</p>{text}</div>"
    )


def _slowest(report: Report) -> str:
    lines = "\n".join(
        f"<tr><td><code>{escape(slow.case)}</code><td class=number>{slow.seconds:.2f} s" for slow in report.slowest
    )
    return f"<section>\n<h2>Slowest</h2>\n<table>\n{lines}\n</table>\n</section>" if lines else ""
