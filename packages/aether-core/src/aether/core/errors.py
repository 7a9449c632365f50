"""Every error of Aether, one class for each thing that a caller can do about it.

| class | what to do |
|---|---|
| `VersionConflict` | read the actor again, decide again, append again |
| `OutcomeUnknown` | repeat the same call: it stores nothing twice |
| `Unavailable`, `TimedOut`, `NoResponders` | try again later |
| `InvalidEvent`, `InvalidSnapshot`, `InvalidName`, `InvalidURL` | fix the input |
| `PayloadTooLarge`, `CommitTooLarge` | send less at once |
| `UnreadableEvent` | add the class or the upcaster that it needs |
| `CorruptEvent`, `CorruptLease`, `StoreIdentityChanged` | call the operator |
| `CheckpointMoved` | go on from where the checkpoint is |
| `StaleRead` | wait, or ask another server |
| `FeatureMissing` | choose another backend, or do without |
| `StaleToken`, `LeadershipLost` | stop: somebody else leads now |
| `CommandRefused` | the actor says no: do something else |
| `ClusterMismatch` | start the node with the settings of the cluster |
| `SlowConsumer` | consume faster, or take a larger buffer |
| `Closed` | enter it with `async with`, or open a new one |
| `BackendNotFound`, `BackendConflict`, `BackendUnusable` | fix the installation |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def _rebuild(cls: type[AetherError], args: tuple[Any, ...], fields: dict[str, Any]) -> AetherError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class AetherError(Exception):
    """The root of all errors that Aether raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take fields, not a message: pickle must not call their __init__ with the message.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


class VersionConflict(AetherError):
    """Somebody else wrote that version first; nothing of the commit was stored."""

    def __init__(self, actor_id: str, *, attempted: int, current: int) -> None:
        self.actor_id = actor_id
        self.attempted = attempted
        self.current = current
        super().__init__(
            f"{actor_id!r}: version {attempted} cannot be appended, the actor is at version {current}; "
            f"read it again and append version {current + 1}"
        )


class OutcomeUnknown(AetherError):
    """The call was sent and its answer never came: it was stored whole or not at all."""

    def __init__(self, what: str, *, reason: str, event_ids: Sequence[str] = ()) -> None:
        self.what = what
        self.reason = reason
        self.event_ids = tuple(event_ids)
        super().__init__(
            f"{what}: {reason}; it may or may not have been stored. Repeat the same call: it stores nothing twice"
        )


class Unavailable(AetherError):
    """The backend cannot be reached now; nothing was sent."""

    def __init__(self, what: str, *, reason: str, hint: str = "try again later") -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what}: {reason}; {hint}")


class TimedOut(AetherError):
    """No answer came within the time-out."""

    def __init__(self, what: str, *, timeout: float) -> None:
        self.what = what
        self.timeout = timeout
        super().__init__(f"{what}: no answer within {timeout:g} s; try again, or give a longer timeout=")


class NoResponders(AetherError):
    """A request was published and nobody was subscribed to it."""

    def __init__(self, event_type: str, actor_id: str) -> None:
        self.event_type = event_type
        self.actor_id = actor_id
        super().__init__(
            f"nobody is subscribed to {event_type!r} of {actor_id!r}; start a responder first, or try again later"
        )


class InvalidEvent(AetherError, ValueError):
    """The event cannot be stored as it is; `path` names the place."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class InvalidSnapshot(AetherError, ValueError):
    """The snapshot cannot be stored as it is."""

    def __init__(self, actor_id: str, reason: str) -> None:
        self.actor_id = actor_id
        self.reason = reason
        super().__init__(f"snapshot of {actor_id!r}: {reason}")


class InvalidName(AetherError, ValueError):
    """An actor id, namespace or other name breaks the rules for names."""

    def __init__(self, kind: str, name: object, reason: str) -> None:
        self.kind = kind
        self.name = name
        self.reason = reason
        shown = ascii(name)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        super().__init__(f"{kind} {shown}: {reason}")


class InvalidURL(AetherError, ValueError):
    """A backend URL cannot be understood; `url` has its secrets hidden."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(f"{url}: {reason}")


class PayloadTooLarge(AetherError, ValueError):
    """One event, snapshot or message is above the backend's limit; nothing was stored."""

    def __init__(self, what: str, *, size: int, limit: int) -> None:
        self.what = what
        self.size = size
        self.limit = limit
        super().__init__(f"{what} has {size} bytes, the limit is {limit}; store a reference to the data instead")


class CommitTooLarge(AetherError, ValueError):
    """One call of append holds more than the backend can commit at once; nothing was stored."""

    def __init__(self, *, size: int, limit: int, unit: str) -> None:
        self.size = size
        self.limit = limit
        self.unit = unit
        super().__init__(f"the commit has {size} {unit}, the limit is {limit}; append it in several calls")


class CorruptEvent(AetherError):
    """A stored event cannot be read. It is never skipped."""

    def __init__(self, actor_id: str | None, version: int | None, position: object, reason: str) -> None:
        self.actor_id = actor_id
        self.version = version
        self.position = position
        self.reason = reason
        super().__init__(
            f"actor {actor_id!r}, version {version}, position {position}: {reason}; "
            "the stored data is damaged, restore it or ask the operator"
        )


