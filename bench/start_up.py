"""What importing `aether.core` costs above starting Python."""

from __future__ import annotations

import subprocess
import sys
import time

from pairs import Row, line


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def run(rounds: int) -> list[Row]:
    """Milliseconds above bare Python."""
    rows = [
        _row("import aether.core", "bare Python, ms more", "import aether.core", "pass", 60.0, rounds),
        _row("… import Event, open_store", "bare Python, ms more", _USE, "pass", None, rounds),
        _row("… import Event, open_store", "asyncio, msgspec, ms more", _USE, "import asyncio, msgspec", None, rounds),
    ]
    for row in rows:
        print(line(row), flush=True)
    return rows


_USE = "from aether.core import Event, open_store"


def _row(work: str, against: str, ours: str, theirs: str, bar: float | None, rounds: int) -> Row:
    row = Row(work, against, bar, "ms", at_most=True)
    _seconds(ours)
    for _ in range(max(rounds, 9)):
        row.ours.append(1000 * (_seconds(ours) - _seconds(theirs)))
        row.theirs.append(1.0)
    return row
