"""Streams that cannot lose anything: how they are made, and how a found one is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aether.core.errors import BackendUnusable, Unavailable
from aether.nats.connection import ApiError, Connection, NoReply

_NAME_IN_USE = 10058
_NOT_FOUND = 10059
_CLUSTERED_REPLICAS = 3

_SAFE: dict[str, Any] = {
    "storage": "file",
    "retention": "limits",
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msg_size": -1,
    "deny_delete": True,
    "deny_purge": True,
}
"""What keeps a stream from discarding: it is made with this."""

_ALSO: dict[str, Any] = {
    "max_msgs_per_subject": -1,
    "no_ack": False,
    "sealed": False,
    "allow_rollup_hdrs": False,
    "allow_msg_ttl": False,
    "mirror": None,
    "sources": None,
    "subject_transform": None,
}
"""What a found stream must have besides: a server's defaults, which somebody may have changed."""


def stream_name(kind: str, namespace: str) -> str:
    """The name of a namespace's stream. Names of streams have no dots, names of namespaces no `=`."""
    return f"{kind}-{namespace.replace('.', '=')}"


async def find_stream(connection: Connection, name: str, *, timeout: float) -> dict[str, Any] | None:
    """What the server says of the stream: its `config` and its `state`. None if there is no such stream."""
    return await _Asking(connection, name, timeout)("INFO", {}, unless=_NOT_FOUND)


async def create_stream(
    connection: Connection, config: Mapping[str, Any], replicas: int | None, *, timeout: float
) -> dict[str, Any]:
    """Make the stream if it is not there, and return what the server says of it.

    Several processes may do so at once. Without `replicas` it is three in a cluster, else one.
    """
    name = config["name"]
    if replicas is None:
        replicas = _CLUSTERED_REPLICAS if connection.server_info.get("cluster") else 1
    ask = _Asking(connection, name, timeout)
    found = await ask("INFO", {}, unless=_NOT_FOUND)
    if found is None:
        found = await ask("CREATE", {**_SAFE, "num_replicas": replicas, **config}, unless=_NAME_IN_USE)
    if found is None:
        found = await ask("INFO", {})  # another was faster
    assert found is not None
    return found


async def update_stream(connection: Connection, config: Mapping[str, Any], *, timeout: float) -> dict[str, Any]:
    """Change the stream, and return what the server says of it."""
    found = await _Asking(connection, config["name"], timeout)("UPDATE", config)
    assert found is not None
    return found


def check_stream(found: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise `BackendUnusable`, naming the setting, if the stream that was found could discard or lose messages."""
    checked = ("subjects", "max_msgs_per_subject", "allow_direct")
    wanted = {**_SAFE, **_ALSO, **{key: config[key] for key in checked if key in config}}
    for key, value in wanted.items():
        have = found.get(key, _ALSO.get(key))
        if have != value:
            raise BackendUnusable(
                f"stream {config['name']!r} has {key}={have!r} where Aether needs {value!r} so that nothing is lost; "
                "change the stream, or choose another namespace"
            )


class _Asking:
    """JetStream's API for one stream."""

    def __init__(self, connection: Connection, name: str, timeout: float) -> None:
        self._connection = connection
        self._name = name
        self._timeout = timeout

    async def __call__(self, verb: str, request: Mapping[str, Any], *, unless: int = 0) -> dict[str, Any] | None:
        """The answer, or None for the error `unless`."""
        try:
            subject = f"$JS.API.STREAM.{verb}.{self._name}"
            answer = await self._connection.js_api(subject, dict(request), timeout=self._timeout)
        except ApiError as error:
            if unless and error.err_code == unless:
                return None
            hint = "try again later"
            if error.code == 503:
                hint = "start the server with JetStream (nats-server -js), or wait until the cluster has a leader"
            raise Unavailable(f"stream {self._name!r}", reason=error.description, hint=hint) from error
        except NoReply as error:
            raise Unavailable(f"stream {self._name!r}", reason=str(error)) from error
        return answer
