"""Files of SQLite: what a URL says of one, how it is written to, and what SQLite's errors about it mean."""

from __future__ import annotations

import os
import sqlite3
import time

from aether.core.url import BackendURL

_PAUSE = 0.005


def use_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Write ahead, where the file system can; else readers and writers wait for each other."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # For the first two processes of a new file SQLite does not wait here: one is refused.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return


def reason(error: sqlite3.Error) -> str:
    return str(error) or type(error).__name__


def hint(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return "make room on the disk; nothing was stored"
    if code == sqlite3.SQLITE_CANTOPEN:
        return "the directory has to exist and to be writable"
    if code == sqlite3.SQLITE_READONLY:
        return "the file and its directory have to be writable"
    if code == sqlite3.SQLITE_CORRUPT:
        return "the file is damaged; restore it from a backup"
    return "try again later"


def path_of(url: BackendURL) -> str:
    """The file of `sqlite:///relative.db` or `sqlite:////absolute.db`; none of `sqlite://`. Raises `InvalidURL`.

    It is absolute, because writer, reader and watch open it one after the other and the program may go elsewhere
    meanwhile, and without links, because SQLite has its log beside the file that they lead to.
    """
    path = url.path.removeprefix("/")
    if url.hosts or url.user is not None or url.variant is not None or path.endswith("/"):
        raise url.error("write sqlite:///relative/file.db, sqlite:////absolute/file.db, or sqlite:// for memory")
    return "" if path in ("", ":memory:") else os.path.realpath(path)


def synchronous_of(url: BackendURL) -> str:
    """`full`, which waits for the disk, or `normal`, which survives a crash of the process only."""
    level = str(url.options.get("synchronous", "full")).lower()
    if level not in ("full", "normal"):
        raise url.error("option 'synchronous' is full or normal")
    return level
