import pytest

from ilp_mlflow import Exposure, Score
from ilp_mlflow.diagnostics.insufficient_optimization import InsufficientOptimization
from tests.contexts import CHECKPOINTS, belief, context, sample


def examined(samples, beliefs=None, logprobs=(-9.0, -9.0, -9.0), tokens=2, right=0.0, seen=9):
    """Evidence for the first of `samples`."""
    scores = [
        Score(sample_id=s.id, checkpoint=name, logprob=logprob, tokens=tokens, token_accuracy=right)
        for s in samples
        for name, logprob in zip(CHECKPOINTS, logprobs, strict=True)
    ]
    ledger = [Exposure(sample_id=s.id, stage="first", exposures=seen, supervised_tokens=2, truncated_tokens=0) for s in samples]
    found = context(samples, scores=scores, exposures=ledger, beliefs=beliefs)
    return InsufficientOptimization().examine(samples[:1], found).get(samples[0].id)


COMMON = [sample(f"c{i}", "common words", f" {'ab'[i % 2]}") for i in range(40)]
X = sample("x", "common words", " a")


def test_what_the_base_knows_and_a_rare_word_asks_for():
    found = examined([sample("x", "common zork", " a"), *COMMON], {"x": belief(right=0.9)})
    assert found.strength == 0.9
    assert found.reason == "the base knows what it needs; 'zork' is in 1 rows"


def test_elimination_alone_weighs_less():
    assert examined([X, *COMMON], {"x": belief(right=0.9)}).strength == pytest.approx(0.54)


@pytest.mark.parametrize(
    ("more", "sign"),
    [({"seen": 2}, "it was in 2 batches"), ({"logprobs": (-9.0, -9.0, -5.0)}, "training has raised it by 4.0 nats")],
)
def test_little_exposure_and_a_rise_are_signs(more, sign):
    found = examined([X, *COMMON], {"x": belief(right=0.9)}, **more)
    assert found.strength == 0.9
    assert sign in found.reason


def test_what_the_base_does_not_know_is_another_matter():
    assert examined([sample("x", "common zork", " rare"), sample("y", "p", " rare"), *COMMON], {"x": belief(right=0.4)}) is None


def test_an_answer_that_few_rows_have_is_scarce():
    found = examined([sample("x", "common words", " rare"), sample("y", "p", " rare"), *COMMON])
    assert found.strength == 0.7
    assert "its answer is in 2 rows, half of the samples have one that is in 20 or more" in found.reason


def test_an_answer_of_its_own_is_not_scarce():
    assert examined([sample("x", "common words", " only"), *COMMON]) is None
    assert examined([X, *COMMON]) is None


def test_a_long_answer_on_its_way_is_partly_learned():
    found = examined([X, *COMMON], tokens=50, right=0.8, logprobs=(-90.0, -60.0, -30.0))
    assert found.strength == 0.8
    assert "80% of its 50 tokens are right" in found.reason
    assert examined([X, *COMMON], tokens=50, right=0.8) is None  # it was so from the start
    assert examined([X, *COMMON], tokens=5, right=0.8, logprobs=(-90.0, -60.0, -30.0)) is None
