"""What a server is set to: what it may evict, and what an acknowledged write survives."""

from __future__ import annotations

import logging
from typing import Any

from aether.core.errors import BackendUnusable
from aether.core.features import Durability
from aether.redis.places import Ask
from redis.exceptions import RedisError

_log = logging.getLogger("aether.redis")


async def read_info(ask: Ask) -> dict[str, str]:
    """What the server says of itself; raises `BackendUnusable` for one that is too old."""
    info: dict[str, str] = {}
    for section in ("server", "memory", "persistence"):
        text = (await ask("INFO", section)).decode()
        info |= dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    version = info.get("redis_version", "0")
    if int(version.partition(".")[0] or 0) < 7:
        raise BackendUnusable(f"Redis {version} is too old; 7.0 or later, or Valkey, is needed")
    return info


def check_eviction(info: dict[str, str], *, evicts: bool) -> None:
    """Raise `BackendUnusable` where the server may throw events away, unless that was allowed."""
    policy = info.get("maxmemory_policy", "unknown")
    # The others take keys with a time to live, and events have none.
    if policy.startswith("allkeys") and not evicts:
        raise BackendUnusable(
            f"maxmemory-policy is {policy}: the server would throw events away when memory runs out; set it to "
            "noeviction, or open with eviction=allow if they may be lost"
        )


async def read_durability(ask: Ask, info: dict[str, str], *, waits: bool) -> Durability:
    """What an acknowledged write survives. `waits`: WAITAOF confirms each one, so its own machine has it on disk."""
    if info.get("aof_enabled") != "1":
        _log.warning("appendonly is off: whatever was not saved yet is lost with the server, also when it is killed")
        return Durability.NONE
    if waits:
        return Durability.HOST
    policy = await _setting(ask, "appendfsync")
    if policy == "always":
        return Durability.HOST
    if policy == "no":
        _log.warning("appendfsync is no: a power cut loses what the kernel has not written yet, often 30 s")
        return Durability.PROCESS
    if policy == "everysec":
        _log.warning(
            "appendfsync is everysec: a power cut loses about 1 s, and kill -9 up to 2 s while the disk is busy, "
            "because the server then answers before it has written"
        )
    return Durability.NONE


async def _setting(ask: Ask, name: str) -> Any:
    try:
        found = await ask("CONFIG", "GET", name)
    except RedisError:  # a hosted server has no CONFIG for its customers
        return None
    return found[1].decode() if found else None
