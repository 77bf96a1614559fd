import math

import pytest

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.finite_scores import NOT_FINITE
from ilp_mlflow.core.values import Unscored, Verdict
from ilp_mlflow.scoring.verdicts.unscored import check_any_scored, group_unscored, unscored_text
from tests.scoring.verdicts.judged_scores import score, verdicts

NAMES = ("base", "last")


def test_without_any_score_under_the_last_checkpoint_there_is_no_verdict():
    scores = [score("base", "a"), score("last", "a", gap=math.nan), score("base", "b")]
    with pytest.raises(ModelError) as refused:
        check_any_scored(verdicts(*scores, checkpoints=NAMES), "last")
    assert "none of 2 samples can be scored under checkpoint 'last' (1 such as 'a'" in str(
        refused.value
    )
    assert "lower learning rate" in str(refused.value)
    check_any_scored(verdicts(*scores, score("last", "b"), checkpoints=NAMES), "last")


def test_reasons_that_differ_in_numbers_are_one():
    def unscored(id_, reason):
        return Verdict(sample_id=id_, status="unscored", reason=reason)

    long_ones = [unscored(str(n), f"{n} tokens, the model has positions for 96") for n in (97, 120)]
    groups = group_unscored(
        [unscored("x", NOT_FINITE), *long_ones, Verdict(sample_id="y", status="learned")]
    )
    assert groups == (
        Unscored(samples=2, reason="97 tokens, the model has positions for 96", example="97"),
        Unscored(samples=1, reason=NOT_FINITE, example="x"),
    )
    assert unscored_text(groups[1:]) == f"such as 'x': {NOT_FINITE}"
    assert unscored_text(groups).startswith("2 such as '97': 97 tokens")
