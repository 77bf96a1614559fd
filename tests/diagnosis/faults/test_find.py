import pytest

from ilp_mlflow.core.values import Subject
from ilp_mlflow.diagnosis.faults import find
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault, read_faults
from tests.contexts import context, sample

STAGE = Subject(kind="stage", name="first")
MASKED = Fault(
    kind="masked", cause="not_trained", reason="no token counts", change="", samples=("a", "b")
)
IDLE = Fault(
    kind="idle",
    cause="faulty_checkpoint",
    reason="the adapter does nothing",
    change="train it",
    subject=STAGE,
    samples=("b", "c"),
    stops=True,
)


def test_a_sample_is_spoken_for_by_the_fault_that_stops_its_diagnosis(monkeypatch):
    monkeypatch.setattr(find, "FINDERS", (lambda facts: [MASKED], lambda facts: [IDLE]))
    first, second = find.find_faults(RunFacts(context=None))
    assert (first.kind, first.samples) == ("idle", ("b", "c"))
    assert (second.kind, second.samples) == ("masked", ("a",))


def test_a_fault_all_of_whose_samples_have_a_graver_one_is_not_told(monkeypatch):
    covered = MASKED.model_copy(update={"samples": ("c",)})
    known = MASKED.model_copy(update={"kind": "known", "samples": ()})
    monkeypatch.setattr(find, "FINDERS", (lambda facts: [IDLE, covered, known],))
    assert [fault.kind for fault in find.find_faults(RunFacts(context=None))] == ["idle", "known"]


def test_faults_are_read_as_evidence_and_findings():
    own = MASKED.model_copy(update={"reasons": {"a": "2 of 3 tokens count"}})
    said = read_faults([IDLE, own])
    assert said.by_kind["masked"]["a"].reason == "2 of 3 tokens count"
    assert said.by_kind["masked"]["b"].reason == "no token counts"
    assert said.by_kind["idle"]["c"].change == "train it"
    (finding,) = said.findings
    assert (finding.subject, finding.kind, finding.samples, finding.stops) == (
        STAGE,
        "idle",
        2,
        True,
    )
    assert said.stopped == {"b", "c"}


@pytest.mark.parametrize("cause", ["faulty_checkpoint", "failed_optimization"])
def test_causes_of_faults_are_described_as_other_causes_are(cause):
    from ilp_mlflow.diagnosis.installed_causes import installed_causes

    assert cause in [info.name for info in installed_causes()]


@pytest.mark.parametrize(
    ("explained", "changes", "kinds"),
    [
        ("ab", {}, ["idle"]),
        ("a", {}, ["idle", "gap"]),
        # one that stops nothing explains it, too, but for what is in the log
        ("ab", {"stops": False, "cause": "not_trained"}, ["idle"]),
        ("ab", {"stops": False, "cause": "failed_optimization"}, ["idle", "gap"]),
    ],
)
def test_a_gap_to_the_log_is_not_told_of_a_stage_whose_rows_are_explained(
    monkeypatch, explained, changes, kinds
):
    monkeypatch.setattr(find, "LOSS_GAP", "gap")
    idle = IDLE.model_copy(update={"samples": tuple(explained), **changes})
    gap = Fault(
        kind="gap",
        cause="faulty_checkpoint",
        reason="3 against 0",
        change="",
        subject=Subject(kind="checkpoint", name="first"),
    )
    monkeypatch.setattr(find, "FINDERS", (lambda facts: [idle, gap],))
    known = context([sample("a"), sample("b"), sample("c")][: 3 if explained == "a" else 2])
    assert [fault.kind for fault in find.find_faults(RunFacts(known))] == kinds


@pytest.mark.parametrize(
    ("explained", "changes", "kinds"),
    [
        ("ab", {}, ["idle"]),
        ("a", {}, ["idle", "masked"]),
        # what is to be known is said all the same
        ("ab", {"stops": False}, ["idle", "masked"]),
    ],
)
def test_a_fault_without_rows_is_not_told_of_a_stage_that_has_a_graver_one(
    monkeypatch, explained, changes, kinds
):
    idle = IDLE.model_copy(update={"samples": tuple(explained)})
    without = {"samples": (), "subject": STAGE, "stops": True, **changes}
    masked = MASKED.model_copy(update=without)
    monkeypatch.setattr(find, "FINDERS", (lambda facts: [idle, masked],))
    known = context([sample("a"), sample("b")])
    assert [fault.kind for fault in find.find_faults(RunFacts(known))] == kinds
