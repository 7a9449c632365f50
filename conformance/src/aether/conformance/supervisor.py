"""Runs a program to its end, whatever becomes of it, and leaves no process of it behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

_LOOK_SECONDS = 0.5
_END_SECONDS = 5.0
"""How long a program may take to exit when it has nothing more to say: threads of a backend may keep it."""

_INTERRUPT_SECONDS = 60.0
"""How long it may take to stop its servers when it is interrupted."""

_POSIX = os.name == "posix"


def run_alone(command: Sequence[str], environment: Mapping[str, str], *, is_done: Callable[[], bool]) -> int:
    """Run a program in a process group of its own, and kill what is left of the group at its end.

    A program that `is_done` and does not exit is killed. An interruption is handed on to it, a second one kills it, and
    both raise `KeyboardInterrupt`. Returns its exit code, which is negative after a signal.
    """
    sys.stdout.flush()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it otherwise
    process = subprocess.Popen(command, env=environment, process_group=0 if _POSIX else None)
    terminated = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return _wait(process, is_done)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_INTERRUPT_SECONDS)
        raise
    finally:
        _end(process)
        signal.signal(signal.SIGTERM, terminated)
        signal.signal(signal.SIGINT, before)


def _wait(process: subprocess.Popen[bytes], is_done: Callable[[], bool]) -> int:
    end = float("inf")
    while time.monotonic() < end:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_LOOK_SECONDS)
        if end == float("inf") and is_done():
            end = time.monotonic() + _END_SECONDS
    return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    if _POSIX:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
