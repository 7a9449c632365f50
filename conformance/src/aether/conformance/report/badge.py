"""Badges: a picture, and what shields.io makes one from."""

from __future__ import annotations

from html import escape

from aether.conformance.profiles import Profile
from aether.conformance.report.model import Report
from aether.conformance.report.verdict import Verdict

COLOURS = {
    Verdict.CONFORMANT: "#1a7f37",
    Verdict.NOT_CLAIMED: "#6e7781",
    Verdict.PARTIAL: "#9a6700",
    Verdict.NOT_CONFORMANT: "#cf222e",
    Verdict.NONE: "#6e7781",
}

_LETTER, _MARGIN = 6.6, 12  # about what Verdana at 11 pixels takes


def endpoint(report: Report) -> dict[str, object]:
    """The JSON of a shields.io endpoint badge."""
    label, message = _texts(report)
    return {"schemaVersion": 1, "label": label, "message": message, "color": COLOURS[report.verdict]}


def svg(report: Report) -> str:
    """The badge as a picture that needs nothing else."""
    label, message = (escape(text) for text in _texts(report))
    left, right = (round(len(text) * _LETTER + _MARGIN) for text in _texts(report))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{label}: {message}">
<title>{label}: {message}</title>
<clipPath id="r"><rect width="{left + right}" height="20" rx="3" fill="#fff"/></clipPath>
<g clip-path="url(#r)">
<rect width="{left}" height="20" fill="#444c56"/>
<rect x="{left}" width="{right}" height="20" fill="{COLOURS[report.verdict]}"/>
</g>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{left / 2:g}" y="14" textLength="{left - _MARGIN}">{label}</text>
<text x="{left + right / 2:g}" y="14" textLength="{right - _MARGIN}">{message}</text>
</g>
</svg>
"""


def _texts(report: Report) -> tuple[str, str]:
    verdicts = {profile.name: profile.verdict for profile in report.profiles}
    message = str(report.verdict)
    if report.verdict is Verdict.CONFORMANT:
        message += ": " + ", ".join(name for name in Profile if verdicts[name] is Verdict.CONFORMANT)
    return f"aether {report.setting.suite}", message
