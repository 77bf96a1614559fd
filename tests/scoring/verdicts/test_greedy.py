import pytest

from ilp_mlflow.core.values import Score, to_table
from ilp_mlflow.scoring.verdicts.greedy import greedy_margins
from tests.scoring.verdicts.judged_scores import score, verdicts


@pytest.mark.parametrize(
    ("scored", "status", "reason"),
    [
        (score(gap=2.0), "learned", "reproduced"),
        (score(gap=-2.0), "unlearned", "1 of 2 tokens"),
        (score(gap=0.05), "uncertain", "too close"),
        (score(gap=-0.05), "uncertain", "too close"),
        (score(gap=2.0, p=0.99), "learned", "reproduced"),
        (score(gap=2.0, p=0.30), "unlearned", "only probability 0.30 (next: 'other')"),
        (score(gap=-0.05, p=0.30), "unlearned", "only probability 0.30"),
        (score(gap=-2.0, p=0.99), "unlearned", "1 of 2 tokens"),
        (score(gap=-2.0, stops=False), "unlearned", "does not stop"),
        (score(gap=-2.0, tokens=4), "unlearned", "2 of 4 tokens are not"),
        (score(gap=2.0, tokens=40, token_accuracy=0.975), "learned", "but for 1 of 40 tokens"),
        (Score(sample_id="a", checkpoint="last", unscored="too long"), "unscored", "too long"),
        (score(checkpoint="earlier"), "unscored", "not scored"),
    ],
)
def test_the_default_rule(scored, status, reason):
    (found,) = verdicts(scored, checkpoints=("earlier", "last"))
    assert found.status == status
    assert reason in found.reason


def test_recognition_is_corrected_for_guessing():
    # with k options the bar is half way between chance and certainty: (1 + 1/k) / 2
    for k, bar in ((2, 0.75), (4, 0.625), (10, 0.55)):
        table = to_table(
            [score(gap=99.0, p=bar - 0.01, k=k), score(gap=99.0, p=bar + 0.01, k=k)], Score
        )
        below, above = greedy_margins(table)
        assert below < 0 < above


def test_low_precision_widens_the_undecided_zone():
    for gap in (1.0, -1.0):
        assert verdicts(score(gap=gap, dtype="bfloat16"))[0].status == "uncertain"
        assert verdicts(score(gap=gap, dtype="float32"))[0].status != "uncertain"
    assert verdicts(score(gap=1.6, dtype="bfloat16"))[0].status == "learned"
    # an option's log-odds come from sums, which are off by more than a single gap
    assert verdicts(score(gap=9.0, p=0.95, dtype="bfloat16"))[0].status == "uncertain"
    assert verdicts(score(gap=-1.6, p=0.95, dtype="bfloat16"))[0].status == "unlearned"


def test_a_signal_that_is_missing_does_not_leave_the_decision_to_the_other():
    whole = score(gap=5.0, p=0.999)
    for column in ("gap", "p_correct"):
        assert verdicts(whole.model_copy(update={column: None}))[0].status == "unscored"
    assert verdicts(whole.model_copy(update={"unscored": "too long"}))[0].status == "unscored"
