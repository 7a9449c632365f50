"""`aether` is a namespace that several wheels share: no portion may claim it, and each says that it is typed.

Without arguments it checks the sources, with arguments the wheels that they name.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent


def problems(names: Iterable[str]) -> list[str]:
    """What is wrong with one distribution that holds files of these names, relative to `aether`'s parent."""
    files = {PurePosixPath(name) for name in names}
    found = [
        f"{file}: hides the other portions of the namespace; remove it"
        for file in sorted(files)
        if file.parent == PurePosixPath("aether") and file.stem == "__init__"
    ]
    portions = sorted({file.parts[1] for file in files if file.parts[0] == "aether" and len(file.parts) > 2})
    if not portions:
        found.append("it holds nothing of aether")
    found += [
        f"aether/{portion}: has no py.typed, so type checkers ignore it; add an empty one"
        for portion in portions
        if PurePosixPath("aether", portion, "py.typed") not in files
    ]
    return found


def _source_names(directory: Path) -> list[str]:
    files = (path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [path.relative_to(directory).as_posix() for path in files]


def main(arguments: list[str]) -> int:
    """Print what is wrong, and return how many problems there are, at most 1."""
    checked: list[tuple[str, list[str]]] = []
    for name in arguments:
        with zipfile.ZipFile(name) as wheel:
            checked.append((name, problems(wheel.namelist())))
    if not arguments:
        sources = [*sorted(ROOT.glob("packages/*/src")), ROOT / "conformance/src"]
        checked = [(str(path.relative_to(ROOT)), problems(_source_names(path))) for path in sources]
    found = [f"{place}: {problem}" for place, listed in checked for problem in listed]
    print("\n".join(found) if found else f"namespace: {len(checked)} distributions, no problem")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
