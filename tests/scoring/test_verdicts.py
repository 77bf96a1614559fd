import math

import numpy as np
import pyarrow as pa
import pytest

from ilp_mlflow.core.errors import DatasetError, ModelError
from ilp_mlflow.core.finite_scores import NOT_FINITE
from ilp_mlflow.core.values import Score, Unscored, Verdict, schema, to_rows, to_table
from ilp_mlflow.scoring.metrics import backward_transfer
from ilp_mlflow.scoring.verdicts import (
    BAND,
    COLUMNS,
    check_any_scored,
    decide_statuses,
    forgetting_by_stage,
    group_unscored,
    retention_by_stage,
    undecided_samples,
    unscored_by_stage,
    unscored_text,
    verdict_margins,
    verdict_table,
)


def score(checkpoint="last", sample="a", gap=1.0, p=None, k=4, **fields):
    if p is not None:
        fields |= {"p_correct": p, "option_logprobs": (0.0,) * k, "wrong": "other"}
    right = gap > 0
    base = {
        "logprob": -1.0,
        "tokens": 2,
        "greedy": right,
        "token_accuracy": 1.0 if right else 0.5,
        "gap": gap,
        "stops": True,
    }
    return Score(sample_id=sample, checkpoint=checkpoint, **{**base, **fields})


def verdicts(*scores, checkpoints=("last",), preset="default"):
    return to_rows(verdict_table(to_table(scores, Score), checkpoints, preset), Verdict)


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
    (found,) = verdicts(scored)
    assert found.status == status
    assert reason in found.reason


def test_recognition_is_corrected_for_guessing():
    # with k options the bar is half way between chance and certainty: (1 + 1/k) / 2
    for k, bar in ((2, 0.75), (4, 0.625), (10, 0.55)):
        table = to_table(
            [score(gap=99.0, p=bar - 0.01, k=k), score(gap=99.0, p=bar + 0.01, k=k)], Score
        )
        below, above = verdict_margins(table)
        assert below < 0 < above


@pytest.mark.parametrize("p", [0.05, 0.1294, 0.25])
def test_the_papers_rule_draws_its_runs(p):
    # 0 of 5 right has probability (1 - p)^5
    table = to_table([score(sample=str(i), p=p) for i in range(2000)], Score)
    found = verdict_table(table, ["last"], "paper")
    unlearned = np.array(found["status"].to_pylist()) == "unlearned"
    expected = (1 - p) ** 5
    assert unlearned.mean() == pytest.approx(
        expected, abs=4 * np.sqrt(expected * (1 - expected) / 2000)
    )
    assert set(found["status"].to_pylist()) == {"learned", "unlearned"}
    assert set(np.sign(found["margin"].to_pylist())) == {
        np.sign(0.5 - expected)
    }  # of the closed form, whatever was drawn
    none = [reason.startswith("0 of 5 sampled runs") for reason in found["reason"].to_pylist()]
    assert none == unlearned.tolist()
    assert all(reason.endswith(f"(probability {p:.2f})") for reason in found["reason"].to_pylist())
    assert verdict_table(table, ["last"], "paper", seed=1)["status"] != found["status"]


def test_certain_options_need_no_luck():
    assert [verdicts(score(p=p), preset="paper")[0].status for p in (0.0, 1.0)] == [
        "unlearned",
        "learned",
    ]


def test_the_papers_rule_needs_options():
    (found,) = verdicts(score(), preset="paper")
    assert (found.status, found.reason) == ("unscored", "no options to choose from")


def test_low_precision_widens_the_undecided_zone():
    for gap in (1.0, -1.0):
        assert verdicts(score(gap=gap, dtype="bfloat16"))[0].status == "uncertain"
        assert verdicts(score(gap=gap, dtype="float32"))[0].status != "uncertain"
    assert verdicts(score(gap=1.6, dtype="bfloat16"))[0].status == "learned"
    # an option's log-odds come from sums, which are off by more than a single gap
    assert verdicts(score(gap=9.0, p=0.95, dtype="bfloat16"))[0].status == "uncertain"
    assert verdicts(score(gap=-1.6, p=0.95, dtype="bfloat16"))[0].status == "unlearned"


