"""Every Python block of the README and of docs/state.md is a program that prints what the block behind it shows.

Those that name `memory://` do so on an embedded NATS server, too.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "docs/state.md")}
SHOWN_URL = "memory://"
BLOCK = re.compile(
    r"^##+ (?P<heading>[^\n]+)|^```python\n(?P<code>.*?)^```\n(\n```text\n(?P<output>.*?)^```)?",
    re.MULTILINE | re.DOTALL,
)


def programs(page: str) -> list[tuple[str, str, str | None]]:
    found = []
    heading = ""
    for match in BLOCK.finditer(PAGES[page]):
        heading = match["heading"] or heading
        if match["code"]:
            found.append((heading, match["code"], match["output"]))
    return found


PROGRAMS = [
    pytest.param(code, output, backend, id=f"{page}-{heading}-{backend}")
    for page in PAGES
    for heading, code, output in programs(page)
    for backend in (["memory", "embedded"] if SHOWN_URL in code else ["as it is"])
]


@pytest.mark.parametrize(("code", "output", "backend"), PROGRAMS)
def test_block(code: str, output: str | None, backend: str, tmp_path: Path) -> None:
    url = f"nats+embedded://{tmp_path}" if backend == "embedded" else SHOWN_URL

    command = [sys.executable, "-W", "error", "-c", code.replace(SHOWN_URL, url)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)

    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout == output, "show what the program prints in a ```text block right behind it"


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_overlooked(page: str) -> None:
    shown = re.findall(r"^[ \t]*(?:```|~~~)[ \t{.]*py", PAGES[page], re.MULTILINE | re.IGNORECASE)
    assert len(programs(page)) == len(shown) > 0


def test_the_readme_runs_in_memory() -> None:
    assert all(SHOWN_URL in code for _, code, _ in programs("README.md"))
