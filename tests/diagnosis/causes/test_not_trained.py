import pytest

from ilp_mlflow import Exposure, Score
from ilp_mlflow.core.texts import Conversation, Message
from ilp_mlflow.diagnosis.causes.not_trained import MAYBE_LEFT_OUT, NotTrained
from tests.contexts import CHECKPOINTS, context, sample


def scores(id_, tokens=4, right=0.5, logprobs=(-9.0, -5.0, -4.0)):
    return [
        Score(sample_id=id_, checkpoint=name, tokens=tokens, token_accuracy=right, logprob=logprob)
        for name, logprob in zip(CHECKPOINTS, logprobs, strict=True)
    ]


def exposure(id_, exposures=3, supervised=4, truncated=0, end=None):
    return Exposure(
        sample_id=id_,
        stage="first",
        exposures=exposures,
        supervised_tokens=supervised,
        truncated_tokens=truncated,
        end_supervised=end,
    )


def examined(ledger, rows=None):
    samples = [sample(e.sample_id) for e in ledger]
    found = context(
        samples, scores=rows or [s for x in samples for s in scores(x.id)], exposures=ledger
    )
    return NotTrained().examine(samples, found)


@pytest.mark.parametrize(
    ("entry", "strength", "reason"),
    [
        (exposure("x", exposures=0, supervised=0), 1, "in no batch of stage 'first'"),
        (
            exposure("x", supervised=2),
            1,
            "only 2 of the 4 tokens of its answer, end included, were in the loss",
        ),
        (exposure("x", supervised=3, truncated=1), 0.5, "max_length cut 1 off"),
        (
            exposure("x", exposures=0, supervised=0, truncated=5),
            1,
            "max_length cut 5 of its tokens off, its answer among them",
        ),
        (exposure("x", exposures=1), 0.7, "seen 1 times, others of stage 'first' 3 times"),
        (exposure("x", exposures=7), 0.4, "seen 7 times, others of stage 'first' 3 times"),
    ],
)
def test_the_ledger_is_read(entry, strength, reason):
    found = examined([entry, exposure("y"), exposure("z")])
    assert set(found) == {"x"}
    assert found["x"].strength == strength
    assert reason in found["x"].reason
    assert found["x"].details["exposures"] == entry.exposures


def test_a_stage_of_which_nothing_was_seen():
    assert examined([exposure("x", exposures=0, supervised=0)])["x"].strength == 1


def test_an_end_token_that_was_not_in_the_loss_explains_no_other_mistake():
    stops = [
        score.model_copy(update={"stops": True}) for score in scores("x", tokens=10, right=0.9)
    ]
    assert examined([exposure("x", supervised=9)], stops)["x"].strength == pytest.approx(1 / 9)
    goes_on = [score.model_copy(update={"stops": False}) for score in stops]
    assert examined([exposure("x", supervised=9)], goes_on)["x"].strength == 1


def test_which_token_was_left_out_decides_what_that_explains():
    one_wrong = [
        score.model_copy(update={"stops": True}) for score in scores("x", tokens=4, right=0.75)
    ]
    first_masked = examined([exposure("x", supervised=3, end=True)], one_wrong)["x"]
    assert (first_masked.strength, first_masked.details["fault"]) == (1, "answer_not_in_the_loss")
    # the end is right without having been trained: the wrong token is another
    assert examined([exposure("x", supervised=3, end=False)], one_wrong)["x"].strength == 0
    both = examined([exposure("x", supervised=2, end=False)], one_wrong)["x"]
    assert (both.strength, both.details["fault"]) == (1, "answer_not_in_the_loss")


def test_what_was_trained_as_it_stands_is_not_blamed():
    assert examined([exposure("x"), exposure("y")]) == {}


def weighted(id_, weight):
    answer = Conversation(turns=(Message(role="assistant", content="c", weight=weight),))
    return sample(id_, Conversation(turns=(Message(role="user", content="p"),)), answer)


def of_weights(learned_of_zero, learned_of_one, ledger=None, n=4):
    """Evidence where some of `n` rows with weight 0, and of as many with weight 1, are learned."""
    samples = [weighted(f"zero{i}", 0) for i in range(n)]
    samples += [weighted(f"one{i}", 1) for i in range(n)]
    learned = [f"zero{i}" for i in range(learned_of_zero)]
    learned += [f"one{i}" for i in range(learned_of_one)]
    histories = dict.fromkeys(learned, ("unlearned", "learned", "learned"))
    rows = [s for x in samples for s in scores(x.id)]
    found = context(samples, histories, scores=rows, exposures=ledger)
    return NotTrained().examine([s for s in samples if s.id not in learned], found)


def test_a_weight_that_nobody_saw_read_is_no_proof():
    found = of_weights(0, 4)
    assert set(found) == {f"zero{i}" for i in range(4)}
    evidence = found["zero0"]
    assert evidence.strength == MAYBE_LEFT_OUT < 1
    assert evidence.details["fault"] == "weight_0_unknown"
    assert "unknown whether the trainer read that: 4 of 4 rows with weight 0" in evidence.reason
    assert "0 of the 4 others" in evidence.reason


@pytest.mark.parametrize("learned", [0, 1, 2, 3])
def test_rows_of_weight_0_that_fare_as_the_others_do_are_not_explained_by_it(learned):
    assert of_weights(learned, learned)["zero3"].strength == 0


def test_more_rows_of_weight_0_learned_speak_against_the_weight():
    strengths = [of_weights(n, 4)["zero3"].strength for n in range(4)]
    assert strengths == sorted(strengths, reverse=True)


def test_the_ledger_says_whether_a_weight_was_read():
    ledger = [exposure("zero0", supervised=0), exposure("zero1", supervised=4)]
    ledger += [exposure(f"{name}{i}") for name in ("zero", "one") for i in (2, 3)]
    found = of_weights(0, 4, ledger)
    assert (found["zero0"].strength, found["zero0"].details["fault"]) == (1, "weight_0")
    assert not {"zero1", "zero2", "zero3"} & found.keys()