def shifted(p, nats):
    return 1 / (1 + (1 - p) / p * np.exp(-nats))


def test_undecided_rows_are_those_that_a_shift_within_the_band_could_change():
    rng = np.random.default_rng(0)
    given = [
        (str(i), float(gap), float(p))
        for i, (gap, p) in enumerate(
            zip(rng.normal(0, 2, 500), rng.beta(0.3, 0.7, 500), strict=True)
        )
    ]
    gap_off, odds_off = BAND["bfloat16"]
    for preset in ("default", "paper"):
        coarse, lower, upper = (
            to_table(
                [
                    score(sample=i, gap=g + k * gap_off, p=shifted(p, k * odds_off), dtype=dtype)
                    for i, g, p in given
                ],
                Score,
            )
            for k, dtype in ((0, "bfloat16"), (-1, "float32"), (1, "float32"))
        )
        ends = [
            decide_statuses(table, preset)[1 if preset == "default" else 0] > 0
            for table in (lower, upper)
        ]
        found = undecided_samples(coarse, preset)
        assert found.tolist() == (ends[0] != ends[1]).tolist()
        assert 0 < found.sum() < 500
        assert not undecided_samples(lower, preset).any()


def test_unscored_rows_are_not_undecided():
    table = to_table(
        [Score(sample_id="a", checkpoint="last", dtype="bfloat16", unscored="too long")], Score
    )
    assert not undecided_samples(table, "default").any()
    assert not undecided_samples(table, "paper").any()


def test_the_columns_it_names_are_all_it_reads():
    table = to_table([score(p=0.3), score(sample="b", gap=-1.0, stops=False)], Score)
    for preset in ("default", "paper"):
        assert verdict_table(table.select(COLUMNS), ["last"], preset).equals(
            verdict_table(table, ["last"], preset)
        )


def history(*gaps):
    names = [f"c{i}" for i in range(len(gaps))]
    scores = [
        score(name, gap=gap) for name, gap in zip(names, gaps, strict=True) if gap is not None
    ]
    (found,) = verdicts(*scores, checkpoints=names)
    return found.status, found.first_learned, found.last_lost


def test_the_timeline_says_since_when_and_until_when():
    assert history(-1, 1, 1) == ("learned", "c1", None)
    assert history(1, -1, -1) == ("unlearned", "c0", "c1")
    assert history(-1, 1, -1, 1, -1) == ("unlearned", "c1", "c4")
    assert history(-1, 1, -1, 1) == ("learned", "c1", "c2")
    assert history(-1, -1) == ("unlearned", None, None)


def test_an_uncertain_or_missing_checkpoint_neither_learns_nor_loses():
    assert history(1, 0.0, 1) == ("learned", "c0", None)
    assert history(1, 0.0, -1) == ("unlearned", "c0", "c2")
    assert history(1, None, -1) == ("unlearned", "c0", "c2")
    assert history(-1, 0.0) == ("uncertain", None, None)


def test_retention_and_forgetting():
    scores = [
        score(c, s, gap=g)
        for s, gaps in {"a": (1, -1), "b": (1, 1), "x": (-1, 1)}.items()
        for c, g in zip("pq", gaps, strict=True)
    ]
    of_stages = to_table(scores, Score), {"a": "p", "b": "p", "x": "q"}, ["p", "q"]
    assert retention_by_stage(*of_stages) == {"p": {"p": 1.0, "q": 0.5}, "q": {"p": 0.0, "q": 1.0}}
    assert forgetting_by_stage(*of_stages) == {"p": 0.5, "q": 0.0}
    assert backward_transfer(forgetting_by_stage(*of_stages)) == -0.5


