"""Scores of the fast path against plain passes: they agree, and where they do not it is told and not kept."""

import pyarrow.compute as pc
import pytest

from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring import checkpoints, scorer
from ilp_mlflow.scoring.checkpoints import score_and_check, score_checkpoints
from ilp_mlflow.scoring.self_check import _allowed
from tests.conftest import rows
from tests.scoring import model_folders

SAMPLES = [Sample(stage="sft", **row) for n in range(3) for row in rows(prefix=f"{n} ")]
WRONG = {sample.id: [" Bern", " Kyiv"] for sample in SAMPLES}


@pytest.fixture
def places(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    adapter = model_folders.adapter(tiny_model, tmp_path / "adapter")
    return {"base": str(tiny_model), "sft": f"{tiny_model}+{adapter}"}


def scored(places, samples=SAMPLES, **options):
    result = score_and_check(samples, WRONG, places, ScoringConfig(**options), 0)
    return result.table, result.checks


def test_eight_rows_of_every_checkpoint_are_scored_both_ways(places):
    table, checks = scored(places, dtype="float32")
    assert [check.checkpoint for check in checks] == ["base", "sft"]
    for check in checks:
        assert len(check.rows) == 8
        assert set(check.rows) <= {sample.id for sample in SAMPLES}
        assert check.largest_difference <= check.allowed == 1e-4
        assert check.agrees
    # the same rows whatever their order, from the cache, too, under another name
    again = scored({"base": places["base"], "x": places["sft"]}, SAMPLES[::-1], dtype="float32")
    assert again[1][1] == checks[1].model_copy(update={"checkpoint": "x"})
    assert table.schema.metadata is None


def test_types_of_16_bits_may_differ_more(places):
    _, checks = scored(places, dtype="mixed")
    assert {check.dtype for check in checks} == {"bfloat16", "float32"}
    assert all(check.agrees for check in checks)
    for check in checks:
        if check.dtype == "float32":
            assert check.allowed == 1e-4
        else:
            # a fault of the fast path is a nat per token and more
            assert 0.05 < check.allowed <= 0.6


def test_rounding_adds_up_like_a_random_walk():
    assert _allowed(1, False) == 0.6
    assert _allowed(100, False) == pytest.approx(0.06)
    assert _allowed(1, True) == _allowed(100, True) == 1e-4


def test_fewer_rows_are_all_checked_and_none_is_no_fault(places):
    _, checks = scored(places, SAMPLES[:3], dtype="float32")
    assert {len(check.rows) for check in checks} == {3}
    too_long = [Sample(id="long", stage="sft", prompt="a " * 200, completion=" b")]
    checks = score_and_check(too_long, {}, places, ScoringConfig(dtype="float32"), 0).checks
    assert [(check.rows, check.agrees) for check in checks] == [((), True)] * 2


def _shifted(score):
    return score.model_copy(update={"logprob": score.logprob - 0.01 * score.tokens})


def test_a_fast_path_that_is_off_is_told_and_never_cached(places, monkeypatch, capsys):
    exact = scorer.score_tokens

    def off(plan, loaded, checkpoint):
        found = exact(plan, loaded, checkpoint)
        if checkpoint == "base":
            return found
        return [one._replace(score=_shifted(one.score)) for one in found]

    with monkeypatch.context() as broken:
        broken.setattr(checkpoints.scorer, "score_tokens", off)
        _, (base, sft) = scored(places, dtype="float32")
        assert base.agrees
        assert not sft.agrees
        assert sft.largest_difference == pytest.approx(0.01, rel=0.01)
        table = score_checkpoints(SAMPLES, WRONG, places, ScoringConfig(dtype="float32"), 0)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "plain passes" in line]
    assert line.startswith("ilp: sft: its scores and those of plain passes differ by 0.01 nats")
    mended, checks = scored(places, dtype="float32")
    assert all(check.agrees for check in checks)
    of_sft = pc.equal(table["checkpoint"], "sft")
    assert not mended.filter(of_sft)["logprob"].equals(table.filter(of_sft)["logprob"])
