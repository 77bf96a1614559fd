import math

import pytest

from ilp_mlflow import Score
from ilp_mlflow.diagnosis.causes.left_side_forgetting import LeftSideForgetting
from tests.contexts import CHECKPOINTS, FakeProbe, context, sample


def examined(history, stage="first", gap=4.0, checkpoints=("base", "first@10", "first", "second")):
    x, y = sample("x", stage=stage), sample("y", stage="second")
    gaps = zip(
        checkpoints, (gap if status == "learned" else -3.0 for status in history), strict=True
    )
    scores = [Score(sample_id="x", checkpoint=name, gap=value) for name, value in gaps]
    return LeftSideForgetting().examine(
        [x], context([x, y], {"x": history}, scores, checkpoints=checkpoints)
    )


def test_what_a_stage_had_and_a_later_one_has_not_is_forgotten():
    found = examined(("unlearned", "unlearned", "learned", "unlearned"))["x"]
    assert found.strength == pytest.approx(1 - math.exp(-4) / 2)
    assert found.reason == "'first' had it, 'second' does not"
    assert found.details["lost"] == "second"


def test_within_a_stage_the_step_is_named():
    found = examined(("unlearned", "learned", "unlearned", "unlearned"))["x"]
    assert found.reason == "'first@10' had it, 'first' does not"


def test_the_firmer_it_was_the_surer():
    history = ("unlearned", "unlearned", "learned", "unlearned")
    strengths = [examined(history, gap=gap)["x"].strength for gap in (0.0, 0.2, 2.0, 20.0)]
    assert strengths == sorted(strengths)
    assert strengths[0] == 0.5


def test_what_was_never_learned_or_only_before_its_stage_is_not_forgotten():
    assert examined(("unlearned",) * 4) == {}
    assert (
        examined(("learned", "unlearned", "unlearned", "unlearned")) == {}
    )  # the base had it, training did not give it
    assert examined(("unlearned", "unlearned", "learned", "unlearned"), stage="second") == {}


def test_a_copy_that_cannot_be_trained_takes_no_evidence_away():
    def relearn(stage, exchanges):
        raise RuntimeError("out of memory")

    samples = [sample("x", "p 1"), sample("y", "p 2")]
    scores = [Score(sample_id="x", checkpoint=name, gap=3.0) for name in CHECKPOINTS]
    found = context(samples, {"x": ("unlearned", "learned", "unlearned")}, scores, relearn=relearn)
    evidence = LeftSideForgetting().examine(samples[:1], found)["x"]
    assert evidence.details["not_tried"] == "RuntimeError: out of memory"
    assert evidence.strength > 0.9


@pytest.mark.parametrize(("after", "spurious"), [(0.9, True), (0.04, False)])
def test_a_few_steps_on_other_rows_tell_covered_up_from_overwritten(after, spurious):
    """Learned it had probability .9, now it has .01; half of that in log-probability is .095."""
    samples = [sample(f"x{i}", f"prompt {i}", " yes") for i in range(4)] + [sample("other", "p")]
    history = ("unlearned", "learned", "unlearned")
    scores = [
        Score(sample_id=s.id, checkpoint=name, gap=3.0) for s in samples for name in CHECKPOINTS
    ]
    sure = {
        (name, s.prompt, "yes"): p
        for s in samples
        for name, p in (("first", 0.9), ("second", 0.01))
    }
    trained = []

    def relearn(stage, exchanges):
        trained.append(
            (
                {s.prompt for s in stage.samples},
                {prompt for prompt, _ in exchanges},
                stage.training["max_steps"],
            )
        )
        return [math.log(after)] * len(exchanges)

    histories = {s.id: history for s in samples[:4]} | {"other": ("learned",) * 3}
    found = context(samples, histories, scores, probe=FakeProbe(sure=sure), relearn=relearn)
    evidence = LeftSideForgetting().examine(samples[:4], found)
    assert {e.details["spurious"] for e in evidence.values()} == {spurious}
    assert all(("do not bring" in e.reason) != spurious for e in evidence.values())
    assert all(rows.isdisjoint(asked) and steps == 6 for rows, asked, steps in trained)
    assert set().union(*(asked for _, asked, _ in trained)) == {s.prompt for s in samples[:4]}
