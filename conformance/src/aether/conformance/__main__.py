"""The command `aether-conformance`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from aether.conformance.rules import ELSEWHERE, Case, all_cases
from aether.conformance.violations import SuiteError
from aether.conformance.watchdog import interrupt_on_sigterm

_VERDICTS = {
    0: "conformant",
    1: "not conformant",
    3: "no verdict: the suite, its references or the harness failed",
    4: "partial: nothing failed, but not everything was checked; a harness with faults tests the rest, see the README",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "rules":
        print(rules_markdown() if options.markdown else _rules_text())
        return 0
    interrupt_on_sigterm()
    logging.getLogger("aether").addHandler(logging.NullHandler())  # lost connections are what many cases are about
    try:
        return _matrix(options) if options.command == "matrix" else _run(options)
    except SuiteError as error:
        print(f"suite-error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted; the server is stopped, and there is no verdict", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    from aether.conformance import command

    code = command.run(options).exit_code()
    print(_VERDICTS[code])
    return code


def _matrix(options: argparse.Namespace) -> int:
    from aether.conformance.report import matrix

    print(matrix(options.directory), end="")
    return 0


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
    run.add_argument("--report", metavar="DIR", help="write report.json, README.md, index.html and badges into DIR")
    run.add_argument("--time-factor", type=float, default=1.0, help="multiply every bound and lease, on slow machines")
    run.add_argument("--deep", action="store_true", help="let the machines play ten times as long, at random")
    run.add_argument("--seed", type=int, metavar="N", help="play the games of a seed that was printed before")
    run.add_argument("-x", dest="exit_first", action="store_true", help="end at the first failure")
    run.add_argument("--lf", dest="last_failed", action="store_true", help="only what failed the last time")
    run.add_argument("-n", dest="workers", metavar="N", help="in N processes, each with a server; needs pytest-xdist")
    rules = commands.add_parser("rules", help="list the rules and their cases")
    rules.add_argument("--markdown", action="store_true", help="as RULES.md has them")
    matrix = commands.add_parser("matrix", help="one table from many reports, as Markdown")
    matrix.add_argument("directory", help="where the report.json files are, at any depth")
    return parser


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
