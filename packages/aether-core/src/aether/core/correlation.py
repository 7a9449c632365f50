"""Which event led to which: correlation and causation, for free, in every task.

    with handling(event):
        await store.append(Event(...))     # causationid=event.id, correlationid=that of event

    with correlation("checkout-42"):
        await store.append(Event(...))     # correlationid="checkout-42"

Both are context variables, so what is called, awaited or started as a task inside the block belongs to it, and nothing
else does. `EventStore.append` adds what an event's metadata does not have yet, and replaces nothing. Where the program
uses OpenTelemetry, the current span becomes `traceparent` (W3C Trace Context); Aether itself does not import it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

import msgspec

from aether.core.event import Event, new_id
from aether.core.names import check_name

CORRELATION = "correlationid"
CAUSATION = "causationid"
TRACE = "traceparent"

_current: ContextVar[Event | str | None] = ContextVar("aether_correlation", default=None)
"""The event that is handled, or a correlation id without one."""


@contextmanager
def correlation(correlation_id: str | None = None) -> Iterator[str]:
    """Give everything that is appended in the block one correlation id, a new one unless it is named."""
    name = new_id() if correlation_id is None else check_name("correlation id", correlation_id)
    token = _current.set(name)
    try:
        yield name
    finally:
        _current.reset(token)


class handling:  # noqa: N801 - it reads as a function; as a class it costs a fifth, and is entered for every event
    """Make `event` the cause of everything that is appended in the block.

    An event without a correlation id is the beginning of its story: its own id is what the others are correlated by.
    """

    __slots__ = ("_event", "_token")

    def __init__(self, event: Event) -> None:
        self._event = event

    def __enter__(self) -> None:
        self._token: Token[Event | str | None] = _current.set(self._event)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


begin_handling, end_handling = _current.set, _current.reset
"""`handling` in two halves, for the loop of a projection: a block would be a fifth of its work."""


def current() -> dict[str, str]:
    """What an event that is appended now would get as metadata."""
    found: dict[str, str] = {}
    cause = _current.get()
    if isinstance(cause, str):
        found[CORRELATION] = cause
    elif cause is not None:
        found[CORRELATION] = cause.metadata.get(CORRELATION, cause.id)
        found[CAUSATION] = cause.id
    trace = _traceparent()
    if trace is not None:
        found[TRACE] = trace
    return found


def correlated(event: Event) -> Event:
    """The event with the metadata of the context that it does not have yet; the very same one where there is none."""
    if _current.get() is None and "opentelemetry.trace" not in sys.modules:
        return event
    added = current()
    if not added or type(event) is not Event or type(event.metadata) is not dict:
        return event  # what is no event is refused by whoever takes it
    if added.keys() <= event.metadata.keys():
        return event
    return msgspec.structs.replace(event, metadata=added | event.metadata)


def _traceparent() -> str | None:
    """The current span as a W3C header, None without one: https://www.w3.org/TR/trace-context/#traceparent-header."""
    module = sys.modules.get("opentelemetry.trace")  # a program that has a span has imported it
    if module is None:
        return None
    context = module.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
