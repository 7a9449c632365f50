"""Runs a program to its end, whatever becomes of it, and leaves no process of it behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_LOOK_SECONDS = 0.5
_END_SECONDS = 5.0
"""How long a program may take to exit when it has nothing more to say: threads of a backend may keep it."""

_INTERRUPT_SECONDS = 60.0
"""How long it may take to stop its servers when it is interrupted."""

_POSIX = os.name == "posix"

_MARK = "AETHER_CONFORMANCE_RUN"
"""The variable by which a process is known to be of a run, whatever group or session it has moved to."""

_ENDINGS = ("SIGTERM", "SIGHUP")
"""What else ends a run as an interruption does; a system has them or not."""


def run_alone(command: Sequence[str], environment: Mapping[str, str], *, is_done: Callable[[], bool]) -> int:
    """Run a program in a process group of its own, and kill what is left of it at its end: the group, and on Linux
    also the processes that have left the group, as the servers do that make themselves daemons.

    A program that `is_done` and does not exit is killed. An interruption is handed on to it, a second one kills it, and
    both raise `KeyboardInterrupt`. Returns its exit code, which is negative after a signal.
    """
    sys.stdout.flush()
    mark = f"{_MARK}={uuid4()}"
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}  # a background job ignores it
    for number in (getattr(signal, name) for name in _ENDINGS if hasattr(signal, name)):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores one
            before[number] = signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    marked = {**environment, **dict([mark.split("=")])}
    process = subprocess.Popen(command, env=marked, process_group=0 if _POSIX else None)
    try:
        return _wait(process, is_done)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_INTERRUPT_SECONDS)
        raise
    finally:
        _end(process, mark)
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(process: subprocess.Popen[bytes], is_done: Callable[[], bool]) -> int:
    end = float("inf")
    while time.monotonic() < end:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_LOOK_SECONDS)
        if end == float("inf") and is_done():
            end = time.monotonic() + _END_SECONDS
    return 0


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    if _POSIX:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    while left := list(_marked(mark)):  # one may have started another just before it was killed
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _marked(mark: str) -> Iterator[int]:
    """The processes that were started with a variable. Only Linux shows them; one that has been killed shows none."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended meanwhile, or is somebody else's
            if mark.encode() in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)
