"""Evidence about a stage, a checkpoint or the run, and the samples that it speaks for."""

import pytest

from ilp_mlflow import Evidence, PluginError
from ilp_mlflow.diagnosis.findings import check_subject, spread_findings
from ilp_mlflow.plugin import Subject
from tests.contexts import context, sample

SAMPLES = [sample("a"), sample("b"), sample("c", stage="second")]
HISTORIES = {
    "a": ("unlearned", "learned", "unlearned"),
    "b": ("unlearned", "unlearned", "unlearned"),
    "c": ("unlearned", "uncertain", "unlearned"),
}
KNOWN = context(SAMPLES, HISTORIES)
STAGE = Subject(kind="stage", name="first")
RUN = Subject(kind="run")


def spread(found, subject):
    what = f"{subject.kind} '{subject.name}'" if subject.name else "the run"
    return found.model_copy(update={"subject": subject, "reason": f"as is said of {what}"})


def evidence(reason="stage 'first' is empty", strength=0.75):
    return Evidence(cause="x", strength=strength, reason=reason)


@pytest.mark.parametrize(
    ("subject", "ids"),
    [
        (STAGE, {"a", "b"}),
        (Subject(kind="stage", name="second"), {"c"}),
        (Subject(kind="checkpoint", name="base"), {"a", "b", "c"}),
        (Subject(kind="checkpoint", name="first"), {"b"}),
        (RUN, {"a", "b", "c"}),
    ],
)
def test_a_finding_speaks_for_the_unlearned_samples_of_its_subject(subject, ids):
    by_id, (found,) = spread_findings({subject: evidence()}, SAMPLES, KNOWN)
    assert by_id == dict.fromkeys(ids, spread(evidence(), subject))
    assert (found.subject, found.evidence, found.samples) == (subject, evidence(), len(ids))


def test_a_learned_sample_is_not_spoken_for():
    by_id, (found,) = spread_findings({STAGE: evidence()}, SAMPLES[:1], KNOWN)
    assert set(by_id) == {"a"}
    assert found.samples == 1


def test_the_evidence_of_a_sample_goes_before_that_of_its_stage_and_that_before_the_run():
    own, of_stage, of_run = (evidence(reason) for reason in ("own", "stage", "run"))
    by_id, findings = spread_findings({STAGE: of_stage, "a": own, RUN: of_run}, SAMPLES, KNOWN)
    assert by_id == {"a": own, "b": spread(of_stage, STAGE), "c": spread(of_run, RUN)}
    assert [found.samples for found in findings] == [1, 1]


def test_a_stage_or_checkpoint_must_be_one_of_the_run():
    for subject in (STAGE, Subject(kind="checkpoint", name="base"), RUN):
        check_subject(subject, KNOWN)
    with pytest.raises(PluginError, match=r"stage 'frist'.*did you mean 'first'\?"):
        check_subject(Subject(kind="stage", name="frist"), KNOWN)
    with pytest.raises(PluginError, match="checkpoint 'third', which the experiment does not have"):
        check_subject(Subject(kind="checkpoint", name="third"), KNOWN)
