"""No file of the repository may name a package index or a path of somebody's machine: both are true for one only.

Without arguments it checks what git has or would add, with arguments the files that they name.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

RULES = {
    r"https?://[^\s\"'<>]+/simple\b": "names a package index; pip's and uv's own settings say which one is used",
    r"--(extra-)?index-url[ =]\S": "names a package index; pip's and uv's own settings say which one is used",
    r"files\.pythonhosted\.org": "names a package index; pip's and uv's own settings say which one is used",
    r"(?<![\w.~])/(root|work|home/\w+|Users/\w+)/": "is a path of one machine; write one that is true everywhere",
}


def problems(name: str, text: str) -> list[str]:
    """What is wrong with a file of this name and text."""
    found = ["holds the host of a package index; git must ignore it"] if Path(name).name == "uv.lock" else []
    for number, line in enumerate(text.splitlines(), 1):
        matches = ((re.search(rule, line), why) for rule, why in RULES.items())
        found += [f"line {number}: {match[0]!r} {why}" for match, why in matches if match]
    return found


def _committed() -> list[Path]:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print("hosts: this is no git checkout, so nothing is committed from it")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def main(arguments: list[str]) -> int:
    """Print what is wrong, and return how many problems there are, at most 1."""
    paths = [Path(name) for name in arguments] or _committed()
    found = [
        f"{path}: {problem}" for path in paths for problem in problems(path.name, path.read_text("utf-8", "replace"))
    ]
    print("\n".join(found) if found else f"hosts: {len(paths)} files, no problem")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
