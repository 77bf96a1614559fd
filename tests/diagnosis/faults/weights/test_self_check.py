from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.weights.self_check import find_scoring_gaps
from ilp_mlflow.scoring.self_check import SelfCheck
from tests.contexts import context, sample


def check(checkpoint, difference):
    return SelfCheck(
        checkpoint=checkpoint,
        dtype="float32",
        rows=("a", "b"),
        largest_difference=difference,
        allowed=1e-4,
    )


def test_a_checkpoint_that_plain_passes_score_otherwise_stops_its_diagnosis():
    histories = {"a": ("unlearned",) * 3, "b": ("unlearned", "learned", "unlearned")}
    known = context([sample("a"), sample("b")], histories=histories)
    agreeing = [check("base", 1e-6), check("second", 9e-5)]
    assert find_scoring_gaps(RunFacts(known, self_checks=agreeing)) == []
    (fault,) = find_scoring_gaps(RunFacts(known, self_checks=[*agreeing, check("first", 0.02)]))
    assert (
        "scores of the fast path and of plain passes differ by 0.02 nats per token" in fault.reason
    )
    assert (fault.subject.name, fault.samples, fault.stops) == ("first", ("a",), True)
    (last,) = find_scoring_gaps(RunFacts(known, self_checks=[check("second", 0.02)]))
    assert last.samples == ("a", "b")
