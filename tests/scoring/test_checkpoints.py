import pytest
import torch

from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring import scorer
from ilp_mlflow.scoring.checkpoints import ModelProbe, choose_wrong_options, score_checkpoints
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.verdicts import greedy, paper
from ilp_mlflow.scoring.verdicts.greedy import BAND, Band
from tests.conftest import rows


@pytest.fixture
def folder(tiny_model, tmp_path):
    """The tiny model with weights that lower precision tells from higher, and margins around -1.8 nats."""
    loaded = loading.load_model([str(tiny_model)])
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in loaded.model.parameters():
            weights.normal_(std=0.3)
        loaded.model.model.norm.weight.fill_(0.3)
    loading.save_model(loaded, tmp_path / "model", "unused", True)
    return str(tmp_path / "model")


def samples(n=60):
    answers = [r["completion"] for r in rows()]
    return [
        Sample(
            id=f"{i:02}",
            stage="s",
            prompt=f"Number {i} of the cities is",
            completion=answers[i % 8],
            options=(answers[i % 7 - 1],),
        )
        for i in range(n)
    ]


def score(folder, dtype="float32", preset="default", **kwargs):
    options = ScoringConfig(dtype=dtype, preset=preset, options=2)
    wrong = choose_wrong_options(samples(), {"base": folder}, options, 0)
    return score_checkpoints(samples(), wrong, {"base": folder}, options, 0, **kwargs)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_mixed_precision_scores_the_undecided_again(store, folder, preset, monkeypatch):
    monkeypatch.setitem(BAND, "bfloat16", Band(1.8, 1.8))
    exact, screened, mixed = (
        score(folder, dtype, preset).sort_by("sample_id")
        for dtype in ("float32", "bfloat16", "mixed")
    )
    if preset == "paper":
        again = paper.may_turn_in_float32(screened, 0)
    else:
        again = greedy.may_turn_in_float32(screened)
    assert 0 < again.sum() < len(again)
    expected = {r["sample_id"]: r for r in exact.to_pylist()}
    low = {r["sample_id"]: r for r in screened.to_pylist()}
    for row, high in zip(mixed.to_pylist(), again, strict=True):
        assert row["dtype"] == ("float32" if high else "bfloat16")
        if high:
            assert row["logprob"] == pytest.approx(expected[row["sample_id"]]["logprob"], abs=1e-4)
        else:
            assert row == low[row["sample_id"]]


def test_a_diagnosis_done_again_touches_no_model(store, folder, monkeypatch):
    first = score(folder, "mixed")
    monkeypatch.setattr(loading, "_load_base", None)
    assert score(folder, "mixed").equals(first)


def few():
    return [Sample(id="a", stage="s", prompt="Say north", completion=" 北")]


def test_models_are_asked_for_wrong_answers_where_the_data_has_too_few(
    store, tiny_model, monkeypatch
):
    options = ScoringConfig(options=2)
    asked = []

    def generate(self, name, prompts, n, max_new_tokens):
        asked.append(name)
        return [["北!", "南\nAnd so on", "cut off " * max_new_tokens, "<think>", "\ufffd"][:n]]

    monkeypatch.setattr(ModelProbe, "generate", generate)
    locations = {"base": str(tiny_model), "last": str(tiny_model)}
    wrong = choose_wrong_options(few(), locations, options, 0)
    assert asked == ["base", "last"]
    assert wrong == {"a": ("南",)}
    assert choose_wrong_options(few(), locations, options, 0) == wrong  # from the cache
    assert len(asked) == 2


def test_every_checkpoint_has_the_same_batches(store, folder, tiny_model, monkeypatch):
    plans = []
    original = scorer.score_tokens
    monkeypatch.setattr(
        scorer, "score_tokens", lambda plan, *a: plans.append(plan) or original(plan, *a)
    )
    options = ScoringConfig()
    locations = {"base": folder, "other": str(tiny_model)}
    table = score_checkpoints(
        samples(), choose_wrong_options(samples(), locations, options, 0), locations, options, 0
    )
    assert plans[0] is plans[1]
    assert table.num_rows == 2 * len(samples())


def test_models_answer_in_the_form_that_is_scored(store, tiny_model, tmp_path):
    """A base without a chat template, as many are, below a checkpoint with one."""
    bare = loading.load_model([str(tiny_model)])
    bare.tokenizer.chat_template = None
    loading.save_model(bare, tmp_path / "bare", "unused", True)
    chat = Sample(
        id="a",
        stage="s",
        prompt=({"role": "user", "content": "Say"},),
        completion=({"role": "assistant", "content": "北"},),
    )
    locations = {"base": str(tmp_path / "bare"), "last": str(tiny_model)}
    assert set(choose_wrong_options([chat], locations, ScoringConfig(), 0)) == {"a"}
