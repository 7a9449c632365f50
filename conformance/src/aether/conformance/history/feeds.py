"""Checks what readers of the feed and subscribers were shown against the feed as it was in the end."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence

from aether.conformance.history.findings import Finding
from aether.conformance.history.records import Call, Delivery, Feed, Outcome, Record, Seen


class _Order:
    """The feed in the end, as the measure of all others."""

    def __init__(self, stored: Sequence[Seen]) -> None:
        self.stored = stored
        self.positions = [seen.position for seen in stored]
        self.ids = {seen.id for seen in stored}

    def behind(self, position: int) -> int:
        """The place of the first event behind a position."""
        return bisect_right(self.positions, position)


def check_pages(calls: Sequence[Record], stored: Sequence[Seen]) -> Iterator[Finding]:
    """A page of the feed is what stands there, without a hole; the last one comes up to the end that was asked for."""
    order = _Order(stored)
    for call in calls:
        if not isinstance(call, Feed) or call.outcome is not Outcome.OK:
            continue
        begin = order.behind(call.after)
        finding = _compare(order, begin, call.events, [call])
        if finding is not None:
            yield finding
        elif not call.more and begin + len(call.events) < order.behind(call.upto):
            yield Finding("a page says that nothing follows, and something does", [call])


def check_subs(calls: Sequence[Record], stored: Sequence[Seen]) -> Iterator[Finding]:
    """A subscription is shown what stands in the feed behind its beginning, without gap, repeat or swap."""
    order = _Order(stored)
    subscriptions: dict[tuple[str, int], list[Delivery]] = defaultdict(list)
    for call in calls:
        if isinstance(call, Delivery) and call.outcome is Outcome.OK:
            subscriptions[call.handle, call.tail].append(call)
    for deliveries in subscriptions.values():
        place = order.behind(deliveries[0].after)
        before: list[Call] = []
        for delivery in deliveries:
            finding = _compare(order, place, delivery.events, [*before, delivery])
            if finding is not None:
                yield finding
                break
            place += len(delivery.events)
            before = [delivery]


def _compare(order: _Order, place: int, events: Sequence[Seen], calls: Sequence[Call]) -> Finding | None:
    for number, seen in enumerate(events):
        wanted = order.stored[place + number] if place + number < len(order.stored) else None
        if seen != wanted:
            return Finding(_difference(order, place + number, seen, wanted), [*calls, seen])
    return None


def _difference(order: _Order, place: int, seen: Seen, wanted: Seen | None) -> str:
    if seen.id not in order.ids:
        return f"event {seen.id} was shown, and is not there in the end"
    found = order.positions.index(seen.position) if seen.position in order.positions else -1
    if found >= 0 and order.stored[found] != seen:
        return f"position {seen.position} was shown with another event than stands there in the end"
    if found < 0:
        return f"event {seen.id} was shown at position {seen.position}, and stands elsewhere in the end"
    if found < place:
        return f"position {seen.position} was shown again, or too late"
    expected = wanted.position if wanted else "the end"
    return f"position {seen.position} was shown, and {expected} left out"
