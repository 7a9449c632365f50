"""The files of a report, and their schema."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from aether.conformance.report.badge import endpoint, svg
from aether.conformance.report.html import html
from aether.conformance.report.markdown import markdown
from aether.conformance.report.model import SCHEMA, Report
from aether.conformance.violations import SuiteError


def write(report: Report, directory: Path) -> None:
    """Write report.json, README.md, index.html, badge.svg and badge.json."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in {
            "report.json": msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n",
            "README.md": markdown(report),
            "index.html": html(report),
            "badge.svg": svg(report),
            "badge.json": json.dumps(endpoint(report), indent=2) + "\n",
        }.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SuiteError(f"the report cannot be written to {directory}: {error.strerror}") from error


def read(path: Path) -> Report:
    """The report in a report.json. Raises `SuiteError` if it is none, or one of another schema."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (msgspec.MsgspecError, OSError) as error:
        raise SuiteError(f"{path} is no report of the schema {SCHEMA}: {error}") from error


def json_schema() -> str:
    """The JSON schema of report.json."""
    schema: dict[str, Any] = msgspec.json.schema(Report)
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA}
    return json.dumps({**draft, **schema}, indent=2, ensure_ascii=False) + "\n"


def folder(target: str) -> str:
    """A name for a directory that stands for a target."""
    return "".join(letter if letter.isalnum() else "-" for letter in target).strip("-")[:100]


def folders(targets: Sequence[str]) -> list[str]:
    """A directory for each of several targets, of which some may be the same; none for one alone."""
    if len(targets) == 1:
        return [""]
    seen, found = Counter[str](), list[str]()
    for name in map(folder, targets):
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found
