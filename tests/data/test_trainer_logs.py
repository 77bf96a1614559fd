import json
import math

import pytest

from ilp_mlflow.core.terminal import notes
from ilp_mlflow.data.trainer_logs import choose_settings, read_entries, read_folder_log

HISTORY = [
    {"step": 10, "epoch": 1.0, "loss": 2.0, "grad_norm": 0.5, "learning_rate": 1e-4},
    {"step": 20, "epoch": 2.0, "loss": 1.0, "grad_norm": float("nan"), "learning_rate": 0.0},
    {"step": 20, "epoch": 2.0, "eval_loss": 1.5},
    {"step": 20, "epoch": 2.0, "train_loss": 1.5, "train_runtime": 3.0},
]


def write_state(folder, **changes):
    """Write a trainer_state.json into a folder, as `transformers.Trainer` does."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {"global_step": 20, "max_steps": 20, "log_history": HISTORY, **changes}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


@pytest.fixture
def said(monkeypatch, capsys):
    """What was told on stderr since the test began."""
    monkeypatch.setattr(notes, "_said", set())
    return lambda: capsys.readouterr().err


def test_entries_are_those_of_training_steps():
    entries = read_entries(HISTORY)
    assert [entry.step for entry in entries] == [10, 20]
    assert [entry.loss for entry in entries] == [2.0, 1.0]
    assert math.isnan(entries[1].grad_norm)


@pytest.mark.parametrize("place", ["out", "out/checkpoint-20", "."])
def test_the_state_is_found_in_the_folder_its_newest_step_and_beside_it(tmp_path, place):
    out = tmp_path / "out"
    out.mkdir()
    write_state(tmp_path / place)
    log = read_folder_log("sft", str(out))
    assert (log.stage, log.steps, len(log.entries)) == ("sft", 20, 2)
    assert log.settings["max_steps"] == 20


def test_the_newest_step_is_the_one_with_the_highest_number(tmp_path):
    write_state(tmp_path / "checkpoint-9", global_step=9)
    write_state(tmp_path / "checkpoint-10", global_step=10)
    assert read_folder_log("sft", str(tmp_path)).steps == 10


def test_a_merged_model_has_the_log_of_the_steps_it_was_made_of(tmp_path):
    write_state(tmp_path / "out/checkpoint-20")
    (tmp_path / "out/merged").mkdir()
    assert read_folder_log("sft", str(tmp_path / "out/merged")).steps == 20


def test_the_log_of_a_step_ends_there(tmp_path):
    write_state(tmp_path / "out", best_global_step=5)
    step = tmp_path / "out/checkpoint-10"
    step.mkdir()
    log = read_folder_log("sft", str(step))
    assert (log.steps, log.kept_step, [e.step for e in log.entries]) == (10, None, [10])


def test_the_best_step_is_the_one_that_may_have_been_kept(tmp_path):
    log = read_folder_log("sft", str(write_state(tmp_path, best_global_step=10)))
    assert log.kept_step == 10
    assert [entry.step for entry in log.kept] == [10]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "{}",
        '{"global_step": 1, "log_history": 3}',
        '{"global_step": 1, "log_history": [1]}',
    ],
)
def test_a_state_that_is_none_is_told_and_left_out(tmp_path, said, content):
    (tmp_path / "trainer_state.json").write_text(content)
    assert read_folder_log("sft", str(tmp_path)) is None
    told = said()
    assert str(tmp_path / "trainer_state.json") in told
    assert told.count("\n") == 1


def test_an_odd_state_does_not_hide_a_good_one(tmp_path, said):
    (tmp_path / "trainer_state.json").write_text("[")
    write_state(tmp_path / "checkpoint-20")
    assert read_folder_log("sft", str(tmp_path)).steps == 20


def test_llama_factory_logs_by_lines(tmp_path):
    lines = [{"current_steps": s, "total_steps": 20, "loss": 2 / s, "lr": 0.1} for s in (1, 2)]
    (tmp_path / "trainer_log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    log = read_folder_log("sft", str(tmp_path))
    assert (log.steps, [e.loss for e in log.entries]) == (2, [2.0, 1.0])
    assert log.entries[0].learning_rate == 0.1


def test_the_scale_of_an_adapter_is_known_without_a_log(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 16, "bias": "none"}')
    log = read_folder_log("sft", str(tmp_path))
    assert (log.entries, log.steps, log.settings) == ((), 0, {"r": 8, "lora_alpha": 16})


@pytest.mark.parametrize("location", ["models:/m/1", "org/name", "nowhere"])
def test_nothing_is_known_of_what_is_no_folder_or_has_no_log(tmp_path, location):
    assert read_folder_log("sft", location) is None
    assert read_folder_log("sft", str(tmp_path)) is None


def test_only_plain_values_are_settings():
    options = {"learning_rate": 1e-4, "optim": "sgd", "fp16": False, "max_steps": None, "x": 1}
    expected = {"learning_rate": 1e-4, "optim": "sgd", "fp16": False}
    assert choose_settings(options) == expected
