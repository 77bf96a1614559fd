"""The commands for models and runs that exist already; comparing runs is tested with `mitigation.compare_runs`."""

import json

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


def test_rows_are_scored_as_people_have_them(tiny_model, tmp_path, store):
    records = [{"question": r["prompt"], "answer": r["completion"]} for r in rows()]
    (tmp_path / "rows.json").write_text(json.dumps(records))
    out = tmp_path / "scores.parquet"
    score = ("score", "--checkpoint", f"base={tiny_model}", "--out", out)
    code, _, err = ilp(*score, "--data", tmp_path / "rows.json")
    assert code == 2
    assert err.count("\n") == 1
    fields = "prompt=question,completion=answer"
    assert f"--fields {fields}" in err
    code, text, err = ilp(
        *score, "--data", tmp_path / "rows.json", "--fields", fields, "--limit", 3, "--json"
    )
    assert code == 0, err
    # a note is no part of the document
    assert json.loads(text)["samples"] == 3
    assert err.count("read as trl (prompt=question, completion=answer)") == 1


def test_a_chat_template_may_be_given(tiny_model, tmp_path, store):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    data = write_jsonl(tmp_path / "rows.jsonl", [{"messages": chat}])
    score = ("score", "--checkpoint", f"base={tiny_model}", "--data", data)
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}# {{ m['content'] }}<|end|>{% endfor %}")
    for name, options in (("own", ["--chat-template", template]), ("theirs", [])):
        code, _, err = ilp(*score, "--out", tmp_path / f"{name}.parquet", *options)
        assert code == 0, err
    own = pq.read_table(tmp_path / "own.parquet").to_pylist()
    theirs = pq.read_table(tmp_path / "theirs.parquet").to_pylist()
    assert own != theirs
    code, _, err = ilp(*score, "--out", tmp_path / "a.parquet", "--chat-template", "none.jinja")
    assert code == 2
    assert "--chat-template none.jinja: no such file" in err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--fields", "question=prompt"), "parameter fields: 'question' is no field of a row"),
        (("--fields", "prompt"), "parameter fields: write FIELD=COLUMN"),
        (("--limit", "0"), "parameter limit: input should be greater than or equal to 1"),
        (("--format", "parquet"), "parameter format: input should be 'trl', 'alpaca'"),
    ],
)
@pytest.mark.parametrize("command", ["score", "diagnose"])
def test_options_of_rows_are_checked(command, options, expected, tiny_model, tmp_path, refused):
    data = write_jsonl(tmp_path / "rows.jsonl", rows())
    checkpoints = ["--checkpoint", f"base={tiny_model}", "--checkpoint", f"sft={tiny_model}"]
    out = ["--out", tmp_path / "a.parquet"] if command == "score" else []
    refused([command, *checkpoints, "--data", data, *out, *options], expected)


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
