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
    row = Row("import aether.core, ms above bare Python", "", 60.0, "ms", at_most=True)
    _seconds("import aether.core")
    for _ in range(max(rounds, 9)):
        row.ours.append(1000 * (_seconds("import aether.core") - _seconds("pass")))
        row.theirs.append(1.0)
    print(line(row), flush=True)
    return [row]