def test_forgetting_and_backward_transfer_are_those_of_continual_learning():
    """As Avalanche keeps books: the accuracy after an experience's own training is its initial one, every later one its last."""
    stages = ("one", "two", "three")
    course = {
        "one": (0.0, 0.9, 0.6, 0.7),
        "two": (0.1, 0.2, 0.8, 0.3),
        "three": (0.0, 0.0, 0.1, 1.0),
    }
    names = ("base", *stages)
    scores, stage_of = [], {}
    for stage, accuracies in course.items():
        for n in range(10):
            stage_of[f"{stage}/{n}"] = stage
            for name, accuracy in zip(names, accuracies, strict=True):
                gap = 1.0 if n < round(10 * accuracy) else -1.0
                scores.append(score(name, f"{stage}/{n}", gap=gap))
    initial, last = {}, {}
    for number, trained in enumerate(stages, 1):
        for stage in stages[:number]:
            (initial if stage == trained else last)[stage] = course[stage][number]
    table = to_table(scores, Score)
    forgetting = forgetting_by_stage(table, stage_of, names)
    assert forgetting == pytest.approx({s: initial[s] - last.get(s, initial[s]) for s in stages})
    transfer = [last[s] - initial[s] for s in stages if s in last]
    assert backward_transfer(forgetting) == pytest.approx(sum(transfer) / len(transfer))
    assert forgetting_by_stage(table, dict.fromkeys(stage_of, "rows"), names) == {}
    assert backward_transfer({"only": 0.4}) is None


def test_verdicts_do_not_depend_on_the_order_of_scores():
    scores = [score(c, s, gap=(ord(s) - 98.5)) for s in "abcd" for c in ("p", "last")]
    names = ("p", "last")
    assert sorted(verdicts(*scores, checkpoints=names), key=lambda v: v.sample_id) == sorted(
        verdicts(*scores[::-1], checkpoints=names), key=lambda v: v.sample_id
    )


def test_the_table_has_the_columns_of_a_verdict():
    assert verdict_table(to_table([score()], Score), ["last"]).schema.equals(
        pa.schema(schema(Verdict))
    )


NO_NUMBERS = (math.nan, math.inf, -math.inf)
STAGES = ("one", "two")
NAMES = ("base", *STAGES)


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize("column", ["logprob", "gap", "p_correct", "option_logprobs"])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_what_is_no_number_decides_nothing_and_leaves_nothing_to_what_is(column, number, preset):
    whole = score(gap=5.0, p=0.999)
    assert verdicts(whole, preset=preset)[0].status == "learned"
    spoiled = (0.0, number, 0.0, 0.0) if column == "option_logprobs" else number
    (found,) = verdicts(whole.model_copy(update={column: spoiled}), preset=preset)
    assert (found.status, found.margin, found.reason) == ("unscored", None, NOT_FINITE)


def test_a_signal_that_is_missing_does_not_leave_the_decision_to_the_other():
    whole = score(gap=5.0, p=0.999)
    for column in ("gap", "p_correct"):
        assert verdicts(whole.model_copy(update={column: None}))[0].status == "unscored"
    assert verdicts(whole.model_copy(update={"unscored": "too long"}))[0].status == "unscored"


def random_scores(rng, samples=12):
    """Scores of samples of two stages under three checkpoints, some with options, a few missing."""
    stage_of = {f"s{n}": STAGES[n % 2] for n in range(samples)}
    scores = []
    for sample_id in stage_of:
        for name in NAMES:
            if rng.random() < 0.1:
                continue
            p = float(rng.beta(0.5, 0.5)) if rng.random() < 0.5 else None
            gap = float(rng.normal(0, 2))
            scores.append(score(name, sample_id, gap=gap, p=p))
    return scores, stage_of


def spoil(scored, rng):
    """A score of which one number is none any more, or is missing."""
    columns = ["gap"] if scored.p_correct is None else ["gap", "p_correct", "option_logprobs"]
    column = columns[rng.integers(len(columns))]
    number = (*NO_NUMBERS, None)[rng.integers(4)]
    if column == "option_logprobs":
        return scored.model_copy(update={column: (math.nan, *scored.option_logprobs[1:])})
    return scored.model_copy(update={column: number})


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_spoiled_score_only_ever_moves_its_own_sample_to_the_unscored(seed, preset):
    rng = np.random.default_rng(seed)
    scores, stage_of = random_scores(rng)
    if preset == "paper":
        scores = [row for row in scores if row.p_correct is not None]
    place = rng.integers(len(scores))
    spoiled = [*scores]
    spoiled[place] = spoil(scores[place], rng)
    if preset == "paper":
        # the paper's rule does not look at the gap where that is only missing
        spoiled[place] = scores[place].model_copy(update={"p_correct": math.nan})
    at = scores[place].sample_id, scores[place].checkpoint
    before, after = [
        {(row["sample_id"], name): code for name in NAMES for row, code in of(table, name, preset)}
        for table in (scores, spoiled)
    ]
    assert after.pop(at) == "unscored"
    before.pop(at)
    assert after == before

    tables = [to_table(rows, Score) for rows in (scores, spoiled)]
    rule = stage_of, NAMES, preset
    for stage in STAGES:
        n = sum(of_stage == stage for of_stage in stage_of.values())
        for name in NAMES:
            bounds = []
            for table in tables:
                share = retention_by_stage(table, *rule)[stage][name]
                unscored = unscored_by_stage(table, *rule)[stage][name]
                learned = round((share or 0.0) * (n - unscored))
                assert (share is None) == (unscored == n)
                assert share is None or share == pytest.approx(learned / (n - unscored))
                bounds.append((learned, learned + unscored))
            # what is known for sure shrinks, and what is possible grows
            assert bounds[1][0] <= bounds[0][0] <= bounds[0][1] <= bounds[1][1]


