"""What no test and no conformance case may do: sleep, skip, or use mocks.

A sleep makes a test slow where the machine is fast, and wrong where it is slow: wait for a condition with a bound.
Allowed are `asyncio.sleep(0)`, which lets other tasks run while no time passes, and a sleep at the end of a loop
`while condition`, which looks again and again until what it waits for is there. In a module whose docstring says that
it runs in virtual time a sleep moves the clock and takes none.

Without arguments it checks the repository, with arguments the files that they name.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("packages/*/tests/**/*.py", "conformance/**/*.py", "tests/**/*.py")

SKIPS = {"skip", "skipif", "importorskip", "xfail"}


def problems(source: str) -> list[tuple[int, str]]:
    """The lines that break a rule, and how."""
    tree = ast.parse(source)
    virtual = "virtual time" in (ast.get_docstring(tree) or "").lower()
    sleeps = {id(node) for node in ast.walk(tree) if virtual and _sleeps(node)}
    polls = {id(_last_call(node)) for node in ast.walk(tree) if isinstance(node, ast.While)}
    return sorted(problem for node in ast.walk(tree) if id(node) not in polls | sleeps for problem in _problem(node))


def _sleeps(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) == "sleep"


def _last_call(loop: ast.While) -> ast.AST:
    """The call that a loop with a condition ends with; the loop itself if it has none, or does not end with one."""
    last = loop.body[-1]
    if isinstance(loop.test, ast.Constant) or not isinstance(last, ast.Expr):
        return loop
    return last.value.value if isinstance(last.value, ast.Await) else last.value


def _problem(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Call) and _name(node.func) == "sleep" and not _is_zero(node.args):
        yield node.lineno, "sleeps; wait for a condition with a bound"
    elif isinstance(node, ast.Attribute) and node.attr in SKIPS and _name(node.value) in ("pytest", "mark"):
        yield node.lineno, f"uses {node.attr}; a test runs or it is not there"
    elif isinstance(node, ast.Import | ast.ImportFrom) and any(name.startswith("unittest") for name in _imports(node)):
        yield node.lineno, "imports a mock; use a real server, or aether-memory"


def _imports(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names]


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_zero(arguments: list[ast.expr]) -> bool:
    return len(arguments) > 0 and isinstance(arguments[0], ast.Constant) and arguments[0].value == 0


def main(arguments: list[str]) -> int:
    """Print what is wrong, and return how many problems there are, at most 1."""
    paths = [Path(name) for name in arguments] or [path for place in PLACES for path in sorted(ROOT.glob(place))]
    found = [f"{path}:{line}: {problem}" for path in paths for line, problem in problems(path.read_text("utf-8"))]
    print("\n".join(found) if found else f"tests: {len(paths)} files, no problem")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
