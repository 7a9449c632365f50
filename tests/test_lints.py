"""Each lint passes on this repository in `make lint`; here each one is seen to fail."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def lint(name: str, *files: Path) -> tuple[int, str]:
    command = [sys.executable, str(SCRIPTS / f"lint_{name}.py"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return path


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["aether/__init__.py", "aether/mydb/__init__.py", "aether/mydb/py.typed"], "hides the other portions"),
        (["aether/__init__.pyi", "aether/mydb/__init__.py", "aether/mydb/py.typed"], "hides the other portions"),
        (["aether/mydb/__init__.py"], "aether/mydb: has no py.typed"),
        (["aether/py.typed", "aether/mydb/__init__.py"], "aether/mydb: has no py.typed"),
        (["mydb/__init__.py"], "holds nothing of aether"),
    ],
)
def test_namespace_lint_refuses(tmp_path: Path, names: list[str], complaint: str) -> None:
    code, output = lint("namespace", wheel(tmp_path / "mydb.whl", *names))

    assert code == 1
    assert complaint in output


def test_namespace_lint_accepts_a_portion(tmp_path: Path) -> None:
    code, output = lint("namespace", wheel(tmp_path / "mydb.whl", "aether/mydb/__init__.py", "aether/mydb/py.typed"))

    assert (code, output) == (0, "namespace: 1 distributions, no problem\n")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("await asyncio.sleep(0.1)", "sleeps"),
        ("time.sleep(1)", "sleeps"),
        ("sleep(delay)", "sleeps"),
        ("while True:\n        look()\n        await asyncio.sleep(1)", "sleeps"),
        ("while not done():\n        time.sleep(1)\n        look()", "sleeps"),
        ("pytest.skip('later')", "uses skip"),
        ("pytest.mark.xfail(test)", "uses xfail"),
        ("from unittest.mock import Mock", "imports a mock"),
        ("import unittest.mock", "imports a mock"),
    ],
)
def test_tests_lint_refuses(tmp_path: Path, line: str, complaint: str) -> None:
    (path := tmp_path / "test_it.py").write_text(f"async def test():\n    {line}\n")

    code, output = lint("tests", path)

    assert code == 1
    assert complaint in output


@pytest.mark.parametrize(
    "line",
    [
        "await asyncio.sleep(0)",
        "while not done():\n        await asyncio.sleep(PAUSE)",
        "while not done():\n        assert now() < deadline\n        time.sleep(PAUSE)",
    ],
)
def test_tests_lint_accepts(tmp_path: Path, line: str) -> None:
    (path := tmp_path / "test_it.py").write_text(f"async def test():\n    {line}\n")

    code, _ = lint("tests", path)

    assert code == 0


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("uv.lock", "version = 1", "holds the host"),
        ("pip.conf", "index = https://mirror.example/sim" + "ple", "names a package index"),
        ("requirements.txt", "--index-" + "url https://mirror.example", "names a package index"),
        ("requirements.txt", "--extra-index-" + "url=https://mirror.example", "names a package index"),
        ("lock.json", "https://files.python" + "hosted.org/packages/x.whl", "names a package index"),
        ("notes.md", "see /ro" + "ot/notes.txt", "path of one machine"),
        ("config.py", 'PLACE = "/ho' + 'me/ada/events"', "path of one machine"),
    ],
)
def test_hosts_lint_refuses(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (path := tmp_path / name).write_text(f"the first line\n{text}\n")

    code, output = lint("hosts", path)

    assert code == 1
    assert complaint in output


def test_hosts_lint_accepts_links_and_relative_paths(tmp_path: Path) -> None:
    (path := tmp_path / "README.md").write_text("https://pypi.org/project/nats-py and docs/home/index.md, ~/work/x\n")

    code, _ = lint("hosts", path)

    assert code == 0
