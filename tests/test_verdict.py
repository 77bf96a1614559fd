import numpy as np
import pyarrow as pa
import pytest

from ilp_mlflow.types import Score, Verdict, schema, to_rows, to_table
from ilp_mlflow.verdict import forgetting, margins, pass_below, retention, verdicts


def score(checkpoint="last", sample="a", gap=1.0, p=None, k=4, **fields):
    if p is not None:
        fields |= {"p_correct": p, "option_logprobs": (0.0,) * k, "wrong": "other"}
    right = gap > 0
    base = {"logprob": -1.0, "tokens": 2, "greedy": right, "token_accuracy": 1.0 if right else 0.5, "gap": gap, "stops": True}
    return Score(sample_id=sample, checkpoint=checkpoint, **{**base, **fields})


def judge(*scores, checkpoints=("last",), preset="default"):
    return to_rows(verdicts(to_table(scores, Score), checkpoints, preset), Verdict)


@pytest.mark.parametrize(
    ("scored", "status", "reason"),
    [
        (score(gap=2.0), "learned", "reproduced"),
        (score(gap=-2.0), "unlearned", "1 of 2 tokens"),
        (score(gap=0.05), "uncertain", "too close"),
        (score(gap=-0.05), "uncertain", "too close"),
        (score(gap=2.0, p=0.99), "learned", "reproduced"),
        (score(gap=2.0, p=0.30), "unlearned", "only probability 0.30 (next: 'other')"),
        (score(gap=-2.0, p=0.99), "unlearned", "1 of 2 tokens"),
        (score(gap=-2.0, stops=False), "unlearned", "does not stop"),
        (Score(sample_id="a", checkpoint="last", unscored="too long"), "unscored", "too long"),
    ],
)
def test_the_default_rule(scored, status, reason):
    (found,) = judge(scored)
    assert found.status == status
    assert reason in found.reason


def test_recognition_is_corrected_for_guessing():
    # with k options the bar is half way between chance and certainty: (1 + 1/k) / 2
    for k, bar in ((2, 0.75), (4, 0.625), (10, 0.55)):
        table = to_table([score(gap=99.0, p=bar - 0.01, k=k), score(gap=99.0, p=bar + 0.01, k=k)], Score)
        below, above = margins(table)
        assert below < 0 < above


@pytest.mark.parametrize(("p", "status"), [(0.05, "unlearned"), (0.20, "learned"), (0.1294, "uncertain"), (0.9, "learned")])
def test_the_papers_rule_takes_its_more_likely_outcome(p, status):
    # 0 of 5 right has probability (1 - p)^5, which is one half at p = 0.1294
    assert judge(score(p=p), preset="paper")[0].status == status


def test_the_papers_rule_needs_options():
    (found,) = judge(score(), preset="paper")
    assert (found.status, found.reason) == ("unscored", "no options to choose from")


@pytest.mark.parametrize(("runs", "threshold"), [(5, 0.2), (10, 0.2), (10, 0.5)])
def test_the_closed_form_agrees_with_sampling(runs, threshold):
    rng = np.random.default_rng(0)
    for p in (0.05, 0.2, 0.5):
        sampled = (rng.binomial(runs, p, size=200_000) / runs < threshold).mean()
        assert pass_below(np.array(p), runs, threshold) == pytest.approx(sampled, abs=0.005)


def history(*gaps):
    names = [f"c{i}" for i in range(len(gaps))]
    scores = [score(name, gap=gap) for name, gap in zip(names, gaps, strict=True) if gap is not None]
    (found,) = judge(*scores, checkpoints=names)
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
        score(c, s, gap=g) for s, gaps in {"a": (1, -1), "b": (1, 1), "x": (-1, 1)}.items() for c, g in zip("pq", gaps, strict=True)
    ]
    shares = retention(to_table(scores, Score), {"a": "s1", "b": "s1", "x": "s2"}, ["p", "q"])
    assert shares == {"s1": {"p": 1.0, "q": 0.5}, "s2": {"p": 0.0, "q": 1.0}}
    assert forgetting(shares["s1"]) == 0.5
    assert forgetting(shares["s2"]) == -1.0


def test_verdicts_do_not_depend_on_the_order_of_scores():
    scores = [score(c, s, gap=(ord(s) - 98.5)) for s in "abcd" for c in ("p", "last")]
    names = ("p", "last")
    assert sorted(judge(*scores, checkpoints=names), key=lambda v: v.sample_id) == sorted(
        judge(*scores[::-1], checkpoints=names), key=lambda v: v.sample_id
    )


def test_the_table_has_the_columns_of_a_verdict():
    assert verdicts(to_table([score()], Score), ["last"]).schema.equals(pa.schema(schema(Verdict)))
