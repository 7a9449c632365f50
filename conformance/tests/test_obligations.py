"""What the interface asks of drivers, sentence by sentence, and which cases check it."""

import re
from pathlib import Path

import pytest

from aether.conformance.rules import all_cases
from aether.core import spi

# A part of each sentence of `aether.core.spi` that obliges a driver, and the cases that notice when it is not kept.
OBLIGATIONS: dict[str, tuple[str, ...]] = {
    # --- every driver ---
    "`close()` may be called twice": ("store.driver.close", "bus.driver.close", "election.register.close"),
    "also after `open()` has failed": ("store.driver.timeout#open", "bus.driver.timeout#open", "store.close#opening"),
    "while calls are waiting: those end": ("store.driver.close#waiting", "store.close#busy"),
    "no task, thread or socket of the driver is left": (
        "store.close#leaves",
        "bus.close#leaves",
        "election.close#leaves",
    ),
    "in one event loop after another": ("store.close#loops",),
    "called from many tasks of one event loop at once": ("store.append.race", "bus.order", "election.register.cas"),
    "returns or raises within `Scope.timeout` seconds": (
        "store.driver.timeout",
        "store.driver.timeout#write",
        "bus.driver.timeout",
        "election.register.timeout",
    ),
    "A cancelled call leaves the driver usable": (
        "store.close#cancelled",
        "bus.close#cancelled",
        "election.register.cas#cancelled",
    ),
    "`Unavailable` when certainly nothing was sent": (
        "store.driver.timeout#write",
        "election.register.timeout#definite",
    ),
    "`OutcomeUnknown` when a write may or may not": ("store.append.unknown#pause", "store.append.unknown#restart"),
    "`Unavailable` for a read that got no answer": ("store.driver.timeout", "election.register.timeout"),
    # --- BackendInfo ---
    "All features that the backend can have": ("store.driver.features", "bus.driver.features"),
    # --- records ---
    "UTF-8 JSON on one line, to be given back byte for byte": ("store.driver.append#bytes", "store.read.order#same"),
    "strictly increases in the order of the namespace's feed": ("store.feed.order",),
    "never changes, and is never given to another event": (
        "store.driver.feed#settled",
        "store.driver.append#alike",
        "store.durability#restart",
    ),
    "`more` is False only when nothing that was asked for follows": ("store.driver.read", "store.driver.feed#limit"),
    "a revision above 0 that strictly increases with every change": ("store.driver.slot#revision",),
    "Definite: the value was not and will not be stored": ("store.driver.slot", "election.register.cas#definite"),
    # --- Tail ---
    "Wait until there is at least one more event": ("store.driver.tail#waits",),
    "then return up to `limit` of them, in feed order": ("store.driver.tail", "store.driver.tail#pages"),
    "starts behind the position given to": ("store.driver.tail#after",),
    "MUST deliver every event exactly once": ("store.feed.complete", "store.driver.tail#several"),
    "A cancelled call loses nothing: the next call continues": (
        "store.driver.tail#cancelled",
        "store.subscribe.seam#buffer",
    ),
    "no more than about `limit` undelivered events or 4 MiB": ("store.subscribe.pressure#memory",),
    "and never slows a writer": ("store.subscribe.pressure",),
    "Reconnects by itself": ("store.subscribe.seam#restart",),
    # --- StoreDriver ---
    "What this opened driver really has": ("store.driver.features", "store.append.many", "store.append.many#refused"),
    "above 0, and the largest event fits a commit": ("store.driver.limits", "store.append.limits#events"),
    "an event of the largest size is stored for an actor of any name": ("store.append.limits#names",),
    "when that cannot be read, the least that it could be": ("store.durability", "store.durability#restart"),
    "1 to 64 characters of `[A-Za-z0-9_-]`": ("store.driver.identity",),
    "MUST differ after the store was deleted and made again": ("store.identity", "store.identity#wiped"),
    "Raises `Unavailable` when no server answers": (
        "store.driver.timeout#open",
        "bus.driver.timeout#open",
        "election.register.timeout#open",
    ),
    "Appends that are under way end": ("store.close#busy", "store.driver.close#waiting"),
    "as one commit and return the position of the last event": (
        "store.driver.append#position",
        "store.append.atomic#last",
    ),
    "Positions of a commit follow each other in the order of `writes`": (
        "store.driver.append",
        "store.append.many#order",
    ),
    "MUST raise `VersionConflict` with the actor's true current version": (
        "store.append.conflict#below",
        "store.append.conflict#handles",
        "store.append.gapless",
        "store.append.many#conflict",
    ),
    "Of several callers with the same expectation one succeeds": ("store.append.race",),
    "A reader MUST never see a part of a commit": (
        "store.append.atomic#readers",
        "store.append.many#readers",
        "store.append.atomic#restart",
    ),
    "Returns only when the commit is as durable as": ("store.durability#restart",),
    "a hundred of them are always taken": ("store.append.many#wide",),
    "the commit becomes part of that transaction": ("store.append.transaction", "store.append.transaction#conflict"),
    "Nobody else sees it before that is committed": (
        "store.append.transaction#hidden",
        "store.append.transaction#rollback",
        "store.append.transaction#checkpoint",
    ),
    "behind all that anybody has seen by then": ("store.append.transaction#late",),
    "repeating it is always safe, because of the expectation": ("store.append.unknown#cancelled",),
    "one page of the actor's events with `after < version <= upto`": ("store.read.after", "store.read.upto"),
    "with `reverse` descending from `upto`": ("store.read.reverse",),
    "so that it stays within a few MiB": ("store.read.pages",),
    "a page with more behind it holds at least one": ("store.driver.read",),
    "MUST reflect every append that was acknowledged to anybody": ("store.read.own",),
    "MUST never answer from an older state than an earlier answer": ("store.read.own", "store.feed.order#prefix"),
    "the actor's latest version, 0 if it has no events": ("store.read.order",),
    "Return the last event of the feed, None while it is empty": (
        "store.feed.order#empty",
        "store.driver.append#alike",
    ),
    "the events of all actors with `after < position <= upto`": ("store.driver.feed",),
    "At most `limit` events, and at least one while something follows": ("store.driver.feed#limit", "store.read.pages"),
    "no event below p MUST ever appear later": ("store.driver.feed#settled", "store.feed.complete#tasks"),
    "leaving the context frees the cursor": ("store.read.early",),
    "None if it was never saved": ("store.driver.slot",),
    "any text of 1 to 515 characters": ("store.driver.slot#apart", "store.names#state"),
    "They are as durable as events": ("store.durability#restart",),
    "belong to the namespace": ("store.namespace#snapshot", "store.namespace#checkpoint"),
    "any bytes up to `limits.max_snapshot_bytes`": ("store.driver.slot#bytes",),
    "Raises `RevisionConflict` otherwise; it MUST be definite": ("store.driver.slot", "store.driver.slot#race"),
    # --- bus ---
    "its encoded bytes, to be delivered byte for byte": ("bus.driver.deliver", "bus.deliver"),
    "so a driver may deliver more; never less": ("bus.filter", "bus.namespace#across"),
    "call it from the event loop's thread": ("bus.driver.sink",),
    "in the order in which the publisher sent it": ("bus.order",),
    "Report that messages may have been lost": ("bus.reconnect", "bus.driver.sink#healthy"),
    "were dropped before the driver could hand them over": ("bus.driver.sink#healthy",),
    "The most that `Message.data` may hold": ("bus.driver.limits", "bus.deliver#large"),
    "subscriptions that are still open end silently": ("bus.driver.close",),
    "return without waiting for any subscriber": ("bus.overflow#publisher",),
    "returns 0 when nobody was subscribed and otherwise at least 1": ("bus.driver.count",),
    "one that has not returns None": ("bus.driver.count#unclaimed",),
    "reach each subscription in the order in which they were published": ("bus.order",),
    "to `sink`, once, until the context is left": ("bus.driver.deliver", "bus.driver.sink#left"),
    "messages that anybody publishes afterwards MUST be delivered": ("bus.ready",),
    "each message goes to one of them": ("bus.queue", "bus.queue#member"),
    "of those whose `types` want it": ("bus.queue#types",),
    "subscribes again by itself and calls `sink.interrupted()`": ("bus.reconnect",),
    # --- lease register ---
    "up to 16 KiB of any bytes": ("election.register.value",),
    "return the record as it was then": ("election.register.watch",),
    "A cancelled call loses nothing that the contract above": ("election.register.watch#cancelled",),
    "Named records under compare-and-set": ("election.register.names",),
    "Records are never deleted": ("election.token", "election.register.revision#restart"),
    "learns of a change without polling": ("election.register.push",),
    "Return the record, None if it was never written": ("election.register.cas#definite",),
    "MUST be linearizable per name": ("election.register.cas", "election.register.cas#first"),
    "revisions MUST strictly increase per name": ("election.register.revision", "election.register.revision#restart"),
    "Raises `RevisionConflict` if certainly not applied": (
        "election.register.cas#definite",
        "election.register.timeout#definite",
    ),
    "all that were there before, each once": (
        "election.register.scan",
        "election.register.scan#busy",
        "election.register.scan#changed",
        "election.register.scan#large",
    ),
    "later changes are reported": ("election.register.watch", "election.register.watch#several"),
}

