"""The wheels are whole, install on their own into an empty environment, and work there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = ("aether_conformance", "aether_core", "aether_memory", "aether_nats", "aether_redis", "aether_sql")
# Without PYTHONPATH and the like, and outside of the checkout: only what is installed there can be imported.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd, env=CLEAN)


def must(*command: str | Path, cwd: Path = ROOT) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels, built anew."""
    directory = tmp_path_factory.mktemp("wheels")
    uv = shutil.which("uv", path=os.pathsep.join([str(ROOT / ".tools" / "bin"), CLEAN["PATH"]]))
    assert uv is not None, "make setup brings uv where there is none; run it first"
    must(uv, "build", "--quiet", "--all-packages", "--wheel", "--out-dir", directory)
    return {wheel.name.split("-")[0]: wheel for wheel in directory.glob("*.whl")}


def environment(directory: Path, *wheels: str) -> Path:
    """A fresh environment with these wheels in it; what others wrote comes from pip's index. Returns its Python."""
    must(sys.executable, "-m", "venv", directory)
    python = directory / ("Scripts" if os.name == "nt" else "bin") / "python"
    must(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wheels)
    return python


def test_every_wheel_is_whole(wheels: dict[str, Path]) -> None:
    assert sorted(wheels) == list(DISTRIBUTIONS)
    must(sys.executable, ROOT / "scripts" / "lint_namespace.py", *wheels.values())
    for name, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            information = f"{name}-1.0.0.dist-info"
            metadata = archive.read(f"{information}/METADATA").decode()
            assert archive.read(f"{information}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
            assert len(metadata.partition("\n\n")[2]) > 200, f"{name}: its README says too little"


def test_nats_runs_from_its_wheels(wheels: dict[str, Path], tmp_path: Path) -> None:
    names = [str(wheels["aether_core"]), str(wheels["aether_memory"]), f"{wheels['aether_nats']}[embedded]"]
    python = environment(tmp_path / "environment", *names)

    for url in ("memory://", f"nats+embedded://{tmp_path / 'data'}"):
        output = must(python, "-W", "error", ROOT / "examples" / "quickstart.py", url, cwd=tmp_path)
        assert output.splitlines()[1:] == ["  Status: shipped", "  Total: $99.99", "  Tracking: FS123456"]


def test_sqlite_needs_nothing_but_its_wheel(wheels: dict[str, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "environment", str(wheels["aether_core"]), str(wheels["aether_sql"]))

    url = f"sqlite:///{tmp_path}/events.db"
    output = must(python, "-W", "error", ROOT / "examples" / "quickstart.py", url, cwd=tmp_path)
    assert output.splitlines()[1:] == ["  Status: shipped", "  Total: $99.99", "  Tracking: FS123456"]
    done = run(python, ROOT / "examples" / "quickstart.py", "postgresql://localhost/db", cwd=tmp_path)
    assert 'pip install "aether-sql[postgresql]"' in done.stderr


def test_core_alone_says_what_is_missing_and_what_is_in_its_way(wheels: dict[str, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "environment", str(wheels["aether_core"]))

    done = run(python, "-c", "from aether.core import open_store; open_store('nats://localhost')", cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == (
        "aether.core.errors.BackendNotFound: no installed backend answers nats:// (installed: none). "
        "Install it: pip install aether-nats"
    )

    # A stranger's package of the same name, as `pip install aether` brings it; this one passes our portions on.
    site = must(python, "-c", "import aether.core; print(aether.__path__[0])", cwd=tmp_path).strip()
    (Path(site) / "__init__.py").write_text("")
    done = run(python, "-c", "import aether.core", cwd=tmp_path)
    assert "ImportError: another project's package 'aether' is installed at" in done.stderr
    assert "pip uninstall aether aether-core" in done.stderr


def test_a_backend_of_somebody_else_installs_beside_the_wheels(wheels: dict[str, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "environment", str(wheels["aether_core"]), str(wheels["aether_memory"]))
    project = shutil.copytree(ROOT / "examples" / "backend-in-30-minutes", tmp_path / "project")

    must(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ".", cwd=project)
    url = f"filestore://{tmp_path}/events.db"
    output = must(python, "-W", "error", ROOT / "examples" / "quickstart.py", url, cwd=tmp_path)
    assert output.splitlines()[1:] == ["  Status: shipped", "  Total: $99.99", "  Tracking: FS123456"]
