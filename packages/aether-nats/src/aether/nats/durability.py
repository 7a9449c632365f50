"""What an acknowledgement of a server is worth: read from its monitoring port, because clients are not told."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import urllib.request
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from aether.core.errors import Unavailable
from aether.core.features import Durability
from aether.core.url import BackendURL
from aether.nats.connection import ApiError, Connection, NoReply

_log = logging.getLogger("aether.nats")

_QUORUM = 3


def monitors_of(url: BackendURL) -> tuple[str, ...]:
    """The option `monitor`: the servers' monitoring URLs, separated by commas."""
    value = url.options.get("monitor")
    if value is None:
        return ()
    monitors = tuple(str(value).split(","))
    for monitor in monitors:
        parts = urlsplit(monitor)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise url.error("monitor= is one or more URLs like http://localhost:8222, without a user")
    return monitors


async def read_durability(
    connection: Connection, stream: str, monitors: Iterable[str], *, timeout: float
) -> Durability:
    """What the servers that keep the stream are set to.

    `HOST` when each of them syncs every write before it acknowledges it, `QUORUM` when there are three or more of
    them, and `PROCESS` otherwise: by default a server syncs every two minutes.
    """
    if connection.synced:
        return Durability.HOST
    synced = {name for name in await asyncio.gather(*(_synced(monitor, timeout) for monitor in monitors)) if name}
    if not synced:
        return Durability.PROCESS
    try:
        answer = await connection.js_api(f"$JS.API.STREAM.INFO.{stream}", {}, timeout=timeout)
    except (ApiError, NoReply) as error:
        raise Unavailable(f"stream {stream!r}", reason=str(error)) from error
    cluster = answer.get("cluster") or {}
    keepers = {cluster.get("leader") or connection.server_info.get("server_name")}
    keepers.update(replica.get("name") for replica in cluster.get("replicas") or ())
    if not keepers <= synced:
        return Durability.PROCESS
    return Durability.QUORUM if len(keepers) >= _QUORUM else Durability.HOST


async def _synced(monitor: str, timeout: float) -> str | None:
    """The name of the server behind a monitoring URL, if it syncs every write."""
    try:
        answer = await asyncio.to_thread(_fetch, monitor.rstrip("/") + "/varz", timeout)
        config = answer["jetstream"]["config"]
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        _log.warning("%s does not tell how the server syncs, so the least is assumed: %.100r", monitor, error)
        return None
    return answer.get("server_name") if config.get("sync_always") is True else None


def _fetch(url: str, timeout: float) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=timeout) as response:  # noqa: S310  (http or https: checked at open)
        answer: dict[str, Any] = json.load(response)
    return answer
