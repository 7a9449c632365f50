"""Reports: the worst status wins, nothing is left out, and every format says the same."""

import json
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from aether.conformance.guarantees import GUARANTEES
from aether.conformance.profiles import Profile
from aether.conformance.report import Report, Verdict, json_schema, matrix, read, reports, table, write
from aether.conformance.report import model as model_module
from aether.conformance.report.markdown import facts
from aether.conformance.rules import all_cases
from aether.conformance.violations import SuiteError

ROOT = Path(__file__).parents[2]
CASES = all_cases()
SESSION = {
    "target": "mydb://***@host",
    "distribution": "aether-mydb",
    "source": "aether-mydb 2.3",
    "scheme": "mydb",
    "server": "mydb 7 <beta>",
    "features": ["multi-actor"],
    "durability": "HOST",
    "faults": ["restart"],
    "time_factor": 2.0,
    "seed": 7,
}


def entry(case_id: str, status: str, text: str = "") -> dict[str, Any]:
    ended = {"what": "ended", "of": "x::Test", "case": case_id, "status": status, "text": text, "seconds": 0.5}
    return {**ended, "session": SESSION}


def made(statuses: Mapping[str, str] = {}, *more: dict[str, Any], default: str = "pass") -> Report:
    entries = [entry(case_id, statuses.get(case_id, default), f"text of {case_id}") for case_id in CASES]
    (report,) = reports([*(each for each in entries if each["status"] != "left out"), *more], command="do it")
    return report


def of_profile(profile: Profile) -> list[str]:
    return [case.id for case in CASES.values() if case.profile is profile]


def verdicts(report: Report) -> dict[Profile, Verdict]:
    return {profile.name: profile.verdict for profile in report.profiles}


def test_everything_passed_is_conformant() -> None:
    report = made()

    assert (report.verdict, report.exit_code) == (Verdict.CONFORMANT, 0)
    assert set(verdicts(report).values()) == {Verdict.CONFORMANT}
    assert [case.id for case in report.cases] == sorted(CASES, key=[case.id for case in report.cases].index)
    assert len(report.cases) == len(CASES)
    assert len(report.slowest) == 10


@pytest.mark.parametrize(
    ("status", "verdict", "code"),
    [
        ("not-claimed", Verdict.CONFORMANT, 0),
        ("not-testable", Verdict.PARTIAL, 4),
        ("left out", Verdict.PARTIAL, 4),
        ("FAIL", Verdict.NOT_CONFORMANT, 1),
        ("suite-error", Verdict.NONE, 3),
    ],
)
def test_one_case_decides(status: str, verdict: Verdict, code: int) -> None:
    report = made({of_profile(Profile.ORDERED)[3]: status})

    assert (report.verdict, report.exit_code) == (verdict, code)
    assert verdicts(report) == dict.fromkeys(Profile, Verdict.CONFORMANT) | {Profile.ORDERED: verdict}


def test_worst_status_wins() -> None:
    order = ["pass", "not-claimed", "not-testable", "left out", "FAIL", "suite-error"]
    codes = [made(dict(zip(of_profile(Profile.CORE), order[:count], strict=False))).exit_code for count in range(1, 7)]

    assert codes == [0, 0, 4, 4, 1, 3]


def test_profile_of_which_nothing_is_claimed() -> None:
    report = made(dict.fromkeys(of_profile(Profile.DURABLE), "not-claimed"))

    assert verdicts(report)[Profile.DURABLE] is Verdict.NOT_CLAIMED
    assert report.exit_code == 0


def test_store_that_claims_no_durability_is_not_durable() -> None:
    session = {"session": {**SESSION, "durability": "NONE"}}
    entries = [{**entry(case_id, "pass"), **session} for case_id in CASES]

    (report,) = reports(entries, command="do it")

    assert verdicts(report) == dict.fromkeys(Profile, Verdict.CONFORMANT) | {Profile.DURABLE: Verdict.NOT_CLAIMED}


def test_failed_harness_gives_no_verdict_on_anything() -> None:
    report = made({}, {"what": "error", "of": "x::Test", "text": "it did not stop"})

    assert set(verdicts(report).values()) == {Verdict.NONE}
    assert (report.exit_code, report.errors) == (3, ["it did not stop"])


def test_case_that_began_and_never_ended_failed() -> None:
    lost = "store.append.race"
    began = {"what": "began", "of": "x::Test", "case": lost}

    report = made({lost: "left out"}, began)

    assert report.exit_code == 1
    assert "the process that ran it ended" in next(case.text for case in report.cases if case.id == lost)


def test_failure_of_the_suite_itself_blames_no_backend() -> None:
    case_id = "store.append.race"
    began, error = ({"what": what, "of": "x::Test", "case": case_id} for what in ("began", "error"))

    report = made({case_id: "left out"}, began, {**error, "when": "call", "text": "Traceback"})

    assert (report.exit_code, report.not_run, report.errors) == (3, [case_id], ["Traceback"])


def test_interrupted_run_is_partial_and_blames_nobody() -> None:
    lost = "store.append.race"
    report = made({lost: "left out"}, {"what": "began", "of": "x::Test", "case": lost}, {"what": "interrupted"})

    assert (report.exit_code, report.not_run) == (4, [lost])
    assert "The run was interrupted." in report.remarks


