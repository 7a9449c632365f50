"""What happens when a handler fails on an event: there is no default, because none is right for everybody."""

from __future__ import annotations

from typing import Literal

import msgspec

from aether.core.errors import (
    CheckpointMoved,
    Closed,
    FeatureMissing,
    LeadershipLost,
    OutcomeUnknown,
    StaleRead,
    StaleToken,
    StoreIdentityChanged,
    TimedOut,
    Unavailable,
)

TRANSIENT: tuple[type[Exception], ...] = (
    Unavailable,
    OutcomeUnknown,
    TimedOut,
    StaleRead,
    ConnectionError,
    TimeoutError,
)
"""Errors that say nothing about the event: the handler is tried again for ever, with back-off, whatever the policy is.

An outage of the view's database would otherwise park every event that arrives meanwhile.
"""


class OnError(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about an event on which the handler raises: `STOP`, `PARK`, or `retry(...)` before one of them."""

    then: Literal["stop", "park"]
    """`stop`: the projection ends with the error, in front of the event. `park`: the event is put aside, with those of
    its actor that follow, and the others go on."""

    retries: int | None = 0
    """How often it is tried again before, None for ever."""

    first: float = 0.1
    longest: float = 30.0
    """Seconds before the first retry, and the most between two; doubled in between, and shortened at random."""

    def pause(self, attempt: int, share: float) -> float:
        """Seconds before retry number `attempt`, from 0 on; `share` is random, from 0 to 1."""
        return min(self.first * 2.0 ** min(attempt, 60), self.longest) * (0.5 + share / 2)


STOP = OnError(then="stop")
PARK = OnError(then="park")


def retry(
    times: int | None = None, *, then: Literal["stop", "park"] = "stop", first: float = 0.1, longest: float = 30.0
) -> OnError:
    """Try again with back-off, `times` times or for ever, then stop or park. Events behind it wait meanwhile."""
    if times is not None and (type(times) is not int or times < 1):
        raise ValueError(f"times is a whole number of 1 or more, or None for ever, not {times!r:.80}")
    if then not in ("stop", "park"):
        raise ValueError(f"then is 'stop' or 'park', not {then!r:.80}")
    if not 0 < first <= longest:
        raise ValueError(f"0 < first <= longest is needed, in seconds, not {first!r} and {longest!r}")
    return OnError(then=then, retries=times, first=first, longest=longest)


def is_transient(error: Exception) -> bool:
    """Whether an error says nothing about the event."""
    # SQLAlchemy's name for a connection that is gone; it is not imported for that.
    return isinstance(error, TRANSIENT) or getattr(error, "connection_invalidated", False) is True


def is_superseded(error: Exception, checkpoint: str) -> bool:
    """Whether it says that somebody else moves this checkpoint now. A handler may raise the same about another one."""
    return isinstance(error, StaleToken | CheckpointMoved | LeadershipLost) and error.name == checkpoint


def is_fatal(error: Exception, checkpoint: str) -> bool:
    """Whether it is about the projection or its store, and not about the event."""
    return is_superseded(error, checkpoint) or isinstance(error, Closed | StoreIdentityChanged | FeatureMissing)
