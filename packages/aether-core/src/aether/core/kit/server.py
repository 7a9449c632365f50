"""A server of one's own, for tests and for one machine: a child of this process on a free port of 127.0.0.1.

It dies with the process that started it, also when that is killed with SIGKILL: `guard` sees to that.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

from aether.core.errors import Unavailable
from aether.core.kit import guard

HOST = "127.0.0.1"
READY_SECONDS = 30.0
"""How long a server may take until it answers; one with millions of messages reads them first."""

POLL_SECONDS = 0.003

_PAUSE_SECONDS = 1.0
_PORT_TRIES = 10
_LOG_LINES = 15


class ChildServer(ABC):
    """One server, its files in one directory. Use it with `async with`, or call `start()`.

    A server says what to run (`command`) and when it is ready (`answers`). It may consist of several processes, the
    first of which started the others.
    """

    program: ClassVar[str]
    """Its name, for its log and for messages."""

    stop_signal: ClassVar[int] = signal.SIGTERM
    """What ends it in order."""

    def __init__(
        self, directory: str | Path, *, port: int | None = None, restart: bool = False, keep: tuple[int, ...] = ()
    ) -> None:
        """Prepare it: `restart` starts it again whenever it dies.

        Without `port` a free one is chosen, and kept over restarts. `keep` are file descriptors that the server holds
        open for as long as it lives.
        """
        self.directory = Path(directory).absolute()
        self.port = port or 0
        self.log = self.directory / f"{self.program}.log"
        self.user: tuple[int, int] | None = None
        """User and group that run it, if not those of this process."""
        self.scratch: Path | None = None
        """A directory that goes with this process, however that ends."""
        self._fixed_port = port is not None
        self._restart = restart
        self._keep = keep
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._died = False
        self._report = b""

    # --- What a server is made of ---

    def prepare(self) -> None:  # noqa: B027  (most have nothing to prepare)
        """Make what has to be there before it starts. Called at each start; `directory` exists then."""

    @abstractmethod
    def command(self) -> list[str]:
        """Configure it to listen on `port` of 127.0.0.1, and return what to run."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether this very server, not another one on its port, is ready."""

    # --- Life ---

    async def start(self) -> None:
        """Start it and wait until it answers. Raises `Unavailable` with the end of its log."""
        await in_thread(self.start_now, undo=self.stop_now)

    async def stop(self) -> None:
        """End it in order. May be called twice."""
        await in_thread(self.stop_now)

    async def restart(self) -> None:
        """Stop it if it runs, and start it on the same port with the same data."""
        await self.stop()
        await self.start()

    def start_now(self) -> None:
        """`start` for a thread that may block."""
        if self._guard is not None:
            raise RuntimeError(f"{self} runs already")
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.prepare()
        for attempt in range(_PORT_TRIES):
            if not self.port or (attempt and not self._fixed_port):
                self.port = free_port()
            self._spawn()
            try:
                self._wait_ready()
            except Unavailable:
                self.stop_now()
                # Another process may have taken the port between choosing and binding it.
                if self._fixed_port or _bindable(self.port):
                    raise
            else:
                self._fixed_port = True
                return
        raise Unavailable(str(self), reason=f"{_PORT_TRIES} free ports in a row were taken by others")

    def stop_now(self) -> None:
        """`stop` for a thread that may block."""
        process, self._guard = self._guard, None
        if process is None:
            return
        self._pid = None
        assert process.stdin is not None
        assert process.stdout is not None
        # Its sign to stop the server; by signal, too, because a forked child may hold the other end of the pipe.
        process.stdin.close()
        process.terminate()
        try:
            process.wait(2 * guard.STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- Faults ---

    def kill(self) -> None:
        """End all of its processes with SIGKILL and wait until they are gone; with `restart` it comes back by itself.

        They are paused before: one that lives a moment longer could start another one, or say goodbye to its clients.
        """
        pids = self._freeze()
        guard.send(signal.SIGKILL, *pids)
        while not all(map(_gone, pids)):
            time.sleep(POLL_SECONDS / 10)
        if not self._restart:
            self.stop_now()

    def pause(self) -> None:
        """Stop it in its tracks with SIGSTOP: its connections stay open, and nothing answers."""
        self._freeze()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        guard.send(signal.SIGCONT, *guard.family(self._running_pid()))

    def _freeze(self) -> list[int]:
        """Pause all of its processes and return them; the first one goes first, as it makes the others."""
        first = self._running_pid()
        frozen: list[int] = []
        while new := [pid for pid in guard.family(first) if pid not in frozen]:
            for pid in new:
                guard.send(signal.SIGSTOP, pid)
                _wait_stopped(pid)
            frozen += new
        return frozen

    def _running_pid(self) -> int:
        pid = self.pid
        if pid is None:
            raise RuntimeError(f"{self} does not run")
        return pid

    # --- What it is ---

    @property
    def pid(self) -> int | None:
        """Its first process, None while it does not run."""
        self._read_reports()
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.pid is not None

    def __str__(self) -> str:
        return f"{self.program} in {self.directory}"

    # --- Parts ---

    def _spawn(self) -> None:
        options = ["--restart"] if self._restart else []
        if self.user is not None:
            options += ["--user", f"{self.user[0]}:{self.user[1]}"]
        if self.scratch is not None:
            options += ["--scratch", str(self.scratch)]
        options += ["--stop-signal", str(int(self.stop_signal))]
        command = self.command()
        self._report = b""
        self._died = False
        self._guard = subprocess.Popen(  # noqa: S603  (paths of our own)
            [sys.executable, "-I", "-S", guard.__file__, *options, str(self.log), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._keep,
            start_new_session=True,  # Ctrl-C in a terminal is for the parent, which stops the server in its own time
        )
        assert self._guard.stdout is not None
        os.set_blocking(self._guard.stdout.fileno(), False)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self.answers():
            if self._ended():
                raise self._failed("it ended at once")
            if time.monotonic() > deadline:
                raise self._failed(f"it did not get ready within {READY_SECONDS:g} s")
            time.sleep(POLL_SECONDS)

    def _ended(self) -> bool:
        self._read_reports()
        return self._died or self._guard is None or self._guard.poll() is not None

    def _failed(self, reason: str) -> Unavailable:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        shown = "\n".join(["its log ends with:", *lines[-_LOG_LINES:]])
        return Unavailable(str(self), reason=reason, hint=shown)

    def _read_reports(self) -> None:
        """Take what the guard has reported since: a new process, or its end."""
        if self._guard is None or self._guard.stdout is None:
            return
        while chunk := self._guard.stdout.read(4096):
            self._report += chunk
        *lines, self._report = self._report.split(b"\n")
        for line in lines:
            what, number = line.split()
            self._pid = int(number) if what == b"pid" else None
            self._died |= what == b"exit"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


async def in_thread(work: Callable[[], Any], *, undo: Callable[[], Any] | None = None) -> None:
    """Run something that blocks. When cancelled it is undone: by the thread itself, which nothing can cancel."""
    lock = threading.Lock()
    state = "running"

    def run() -> None:
        nonlocal state
        work()
        with lock:
            abandoned, state = state == "abandoned", "done"
        if abandoned and undo is not None:
            undo()

    loop = asyncio.get_running_loop()
    running: asyncio.Future[None] = loop.run_in_executor(None, run)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        with lock:
            late, state = state == "done", "abandoned"
        if late and undo is not None:
            running = loop.run_in_executor(None, undo)
        await asyncio.wait([running])  # a second cancellation ends the waiting, not the work
        if not running.cancelled():
            running.exception()
        raise


def _bindable(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


def _wait_stopped(pid: int) -> None:
    """Wait until every thread has stopped: those on other cores go on for a moment, and answer."""
    deadline = time.monotonic() + _PAUSE_SECONDS
    while time.monotonic() < deadline and not all(state in "TtZX" for state in _states(pid)):
        time.sleep(POLL_SECONDS / 10)


def _gone(pid: int) -> bool:
    if sys.platform != "linux":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False
    # Who adopts its orphans may be slow to bury them: a zombie is gone.
    return all(state in "ZX" for state in _states(pid))


def _states(pid: int) -> list[str]:
    """The letters that Linux gives to the states of its threads; none for a process that is gone, or elsewhere."""
    try:
        stats = [(thread / "stat").read_text(errors="replace") for thread in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return ["?"] if Path(f"/proc/{pid}").exists() else []
    return [stat.rpartition(")")[2].split()[0] for stat in stats]
