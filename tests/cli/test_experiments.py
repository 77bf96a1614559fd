"""The commands of an experiment: documents, messages, exit codes. Every message about bad input is one line that names the place."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from mlflow import MlflowClient

from ilp_mlflow.cli import experiments
from ilp_mlflow.mitigation.confirm.arms import Cost
from tests.cli.commands import document, ilp, stage
from tests.conftest import edit_yaml, rows, write_jsonl


def training(path, **changes):
    """Change training options of the first stage."""
    options = yaml.safe_load(path.read_text())["stages"][0]["training"]
    return stage(path, training={**options, **changes})


def bad_row(name, line):
    def change(file, tmp_path, model):
        (tmp_path / "second.jsonl").write_bytes(line)
        return ["run", file]

    change.__name__ = name
    return change


def case(name, *arguments, edit=lambda file, tmp_path, model: None):
    """A bad input: how to spoil the experiment, and what to call then (`FILE` is the experiment)."""

    def change(file, tmp_path, model):
        edit(file, tmp_path, model)
        return [file if a == "FILE" else a for a in arguments or ("run", "FILE")]

    change.__name__ = name
    return change


def pickled(file, tmp_path, model):
    shutil.copytree(model, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    edit_yaml(file, model=str(tmp_path / "pickled"))


def adapter_as_model(file, tmp_path, model):
    shutil.copytree(model, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(model)})
    )
    (tmp_path / "adapter" / "adapter_model.safetensors").touch()
    edit_yaml(file, model=str(tmp_path / "adapter"))


GOOD = b'{"id": "x", "prompt": "p", "completion": "c"}\n'
BAD = [
    (
        bad_row("truncated_json", GOOD + b'{"prompt": "p", "comp'),
        "second.jsonl line 2: not valid JSON",
    ),
    (
        bad_row("not_utf8", b'{"prompt": "\xff", "completion": "c"}'),
        "second.jsonl line 1: not UTF-8",
    ),
    (bad_row("missing_field", b'{"prompt": "p"}'), "second.jsonl line 1: no 'completion'"),
    (
        bad_row("empty_completion", GOOD + b'{"prompt": "p", "completion": " "}'),
        "line 2: completion is empty",
    ),
    (bad_row("wrong_type", b'{"prompt": 1, "completion": "c"}'), "line 1: prompt must be text"),
    (bad_row("duplicate_id", GOOD + GOOD), "line 2: id 'x' was given in"),
    (
        bad_row("id_of_another_stage", b'{"id": "first France", "prompt": "p", "completion": "c"}'),
        "is also in stage 'first'",
    ),
    (
        case("no_data_file", edit=lambda f, t, m: stage(f, data="none.jsonl")),
        "none.jsonl: no such file",
    ),
    (case("no_experiment_file", "run", "none.yaml"), "none.yaml: No such file"),
    (case("rows_for_an_experiment", "run", "rows.jsonl"), "rows.jsonl: these are rows"),
    (case("not_yaml", edit=lambda f, t, m: f.write_text("name: [")), "line 1: not valid YAML"),
    (case("unknown_key", edit=lambda f, t, m: edit_yaml(f, stagse=[])), "did you mean 'stages'?"),
    (
        case("unknown_training_option", edit=lambda f, t, m: training(f, lerning_rate=1)),
        "did you mean 'learning_rate'?",
    ),
    (
        case("bad_training_value", edit=lambda f, t, m: training(f, lr_scheduler_type="no")),
        "training: SFTConfig refuses it",
    ),
    (
        case("packing", edit=lambda f, t, m: training(f, packing=True)),
        "training.packing cannot be set",
    ),
    (
        case(
            "unknown_peft_option",
            edit=lambda f, t, m: (
                stage(f, peft={"rank": 2}, adapter="new") and stage(f, 1, adapter="new")
            ),
        ),
        "unknown option of LoraConfig",
    ),
    (
        case("no_supervised_token", edit=lambda f, t, m: training(f, max_length=3)),
        "have no token to learn from",
    ),
    (case("nothing_to_agree_to", "diagnose", "FILE", "--yes"), "give --confirm N, too"),
    (
        case(
            "confirm_what_was_trained_elsewhere",
            *["diagnose", "--checkpoint", "a=b", "--confirm", "3"],
        ),
        "nobody knows how the models of --checkpoint were trained",
    ),
    (case("confirm_a_negative_number", "diagnose", "FILE", "--confirm", "-1"), "--confirm"),
    (case("bad_seed", "run", "FILE", "--seed", "many"), "parameter seed"),
    (case("bad_launch", "run", "FILE", "--launch", "kubernetes"), "parameter launch"),
    (
        case("launch_without_project", "run", "FILE", "--launch", "project"),
        "needs an MLproject file",
    ),
    (
        case("no_such_model", "run", "FILE", "--model", "no-such/model"),
        "no-such/model: cannot be read",
    ),
    (case("no_such_model_folder", "run", "FILE", "--model", "./no/such/folder"), "no such folder"),
    (
        case("no_such_registered_model", "run", "FILE", "--model", "models:/none@latest"),
        "'models:/none@latest' is not in",
    ),
    (case("pickled_weights", edit=pickled), "only pickled weights"),
    (case("adapter_as_model", edit=adapter_as_model), "is an adapter"),
    (
        case("no_such_device", edit=lambda f, t, m: edit_yaml(f, scoring={"device": "cuda"})),
        "device 'cuda' is not available",
    ),
    (
        case("unknown_mitigation", edit=lambda f, t, m: edit_yaml(f, mitigations=["contrl"])),
        "did you mean 'control'?",
    ),
    (
        case("unknown_diagnostic", edit=lambda f, t, m: edit_yaml(f, diagnostics=["guess"])),
        "diagnostic 'guess' is not installed",
    ),
    (
        case(
            "unknown_plugin_option",
            edit=lambda f, t, m: edit_yaml(f, mitigations={"replay": {"shar": 0.1}}),
        ),
        "has no option 'shar'; did you mean 'share'?",
    ),
    (
        case(
            "tracking_unreachable",
            edit=lambda f, t, m: edit_yaml(f, tracking={"uri": "http://127.0.0.1:9"}),
        ),
        "http://127.0.0.1:9",
    ),
    (case("unknown_stage", "stage", "FILE", "--stage", "frist"), "did you mean 'first'?"),
    (case("stage_without_its_parent", "stage", "FILE", "--stage", "second"), "tiny.first@latest"),
    (case("nothing_to_diagnose", "diagnose", "FILE"), "run 'ilp train' first"),
    (case("nothing_to_report", "report"), "give an experiment file, or the id of a run"),
    (case("unknown_run", "report", "FILE", "--run-id", "abc"), "abc"),
    (case("missing_argument", "run"), "see 'ilp run --help'"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "expected"), BAD, ids=[change.__name__ for change, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    change, expected, experiment_file, refused, tmp_path, tiny_model
):
    refused(change(experiment_file, tmp_path, tiny_model), expected)


@pytest.mark.slow
def test_the_verbs_one_by_one_print_one_json_document_each(experiment_file, store):
    trained = document("train", experiment_file)
    assert [c["name"] for c in trained["checkpoints"]] == ["base", "first", "second"]
    report = document("diagnose", experiment_file)
    assert report["run_id"] == trained["run_id"]
    assert len(report["verdicts"]) == 16
    mitigated = document("mitigate", edit_yaml(experiment_file, mitigations=["control"]))
    assert mitigated["outcomes"][0]["mitigation"] == "control"
    again = document("report", experiment_file, "--run-id", trained["run_id"])
    assert again["retention"] == report["retention"]
    second = document("stage", experiment_file, "--stage", "second", "--seed", "3")
    assert second["model_uri"] == "models:/tiny.second/2"


@pytest.mark.slow
def test_a_step_that_fails_alone_still_leaves_a_report(experiment_file, store, monkeypatch):
    from ilp_mlflow.mitigation import search

    monkeypatch.setattr(search, "checked_plan", lambda *a: {}["boom"])
    code, out, err = ilp("run", edit_yaml(experiment_file, mitigations=["control"]), "--json")
    assert code == 3
    assert json.loads(out)["outcomes"] == []
    assert (
        "mitigation 'control' failed: KeyError: 'boom' (traceback: ilp/error.txt of its run)" in err
    )


@pytest.mark.slow
def test_a_run_ends_with_the_verdict_table_and_the_way_into_the_ui(experiment_file, store):
    code, out, err = ilp("run", experiment_file)
    assert code == 0, err
    assert err == ""
    assert "samples by status:" in out
    assert "learned, % of" in out
    assert f"mlflow ui --backend-store-uri {store}" in out
    assert "?workflowType=machine_learning" in out
    assert max(len(line) for line in out.splitlines() if "://" not in line) <= 80


@pytest.mark.slow
def test_a_part_of_a_run_is_told_from_the_run(experiment_file, store):
    run_id = json.loads(ilp("run", experiment_file, "--json")[1])["run_id"]
    (part,) = (
        r for r in MlflowClient().search_runs(["1"]) if r.data.tags["ilp.kind"] == "diagnosis"
    )
    code, _, err = ilp("report", "--run-id", part.info.run_id)
    assert code == 2
    assert f"it is a part of run {run_id}: give that one" in err


@pytest.mark.parametrize("command", ["report", "diagnose"])
def test_to_ask_for_a_run_makes_no_store(command, no_store):
    code, _, err = ilp(command, "--run-id", "deadbeef")
    assert code == 2
    assert "run deadbeef: there is no sqlite:///" in err
    assert not no_store.exists()


def test_a_missing_folder_of_a_model_and_a_file_with_a_sign_in_its_name_are_told(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a=b.jsonl", rows())
    given = [
        "diagnose",
        "--checkpoint",
        "base=a/b",
        "--checkpoint",
        "sft=c/d",
        "--data",
        "./a=b.jsonl",
    ]
    assert "or write sft=./a=b.jsonl for a file of that name" in ilp(*given)[2]
    given[4] = "sft=./nothing"
    assert "./nothing: no such folder; check the path" in ilp(*given)[2]


def test_small_trainings_are_asked_for_on_a_terminal_alone(monkeypatch, capsys):
    cost = Cost(samples=3, trainings={"first": 2}, rows=9, steps=40, seconds=200)
    asked = []
    monkeypatch.setattr(
        experiments.click, "confirm", lambda text, err: bool(asked.append(text)) or err
    )
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    assert experiments._agree(cost, yes=False)
    assert cost.sentence in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    assert experiments._agree(cost, yes=True)
    assert asked == []
    assert experiments._agree(cost, yes=False)
    (question,) = asked
    assert "3 samples" in question
    assert "2 small trainings (2 of 'first')" in question
    assert "about 3 min" in question
