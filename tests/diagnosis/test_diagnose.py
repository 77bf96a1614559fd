"""What diagnostics answer is checked, weighed, and spread; hand-made contexts, and one run."""

import json
from typing import ClassVar

import pytest

from ilp_mlflow import Evidence, PluginError, pipeline
from ilp_mlflow.core import config
from ilp_mlflow.diagnosis.attribution import NO_LEDGER_FACTOR
from ilp_mlflow.diagnosis.diagnose import _examine, _explain
from ilp_mlflow.plugin import Diagnostic, Exposure, Finding, Subject
from ilp_mlflow.tracking import runs
from tests.conftest import edit_yaml
from tests.contexts import context, sample
from tests.test_pipeline import plug

SAMPLES = [sample("a"), sample("b")]


class Says(Diagnostic):
    """Gives the evidence that it is made with."""

    answer: dict
    """Evidence by sample id or subject."""

    def examine(self, unlearned, context):
        return self.answer


class BlamesStage(Diagnostic):
    """Blames the first stage as a whole, before any fault of its training."""

    order: ClassVar[int] = 1

    def examine(self, unlearned, context):
        stage = context.stages[0].name
        return {Subject(kind="stage", name=stage): evidence(f"stage '{stage}' is too short")}


def evidence(reason, cause="short", strength=0.8):
    return Evidence(cause=cause, strength=strength, reason=reason)


def ledger(ids):
    return [
        Exposure(sample_id=i, stage="first", exposures=1, supervised_tokens=1, truncated_tokens=0)
        for i in ids
    ]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ({"z": evidence("")}, "evidence for 'z', which it was not asked about"),
        ({"a": "because"}, "not evidence with a cause of its own: 'because'"),
        ({"a": evidence("", cause="status")}, "not evidence with a cause of its own"),
        ({Subject(kind="stage", name="last"): evidence("")}, "evidence for stage 'last'"),
        ({Subject(kind="checkpoint", name="last"): evidence("")}, "evidence for checkpoint 'last'"),
    ],
)
def test_what_no_diagnostic_may_answer_is_told_in_one_line(answer, fault):
    with pytest.raises(PluginError, match=fault) as raised:
        _examine(Says.model_construct(answer=answer), SAMPLES, context(SAMPLES))
    assert "\n" not in str(raised.value)


def test_a_finding_is_kept_once_and_spread_to_its_samples():
    known = context(SAMPLES, exposures=ledger("ab"))
    explanation = _explain({"short": BlamesStage()}, known, "default", None)
    (found,) = explanation.findings
    assert (found.subject.name, found.samples, found.evidence.strength) == ("first", 2, 0.8)
    assert [(d.cause, d.strength) for d in explanation.diagnoses] == [("short", 0.8)] * 2
    assert {d.reason for d in explanation.diagnoses} == {"as is said of stage 'first'"}


def test_without_a_ledger_a_finding_is_less_sure_too():
    explanation = _explain({"short": BlamesStage()}, context(SAMPLES), "default", None)
    assert explanation.findings[0].evidence.strength == 0.8 * NO_LEDGER_FACTOR
    assert {d.strength for d in explanation.diagnoses} == {0.8 * NO_LEDGER_FACTOR}


def test_the_order_of_a_cause_is_that_of_its_diagnostic():
    class Early(Says):
        order = 1

    known = context(SAMPLES[:1], exposures=ledger("a"))
    early = Early(answer={"a": evidence("e", cause="early", strength=0.5)})
    late = Says(answer={"a": evidence("l", cause="late", strength=1.0)})
    explanation = _explain({"late": late, "early": early}, known, "default", None)
    assert [(d.cause, d.runner_up) for d in explanation.diagnoses] == [("early", "late")]


def test_a_diagnostic_that_fails_is_left_out_and_told(capsys):
    class Fails(Diagnostic):
        def examine(self, unlearned, context):
            raise ValueError("no such thing")

    known = context(SAMPLES, exposures=ledger("ab"))
    explanation = _explain({"bad": Fails(), "short": BlamesStage()}, known, "default", None)
    assert {d.cause for d in explanation.diagnoses} == {"short"}
    fault = "diagnostic 'bad' failed and is left out: ValueError: no such thing"
    assert fault in capsys.readouterr().err


@pytest.mark.slow
def test_findings_are_on_the_run_and_in_its_report(experiment_file, store, monkeypatch):
    plug(monkeypatch, short=BlamesStage)
    edited = edit_yaml(experiment_file, diagnostics=["short"])
    report = pipeline.run(config.read(edited), edited)
    (found,) = [f for f in report.findings if f.evidence.cause == "short"]
    assert found.subject == Subject(kind="stage", name="first")
    assert found.samples == sum(d.cause == "short" for d in report.diagnoses) > 0
    stored = json.loads(runs.read(report.run_id, "findings.json"))
    assert [Finding.model_validate(value) for value in stored] == list(report.findings)
