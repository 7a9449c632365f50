"""The command `aether-conformance`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points

from aether.conformance.harness import Harness, UrlHarness
from aether.conformance.rules import ELSEWHERE, Case, all_cases
from aether.conformance.runner import Result, Session, Status, exit_code, interrupt_on_sigterm, summary
from aether.conformance.violations import SuiteError

GROUP = "aether.conformance"
"""The entry-point group in which installed backends name their harnesses."""


_PARTIAL = (
    "partial: nothing failed, but not everything was checked; a harness with faults tests the rest, see the README"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "rules":
        print(rules_markdown() if options.markdown else _rules_text())
        return 0
    interrupt_on_sigterm()
    logging.getLogger("aether").addHandler(logging.NullHandler())  # lost connections are what many cases are about
    try:
        return _run(find_harness(options.target), options.keyword, options.time_factor)
    except SuiteError as error:
        print(f"suite-error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted; the server is stopped, and there is no verdict", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aether-conformance", description="Check a backend of Aether, rule by rule.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="run the cases against a backend",
        epilog="exit codes: 0 conformant, 1 violations, 3 the suite or its harness failed, 4 partial",
    )
    run.add_argument("target", help="a URL (mydb://host), the name of an installed backend (nats), or module:Class")
    run.add_argument("-k", dest="keyword", default="", help="only the cases whose id contains this")
    run.add_argument("--time-factor", type=float, default=1.0, help="multiply every bound and lease, on slow machines")
    rules = commands.add_parser("rules", help="list the rules and their cases")
    rules.add_argument("--markdown", action="store_true", help="as RULES.md has them")
    return parser


def find_harness(target: str) -> Harness:
    """The harness of a URL, of an installed backend's name, or of `module:Class`."""
    if "://" in target:
        return UrlHarness(target)
    module, colon, name = target.partition(":")
    try:
        if colon:
            return _made(getattr(import_module(module), name), target)
        points = entry_points(group=GROUP)
        if target in points.names:
            return _made(points[target].load(), target)
    except (ImportError, AttributeError) as error:
        raise SuiteError(f"{target} cannot be loaded: {error}") from error
    installed = ", ".join(sorted(points.names)) or "none"
    raise SuiteError(
        f"no installed backend has a harness named {target!r} (there are: {installed}); give a URL instead"
    )


def _made(kind: object, target: str) -> Harness:
    if not (isinstance(kind, type) and issubclass(kind, Harness)):
        raise SuiteError(f"{target} is not a class derived from aether.conformance.Harness")
    return kind()


def _run(harness: Harness, keyword: str, time_factor: float) -> int:
    cases = all_cases().values()
    chosen = [case for case in cases if keyword in case.id]
    if not chosen:
        raise SuiteError(f"no case contains {keyword!r}; `aether-conformance rules` lists them")
    results: list[Result] = []
    with Session(harness, time_factor=time_factor) as session:
        for case in chosen:
            result = session.run(case)
            results.append(result)
            print(f"{result.status:<12} {case.id} ({result.seconds:.2f} s)", flush=True)
            if result.status in (Status.FAIL, Status.SUITE_ERROR):
                print(result.text, flush=True)
    deselected = len(cases) - len(chosen)
    code = exit_code(results, deselected=deselected)
    print(summary(results, deselected=deselected))
    print({0: "conformant", 1: "not conformant", 3: "no verdict: the suite failed", 4: _PARTIAL}[code])
    return code


# --- The list of rules ---


def _conditions(case: Case) -> str:
    parts = [f"needs {feature}" for feature in sorted(case.needs)]
    parts += [f"without {case.lacks}"] if case.lacks else []
    parts += [f"durability {case.durability.name} and above"] if case.durability else []
    parts += [f"fault: {fault}" for fault in sorted(case.faults)]
    parts += ["several processes"] if case.processes else []
    return ", ".join(parts)


def _rules_text() -> str:
    lines = [f"{case.id}\n    {case.sentence}" for case in all_cases().values()]
    lines += [f"{rule}\n    {sentence}" for rule, sentence in ELSEWHERE.items()]
    return "\n".join(lines)


def rules_markdown() -> str:
    """The text of RULES.md."""
    lines = [
        "# Rules",
        "",
        "Made by `aether-conformance rules --markdown`; a test keeps it current.",
        "A rule is what stands before the `#`; what follows tells its cases apart.",
        "",
        "| case | rule | only |",
        "|---|---|---|",
    ]
    lines += [
        f"| `{case.id}` | {case.sentence.replace('|', chr(92) + '|')} | {_conditions(case)} |"
        for case in all_cases().values()
    ]
    lines += ["", "Checked elsewhere:", "", "| rule | |", "|---|---|"]
    lines += [f"| `{rule}` | {sentence} |" for rule, sentence in ELSEWHERE.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
