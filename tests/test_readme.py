"""Every Python block of the README is a program that prints what the block behind it shows, on every backend."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")
SHOWN_URL = "memory://"
BLOCK = re.compile(
    r"^##+ (?P<heading>[^\n]+)|^```python\n(?P<code>.*?)^```\n(\n```text\n(?P<output>.*?)^```)?",
    re.MULTILINE | re.DOTALL,
)


def programs() -> list[tuple[str, str, str | None]]:
    found = []
    heading = ""
    for match in BLOCK.finditer(README):
        heading = match["heading"] or heading
        if match["code"]:
            found.append((heading, match["code"], match["output"]))
    return found


@pytest.mark.parametrize("backend", ["memory", "embedded"])
@pytest.mark.parametrize(("code", "output"), [pytest.param(code, out, id=name) for name, code, out in programs()])
def test_block(code: str, output: str | None, backend: str, tmp_path: Path) -> None:
    assert SHOWN_URL in code
    url = SHOWN_URL if backend == "memory" else f"nats+embedded://{tmp_path}"

    command = [sys.executable, "-W", "error", "-c", code.replace(SHOWN_URL, url)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout == output, "show what the program prints in a ```text block right behind it"


def test_no_block_is_overlooked() -> None:
    shown = re.findall(r"^[ \t]*(?:```|~~~)[ \t{.]*py", README, re.MULTILINE | re.IGNORECASE)
    assert len(programs()) == len(shown) > 0