OBLIGATIONS["No hidden retries of a write"] = (
    "store.append.unknown#reset",
    "election.register.cas#reset",
    "election.register.cas#ack",
)

# Obligations that no case can look at from outside, and why.
UNCHECKED = {
    "No secret appears in any of them": "the suite does not know the secrets; each backend's own tests do",
    "`CancelledError` is never swallowed": "a sweep sees its effects: `*.close#cancelled`",
    "without I/O and without importing a client library": "looked at where backends are loaded, not where they run",
}

_SOURCE = " ".join(Path(spi.__file__).read_text().split())


@pytest.mark.parametrize("sentence", [*OBLIGATIONS, *UNCHECKED])
def test_obligation_stands_in_the_interface(sentence: str) -> None:
    assert sentence in _SOURCE


@pytest.mark.parametrize("sentence", OBLIGATIONS)
def test_obligation_has_its_cases(sentence: str) -> None:
    assert set(OBLIGATIONS[sentence]) <= set(all_cases())


def test_every_must_of_the_interface_is_listed() -> None:
    sentences = [one for one in re.split(r"(?<=[.:]) (?=[A-Z`])", _SOURCE) if "MUST" in one]

    assert sentences
    assert [one for one in sentences if not any(part in one for part in OBLIGATIONS)] == []


def test_every_case_of_a_driver_is_for_an_obligation() -> None:
    listed = {case_id for ids in OBLIGATIONS.values() for case_id in ids}
    pattern = re.compile(r"(store|bus)\.driver\.|election\.register\.")
    drivers = {case.id for case in all_cases().values() if pattern.match(case.id) and not case.machine}

    assert drivers <= listed
