"""What a report says, and how it is made from what was heard of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from aether.conformance.guarantees import GUARANTEES, UNCHECKED, guarantees
from aether.conformance.profiles import Profile
from aether.conformance.report.setting import Setting
from aether.conformance.report.verdict import Verdict, exit_code, verdict_of, worst_status, worst_verdict
from aether.conformance.rules import PARTS, Case, all_cases
from aether.conformance.status import Status

SCHEMA: Final = "aether-conformance/1"

_SLOWEST = 10
_KNOWN = ("scheme", "server", "offers", "features", "durability", "faults", "deadline", "lease")

LIMITS = (
    "A report is about the cases of its suite, on the server and the settings that it names. It is no proof.",
    "A killed process is not a power cut: durability is what the server says of its settings, and no case takes "
    "its power away.",
    "Bytes that rot on a disk, clocks that lie and servers that mean harm are outside of what is checked.",
    "Speed is measured elsewhere, never here: a slow backend is conformant.",
)
"""What a verdict does not say."""


class CaseReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One case, and what came of it."""

    id: str
    sentence: str
    profile: Profile
    status: Status
    text: str = ""
    """Why it was not run, or what was expected and found."""

    seconds: float = 0.0
    conditions: str = ""
    since: str
    provisional: bool = False
    """Reported, but not counted."""

    guarantees: list[str] = []
    """What the rule is about, by number."""


class RuleReport(msgspec.Struct, frozen=True, kw_only=True):
    """A rule: as bad as the worst of its cases that count."""

    id: str
    status: Status
    cases: list[CaseReport]


