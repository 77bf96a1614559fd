"""What commands print: within 80 columns, one document with --json, nothing else with --quiet, colour on a terminal only."""

import io
import json
import logging
import sys
import warnings

import pytest
from rich.cells import cell_len

from ilp_mlflow.cli import main
from ilp_mlflow.cli.console import paint
from ilp_mlflow.scoring import scorer
from tests.cli.commands import ilp, stage
from tests.conftest import edit_yaml, rows, write_jsonl

LONG = "非常に長い名前のサンプル" * 5


def fits(text):
    """Lines that are no addresses to be opened stay within 80 columns."""
    wide = [line for line in text.splitlines() if "://" not in line and cell_len(line) > 80]
    assert not wide
    return text


def test_every_command_is_told_in_a_whole_sentence(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = ilp("--help")
    told = fits(out).partition("Commands:\n")[2].splitlines()
    assert len(told) == len(main.commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in told)


@pytest.mark.slow
def test_every_table_fits_80_columns_whatever_the_names(
    experiment_file, store, tmp_path, tiny_model
):
    name = (
        "a-very-long-name-of-a-stage-that-somebody-chose-without-thinking-of-the-width-of-terminals"
    )
    for file in ("first", "second"):
        write_jsonl(
            tmp_path / f"{file}.jsonl",
            [row | {"id": f"{row['id']} {LONG}"} for row in rows(prefix=f"{file} ")],
        )
    edit_yaml(stage(experiment_file, name=name), mitigations=["control"])
    code, out, err = ilp("run", experiment_file)
    assert code == 0, err
    assert LONG[:10] in fits(out)
    assert "control" in out
    first, second = (
        json.loads(ilp("report", experiment_file, "--json")[1])["run_id"] for _ in range(2)
    )
    score = ["score", "--checkpoint", f"base={tiny_model}", "--checkpoint", f"{name}={tiny_model}"]
    data = ["--data", tmp_path / "first.jsonl", "--out", "scores.parquet"]
    for words in (
        ["train", experiment_file],
        ["stages"],
        ["compare", first, second],
        ["doctor"],
        ["plugins"],
        [*score, *data],
    ):
        code, out, err = ilp(*words)
        assert code == 0, err
        assert fits(out)


@pytest.fixture
def noise(monkeypatch):
    """Has scoring print, warn and log."""
    real = scorer.score_tokens

    def noisy(*args, **kwargs):
        print("noise")
        warnings.warn("noise", stacklevel=1)
        logging.getLogger("ilp_mlflow.scoring.scorer").warning("noise")
        return real(*args, **kwargs)

    monkeypatch.setattr(scorer, "score_tokens", noisy)


@pytest.mark.slow
def test_json_is_one_document_whatever_else_is_printed(experiment_file, store, noise):
    code, out, err = ilp("run", experiment_file, "--json")
    assert code == 0, err
    assert json.loads(out)["name"] == "tiny"
    assert "noise" in err


@pytest.mark.slow
def test_quiet_leaves_result_and_errors(experiment_file, store, noise, capfd):
    assert ilp("train", experiment_file)[0] == 0
    code, out, err = ilp("diagnose", experiment_file, "--quiet")
    assert (code, err, capfd.readouterr().err.count("noise")) == (0, "", 0)
    assert "samples by status:" in out
    code, out, err = ilp("diagnose", experiment_file, "--run-id", "nothing", "--quiet")
    assert (code, out) == (2, "")
    assert "nothing" in err
    assert logging.getLogger("ilp_mlflow.scoring.scorer").isEnabledFor(logging.WARNING)


def test_no_number_is_null(capsys):
    import click

    from ilp_mlflow.cli.console import output_options, print_result

    command = click.command()(output_options(lambda: print_result({"x": float("nan")}, "")))
    command(["--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == {"x": None}


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint("x", "cyan") == "x"
    monkeypatch.setattr(sys, "stdout", terminal)
    assert paint("x", "cyan") == "\x1b[36m\x1b[1mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "cyan") == "x"


@pytest.mark.slow
def test_a_summary_to_paste_holds_no_sample(experiment_file, store):
    assert ilp("run", edit_yaml(experiment_file, mitigations=["control"]))[0] == 0
    code, out, err = ilp("report", experiment_file, "--markdown")
    assert code == 0, err
    assert "samples (" in out
    assert "torch " in out
    assert "| control |" in out
    assert "num_train_epochs: 2" in out
    assert not any(
        row[key].strip() in out
        for row in rows("first ") + rows("second ")
        for key in ("id", "prompt", "completion")
    )
