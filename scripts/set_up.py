"""`make setup`: make `.venv` with everything that development needs, from a fresh checkout.

uv does the work; where there is no fitting one, it is installed into `.tools/` with pip. What others wrote is pinned
with hashes in requirements-dev.txt; the packages of this repository are installed editable, and never by name from an
index, where `aether-core` is a stranger's project.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"
SCRIPTS = "Scripts" if os.name == "nt" else "bin"

UV_PIN = "uv==0.13.9"
UV_RANGE = ((0, 9), (0, 14))
"""The versions of uv that the packages' `build-system` names: one of these builds them without a download."""

PIP_TO_UV = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
}
"""What uv calls pip's settings, and what it puts between several values. uv does not read pip's configuration."""


def pip_settings(listing: str) -> dict[str, str]:
    """Read what `pip config list` prints; the environment wins over files, as it does in pip."""
    found = re.findall(r"^(global|install|:env:)\.([a-z-]+)=(.+)$", listing, re.MULTILINE)
    found.sort(key=lambda item: ("global", "install", ":env:").index(item[0]))
    return {name: str(ast.literal_eval(value)) for _, name, value in found}


def uv_environment(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv: pip's settings wherever uv has none of its own."""
    result = dict(environment)
    for name, (variable, separator) in PIP_TO_UV.items():
        if name in settings:
            result.setdefault(variable, separator.join(settings[name].split()))
    # pip looks for a version in all indexes alike. The pinned hashes say which file is meant, so uv may do so, too.
    result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    result["UV_PYTHON_DOWNLOADS"] = "never"
    return result


def find_uv() -> str:
    """A uv of the right version: from `.tools/`, from the path, or installed into `.tools/` now."""
    ours = TOOLS / SCRIPTS / "uv"
    for candidate in (shutil.which(str(ours)), shutil.which("uv")):
        if candidate is not None and _fits(candidate):
            return candidate
    print(f"no uv of a fitting version found: installing {UV_PIN} into {TOOLS.name}/", flush=True)
    # --clear, because an interrupted run may have left half an environment.
    _run([sys.executable, "-m", "venv", "--clear", str(TOOLS)])
    _run([str(TOOLS / SCRIPTS / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV_PIN])
    return str(ours)


def _fits(uv: str) -> bool:
    answer = subprocess.run([uv, "--version"], capture_output=True, text=True, check=False)
    match = re.match(r"uv (\d+)\.(\d+)", answer.stdout)
    low, high = UV_RANGE
    return match is not None and low <= (int(match[1]), int(match[2])) < high


def members() -> list[Path]:
    """The directories of this repository's own packages."""
    projects = [*sorted(ROOT.glob("packages/*/pyproject.toml")), ROOT / "conformance/pyproject.toml"]
    return [project.parent for project in projects]


def _run(command: Iterable[str], environment: Mapping[str, str] | None = None) -> None:
    command = list(command)
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"setup failed at: {' '.join(command)}\nRead the message above, then run make setup again.")


def install(uv: str, environment: Mapping[str, str]) -> None:
    """Make the environment, or bring the one that is there up to date."""
    python = VENV / SCRIPTS / "python"
    if shutil.which(str(python)) is None:
        _run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(VENV)], environment)
    command = [uv, "pip", "install", "--quiet", "--python", str(python)]
    _run([*command, "--require-hashes", "--requirement", "requirements-dev.txt"], environment)
    editable = [part for member in members() for part in ("--editable", str(member))]
    _run([*command, "--no-deps", *editable], environment)


_OF_THIS_MACHINE = ("UV_FIND_LINKS", "UV_INDEX")


def pin(uv: str, environment: Mapping[str, str]) -> None:
    """Write requirements-dev.txt anew, with the newest versions that fit, and without the host of any index.

    uv.lock names the index that it was made with, so it is not committed. Only the default index is asked: a machine's
    own wheels are those for its own Python and platform, and pins made of them fit nobody else.
    """
    environment = {name: value for name, value in environment.items() if name not in _OF_THIS_MACHINE}
    _run([uv, "lock", "--quiet", "--upgrade"], environment)
    export = [uv, "export", "--quiet", "--frozen", "--all-packages", "--all-extras", "--no-emit-workspace"]
    _run([*export, "--no-header", "--no-annotate", "--output-file", "requirements-dev.txt"], environment)


def main(arguments: list[str]) -> None:
    """Set up, or with `--pin` renew the pinned versions."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    environment = uv_environment(pip_settings(listing.stdout), os.environ)
    task = pin if arguments == ["--pin"] else install
    task(find_uv(), environment)


if __name__ == "__main__":
    main(sys.argv[1:])
