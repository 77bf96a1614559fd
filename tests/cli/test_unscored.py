"""Commands where a model gives no numbers for some samples, or for all: no rate and no gate is the better for it."""

import json
import re

import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient

from ilp_mlflow.core.finite_scores import NOT_FINITE
from ilp_mlflow.scoring import scorer
from ilp_mlflow.scoring.models import loading
from tests.cli.commands import document, ilp
from tests.conftest import edit_yaml, rows, write_jsonl


@pytest.fixture
def spoil(monkeypatch, tmp_path):
    """Makes the model give nan for some samples (by a part of their ids) under a checkpoint, from now on."""
    original = scorer._sample_score
    caches = iter(range(9))

    def start(checkpoint, part):
        def score(sample, result, priors, name, dtype):
            if name == checkpoint and part in sample.sample_id:
                result = result._replace(logprobs=result.logprobs * float("nan"))
            return original(sample, result, priors, name, dtype)

        monkeypatch.setattr(scorer, "_sample_score", score)
        # the same weights have whole scores in the cache
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{next(caches)}"))

    return start


@pytest.fixture
def models(tiny_model, tmp_path):
    """Two models of other weights, for the command line."""
    folder = tmp_path / "sft"
    loaded = loading.load_model([str(tiny_model)])
    with torch.no_grad():
        loaded.model.model.norm.weight.mul_(2)
    loading.save_model(loaded, folder, "unused", True)
    return "--checkpoint", f"base={tiny_model}", "--checkpoint", f"sft={folder}"


@pytest.fixture
def elsewhere(models, tmp_path, store):
    """Arguments of `ilp diagnose` for two models and eight rows."""
    return ["diagnose", *models, "--data", write_jsonl(tmp_path / "rows.jsonl", rows())]


def last_run():
    """The newest run of an experiment, not of a part of one."""
    found = MlflowClient().search_runs(["1"], "tags.`ilp.kind` = 'experiment'")
    return found[0]


def test_diagnose_says_how_many_are_unscored_and_why(elsewhere, spoil):
    spoil("sft", "or")
    spoiled = ["Ecuador", "Korea", "Norway"]
    code, out, err = ilp(*elsewhere)
    assert (code, err) == (0, "")
    assert f"{len(spoiled)} unscored" in out
    text = " ".join(out.split())
    assert f"{len(spoiled)} of 8 samples are unscored after stage 'sft'" in text
    assert NOT_FINITE in text
    assert re.search(rf"\d of {8 - len(spoiled)} scored samples", text)
    metrics = last_run().data.metrics
    assert (metrics["unscored"], metrics["unscored/sft"]) == (len(spoiled), len(spoiled))

    report = document(*elsewhere)
    assert report["unscored"] == [
        {"samples": len(spoiled), "reason": NOT_FINITE, "example": spoiled[0]}
    ]
    assert report["unscored_by_stage"] == {"sft": {"base": 0, "sft": len(spoiled)}}
    assert report["recognition_unscored"] == {"base": 0, "sft": len(spoiled)}
    run_id = report["run_id"]
    page = MlflowClient().download_artifacts(run_id, "ilp/report.html")
    with open(page, encoding="utf-8") as file:
        assert f"{len(spoiled)} unscored" in file.read()


def test_a_diagnosis_without_any_score_is_no_diagnosis(elsewhere, spoil):
    spoil("sft", "")
    code, out, err = ilp(*elsewhere)
    assert (code, out) == (2, "")
    assert err.startswith("ilp: none of 8 samples can be scored under checkpoint 'sft' (such as ")
    assert NOT_FINITE in err
    assert err.count("\n") == 1
    run = last_run()
    assert run.info.status == "FAILED"
    assert "unlearned_rate" not in run.data.metrics
    artifacts = {file.path for file in MlflowClient().list_artifacts(run.info.run_id, "ilp")}
    assert not artifacts & {"ilp/scores.parquet", "ilp/diagnoses.json", "ilp/report.html"}


def test_a_base_without_any_score_is_said_and_nothing_more(elsewhere, spoil):
    spoil("base", "")
    code, out, err = ilp(*elsewhere)
    assert (code, err) == (0, "")
    assert "Shares leave out samples that are not scored: 8 under base." in " ".join(out.split())
    assert re.search(r"\nsft +- ", out)


def test_compare_fails_where_scores_got_lost_and_says_why(elsewhere, spoil):
    before = document(*elsewhere)["run_id"]
    spoil("sft", "France")
    after = document(*elsewhere)["run_id"]
    gate = ("--max-regressed", "8")
    assert ilp("compare", before, before, *gate)[0] == 0
    code, _, err = ilp("compare", before, after, *gate)
    assert code == 1
    assert err == (
        f"ilp: 1 sample is unscored in B (such as 'France': {NOT_FINITE}); "
        "--max-regressed cannot be met\n"
    )
    # unlearned now, and learned before or not: nobody knows
    code, _, err = ilp("compare", after, before, *gate)
    assert code == 1
    assert "1 sample is unscored in A (such as 'France'" in err


def test_score_counts_what_it_could_not_score(models, tmp_path, store, spoil):
    spoil("sft", "")
    data = write_jsonl(tmp_path / "rows.jsonl", rows())
    arguments = ("score", *models, "--data", data, "--out", tmp_path / "scores.parquet")
    code, out, _ = ilp(*arguments)
    assert code == 0
    assert re.search(r"checkpoint +learned +unscored", out)
    assert re.search(r"\nsft +- +8 +- +-", out)
    found = document(*arguments)
    assert found["learned"] == {"base": 0.0, "sft": None}
    assert found["unscored"] == {"base": 0, "sft": 8}
    table = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert {row["unscored"] for row in table if row["checkpoint"] == "sft"} == {NOT_FINITE}


@pytest.mark.long
def test_mitigate_fails_while_a_sample_is_unscored_and_says_why(experiment_file, store, spoil):
    edit_yaml(experiment_file, mitigations=["control"])
    document("train", experiment_file)
    document("diagnose", experiment_file)
    gate = ("mitigate", experiment_file, "--max-unlearned", "1")
    assert ilp(*gate)[0] == 0
    spoil("second", "France")
    document("diagnose", experiment_file)
    code, out, err = ilp(*gate, "--json")
    assert code == 1
    assert err == (
        "ilp: 2 samples are unscored under what is recommended (such as 'first France': "
        f"{NOT_FINITE}); --max-unlearned cannot be met\n"
    )
    (outcome,) = json.loads(out)["outcomes"]
    ids = [*outcome["recovered"], *outcome["still"], *outcome["regressed"], *outcome["unscored"]]
    assert len(ids) == len(set(ids))


@pytest.mark.long
def test_a_mitigation_that_loses_all_scores_fails_alone(experiment_file, store, spoil):
    edit_yaml(experiment_file, mitigations=["control"])
    document("train", experiment_file)
    document("diagnose", experiment_file)
    spoil("after", "")
    code, out, err = ilp("mitigate", experiment_file, "--max-unlearned", "1", "--json")
    assert code == 3
    assert "mitigation 'control' failed: ModelError: none of 16 samples can be scored" in err
    assert json.loads(out)["outcomes"] == []
    failed = MlflowClient().search_runs(["1"], "tags.`ilp.kind` = 'mitigation'")
    assert [run.info.status for run in failed] == ["FAILED"]
