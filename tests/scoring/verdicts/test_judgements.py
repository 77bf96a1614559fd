import math

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.finite_scores import NOT_FINITE
from ilp_mlflow.core.values import Sample, Score, to_table
from ilp_mlflow.core.verdict_rules import Judged
from ilp_mlflow.scoring.verdicts import greedy, paper
from ilp_mlflow.scoring.verdicts.greedy import BAND, greedy_margins
from ilp_mlflow.scoring.verdicts.judgements import COLUMNS, Evidence, Judges, judge, read_judges
from ilp_mlflow.scoring.verdicts.timeline import (
    retention_by_stage,
    unscored_by_stage,
    verdict_table,
)
from tests.scoring.verdicts.judged_scores import judged, score, verdicts

NO_NUMBERS = (math.nan, math.inf, -math.inf)
STAGES = ("one", "two")
NAMES = ("base", *STAGES)


def may_turn(table, preset):
    if preset == "paper":
        return paper.may_turn_in_float32(table, 0)
    return greedy.may_turn_in_float32(table)


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
            greedy_margins(table) > 0
            if preset == "default"
            else np.array(
                [row == "learned" for row in judged(table, ["last"], "paper")["status"].to_pylist()]
            )
            for table in (lower, upper)
        ]
        found = may_turn(coarse, preset)
        assert found.tolist() == (ends[0] != ends[1]).tolist()
        assert 0 < found.sum() < 500
        assert not may_turn(lower, preset).any()


def test_unscored_rows_are_not_undecided():
    table = to_table(
        [Score(sample_id="a", checkpoint="last", dtype="bfloat16", unscored="too long")], Score
    )
    assert not may_turn(table, "default").any()
    assert not may_turn(table, "paper").any()


def test_what_bfloat16_gave_no_number_for_is_scored_again_in_float32():
    spoiled = Score(sample_id="a", checkpoint="last", dtype="bfloat16", unscored=NOT_FINITE)
    for preset in ("default", "paper"):
        assert may_turn(to_table([spoiled], Score), preset).all()
        in_float32 = spoiled.model_copy(update={"dtype": "float32"})
        assert not may_turn(to_table([in_float32], Score), preset).any()


def test_the_columns_it_names_are_all_it_reads():
    table = to_table([score(p=0.3), score(sample="b", gap=-1.0, stops=False)], Score)
    for preset in ("default", "paper"):
        assert judged(table.select(COLUMNS), ["last"], preset).equals(
            judged(table, ["last"], preset)
        )


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize("column", ["logprob", "gap", "p_correct", "option_logprobs"])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_what_is_no_number_decides_nothing_and_leaves_nothing_to_what_is(column, number, preset):
    whole = score(gap=5.0, p=0.999)
    assert verdicts(whole, preset=preset)[0].status == "learned"
    spoiled = (0.0, number, 0.0, 0.0) if column == "option_logprobs" else number
    (found,) = verdicts(whole.model_copy(update={column: spoiled}), preset=preset)
    assert (found.status, found.margin, found.reason) == ("unscored", None, NOT_FINITE)


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


def of(rows, name, preset):
    """The samples of a table with their statuses under a checkpoint."""
    found = verdict_table(judged(rows, [name], preset), [name]).to_pylist()
    return [(row, row["status"]) for row in found]


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

    tables = [judged(rows, NAMES, preset) for rows in (scores, spoiled)]
    rule = stage_of, NAMES
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


class Odd:
    """A rule that does not derive from the base of rules."""

    needs_samples = False

    def judge(self, rows):
        return Judged(["learned"], [1.0], ["because"])


def test_a_rule_must_say_something_of_every_row():
    judges = Judges({"odd": Odd()}, every_row="odd")
    assert judge(to_table([score()], Score), ["last"], judges)["rule"].to_pylist() == ["odd"]
    two = to_table([score(), score(sample="b")], Score)
    with pytest.raises(PluginError, match="'odd' was given 2 rows and returned 1 statuses"):
        judge(two, ["last"], judges)


def test_rules_are_named_for_a_source_before_a_stage_before_all():
    samples = [
        Sample(id="a", stage="s", prompt="q", completion="r", source="web"),
        Sample(id="b", stage="s", prompt="q", completion="r"),
        Sample(id="c", stage="t", prompt="q", completion="r"),
    ]
    scoring = ScoringConfig(
        verdicts={"web": {"verify": {"check": "exact"}}, "s": "greedy", "all": {"paper": None}}
    )
    scores = to_table([score(sample=i, p=0.9) for i in "abc"], Score)
    found = judge(scores, ["last"], read_judges(scoring), 0, Evidence(samples=samples))
    rules = dict(zip(found["sample_id"].to_pylist(), found["rule"].to_pylist(), strict=True))
    assert rules == {"a": "verify", "b": "greedy", "c": "paper"}


