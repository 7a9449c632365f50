"""The examples run as they are, and print what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
STATE = """\
Order state after replaying 2 events:
  Status: shipped
  Total: $99.99
  Tracking: FS123456
"""


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_quickstart_in_memory() -> None:
    done = run("quickstart.py")

    assert (done.returncode, done.stdout, done.stderr) == (0, STATE, "")


def test_quickstart_again_on_the_same_store(tmp_path: Path) -> None:
    url = f"nats+embedded://{tmp_path}"

    for done in (run("quickstart.py", url), run("quickstart.py", url)):
        assert (done.returncode, done.stdout, done.stderr) == (0, STATE, "")


def test_demo_keeps_its_promises() -> None:
    done = run("demo.py")

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("killed (SIGKILL)") == 3
    assert done.stdout.count("\n  ok  ") == 7
    assert "BROKEN" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
