"""How the conformance suite runs this backend. Needs `aether-conformance`."""

from __future__ import annotations

import sqlite3
from tempfile import TemporaryDirectory

from aether.conformance import Harness


class FileHarness(Harness):
    """A fresh file. It has no server that could be killed, paused or cut off: those faults are not testable."""

    lease = 0.5
    server = f"SQLite {sqlite3.sqlite_version}"

    async def start(self) -> str:
        self._directory = TemporaryDirectory()
        return f"filestore://{self._directory.name}/events.db"

    async def stop(self) -> None:
        self._directory.cleanup()
