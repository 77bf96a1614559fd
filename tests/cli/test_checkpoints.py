"""The commands for models and runs that exist already; comparing runs is tested with `mitigation.compare_runs`."""

import pyarrow.parquet as pq
import pytest

from tests.cli.commands import document, ilp
from tests.conftest import edit_yaml, rows, write_jsonl

SCORE = ("score", "--data", "x.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([*SCORE, "--checkpoint", "base", "--out", "x.parquet"], "write NAME=LOCATION"),
        ([*SCORE, "--out", "x.parquet"], "--checkpoint: missing"),
        ([*SCORE, "--checkpoint", "a=b", "--out", "x.txt"], "must be a .parquet file"),
        (["stages", "nothing"], "no registered stages of experiment 'nothing'"),
    ],
    ids=["bad_checkpoint", "no_checkpoint", "bad_out", "unknown_experiment"],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(arguments, expected, refused):
    refused(arguments, expected)


def test_score_needs_no_experiment(tiny_model, tmp_path, store):
    data = write_jsonl(tmp_path / "rows.jsonl", rows())
    out = tmp_path / "scores.parquet"
    code, text, err = ilp(
        "score", "--checkpoint", f"base={tiny_model}", "--data", data, "--out", out
    )
    assert code == 0, err
    assert "8 samples" in text
    assert pq.read_table(out).num_rows == 8


def test_the_stages_of_an_experiment_are_found_by_its_file_its_name_or_among_all(
    experiment_file, store
):
    # what a mitigation trains is no stage of the experiment
    document("run", edit_yaml(experiment_file, mitigations=["control"]))
    assert [s["stage"] for s in document("stages", experiment_file)] == ["first", "second"]
    assert document("stages", "tiny") == document("stages", experiment_file) == document("stages")


def test_to_compare_runs_makes_no_store(no_store):
    code, _, err = ilp("compare", "deadbeef", "b")
    assert code == 2
    assert "run deadbeef: there is no sqlite:///" in err
    assert not no_store.exists()