def of(rows, name, preset):
    """The samples of a table with their statuses under a checkpoint."""
    found = verdict_table(to_table(rows, Score), [name], preset).to_pylist()
    return [(row, row["status"]) for row in found]


def test_a_stage_of_which_nothing_is_scored_has_no_share():
    table = to_table([score("one", "a", gap=math.nan), score("two", "a"), score("two", "b")], Score)
    rule = table, {"a": "one", "b": "two", "c": "two"}, NAMES
    assert retention_by_stage(*rule) == {
        "one": {"base": None, "one": None, "two": 1.0},
        "two": {"base": None, "one": None, "two": 1.0},
    }
    assert unscored_by_stage(*rule) == {
        "one": {"base": 1, "one": 1, "two": 0},
        "two": {"base": 2, "one": 2, "two": 1},
    }
    assert forgetting_by_stage(*rule) == {"one": None, "two": 0.0}
    assert backward_transfer(forgetting_by_stage(*rule)) is None


def test_forgetting_goes_by_samples_that_are_scored_at_both_ends():
    scores = [score(name, i, gap=1.0) for i in "abcd" for name in ("one", "two")]
    lost = [
        row.model_copy(update={"gap": -1.0}) if row.checkpoint == "two" else row for row in scores
    ]
    half = [*lost[:4], *scores[4:]]
    stage_of = dict.fromkeys("abcd", "one")
    assert forgetting_by_stage(to_table(half, Score), stage_of, NAMES) == {"one": 0.5}
    # one that was lost and has no score at the end is left out of both ends
    half[1] = half[1].model_copy(update={"gap": math.nan})
    assert forgetting_by_stage(to_table(half, Score), stage_of, NAMES) == {"one": 1 / 3}


def test_a_sample_twice_under_a_checkpoint_is_refused_and_named():
    scores = [score("last", "a"), score("last", "b"), score("last", "b", gap=math.nan)]
    with pytest.raises(DatasetError, match="sample 'b' under checkpoint 'last' twice"):
        verdicts(*scores)
    with pytest.raises(DatasetError, match="'b'"):
        retention_by_stage(to_table(scores, Score), {"a": "s", "b": "s"}, ["last"])


def test_what_bfloat16_gave_no_number_for_is_scored_again_in_float32():
    spoiled = Score(sample_id="a", checkpoint="last", dtype="bfloat16", unscored=NOT_FINITE)
    for preset in ("default", "paper"):
        assert undecided_samples(to_table([spoiled], Score), preset).all()
        in_float32 = spoiled.model_copy(update={"dtype": "float32"})
        assert not undecided_samples(to_table([in_float32], Score), preset).any()


def test_without_any_score_under_the_last_checkpoint_there_is_no_verdict():
    scores = [score("base", "a"), score("last", "a", gap=math.nan), score("base", "b")]
    with pytest.raises(ModelError) as refused:
        check_any_scored(to_table(scores, Score), ["base", "last"])
    assert "none of 2 samples can be scored under checkpoint 'last' (1 such as 'a'" in str(
        refused.value
    )
    assert "lower learning rate" in str(refused.value)
    check_any_scored(to_table([*scores, score("last", "b")], Score), ["base", "last"])


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
