import math

import pyarrow as pa
import pytest

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.core.values import Verdict, schema
from ilp_mlflow.scoring.metrics import backward_transfer
from ilp_mlflow.scoring.verdicts.timeline import (
    forgetting_by_stage,
    retention_by_stage,
    unscored_by_stage,
    verdict_table,
)
from tests.scoring.verdicts.judged_scores import judged, score, verdicts

STAGES = ("one", "two")
NAMES = ("base", *STAGES)


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
    of_stages = judged(scores, ["p", "q"]), {"a": "p", "b": "p", "x": "q"}, ["p", "q"]
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
    table = judged(scores, names)
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
    assert verdict_table(judged([score()], ["last"]), ["last"]).schema.equals(
        pa.schema(schema(Verdict))
    )


def test_a_stage_of_which_nothing_is_scored_has_no_share():
    scores = [score("one", "a", gap=math.nan), score("two", "a"), score("two", "b")]
    rule = judged(scores, NAMES), {"a": "one", "b": "two", "c": "two"}, NAMES
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
    assert forgetting_by_stage(judged(half, NAMES), stage_of, NAMES) == {"one": 0.5}
    # one that was lost and has no score at the end is left out of both ends
    half[1] = half[1].model_copy(update={"gap": math.nan})
    assert forgetting_by_stage(judged(half, NAMES), stage_of, NAMES) == {"one": 1 / 3}


def test_a_sample_twice_under_a_checkpoint_is_refused_and_named():
    scores = [score("last", "a"), score("last", "b"), score("last", "b", gap=math.nan)]
    with pytest.raises(DatasetError, match="sample 'b' under checkpoint 'last' twice"):
        verdicts(*scores)
    with pytest.raises(DatasetError, match="'b'"):
        retention_by_stage(judged(scores, ["last"]), {"a": "s", "b": "s"}, ["last"])
