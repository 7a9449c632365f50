"""docs/write-a-backend.md builds the backend of examples/, step by step, and each of its commands succeeds there."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "backend-in-30-minutes"
PAGE = (ROOT / "docs" / "write-a-backend.md").read_text("utf-8")
BLOCK = re.compile(r'^```(?:\w+ title="(?P<file>[^"]+)"|console)\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
SHOWN_URL = "filestore:///tmp/new.db"


class Step(NamedTuple):
    """A command of the page, and the files as they are when a reader has come to it."""

    command: str
    files: dict[str, str]


def steps() -> list[Step]:
    files: dict[str, str] = {}
    found = []
    for block in BLOCK.finditer(PAGE):
        if name := block["file"]:
            files[name] = joined(files.get(name, ""), block["text"])
        else:
            commands = [line.removeprefix("$ ").split("  #")[0] for line in block["text"].splitlines()]
            found += [Step(command, dict(files)) for command in commands]
    return found


def joined(before: str, block: str) -> str:
    if not before or block.startswith('"""'):
        return block
    return before + ("\n" if block.startswith(" ") else "\n\n") + block


STEPS = steps()
RUNS = [step for step in STEPS if not step.command.startswith("pip ")]


def installed(project: Path, site: Path) -> Path:
    """Install a project beside this environment, not in it, and without a network."""
    uv = shutil.which("uv", path=os.pathsep.join([str(ROOT / ".tools" / "bin"), os.environ["PATH"]]))
    assert uv is not None, "make setup brings uv where there is none; run it first"
    options = ["--quiet", "--no-deps", "--offline", "--python", sys.executable]
    subprocess.run([uv, "pip", "install", *options, "--target", site, project], check=True)
    return site


def passes(site: Path, *command: str | Path, cwd: Path, codes: tuple[int, ...] = (0,)) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = (sys.executable, "-m", *command)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd, env=environment)
    assert done.returncode in codes, done.stdout + done.stderr
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE), done.stdout
    return done.stdout


def pytest_passes(site: Path, *arguments: str | Path, cwd: Path) -> None:
    passes(site, "pytest", "-q", "--rootdir", cwd, "-p", "no:cacheprovider", *arguments, cwd=cwd)


def written(step: Step, directory: Path) -> Path:
    for name, text in step.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return directory


@pytest.mark.parametrize("step", [pytest.param(step, id=f"{n}-{step.command}") for n, step in enumerate(RUNS, start=1)])
def test_step(step: Step, tmp_path: Path) -> None:
    project = written(step, tmp_path / "project")
    site = installed(project, tmp_path / "site")
    program, *arguments = shlex.split(step.command.replace(SHOWN_URL, f"filestore://{tmp_path}/new.db"))
    if program == "aether-conformance":
        if "-k" in arguments:  # the machines, which take the longest, play when the page runs all of the suite
            arguments[-1] = f"{arguments[-1]} and not same"
        # 4: nothing failed, but a file has no server that could be killed, and -k leaves cases out.
        shown = passes(site, "aether.conformance", *arguments, cwd=project, codes=(0, 4))
        assert "not conformant" not in shown
    else:
        assert program == "pytest"
        pytest_passes(site, project / arguments.pop(0), *arguments, cwd=project)


def test_the_example_passes_its_own_tests(tmp_path: Path) -> None:
    pytest_passes(installed(EXAMPLE, tmp_path / "site"), EXAMPLE / "tests" / "test_file.py", cwd=tmp_path)


def test_the_page_ends_with_the_example() -> None:
    made = STEPS[-1].files
    kept = {path.relative_to(EXAMPLE).as_posix(): path.read_text("utf-8") for path in EXAMPLE.rglob("*.*")
            if path.is_file() and path.suffix in (".py", ".toml")}  # fmt: skip
    kept.pop("tests/test_file.py")  # of no interest to a beginner
    assert made == kept


def test_every_block_is_a_file_or_a_command() -> None:
    assert len(re.findall(r"^```\w", PAGE, re.MULTILINE)) == len(BLOCK.findall(PAGE)) > 10
    assert len(RUNS) > 10


def test_the_store_is_as_short_as_is_said() -> None:
    module = ast.parse((EXAMPLE / "src/filestore/backend.py").read_text("utf-8"))
    (store,) = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "FileStore")
    assert store.end_lineno is not None
    lines = store.end_lineno - store.lineno + 1
    assert lines < 80
    assert f"The store is done, in {lines} lines." in PAGE


def test_one_sentence_stands_on_one_line() -> None:
    prose = BLOCK.sub("", PAGE)
    assert not re.findall(r"^[A-Z][^\n|]*[a-z`]\. [A-Z][^\n]*$", prose, re.MULTILINE)
