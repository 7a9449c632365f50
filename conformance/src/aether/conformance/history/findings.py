"""What a checker has found, and how a person gets to see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import gettempdir

import msgspec

from aether.conformance.violations import Violation

FORMAT = 1
"""The version of the format of histories that are kept, which `records.py` and `registers.py` describe."""

_MOST = 5
_CALLS = 4
_SHOWN = 400  # characters of one call


@dataclass(frozen=True)
class Finding:
    """Something that a rule forbids, and the calls that show it."""

    text: str
    calls: Sequence[object] = ()

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"  {_shown(call)}" for call in self.calls[:_CALLS])])


class Disproved(Violation):
    """A history that no sound backend could have had."""

    def __init__(self, expected: str, findings: Sequence[Finding], *, total: str, dump: Path | None) -> None:
        super().__init__(expected=expected, found="")
        lines = [f"{number}. {finding}" for number, finding in enumerate(findings[:_MOST], start=1)]
        if len(findings) > _MOST:
            lines.append("… and more")
        lines.append(f"in {total}" + (f", kept in {dump}" if dump else ""))
        self.found = "\n".join(lines)


def write(name: str, lines: Iterable[object]) -> Path:
    """Keep a history among the temporary files, one JSON object in each line."""
    path = Path(gettempdir()) / f"aether-history-{name}.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def first(findings: Iterable[Finding]) -> list[Finding]:
    """As many findings as are shown, and one more if there are more."""
    return list(islice(findings, _MOST + 1))


def _shown(call: object) -> str:
    text = msgspec.json.encode(call).decode() if isinstance(call, msgspec.Struct) else repr(call)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"