@pytest.mark.parametrize("ending", ["stopped", "interrupted"])
def test_worker_that_died_is_blamed_whatever_ended_the_run(ending: str) -> None:
    dead, running = "store.append.race", "store.append.gapless"
    began = [{"what": "began", "of": "x::Test", "case": case_id} for case_id in (dead, running)]

    report = made(
        {dead: "left out", running: "left out"},
        *began,
        {"what": "died", "of": "x::Test", "case": dead},
        {"what": ending},
    )

    assert (report.exit_code, report.not_run) == (1, [running])


def test_case_that_was_repeated_counts_with_its_worst() -> None:
    report = made({}, entry("store.append.race", "FAIL"), entry("store.append.race", "pass"))

    assert report.exit_code == 1


def test_provisional_case_is_reported_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    new = "store.append.race"
    cases = {**CASES, new: replace(CASES[new], provisional=True, since="1.1")}
    monkeypatch.setattr(model_module, "all_cases", lambda: cases)

    report = made({new: "FAIL"})

    assert report.exit_code == 0
    assert f"{new} is new and not counted yet: FAIL." in report.remarks
    assert sum(sum(profile.counts.values()) for profile in report.profiles) == len(CASES) - 1


def test_rule_is_as_bad_as_its_worst_case() -> None:
    report = made({"store.append.conflict#below": "FAIL"})

    assert {rule.id: rule.status for rule in report.rules}["store.append.conflict"] == "FAIL"


def test_guarantee_is_as_good_as_its_cases() -> None:
    report = made({"store.append.race": "FAIL", "store.snapshot.kept": "not-claimed"})
    by_number = {guarantee.id: guarantee for guarantee in report.guarantees}

    assert by_number["G2"].status == "FAIL"
    assert by_number["G17"].status == "pass"
    assert by_number["G17"].counts["not-claimed"] == 1
    assert by_number["G16"].text
    assert "G2" in next(case.guarantees for case in report.cases if case.id == "store.append.race")


def test_part_that_a_backend_does_not_offer_is_a_remark() -> None:
    session = {"session": {**SESSION, "offers": ["store"], "deadline": 99.0}}
    (report,) = reports([{**entry("store.append.race", "pass"), **session}], command="do it")

    assert report.remarks[0] == "The backend has no bus: no verdict says anything about one."
    assert ("longest answer, says the harness", "99 s") in facts(report)


def test_files_say_the_same(tmp_path: Path) -> None:
    bad = "store.append.conflict#below"
    report = made({bad: "FAIL", "store.append.race": "not-testable"})
    write(report, tmp_path / "deep" / "er")

    directory = tmp_path / "deep" / "er"
    assert read(directory / "report.json") == report
    badge = json.loads((directory / "badge.json").read_text())
    assert (badge["schemaVersion"], badge["message"]) == (1, "not conformant")
    assert "not conformant" in "".join(ElementTree.parse(directory / "badge.svg").getroot().itertext())
    for name in ("README.md", "index.html"):
        page = (directory / name).read_text()
        assert f"text of {bad}" in page
        assert "aether-mydb 2.3" in page
        assert "<beta>" not in page
        assert [case_id for case_id in CASES if case_id not in page] == []
        assert [
            sentence for sentence in GUARANTEES.values() if escape(sentence) not in page and sentence not in page
        ] == []


def test_page_needs_nothing_else(tmp_path: Path) -> None:
    write(made(), tmp_path)
    page = (tmp_path / "index.html").read_text()

    assert [word for word in ("http:", "https:", "src=", "@import", "url(") if word in page] == []


def test_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SuiteError, match="cannot be written"):
        write(made(), tmp_path / "file")


def test_terminal_says_what_was_not_checked_and_why() -> None:
    shown = table(made({"store.append.race": "not-testable"}))

    assert "1 not-testable (text of store.append.race): store.append.race" in shown
    assert shown.splitlines()[-1] == ("partial: nothing failed, but not everything was checked (1 not-testable)")


def test_terminal_does_not_blame_the_suite_for_broken_rules() -> None:
    shown = table(made({"store.append.race": "suite-error", "store.append.gapless": "FAIL"}))

    assert shown.splitlines()[-1] == (
        "no verdict: the suite, its references or the harness failed: store.append.race; "
        "beside it, these rules are broken: store.append.gapless"
    )


def test_schema_is_current() -> None:
    published = (ROOT / "conformance" / "report.schema.json").read_text()

    assert published == json_schema(), "run: aether-conformance schema > conformance/report.schema.json"


def test_report_of_another_schema_is_refused(tmp_path: Path) -> None:
    write(made(), tmp_path)
    path = tmp_path / "report.json"
    path.write_text(path.read_text().replace("aether-conformance/1", "aether-conformance/2"))

    with pytest.raises(SuiteError, match="is no report of the schema aether-conformance/1"):
        read(path)


def test_matrix_has_a_row_for_each_report(tmp_path: Path) -> None:
    write(made(), tmp_path / "reports" / "a")
    write(made({"store.append.race": "FAIL"}), tmp_path / "reports" / "b")

    page = matrix(tmp_path / "reports", seen_from=tmp_path / "docs")

    assert "[aether-mydb 2.3, a](../reports/a/README.md)" in page
    assert "| not conformant | conformant | conformant | conformant |" in page


def test_matrix_of_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"no report\.json"):
        matrix(tmp_path, seen_from=tmp_path)


def test_backends_page_is_current() -> None:
    page = (ROOT / "docs" / "backends.md").read_text()

    assert page == matrix(ROOT / "conformance" / "reports", seen_from=ROOT / "docs"), "run: make matrix"