class GuaranteeReport(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence to rely on, and what came of the cases that try to refute it."""

    id: str
    sentence: str
    status: Status
    """The worst one of what is claimed."""

    text: str = ""
    """Why no case is about it."""

    counts: dict[Status, int]
    """Without provisional cases."""


class ProfileReport(msgspec.Struct, frozen=True, kw_only=True):
    """A profile, and how many of its cases came out how. Provisional cases are not counted."""

    name: Profile
    verdict: Verdict
    counts: dict[Status, int]


class Backend(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was checked, as it says itself."""

    target: str
    distribution: str = ""
    version: str = ""
    scheme: str = ""
    server: str = ""
    offers: list[str] = []
    """What can be opened on it: some of store, bus and election."""

    features: list[str] = []
    durability: str = ""
    faults: list[str] = []
    """What its harness can do to it."""

    deadline: float | None = None
    """The longest time that an answer may take, in seconds, as its harness says."""

    lease: float | None = None
    """The shortest lease of an election, in seconds, as its harness says."""

    @property
    def title(self) -> str:
        """Its name and version, or what is known instead."""
        return f"{self.distribution} {self.version}".strip() or self.target


class Slow(msgspec.Struct, frozen=True, kw_only=True):
    """A case that took long."""

    case: str
    seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the suite against one backend."""

    schema: Literal["aether-conformance/1"] = SCHEMA
    verdict: Verdict
    exit_code: int
    made: datetime
    seconds: float
    """What the cases took together."""

    command: str
    """What to type to repeat the run."""

    backend: Backend
    setting: Setting
    profiles: list[ProfileReport]
    guarantees: list[GuaranteeReport] = []
    rules: list[RuleReport]
    not_run: list[str]
    """The cases that were deselected, or that the run did not come to."""

    errors: list[str]
    """What failed in the suite or the harness beside the cases. With any there is no verdict."""

    remarks: list[str]
    limits: list[str]
    """What a verdict does not say."""

    slowest: list[Slow]

    @property
    def cases(self) -> list[CaseReport]:
        """All cases, in the order of the rules."""
        return [case for rule in self.rules for case in rule.cases]


# --- Making it ---


def reports(entries: Sequence[Mapping[str, Any]], *, command: str, died: str = "") -> list[Report]:
    """One report for each conformance class of which the journal of a run has entries.

    `died` says what ended the process in the middle of a case, if something did.
    """
    classes = dict.fromkeys(str(entry["of"]) for entry in entries if "of" in entry)
    interrupted = any(entry["what"] == "interrupted" for entry in entries)
    stopped = interrupted or any(entry["what"] == "stopped" for entry in entries)
    return [
        _made(
            [entry for entry in entries if entry.get("of") == name],
            command=command,
            interrupted=interrupted,
            stopped=stopped,
            died=died or "the process that ran it ended",
        )
        for name in classes
    ]


def _made(entries: list[Mapping[str, Any]], *, command: str, interrupted: bool, stopped: bool, died: str) -> Report:
    facts = _facts(entries)
    outcomes = _outcomes(entries, _deaths(entries, died, stopped=stopped))
    errors = list(dict.fromkeys(_errors(entries)))
    cases = [_case(case, outcomes.get(case.id, [])) for case in all_cases().values()]
    profiles = [_profile(profile, cases, facts, failed=bool(errors)) for profile in Profile]
    verdict = worst_verdict(profile.verdict for profile in profiles)
    setting = Setting.now(facts)
    slowest = sorted(cases, key=lambda case: case.seconds, reverse=True)[:_SLOWEST]
    return Report(
        verdict=verdict,
        exit_code=exit_code(verdict),
        made=datetime.now(UTC).replace(microsecond=0),
        seconds=round(sum(case.seconds for case in cases), 2),
        command=command,
        backend=_backend(facts),
        setting=setting,
        profiles=profiles,
        guarantees=[_guarantee(number, cases) for number in GUARANTEES],
        rules=_rules(cases),
        not_run=[case.id for case in cases if case.status is Status.NOT_RUN],
        errors=errors,
        remarks=_remarks(cases, setting, facts, interrupted=interrupted),
        limits=list(LIMITS),
        slowest=[Slow(case=case.id, seconds=case.seconds) for case in slowest if case.seconds],
    )


def _facts(entries: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the sessions of a class say of their server: in all workers the same, unless one did not start."""
    said: list[Mapping[str, Any]] = [entry["session"] for entry in entries if "session" in entry]
    return max(said, key=len, default={"target": "unknown"})


def _backend(facts: Mapping[str, Any]) -> Backend:
    distribution, source = facts.get("distribution", ""), facts.get("source", "")
    version = source.removeprefix(distribution).strip() if source.startswith(distribution) else ""
    known = {name: facts[name] for name in _KNOWN if name in facts}
    return Backend(target=facts["target"], distribution=distribution, version=version, **known)


def _errors(entries: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for entry in entries:
        if entry["what"] == "error":
            yield entry["text"]
        elif "error" in entry.get("session", {}):
            yield entry["session"]["error"]


def _outcomes(
    entries: Iterable[Mapping[str, Any]], unfinished: Mapping[str, str]
) -> dict[str, list[tuple[Status, str, float]]]:
    found: dict[str, list[tuple[Status, str, float]]] = {}
    for entry in entries:
        if entry["what"] == "ended":
            outcome = Status(entry["status"]), str(entry["text"]), float(entry["seconds"])
            found.setdefault(entry["case"], []).append(outcome)
    for case_id, text in unfinished.items():
        found.setdefault(case_id, []).append((Status.FAIL, text, 0.0))
    return found


def unfinished(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The cases that began and never ended: the process died, whatever killed it."""
    begun: dict[str, int] = {}
    for entry in entries:
        if entry["what"] == "began":
            begun[entry["case"]] = begun.get(entry["case"], 0) + 1
        elif entry["what"] == "ended" or entry.get("when") == "call":
            begun[entry["case"]] = begun.get(entry["case"], 0) - 1
    return [case_id for case_id, count in begun.items() if count > 0]


def _deaths(entries: Sequence[Mapping[str, Any]], died: str, *, stopped: bool) -> dict[str, str]:
    """The cases in which a process died. When a run is stopped, what runs just then is not blamed."""
    dead = [entry["case"] for entry in entries if entry["what"] == "died"] + ([] if stopped else unfinished(entries))
    cases = all_cases()
    return {
        case_id: f"{case_id}\n  rule      {cases[case_id].sentence}\n  expected  the case to end\n  found     {died}"
        for case_id in dead
    }


def _case(case: Case, outcomes: list[tuple[Status, str, float]]) -> CaseReport:
    status, text, seconds = Status.NOT_RUN, "", 0.0
    if outcomes:  # several if a plugin repeats what fails
        status, text, seconds = max(outcomes, key=lambda outcome: list(Status).index(outcome[0]))
    return CaseReport(
        id=case.id,
        sentence=case.sentence,
        profile=case.profile,
        status=status,
        text=text,
        seconds=seconds,
        conditions=case.conditions,
        since=case.since,
        provisional=case.provisional,
        guarantees=list(guarantees(case.rule)),
    )


def _guarantee(number: str, cases: Iterable[CaseReport]) -> GuaranteeReport:
    statuses = [case.status for case in cases if number in case.guarantees and not case.provisional]
    claimed = [status for status in statuses if status is not Status.NOT_CLAIMED]
    return GuaranteeReport(
        id=number,
        sentence=GUARANTEES[number],
        status=worst_status(claimed or statuses or [Status.NOT_TESTABLE]),
        text=UNCHECKED.get(number, ""),
        counts={status: statuses.count(status) for status in Status if status in statuses},
    )


def _rules(cases: Iterable[CaseReport]) -> list[RuleReport]:
    by_rule: dict[str, list[CaseReport]] = {}
    for case in cases:
        by_rule.setdefault(case.id.partition("#")[0], []).append(case)
    return [
        RuleReport(
            id=rule,
            status=worst_status(case.status for case in [c for c in members if not c.provisional] or members),
            cases=members,
        )
        for rule, members in by_rule.items()
    ]


def _profile(profile: Profile, cases: Iterable[CaseReport], facts: Mapping[str, Any], *, failed: bool) -> ProfileReport:
    statuses = [case.status for case in cases if case.profile is profile and not case.provisional]
    counts = {status: statuses.count(status) for status in Status}
    verdict = Verdict.NONE if failed else verdict_of(statuses)
    if profile is Profile.DURABLE and verdict is Verdict.CONFORMANT and facts.get("durability") == "NONE":
        verdict = Verdict.NOT_CLAIMED  # to answer in time while a server is stopped is not to be durable
    return ProfileReport(name=profile, verdict=verdict, counts=counts)


def _remarks(
    cases: Iterable[CaseReport], setting: Setting, facts: Mapping[str, Any], *, interrupted: bool
) -> list[str]:
    found = ["The run was interrupted."] if interrupted else []
    absent = [part for part in PARTS if part not in facts.get("offers", PARTS)]
    found += [f"The backend has no {part}: no verdict says anything about one." for part in absent]
    if setting.time_factor > 1:
        found.append(f"Every bound and lease was multiplied by {setting.time_factor:g}.")
    for case in cases:
        if case.provisional and case.status is not Status.PASS:
            found.append(f"{case.id} is new and not counted yet: {case.status}.")
        elif case.status is Status.PASS and case.text:
            found.append(f"{case.id}: {case.text}")
    return found
