"""Records what lease registers are asked and what they answer.

A history that fails is kept as lines of JSON: a header `{"aether-history": 1, "namespace": …, "register": …}`, then one
`RegisterCall` in each line, its value as text and its moments in seconds of one monotonic clock.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from aether.conformance.history.election import RegisterCall, check_register
from aether.conformance.history.findings import FORMAT, write
from aether.conformance.violations import Violation
from aether.conformance.wrappers import RegisterWrapper
from aether.core.errors import Unavailable
from aether.core.spi import Entry, LeaseRegister, RevisionConflict, Watch


class RegisterHistory:
    """What the registers of one namespace were asked, and what they answered, by name."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.calls: dict[str, list[RegisterCall]] = defaultdict(list)

    def wrap(self, register: LeaseRegister) -> LeaseRegister:
        """A register that is recorded."""
        return _Recorded(register, self)

    def check(self, name: str, final: Entry | None) -> None:
        """Raise a `Violation` unless the calls on this record can have led to what is there in the end."""
        try:
            check_register(self.calls[name], final=(final.revision, final.value) if final else (0, b""))
        except Violation as violation:
            violation.found += f"\nin a history of {len(self.calls[name])} calls, kept in {self._dump(name)}"
            raise

    def _dump(self, name: str) -> Path:
        header = {"aether-history": FORMAT, "namespace": self.namespace, "register": name}
        calls = [{**asdict(call), "value": call.value.decode(errors="replace")} for call in self.calls[name]]
        return write(f"{self.namespace}-register", [header, *calls])

    def saw(self, entry: Entry | None, begin: float) -> None:
        """Somebody was shown a record."""
        if entry is not None:
            shown = RegisterCall("read", entry.value, 0, entry.revision, begin, time.monotonic())
            self.calls[entry.name].append(shown)


class _Recorded(RegisterWrapper):
    def __init__(self, inner: LeaseRegister, history: RegisterHistory) -> None:
        super().__init__(inner)
        self._history = history

    async def read(self, name: str) -> Entry | None:
        begin = time.monotonic()
        entry = await self.inner.read(name)
        self._history.saw(entry, begin)
        return entry

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        begin, kind, revision = time.monotonic(), _UNKNOWN, 0
        try:
            revision = await self.inner.cas(name, value, expected=expected)
            kind = _WRITTEN
        except (RevisionConflict, Unavailable):
            kind = _REFUSED
            raise
        finally:
            call = RegisterCall(kind, value, expected, revision, begin, time.monotonic())
            self._history.calls[name].append(call)
        return revision

    def watch(self, prefix: str) -> AbstractAsyncContextManager[Watch]:
        return self._watch(prefix)

    @asynccontextmanager
    async def _watch(self, prefix: str) -> AsyncIterator[Watch]:
        async with self.inner.watch(prefix) as watch:
            yield _RecordedWatch(watch, self._history)


class _RecordedWatch:
    def __init__(self, inner: Watch, history: RegisterHistory) -> None:
        self._inner = inner
        self._history = history

    async def next(self) -> Entry:
        begin = time.monotonic()
        entry = await self._inner.next()
        self._history.saw(entry, begin)
        return entry


_Kind = Literal["written", "refused", "unknown"]
_WRITTEN: _Kind = "written"
_REFUSED: _Kind = "refused"
_UNKNOWN: _Kind = "unknown"
