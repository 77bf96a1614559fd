"""`ilp show` over the artifacts of a run."""

import pyarrow as pa
import pytest

from ilp_mlflow.core.values import Checkpoint, Exposure, as_json, to_table
from ilp_mlflow.training.accounts.row_account import RowAccount
from tests.cli.commands import document, ilp
from tests.training.checks.accounts import FINE


@pytest.fixture
def run_id(store):
    """A run with the artifacts of two samples."""
    from ilp_mlflow.tracking import runs

    accounts = [RowAccount(**{**FINE, "sample_id": f"facts/{number}"}) for number in (1, 2)]
    exposure = Exposure(
        sample_id="facts/1", stage="facts", exposures=2, supervised_tokens=4, truncated_tokens=0
    )
    diagnosis = {
        "sample_id": "facts/1",
        "status": "unlearned",
        "reason": "margin -2 nats",
        "history": "base: unlearned",
        "cause": "not_trained",
        "strength": 0.9,
        "why": "its answer was cut off",
        "change": "raise max_length",
        "confirmation": "confirmed by small trainings",
        "knowledge": "MaybeKnown",
    }
    with runs.start("x", "experiment") as run:
        runs.write(
            run, "accounts.parquet", pa.Table.from_pylist([a.model_dump() for a in accounts])
        )
        runs.write(run, "exposures.parquet", to_table([exposure], Exposure))
        runs.write(run, "diagnosis.parquet", pa.Table.from_pylist([diagnosis]))
        points = [Checkpoint(name=name, model_uri="u") for name in ("base", "facts")]
        runs.write(run, "checkpoints.json", as_json(points))
        for name, table in token_tables().items():
            runs.write(run, f"{name}.parquet", table)
    return run


def token_tables():
    """What two checkpoints give the two tokens of the first sample's answer: one is missed."""
    numbers = pa.list_(pa.float32())
    return {
        "tokens": pa.table(
            {
                "sample_id": ["facts/1", "facts/1"],
                "checkpoint": ["base", "facts"],
                "logprobs": pa.array([[-3.0, -1.0], [-2.0, -0.1]], numbers),
                "best_logprobs": pa.array([[-1.0, -1.0], [-0.5, -0.1]], numbers),
                "best_ids": pa.array([[7, 9], [7, 9]], pa.list_(pa.int32())),
            }
        ),
        "answer_texts": pa.table({"sample_id": ["facts/1"], "texts": [[" Lima", "<|end|>"]]}),
        "first_choices": pa.table(
            {"id": pa.array([7, 9], pa.int32()), "text": [" Rome", "<|end|>"]}
        ),
    }


def test_a_sample_is_shown_with_what_is_known_of_it(run_id):
    code, text, err = ilp("show", run_id, "facts/1")
    assert code == 0, err
    assert "The capital of Peru is[[ Lima<|end|>]]" in text
    assert "2 times in stage 'facts'" in text
    assert "not_trained (0.90)" in text
    assert "tried out  confirmed by small trainings" in text
    assert "its answer was cut off" in text
    assert "1 token is not the model's first choice" in text
    assert "' Lima' (0.14, base 0.05): the model says ' Rome' (0.61)" in text
    assert "the answer: MaybeKnown (SliCK)" in text


def test_json_is_the_account_with_the_rest(run_id):
    shown = document("show", run_id, "facts/1")
    assert shown["account"]["segments"][1] == {"text": " Lima<|end|>", "kind": "supervised"}
    assert shown["exposures"][0]["exposures"] == 2
    assert shown["knowledge"] == "MaybeKnown"
    assert [token["first_choice"] for token in shown["tokens"]] == [" Rome", None]
    # the other one was in no batch, and has no verdict
    other = document("show", run_id, "facts/2")
    assert (other["exposures"], other["status"], other["tokens"]) == ([], None, [])


def test_an_unknown_sample_or_run_is_one_line(run_id):
    code, out, err = ilp("show", run_id, "fact/1")
    assert (code, out) == (2, "")
    assert "no sample 'fact/1'; did you mean 'facts/1'" in err
    assert err.count("\n") == 1
    code, _, err = ilp("show", "deadbeef", "facts/1")
    assert code == 2
    assert err.count("\n") == 1


def test_a_run_without_accounts_says_what_it_lacks(store):
    from ilp_mlflow.tracking import runs

    with runs.start("x", "experiment") as run:
        pass
    code, _, err = ilp("show", run, "facts/1")
    assert code == 2
    assert "has no artifact ilp/accounts.parquet" in err
