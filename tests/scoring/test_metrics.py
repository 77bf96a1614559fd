import math

import numpy as np
import pyarrow as pa
import pytest

from ilp_mlflow.core.values import Score, to_table
from ilp_mlflow.scoring.metrics import (
    best_of_n,
    fail_probability,
    logit,
    recognition_margin,
    recognition_shares,
    recognition_unscored,
    sampled_passes,
    sigmoid,
    uniform_draws,
)

REPEATS = 2000
OPTIONS = (
    [-1.0, -2.0, -0.5, -4.0],
    [-1.0, -1.0, -3.0],
    [-0.2, -3.0],
    [-6.0, -1.0, -2.0, -6.0, -1.0],
    [-5.0],
    [-3.0, -0.1],
)


def distribution(options):
    weights = np.exp(options)
    return weights / weights.sum()


def column(values):
    return pa.chunked_array([pa.array(values)])


def draws(n, seed=0):
    return uniform_draws(column([f"stage/{i:06}" for i in range(n)]), column(["last"] * n), seed)


def near(expected):
    """Within four standard errors of a share over REPEATS, or one repeat where the share is nearly 0 or 1."""
    return pytest.approx(
        expected, abs=max(4 * np.sqrt(expected * (1 - expected) / REPEATS), 1 / REPEATS)
    )


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("runs", "threshold"), [(5, 0.2), (10, 0.2), (10, 0.5)])
def test_the_pass_rate_agrees_with_sampled_runs(options, runs, threshold):
    p = distribution(options)
    picks = np.random.default_rng(0).choice(len(p), (REPEATS, runs), p=p) == 0
    closed = float(fail_probability(p[:1], runs, threshold)[0])
    assert (picks.mean(1) < threshold).mean() == near(closed)
    right = sampled_passes(np.full(REPEATS, p[0]), draws(REPEATS), runs)
    assert (right / runs < threshold).mean() == near(closed)
    for k in range(runs + 1):
        assert (right == k).mean() == pytest.approx(
            (picks.sum(1) == k).mean(), abs=4 * np.sqrt(2 * 0.25 / REPEATS)
        )


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("runs", [1, 5, 10])
def test_best_of_agrees_with_sampled_runs(options, runs):
    p = distribution(options)
    picks = np.random.default_rng(0).choice(len(p), (REPEATS, runs), p=p)
    best = picks[np.arange(REPEATS), np.array(options)[picks].argmax(1)]  # the first of equals
    closed = float(best_of_n(column([options]), runs)[0])
    assert (best == 0).mean() == near(closed)
    if runs == 1:
        assert closed == pytest.approx(p[0])


def test_best_of_takes_lists_of_any_length_and_none():
    rows = [[-1.0, -2.0], None, [], [-0.5], *OPTIONS]
    found = best_of_n(pa.chunked_array([pa.array(rows[:3]), pa.array(rows[3:])]))
    alone = [best_of_n(column([row]))[0] if row else np.nan for row in rows]
    assert found == pytest.approx(alone, nan_ok=True)
    assert found[3] == 1.0
    assert np.isnan(best_of_n(pa.chunked_array([pa.array([None], pa.list_(pa.float64()))]))).all()


def test_draws_are_uniform_and_unrelated_between_checkpoints_and_seeds():
    n = 100_000
    ids = column([str(i) for i in range(n)])
    several = [
        uniform_draws(ids, column([name] * n), seed) for name in ("base", "s1") for seed in (0, 1)
    ]
    for drawn in several:
        assert drawn.min() >= 0
        assert drawn.max() < 1
        distance = np.abs(np.sort(drawn) - (np.arange(n) + 0.5) / n).max()
        assert distance < 1.95 / np.sqrt(n)  # Kolmogorov-Smirnov at 0.1 %
    correlation = np.corrcoef(several) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(n)


def test_a_draw_depends_on_its_own_row_only():
    rng = np.random.default_rng(0)
    ids, names = (
        np.array([f"a{i}" for i in range(200)]).repeat(3),
        np.tile(["base", "s1", "s2"], 200),
    )
    drawn = uniform_draws(column(ids), column(names))
    some = rng.permutation(600)[:250]
    assert uniform_draws(column(ids[some]), column(names[some])).tolist() == drawn[some].tolist()
    assert len(set(drawn)) == 600
    assert uniform_draws(column(["a0"]), column(["base"])) == pytest.approx(
        0.4487018557136625, abs=1e-15
    )  # on every machine


def test_a_larger_probability_never_gets_fewer_right():
    drawn, p = draws(REPEATS), np.linspace(0, 1, 101)
    right = np.array([sampled_passes(np.full(REPEATS, x), drawn) for x in p])
    assert (np.diff(right, axis=0) >= 0).all()
    assert (right[0].max(), right[-1].min()) == (0, 5)


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


@pytest.mark.parametrize(
    "spoiled",
    [
        {"option_logprobs": (math.nan, -2.0)},
        {"option_logprobs": (-1.0, -math.inf)},
        {"option_priors": (math.inf, -2.0)},
        {"option_priors": None},
        {"option_logprobs": None},
        {"option_tokens": (1,)},
        {"option_logprobs": (), "option_tokens": (), "option_priors": ()},
        {"unscored": "too long"},
    ],
    ids=str,
)
def test_a_row_that_is_not_whole_wins_nothing_and_is_counted_apart(spoiled):
    won, lost = score((-1.0, -2.0), (-3.0, -2.0)), score((-2.0, -1.0), (-2.0, -3.0))
    lost = lost.model_copy(update={"sample_id": "b"})
    for kept, gone in ((won, lost), (lost, won)):
        rows = [kept, gone.model_copy(update=spoiled)]
        assert shares(*rows) == shares(kept)
        under_base = [row.model_copy(update={"checkpoint": "base"}) for row in (won, lost)]
        table = to_table([*under_base, *rows], Score)
        assert recognition_unscored(table, ["base", "c"]) == {"base": 0, "c": 1}
    assert shares(won.model_copy(update=spoiled))["sum"] is None


def test_the_bar_of_recognition_is_half_way_between_chance_and_certainty():
    options = np.array([2.0, 4.0, np.nan])
    margins = recognition_margin(np.array([0.75, 0.625, 0.5]), options)
    assert margins[:2] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert np.isnan(margins[2])


def test_log_odds_are_finite_and_turn_back_into_probabilities():
    p = np.array([0.0, 0.1, 0.5, 1.0])
    assert np.isfinite(logit(p)).all()
    assert sigmoid(logit(p)) == pytest.approx(p, abs=1e-11)
