"""Runs a server that has to die with the process that started it, also when that is killed with SIGKILL.

    python -I -S guard.py [--restart] [--user UID:GID] [--stop-signal N] [--scratch DIRECTORY] LOG COMMAND...

It is a process of its own, because nobody else is left to act then. It uses the standard library alone.

* Standard input is a pipe from the parent. Its end, or another parent, means: stop the server.
* Standard output reports `pid N` for every start of the server and `exit N` for every end that was not asked for.
* On Linux the server dies with this guard, too (PR_SET_PDEATHSIG).
* `--restart` starts the server again whenever it dies, `--user` runs it as another user, `--stop-signal` is what ends
  it in order, and `--scratch` is a directory that goes when the parent goes without a word.
"""

from __future__ import annotations

import contextlib
import ctypes  # before the server's user is another one, who may not be allowed to read it
import getopt
import os
import select
import signal
import sys
import time
from collections.abc import Iterator

STOP_SECONDS = 5.0
"""How long the server may take to stop by itself."""

_LOOK_SECONDS = 1.0  # a fork of the parent may hold the pipe open; so the parent is looked at as well
_BACK_OFF = (0.05, 2.0)  # seconds before the first restart, doubled up to the second
_SETTLED_SECONDS = 10.0  # a server that lived this long failed for a new reason
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    parent = os.getppid()
    options, (log, *command) = getopt.getopt(arguments, "", ["restart", "user=", "stop-signal=", "scratch="])
    given = dict(options)
    user = tuple(map(int, given["--user"].split(":"))) if "--user" in given else ()
    stop_signal = int(given.get("--stop-signal", signal.SIGTERM))
    watch(parent, command, log, restart="--restart" in given, user=user, stop_signal=stop_signal)
    if "--scratch" in given and os.getppid() != parent:
        import shutil

        shutil.rmtree(given["--scratch"], ignore_errors=True)
    return 0


def watch(parent: int, command: list[str], log: str, *, restart: bool, user: tuple[int, ...], stop_signal: int) -> None:
    """Run the server until it ends, or until the parent wants it to end, or is no more."""
    wake, wake_write = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: stopping.append(received))
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, so that the wake-up pipe is written

    back_off = _BACK_OFF[0]
    while True:
        started = time.monotonic()
        child = start(command, log, user)
        report(f"pid {child}")
        status = None
        while status is None:
            if stopping or ended(wake, _LOOK_SECONDS) or os.getppid() != parent:
                return stop(child, stop_signal)
            status = reap(child)
        report(f"exit {status}")
        if not restart:
            return None
        back_off = _BACK_OFF[0] if time.monotonic() - started > _SETTLED_SECONDS else min(back_off * 2, _BACK_OFF[1])
        if stopping or ended(wake, back_off) or os.getppid() != parent:
            return None


def start(command: list[str], log: str, user: tuple[int, ...] = ()) -> int:
    """Fork and execute. The server inherits whatever this guard inherited: a lock stays held until the last is gone."""
    guard = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if user:
            become(*user)
        if sys.platform == "linux":
            # Behind the change of the user, which clears it.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(1)
        os.execv(command[0], command)  # noqa: S606  (no shell is meant)
    except Exception as error:  # noqa: BLE001  (the log is the only one who can be told)
        os.write(2, f"{command[0]}: {error!r}\n".encode())
    finally:
        os._exit(127)


def become(uid: int, gid: int) -> None:
    """Go on as another user, in a directory that everybody may enter."""
    os.chdir("/")
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)


def ended(wake: int, seconds: float) -> bool:
    """Wait for a signal or the time; whether the parent's end of the pipe is closed."""
    with contextlib.suppress(InterruptedError):
        ready, _, _ = select.select([0, wake], [], [], seconds)
        if wake in ready:
            os.read(wake, 512)
        if 0 in ready:
            return not os.read(0, 512)
    return False


def reap(child: int) -> int | None:
    """Its exit status, or None while it lives."""
    done, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def stop(child: int, number: int) -> None:
    """End the server, kindly at first, also one that is paused."""
    send(number, child)
    send(signal.SIGCONT, *family(child))
    deadline = time.monotonic() + STOP_SECONDS
    while reap(child) is None:
        if time.monotonic() > deadline:
            send(signal.SIGKILL, *family(child))
            os.waitpid(child, 0)
            break
        time.sleep(0.002)


def send(number: int, *pids: int) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def family(pid: int) -> list[int]:
    """A process and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """Every process of this machine, and its parent."""
    if sys.platform != "linux":
        import subprocess

        listed = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, check=True)
        for line in listed.stdout.splitlines():
            pid, parent = line.split()
            yield int(pid), int(parent)
        return
    from pathlib import Path

    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            # Its name is in parentheses, and may hold some.
            with contextlib.suppress(OSError):
                yield int(folder.name), int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])


def report(line: str) -> None:
    """Tell the parent; it may be gone."""
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