class UnreadableEvent(AetherError):
    """A stored event is sound, and this program's classes cannot read it: its name, its schema or its fields."""

    def __init__(self, event_type: str, actor_id: str, version: int, reason: str) -> None:
        self.event_type = event_type
        self.actor_id = actor_id
        self.version = version
        self.reason = reason
        super().__init__(
            f"{event_type!r}, version {version} of {actor_id!r}: {reason}; "
            "add the class or the upcaster that it needs, or deploy the newer program first"
        )


class CorruptLease(AetherError):
    """A record of the register is not a lease. It is never replaced: somebody may rely on it."""

    def __init__(self, name: str, revision: int, reason: str) -> None:
        self.name = name
        self.revision = revision
        self.reason = reason
        super().__init__(
            f"the lease {name!r}, revision {revision}, cannot be read: {reason}; "
            "look at what wrote it, stop every candidate, then restore the record or remove it"
        )


class StoreIdentityChanged(AetherError):
    """The store is not the one that a position or checkpoint came from: it was wiped or restored."""

    def __init__(self, position: object, reason: str) -> None:
        self.position = position
        """What was relied on: a position, a checkpoint's name, or what the backend keeps the store in."""

        self.reason = reason
        super().__init__(
            f"{position}: {reason}; the store was replaced or restored. "
            "Rebuild what was derived from it, starting at START"
        )


class StaleRead(AetherError):
    """The server that answered does not hold the state that was asked for."""

    def __init__(self, what: str, *, wanted: object, found: object) -> None:
        self.what = what
        self.wanted = wanted
        self.found = found
        super().__init__(f"{what}: asked for {wanted}, the server holds {found}; wait, or ask another server")


class FeatureMissing(AetherError):
    """The backend does not do what was asked for."""

    def __init__(self, backend: str, missing: Iterable[str], *, hint: str = "choose another backend") -> None:
        self.backend = backend
        self.missing = tuple(sorted(str(item) for item in missing))
        super().__init__(f"{backend} has no {', '.join(self.missing)} here; {hint}")


class StaleToken(AetherError):
    """A write with an older fencing token was refused: another leader has taken over."""

    def __init__(self, name: str, *, token: int, current: int) -> None:
        self.name = name
        self.token = token
        self.current = current
        super().__init__(f"{name!r}: token {token} is older than {current}; stop, another leader has taken over")


class CheckpointMoved(AetherError):
    """The checkpoint is not where its writer left it: a write whose answer was lost had succeeded after all."""

    def __init__(self, name: str, *, expected: object, found: object) -> None:
        self.name = name
        self.expected = expected
        self.found = found
        super().__init__(f"checkpoint {name!r} is at {found}, not at {expected}; go on from where it is")


class LeadershipLost(AetherError):
    """The term has ended: its lease ran out, was taken, or was given back."""

    def __init__(self, name: str, *, token: int, reason: str) -> None:
        self.name = name
        self.token = token
        self.reason = reason
        super().__init__(f"leadership of {name!r} (token {token}) is lost: {reason}; stop and campaign again")


class CommandRefused(AetherError):
    """The owner of an actor has looked at a command and will not do it; nothing was stored."""

    def __init__(self, actor_id: str, *, command: str, kind: str, reason: str) -> None:
        self.actor_id = actor_id
        self.command = command
        self.kind = kind
        """The class of the error that the owner's code raised."""

        self.reason = reason
        super().__init__(f"{actor_id!r} refuses {command!r}: {kind}: {reason}")


class ClusterMismatch(AetherError):
    """A node was started with settings that its cluster does not have and never will."""

    def __init__(self, cluster: str, *, setting: str, mine: object, theirs: object) -> None:
        self.cluster = cluster
        self.setting = setting
        self.mine = mine
        self.theirs = theirs
        super().__init__(
            f"cluster {cluster!r} was formed with {setting} {theirs!r}, this node has {mine!r}; "
            "start it with the same, or form a cluster of another name"
        )


class SlowConsumer(AetherError):
    """A subscriber did not keep up and events were dropped."""

    def __init__(self, *, dropped: int, buffer: int) -> None:
        self.dropped = dropped
        self.buffer = buffer
        super().__init__(
            f"{dropped} events were dropped because {buffer} were waiting; consume faster, take a larger buffer=, "
            "or read with store.subscribe, which loses nothing"
        )


class Closed(AetherError):
    """The object is closed, or was never opened."""

    def __init__(self, what: str, *, never_opened: bool = False) -> None:
        self.what = what
        state = "is not open; enter it with `async with`" if never_opened else "is closed; open a new one"
        super().__init__(f"{what} {state}")


class BackendNotFound(AetherError):
    """No installed backend answers the URL's scheme."""


class BackendConflict(AetherError):
    """Two installed distributions claim one scheme."""


class BackendUnusable(AetherError):
    """An installed backend cannot be loaded, or is written for another version of the interface."""
