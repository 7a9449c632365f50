"""Ends what cannot be timed out from the event loop, because it never gives up its turn."""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

GRACE = 15.0
"""Seconds that a case has to clean up behind its bound, and between one bark and the next."""

_BARKS = 3
"""After so many in vain the process ends: whatever runs is beyond the reach of Python's exceptions."""


_AT_ONCE = 0.001  # seconds; 0 would switch a timer off


class Stuck(Exception):
    """The event loop is blocked."""


@contextmanager
def watchdog(seconds: float, *, grace: float = GRACE, last_words: TextIO | None = None) -> Iterator[None]:
    """Raise `Stuck` in whatever runs when the block has taken too long, again and again.

    Code that never returns to the interpreter cannot be raised at: then the process ends with exit code 1, and the
    place where it hung goes to `last_words` or to stderr.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def bark(*_: object) -> None:
        raise Stuck(f"nothing else came to run for {seconds:g} s: something never yields to the event loop")

    begin = time.monotonic()
    timer = signal.getitimer(signal.ITIMER_REAL)  # somebody else's, pytest-timeout's for example
    before = signal.signal(signal.SIGALRM, bark)
    end = seconds + _BARKS * grace
    if last_words is None:
        faulthandler.dump_traceback_later(end, exit=True)
    else:
        faulthandler.dump_traceback_later(end, exit=True, file=last_words)
    signal.setitimer(signal.ITIMER_REAL, seconds, grace)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
        if timer[0]:
            signal.setitimer(signal.ITIMER_REAL, max(timer[0] - (time.monotonic() - begin), _AT_ONCE), timer[1])