def test_two_groups_may_have_one_rule_with_other_options():
    scoring = ScoringConfig(
        verdicts={"s": {"verify": {"check": "exact"}}, "t": {"verify": {"check": "math"}}}
    )
    rules = read_judges(scoring).rules
    assert {rule.check for name, rule in rules.items() if name.startswith("verify")} == {
        "exact",
        "math",
    }


def test_long_answers_without_their_text_are_judged_by_their_scores():
    long_answer = to_table([score(tokens=80, greedy=False)], Score)
    (found,) = judged(long_answer).to_pylist()
    assert (found["rule"], found["status"]) == ("greedy", "learned")


def test_a_rule_that_needs_text_says_so_of_rows_whose_sample_is_not_known():
    samples = [Sample(id="a", stage="s", prompt="q", completion="r")]
    table = to_table([score(tokens=80, greedy=True), score(sample="b", tokens=80)], Score)
    judges = read_judges(ScoringConfig(verdicts="long"))
    found = judge(table, ["last"], judges, 0, Evidence(samples=samples)).to_pylist()
    assert {row["sample_id"]: row["status"] for row in found} == {"a": "learned", "b": "unscored"}
    assert "needs the row's text" in found[0]["reason"] + found[1]["reason"]


@pytest.mark.parametrize(
    ("verdicts", "why"),
    [
        ({"s": {"greedy": {}, "long": {}}}, "'s' must name one rule, not 2"),
        ({"s": {}}, "'s' must name one rule, not 0"),
    ],
)
def test_each_group_has_one_rule(verdicts, why):
    with pytest.raises(ValidationError, match=why):
        ScoringConfig(verdicts=verdicts)


def test_the_preset_of_the_study_leaves_no_rows_for_other_rules():
    with pytest.raises(ValidationError, match="preset 'paper' judges all rows"):
        ScoringConfig(preset="paper", verdicts="long")


def test_unknown_rules_and_options_are_refused():
    with pytest.raises(
        PluginError, match="verdict 'greddy' is not installed; did you mean 'greedy'"
    ):
        read_judges(ScoringConfig(verdicts={"s": "greddy"}))
    with pytest.raises(PluginError, match="verdict 'verify': check: missing"):
        read_judges(ScoringConfig(verdicts={"s": "verify"}))


def test_one_rule_for_all_rows_may_be_a_word():
    assert ScoringConfig(verdicts="long").verdicts == {"all": {"long": {}}}
    checked = {"all": {"verify": {"check": "my_checks:passes"}}}
    assert ScoringConfig(verdicts="verify:my_checks:passes").verdicts == checked
    assert read_judges(ScoringConfig(verdicts="verify:math")).by_group == {"all": "verify of all"}


def test_the_first_checkpoint_is_the_base_unless_it_is_said_not_to_be():
    seen = []

    class Noting(Odd):
        def judge(self, rows):
            seen.append((rows.checkpoint, rows.is_base, len(rows.base_tokens())))
            return super().judge(rows)

    scores = to_table([score("base"), score("last")], Score)
    lists = [[-1.0, -2.0]] * 2
    tokens = pa.table(
        {
            "sample_id": ["a", "a"],
            "checkpoint": ["base", "last"],
            "logprobs": pa.array(lists, pa.list_(pa.float32())),
            "best_logprobs": pa.array(lists, pa.list_(pa.float32())),
            "best_ids": pa.array([[1, 2]] * 2, pa.list_(pa.int32())),
        }
    )
    judges = Judges({"noting": Noting()}, every_row="noting")
    for has_base in (True, False):
        evidence = Evidence(tokens=tokens, has_base=has_base)
        judge(scores, ["base", "last"], judges, 0, evidence)
    assert seen == [("base", True, 1), ("last", False, 1), ("base", False, 0), ("last", False, 0)]


def test_a_rule_that_fails_or_makes_up_a_status_is_named():
    class Failing(Odd):
        def judge(self, rows):
            raise KeyError("tests")

    class Misspelt(Odd):
        def judge(self, rows):
            return Judged(["learnd"], [1.0], ["because"])

    table = to_table([score()], Score)
    with pytest.raises(PluginError, match="verdict 'own' failed: KeyError"):
        judge(table, ["last"], Judges({"own": Failing()}, every_row="own"))
    with pytest.raises(PluginError, match="'own' returned the status 'learnd'; statuses are"):
        judge(table, ["last"], Judges({"own": Misspelt()}, every_row="own"))
