"""The command `aether-conformance`."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from aether.conformance.guarantees import GUARANTEES, UNCHECKED, guarantees
from aether.conformance.rules import ELSEWHERE, Case, all_cases
from aether.conformance.violations import SuiteError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.act(options)
    except SuiteError as error:
        print(f"no verdict: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted: the server is stopped, and there is no verdict", file=sys.stderr)
        return 130
    except Exception:  # noqa: BLE001  (Python would answer with 1, which is a verdict)
        traceback.print_exc()
        print("no verdict: the suite failed", file=sys.stderr)
        return 3
    return code


def _run(options: argparse.Namespace) -> int:
    from aether.conformance import command

    return command.run(options)


def _matrix(options: argparse.Namespace) -> int:
    from aether.conformance.report import matrix

    if options.output is None:
        print(matrix(Path(options.directory), seen_from=Path()), end="")
    else:
        output = Path(options.output)
        output.write_text(matrix(Path(options.directory), seen_from=output.parent), encoding="utf-8")
    return 0


def _rules(options: argparse.Namespace) -> int:
    print(rules_markdown() if options.markdown else _rules_text())
    return 0


def _schema(_: argparse.Namespace) -> int:
    from aether.conformance.report import json_schema

    print(json_schema(), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aether-conformance", description="Check a backend of Aether, rule by rule.")
    parser.add_argument("--version", action="version", version=version("aether-conformance"))
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser(
        "run",
        help="run the cases against a backend",
        epilog="exit codes: 0 conformant, 1 violations, 3 the suite or its harness failed, 4 partial",
    )
    run.add_argument("target", help="a URL (mydb://host), the name of an installed backend (nats), or module:Class")
    run.add_argument(
        "-k", dest="keyword", default="", help="only the cases whose id contains this; also 'a or b', 'not a'"
    )
    run.add_argument("--report", metavar="DIR", help="write report.json, README.md, index.html and badges into DIR")
    run.add_argument(
        "--time-factor", type=float, default=1.0, metavar="F", help="multiply every bound and lease, on slow machines"
    )
    run.add_argument("--deep", action="store_true", help="let the machines play ten times as long, at random")
    run.add_argument("--seed", type=int, metavar="N", help="play the games of a seed that was printed before")
    run.add_argument("-x", dest="exit_first", action="store_true", help="end at the first failure")
    run.add_argument("--lf", dest="last_failed", action="store_true", help="only what failed the last time")
    run.add_argument("-n", dest="workers", metavar="N", help="in N processes, each with a server; needs pytest-xdist")
    run.set_defaults(act=_run)
    rules = commands.add_parser("rules", help="list the rules and their cases")
    rules.add_argument("--markdown", action="store_true", help="as RULES.md has them")
    rules.set_defaults(act=_rules)
    matrix = commands.add_parser("matrix", help="one table from many reports, as Markdown")
    matrix.add_argument("directory", help="where the report.json files are, at any depth")
    matrix.add_argument("--output", metavar="FILE", help="write it there, with links from there")
    matrix.set_defaults(act=_matrix)
    schema = commands.add_parser("schema", help="print the JSON schema of report.json")
    schema.set_defaults(act=_schema)
    return parser


# --- The list of rules ---


def _rules_text() -> str:
    lines = [f"{case.id}\n    {case.sentence}" for case in all_cases().values()]
    lines += [f"{rule}\n    {sentence}" for rule, sentence in ELSEWHERE.items()]
    return "\n".join(lines)


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")


def _since(case: Case) -> str:
    return f"{case.since}, provisional" if case.provisional else case.since


def _about(number: str) -> str:
    """The rules that are about a guarantee, or why there are none."""
    rules = dict.fromkeys(case.rule for case in all_cases().values() if number in guarantees(case.rule))
    return UNCHECKED.get(number) or ", ".join(f"`{rule}`" for rule in rules)


def rules_markdown() -> str:
    """The text of RULES.md."""
    lines = [
        "# Rules",
        "",
        "Made by `aether-conformance rules --markdown`; a test keeps it current.",
        "A rule is what stands before the `#`; what follows tells its cases apart.",
        "",
        "| case | rule | profile | only | since |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{case.id}` | {_in_cell(case.sentence)} | {case.profile} | {case.conditions} | {_since(case)} |"
        for case in all_cases().values()
    ]
    lines += ["", "Checked elsewhere:", "", "| rule | |", "|---|---|"]
    lines += [f"| `{rule}` | {sentence} |" for rule, sentence in ELSEWHERE.items()]
    lines += [
        "",
        "What they add up to, and the rules that try to refute it:",
        "",
        "| | guarantee | rules |",
        "|---|---|---|",
    ]
    lines += [f"| {number} | {sentence} | {_about(number)} |" for number, sentence in GUARANTEES.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
