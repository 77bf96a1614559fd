import pytest

from ilp_mlflow.core.values import Score, to_table
from ilp_mlflow.scoring.recognition import recognition_shares


def score(logprobs, priors, tokens=(2, 2), checkpoint="c"):
    return Score(
        sample_id="a",
        checkpoint=checkpoint,
        option_logprobs=logprobs,
        option_tokens=tokens,
        option_priors=priors,
    )


def shares(*scores, checkpoint="c"):
    return {
        measure: found.get(checkpoint)
        for measure, found in recognition_shares(to_table(scores, Score), [checkpoint]).items()
    }


def test_a_short_option_wins_by_sum_and_loses_per_token():
    found = shares(score((-4.0, -3.0), (-9.0, -9.0), tokens=(8, 1)))
    assert (found["sum"], found["mean"]) == (0.0, 1.0)


def test_a_common_option_wins_until_its_prior_is_taken_off():
    found = shares(score((-4.0, -3.0), (-9.0, -2.0)))
    assert (found["sum"], found["corrected"], found["blank"]) == (0.0, 1.0, 0.0)


def test_options_that_give_the_answer_away_show_with_the_prompt_blanked():
    leaking, fair = score((-1.0, -5.0), (-2.0, -6.0)), score((-1.0, -5.0), (-6.0, -2.0))
    assert shares(leaking, leaking, leaking, fair)["blank"] == 0.75


def test_ties_do_not_win_and_chance_is_that_of_each_sample():
    four = score((-1.0,) * 4, (-1.0,) * 4, (2,) * 4)
    assert shares(four, score((-1.0, -2.0), (-1.0, -2.0))) == pytest.approx(
        {"sum": 0.5, "mean": 0.5, "corrected": 0.0, "blank": 0.5, "chance": 0.375}
    )


def test_only_rows_with_options_count():
    plain = Score(sample_id="b", checkpoint="c")
    assert shares(plain, score((-1.0, -2.0), (-3.0, -2.0)))["sum"] == 1.0
    assert shares(plain)["sum"] is None
