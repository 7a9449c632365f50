"""The report of a run: JSON first, and Markdown, one HTML page and badges made from it."""

from __future__ import annotations

from aether.conformance.report.files import folder, folders, json_schema, read, write
from aether.conformance.report.matrix import matrix
from aether.conformance.report.model import SCHEMA, Report, reports, unfinished
from aether.conformance.report.text import failures, table
from aether.conformance.report.verdict import Verdict

__all__ = [
    "SCHEMA",
    "Report",
    "Verdict",
    "failures",
    "folder",
    "folders",
    "json_schema",
    "matrix",
    "read",
    "reports",
    "table",
    "unfinished",
    "write",
]
