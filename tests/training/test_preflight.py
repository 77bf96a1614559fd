"""What is wrong with an experiment is said before a run is started."""

import pytest
from mlflow import MlflowClient

from ilp_mlflow.core import config
from ilp_mlflow.core.errors import ConfigError, DatasetError, IlpError, ModelError, PluginError
from ilp_mlflow.core.values import Checkpoint
from ilp_mlflow.training.preflight import check_experiment, check_trained_elsewhere
from tests.conftest import edit_yaml, rows, write_jsonl


def changed_stage(file, **changes):
    """The experiment with other options of its second stage."""
    experiment = config.read(file)
    second = experiment.stages[1]
    second = second.model_copy(update={"training": {**second.training, **changes}})
    return experiment.model_copy(update={"stages": (experiment.stages[0], second)})


def test_the_stages_come_with_their_data_and_seed(experiment_file, store):
    stages = check_experiment(config.read(edit_yaml(experiment_file, seed=3)))
    assert [(s.name, len(s.samples), s.training["seed"]) for s in stages] == [
        ("first", 8, 3),
        ("second", 8, 3),
    ]
    assert MlflowClient().search_registered_models() == []


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"launch": "project"}, ConfigError, "needs an MLproject file"),
        ({"diagnostics": ["no_such"]}, PluginError, "no_such"),
        ({"scoring": {"verdicts": "lng"}}, PluginError, "verdict 'lng' is not installed"),
        ({"scoring": {"verdicts": "verify:no.check"}}, PluginError, "cannot be imported"),
        ({"scoring": {"verdicts": {"frist": "long"}}}, ConfigError, "did you mean 'first'"),
        ({"held_out": "nowhere.jsonl"}, DatasetError, "nowhere.jsonl"),
        ({"model": "nowhere/model"}, ModelError, "nowhere/model"),
    ],
)
def test_each_part_of_the_experiment_is_checked(experiment_file, store, change, error, expected):
    with pytest.raises(error, match=expected):
        check_experiment(config.read(edit_yaml(experiment_file, **change)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"learning_rat": 1}, "stage 'second': training.learning_rat: unknown option"),
        ({"max_length": 3}, "8 of 8 samples have no token to learn from"),
    ],
)
def test_the_options_of_every_stage_are_checked(experiment_file, store, options, expected):
    with pytest.raises(IlpError, match=expected):
        check_experiment(changed_stage(experiment_file, **options))


def test_an_id_may_be_in_one_stage_only(experiment_file, store, tmp_path):
    write_jsonl(tmp_path / "second.jsonl", [*rows("second ")[1:], rows("first ")[0]])
    with pytest.raises(DatasetError, match="id 'first France' is also in stage 'first'"):
        check_experiment(config.read(experiment_file))


def test_which_tokens_are_trained_is_known_before_there_is_a_run(experiment_file, store, tmp_path):
    only_assistant = changed_stage(experiment_file, assistant_only_loss=True)
    with pytest.raises(ConfigError, match="'second': assistant_only_loss is for conversations"):
        check_experiment(only_assistant)
    question, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    for name in ("first", "second"):
        turns = [question, {**answer, "weight": 0}, question, answer]
        write_jsonl(tmp_path / f"{name}.jsonl", [{"messages": turns}])
    with pytest.raises(ConfigError, match=r"needs a chat template with {% generation %} markers"):
        check_experiment(only_assistant)
    whole = changed_stage(experiment_file, completion_only_loss=False)
    with pytest.raises(ConfigError, match="not known which tokens these are"):
        check_experiment(whole)


def test_an_adapter_is_no_model_to_start_from(experiment_file, store, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is an adapter; give the model it was trained on"):
        check_experiment(config.read(experiment_file), str(adapter))


def test_models_trained_elsewhere_are_all_looked_at(experiment_file, store, tiny_model, tmp_path):
    experiment = config.read(experiment_file)
    base = Checkpoint(name="base", model_uri=str(tiny_model))
    first = Checkpoint(name="first", model_uri=str(tiny_model))
    stages = check_trained_elsewhere(experiment, [base, first])
    assert [s.name for s in stages] == ["first", "second"]
    missing = Checkpoint(name="gone", model_uri=str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="nowhere"):
        check_trained_elsewhere(experiment, [base, missing, first])


def test_held_out_rows_that_are_trained_are_said_before_anything_is(
    experiment_file, store, tmp_path, capsys
):
    write_jsonl(tmp_path / "held.jsonl", [*rows("second ")[:2], *rows("third ")[:1]])
    check_experiment(config.read(edit_yaml(experiment_file, held_out="held.jsonl")))
    said = capsys.readouterr().err
    assert "2 of 3 held-out rows are also trained: what is lost on them is not measured" in said
    write_jsonl(tmp_path / "other.jsonl", rows("third "))
    check_experiment(config.read(edit_yaml(experiment_file, held_out="other.jsonl")))
    assert "held-out" not in capsys.readouterr().err
