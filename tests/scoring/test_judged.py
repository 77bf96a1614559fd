"""Samples scored and judged under models: every rule on one path."""

import pytest

from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring.judged import score_and_judge
from ilp_mlflow.scoring.speaking import speaker

SAMPLES = [
    Sample(id=land, stage="s", prompt=f"The capital of {land} is", completion=f" {city}")
    for land, city in (("France", "Paris"), ("Italy", "Rome"), ("Norway", "Oslo"))
]


@pytest.fixture
def places(tiny_model, store):
    return {"base": str(tiny_model), "last": str(tiny_model)}


def judged(places, samples=SAMPLES, verdicts="greedy", **options):
    scoring = ScoringConfig(verdicts=verdicts)
    return score_and_judge(samples, {s.id: () for s in samples}, places, scoring, 0, **options)


@pytest.mark.parametrize("verdicts", ["greedy", "long", "verify:exact"])
def test_every_sample_is_judged_under_every_checkpoint(places, verdicts):
    found = judged(places, verdicts=verdicts)
    rows = found.judgements.select(["sample_id", "checkpoint"]).to_pylist()
    expected = {(s.id, name) for s in SAMPLES for name in places}
    assert {(row["sample_id"], row["checkpoint"]) for row in rows} == expected
    assert len(rows) == len(expected)
    assert {verdict.rule for verdict in found.verdicts} == {verdicts.partition(":")[0]}
    # weights without training know none of it
    assert {verdict.status for verdict in found.verdicts} == {"unlearned"}


def test_every_token_of_an_answer_has_its_log_probabilities_and_its_text(places):
    found = judged(places)
    logprobs = {}
    for row in found.scores.to_pylist():
        logprobs[row["sample_id"], row["checkpoint"]] = row["logprob"], row["tokens"]
    texts = {row["sample_id"]: row["texts"] for row in found.scored.answer_texts.to_pylist()}
    answers = {sample.id: sample.completion for sample in SAMPLES}
    choices = set(found.scored.first_choices["id"].to_pylist())
    for row in found.scored.tokens.to_pylist():
        total, count = logprobs[row["sample_id"], row["checkpoint"]]
        assert sum(row["logprobs"]) == pytest.approx(total, abs=1e-4)
        assert len(row["logprobs"]) == count == len(texts[row["sample_id"]])
        best = zip(row["best_logprobs"], row["logprobs"], strict=True)
        assert all(one >= own for one, own in best)
        assert choices.issuperset(row["best_ids"])
        assert "".join(texts[row["sample_id"]]).startswith(answers[row["sample_id"]])


def test_what_the_model_said_comes_from_the_cache(places, monkeypatch):
    first = judged(places, verdicts="verify:exact")
    monkeypatch.setattr(speaker, "complete", None)
    again = judged(places, verdicts="verify:contains")
    assert [v.status for v in again.verdicts] == [v.status for v in first.verdicts]


def test_controls_are_scored_for_long_answers_alone(places):
    controls = [
        SAMPLES[0].model_copy(update={"id": f"control {n}", "prompt": f"The capital of {n} is"})
        for n in range(40)
    ]
    # the same weights: nothing was removed of the base's surprise, in rows and controls alike
    found = judged(places, verdicts="long", controls=controls)
    assert {verdict.grade for verdict in found.verdicts} == {"not reached"}
    assert "and as much of" in found.verdicts[0].reason
    alone = judged(places, verdicts="long")
    assert "removed nothing" in alone.verdicts[0].reason
    greedy = judged(places, controls=controls)
    assert greedy.judgements.num_rows == 2 * len(SAMPLES)


def test_nobody_is_looked_for_where_nobody_is_asked(places, monkeypatch):
    monkeypatch.setattr("ilp_mlflow.scoring.judged.checkpoint_speaker", None)
    assert len(judged(places).verdicts) == len(SAMPLES)


def test_controls_that_are_trained_all_the_same_are_none(places):
    # 39 that are not, and one that is: too few to rank anything among
    controls = [
        SAMPLES[0].model_copy(update={"id": f"control {n}", "prompt": f"The capital of {n} is"})
        for n in range(39)
    ]
    twin = SAMPLES[0].model_copy(update={"id": "twin", "prompt": "the capital of France is "})
    found = judged(places, verdicts="long", controls=[*controls, twin])
    assert "removed nothing" in found.verdicts[0].reason
