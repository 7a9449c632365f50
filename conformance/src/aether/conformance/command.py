"""Runs the suite for `aether-conformance run`: pytest, without the settings and plugins that happen to be there.

pytest runs in a process of its own. Whatever a backend does to that process, this one reports: it reads the journal
that the plugin writes.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aether.conformance.report import Report, failures, folder, reports, table, unfinished, write
from aether.conformance.supervisor import run_alone
from aether.conformance.violations import SuiteError
from aether.core.url import redact

_HERE = Path(__file__).parent

_OUTSIDE = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTHONWARNINGS")
"""What changes pytest from outside: it must not change a verdict."""

_INTERNAL_ERRORS = (3, 4)
"""The exit codes of pytest that say that it, or a plugin of it, failed in the middle or was misused."""


def run(options: Namespace) -> int:
    """Run the cases that were asked for, show and write the report, and return the exit code.

    Raises `SuiteError` when there is none, and `KeyboardInterrupt` when the run was interrupted.
    """
    if options.workers and find_spec("xdist") is None:
        raise SuiteError("-n needs pytest-xdist, which is not installed; pip install pytest-xdist")
    if options.deep and options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    with TemporaryDirectory(prefix="aether-conformance-") as directory:
        journal = Path(directory, "journal")
        journal.touch()
        try:
            code = run_alone(_pytest(options, journal), _environment(), is_done=lambda: _is_closed(journal))
        except KeyboardInterrupt:
            _report(options, [*_entries(journal), {"what": "interrupted"}], 0)
            raise
        entries = list(_entries(journal))
    entries += _accidents(entries, code)
    report = _report(options, entries, code)
    if report is None:
        raise SuiteError(_why_nothing(options, code))
    if any(entry["what"] == "interrupted" for entry in entries):
        raise KeyboardInterrupt
    return report.exit_code


def _report(options: Namespace, entries: list[dict[str, Any]], code: int) -> Report | None:
    made = reports(entries, command=_repeated(options), died=_death(code))
    if not made:
        return None
    if not any(entry["what"] in {"closed", "interrupted"} for entry in entries):
        print("".join(f"\n\n{case.text}" for case in failures(made[0])))  # who would have shown them has died
    print(f"\n{table(made[0])}", flush=True)
    if options.report is not None:
        write(made[0], Path(options.report))
        print(f"report: {Path(options.report, 'index.html')}")
    return made[0]


def _accidents(entries: list[dict[str, Any]], code: int) -> Iterator[dict[str, Any]]:
    """What went wrong beside the cases. The journal of a process that died is not closed."""
    if any(entry["what"] == "closed" for entry in entries):
        if code not in _INTERNAL_ERRORS:
            return
        text = f"pytest ended with {code}, which is an error of its own; what it said is above"
    elif unfinished(entries):
        return  # the backend's doing
    else:
        text = f"beside the cases, {_death(code)}"
    for of in {entry["of"]: None for entry in entries if "of" in entry}:
        yield {"what": "error", "of": of, "text": text}


def _death(code: int) -> str:
    if code < 0:
        return f"the process that ran it was ended by {_signal(-code)}"
    return "the process that ran it ended, or hung beyond the reach of exceptions; what it said is above"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time ones have no name
        return f"signal {number}"


def _why_nothing(options: Namespace, code: int) -> str:
    if code == 5 and options.keyword:
        return f"no case matches {options.keyword!r}; `aether-conformance rules` lists them"
    if code == 4:
        return "nothing was run, for the reason above"
    return f"pytest ended with {code} before a case began; what it said is above"


# --- The journal ---


def _entries(journal: Path) -> Iterator[dict[str, Any]]:
    for line in journal.read_text("utf-8").splitlines(keepends=True):
        if line.endswith("\n"):  # a process that dies may leave half a line
            yield json.loads(line)


def _is_closed(journal: Path) -> bool:
    return any(entry["what"] == "closed" for entry in _entries(journal))


# --- pytest ---


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _OUTSIDE}
    return {**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def _pytest(options: Namespace, journal: Path) -> list[str]:
    arguments = [sys.executable, "-m", "pytest", str(_HERE / "certify.py"), "-c", str(_HERE / "suite.ini")]
    arguments += ["--rootdir", str(Path.cwd()), "--noconftest", "--import-mode=importlib"]
    # Each target has a memory of its own of what failed the last time.
    arguments += ["-o", f"cache_dir={Path.cwd() / '.pytest_cache' / 'aether' / folder(redact(options.target))}"]
    arguments += ["-q", "--no-header", "-rN", "--disable-warnings", "-p", "aether.conformance.plugin"]
    arguments += [f"--aether-target={options.target}", f"--aether-journal={journal}"]
    arguments += [f"--aether-time-factor={options.time_factor}"]
    arguments += [f"-k={options.keyword}"] if options.keyword else []
    arguments += ["--aether-deep"] if options.deep else []
    arguments += [f"--aether-seed={options.seed}"] if options.seed is not None else []
    arguments += ["-x"] if options.exit_first else []
    arguments += ["--lf"] if options.last_failed else []
    arguments += ["-p", "xdist", "-n", options.workers] if options.workers else []
    return arguments


def _repeated(options: Namespace) -> str:
    """The command that repeats the run. What `--lf` chose is told by what was not run."""
    words = ["aether-conformance", "run", redact(options.target) if "://" in options.target else options.target]
    words += ["-k", options.keyword] if options.keyword else []
    words += ["--time-factor", f"{options.time_factor:g}"] if options.time_factor != 1 else []
    words += ["--deep"] if options.deep else []
    words += ["--seed", str(options.seed)] if options.seed is not None else []
    words += ["-x"] if options.exit_first else []
    words += ["-n", options.workers] if options.workers else []
    return shlex.join(words)
