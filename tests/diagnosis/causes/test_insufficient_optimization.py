from dataclasses import replace

import pytest

from ilp_mlflow import Exposure, Score, Signal
from ilp_mlflow.diagnosis.causes.insufficient_optimization import InsufficientOptimization
from ilp_mlflow.plugin import Subject
from tests.contexts import CHECKPOINTS, belief, context, sample

STAGE = Subject(kind="stage", name="first")


def examined(samples, beliefs=None, losses=(2.0, 2.0), tokens=2, right=0.0, seen=9, taught=1.0):
    """Evidence for the first of `samples`; the stage taught a share of the others."""
    return examined_with_stage(samples, beliefs, losses, tokens, right, seen, taught)[0]


def examined_with_stage(
    samples,
    beliefs=None,
    losses=(2.0, 2.0),
    tokens=2,
    right=0.0,
    seen=9,
    taught=1.0,
    logprobs=(None, None, None),
):
    """The same, and the evidence for the stage."""
    by_checkpoint = dict(zip(CHECKPOINTS, logprobs, strict=True))
    scores = [
        Score(
            sample_id=s.id,
            checkpoint=name,
            tokens=tokens,
            token_accuracy=right,
            logprob=by_checkpoint[name],
        )
        for s in samples
        for name in CHECKPOINTS
    ]
    more = {"stage": "first", "supervised_tokens": 2, "truncated_tokens": 0}
    ledger = [Exposure(sample_id=s.id, exposures=seen, **more) for s in samples]
    signals = [
        Signal(sample_id=s.id, stage="first", step=step, loss=loss, token_accuracy=0.0)
        for s in samples
        for step, loss in enumerate(losses, 1)
    ]
    learned = {
        s.id: ("unlearned", "learned", "learned")
        for s in samples[1 : 1 + round(taught * (len(samples) - 1))]
    }
    found = context(
        samples, learned, scores=scores, exposures=ledger, beliefs=beliefs, signals=signals
    )
    evidence = InsufficientOptimization().examine(samples[:1], found)
    return evidence.get(samples[0].id), evidence.get(STAGE)


COMMON = [sample(f"c{i}", "common words", f" {'ab'[i % 2]}") for i in range(100)]
X = sample("x", "common words", " a")
ZORKS = [sample(i, "common zork", " a") for i in "xy"]


def test_what_the_base_knows_and_a_rare_word_asks_for():
    found = examined([*ZORKS, *COMMON], {"x": belief(right=0.9)})
    assert found.strength == 0.9
    assert found.reason == "the base knows what it needs; 'zork' is in 2 rows"


@pytest.mark.parametrize(
    ("samples", "believed"),
    [
        ([X], belief(right=0.9)),
        ([sample("x", "common name", " a")], belief(right=0.9)),  # a word of its own is no pattern
        (ZORKS, replace(belief(right=0.9), entity="zork")),  # nor is what it asks about
    ],
)
def test_elimination_alone_weighs_less(samples, believed):
    found = examined([*samples, *COMMON], {"x": believed})
    assert (found.strength, found.reason) == (pytest.approx(0.54), "the base knows what it needs")


@pytest.mark.parametrize(
    ("more", "sign"),
    [
        ({"seen": 2}, "it was in 2 batches"),
        ({"losses": (4.0, 3.0, 1.5)}, "its loss fell by 50% from the last batch but one"),
    ],
)
def test_little_exposure_and_a_loss_that_falls_are_signs(more, sign):
    found = examined([X, *COMMON], {"x": belief(right=0.9)}, **more)
    assert found.strength == 0.9
    assert sign in found.reason


def test_what_the_base_does_not_know_is_another_matter():
    assert (
        examined(
            [sample("x", "common zork", " rare"), sample("y", "p", " rare"), *COMMON],
            {"x": belief(right=0.4)},
        )
        is None
    )


def test_an_answer_that_few_rows_have_is_scarce():
    found = examined([sample("x", "common words", " rare"), sample("y", "p", " rare"), *COMMON])
    assert found.strength == 0.7
    assert (
        "its answer is in 2 rows, half of the samples have one that is in 50 or more"
        in found.reason
    )


def test_an_answer_of_its_own_is_not_scarce():
    assert examined([sample("x", "common words", " only"), *COMMON]) is None
    assert examined([X, *COMMON]) is None


def test_a_long_answer_on_its_way_is_partly_learned():
    found = examined([X, *COMMON], tokens=50, right=0.8, losses=(2.0, 1.0))
    assert found.strength == pytest.approx(0.7 * 0.8)
    assert "80% of its 50 tokens are right" in found.reason
    assert examined([X, *COMMON], tokens=50, right=0.8) is None  # it gets no further
    assert examined([X, *COMMON], tokens=5, right=0.8, losses=(2.0, 1.0)) is None


def test_of_a_stage_that_taught_little_and_was_still_learning_it_is_said_once_that_it_stopped_early():
    falling, few = {"losses": (4.0, 3.0)}, [X, *COMMON[:40]]
    own, of_stage = examined_with_stage(few, taught=0.4, **falling)
    assert own is None
    assert of_stage.strength == 0.7
    assert of_stage.reason.startswith(
        "it stopped too early: it taught 39% of its rows, and the loss of the others still fell by 25%"
    )
    assert examined_with_stage(few, taught=0.6, **falling)[1] is None
    assert examined_with_stage(few, taught=0.4, losses=(4.0, 3.9))[1] is None  # it had stopped
    assert examined_with_stage(few, taught=0.4, losses=(3.0,))[1] is None
    assert examined_with_stage(few, taught=0.0, losses=(0.0, 0.0))[1] is None


def test_a_stage_of_one_pass_is_judged_by_what_that_pass_did():
    few = [X, *COMMON[:40]]
    fell = {"losses": (3.0,), "logprobs": (-8.0, -6.0, -6.0)}
    _, of_stage = examined_with_stage(few, taught=0.4, seen=1, **fell)
    assert of_stage.strength == 0.7
    assert "still fell by 25% in the one batch they were in" in of_stage.reason
    # more than one pass ended somewhere between the two scores
    assert examined_with_stage(few, taught=0.4, seen=2, **fell)[1] is None
    assert examined_with_stage(few, taught=0.6, seen=1, **fell)[1] is None
    stood = {"losses": (3.0,), "logprobs": (-8.0, -7.9, -2.0)}
    assert examined_with_stage(few, taught=0.4, seen=1, **stood)[1] is None
