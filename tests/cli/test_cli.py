"""What a user types: documents, messages, exit codes. Every message about bad input is one line that names the place."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml
from click.testing import CliRunner
from mlflow import MlflowClient

from ilp_mlflow.cli import main
from ilp_mlflow.core import plugin_loader
from ilp_mlflow.diagnosis import causes
from tests.conftest import edit_yaml, rows, write_jsonl


def ilp(*arguments):
    """Run a command in this process; returns exit code, stdout, stderr."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def stage(path, index=0, **changes):
    """Change keys of one stage in an experiment file."""
    stages = yaml.safe_load(path.read_text())["stages"]
    stages[index] |= changes
    return edit_yaml(path, stages=stages)


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
    (
        case(
            "bad_checkpoint",
            "score",
            "--checkpoint",
            "base",
            "--data",
            "x.jsonl",
            "--out",
            "x.parquet",
        ),
        "write NAME=LOCATION",
    ),
    (
        case("no_checkpoint", "score", "--data", "x.jsonl", "--out", "x.parquet"),
        "--checkpoint: missing",
    ),
    (
        case("bad_out", "score", "--checkpoint", "a=b", "--data", "x.jsonl", "--out", "x.txt"),
        "must be a .parquet file",
    ),
    (
        case("unknown_experiment", "stages", "nothing"),
        "no registered stages of experiment 'nothing'",
    ),
    (case("unknown_command", "trian"), "trian"),
    (case("missing_argument", "run"), "see 'ilp run --help'"),
]


@pytest.mark.parametrize(("change", "expected"), BAD, ids=[change.__name__ for change, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    change, expected, experiment_file, store, tmp_path, tiny_model
):
    code, out, err = ilp(*change(experiment_file, tmp_path, tiny_model))
    assert code == 2, err
    assert expected in err
    assert err.count("\n") == 1
    assert err.startswith("ilp: ")
    assert "Traceback" not in err
    assert out == ""
    client = MlflowClient(tracking_uri=store)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert not runs
    assert not client.search_model_versions()


def test_help_is_quick_because_it_imports_nothing_heavy():
    heavy = "torch", "transformers", "trl", "peft", "datasets", "mlflow", "pyarrow", "rich", "numpy"
    code = (
        "import sys\nfrom ilp_mlflow.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_verbs_one_by_one_print_one_json_document_each(experiment_file, store, tmp_path):
    def document(*arguments):
        code, out, err = ilp(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    trained = document("train", experiment_file)
    assert [c["name"] for c in trained["checkpoints"]] == ["base", "first", "second"]
    report = document("diagnose", experiment_file)
    assert report["run_id"] == trained["run_id"]
    assert len(report["verdicts"]) == 16
    assert (
        document("mitigate", edit_yaml(experiment_file, mitigations=["control"]))["outcomes"][0][
            "mitigation"
        ]
        == "control"
    )
    assert (
        document("report", experiment_file, "--run-id", trained["run_id"])["retention"]
        == report["retention"]
    )
    assert [s["stage"] for s in document("stages", experiment_file)] == ["first", "second"]
    assert document("stages", "tiny") == document("stages")
    plugins = document("plugins")
    assert plugins["failed"] == []
    # a cause is one file
    files = {file.stem for file in Path(causes.__file__).parent.glob("[a-z]*.py")}
    assert {p["name"] for p in plugins["plugins"] if p["distribution"] == "ilp-mlflow"} == files
    control = {
        "name": "control",
        "kind": "mitigation",
        "distribution": "ilp-mitigations",
        "options": {},
    }
    assert control in plugins["plugins"]
    assert "answers" in document("doctor")["tracking"]
    again = document("stage", experiment_file, "--stage", "second", "--seed", "3")
    assert again["model_uri"] == "models:/tiny.second/2"


def test_every_option_of_every_plugin_is_explained_within_80_columns():
    code, out, _ = ilp("plugins")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    options = [line for line in out.splitlines() if re.match(r" {6}[\w.]+: ", line)]
    assert len(options) > 30
    fields = [
        f
        for kind in plugin_loader.GROUPS
        for p in plugin_loader.installed(kind)
        for f in p.cls.model_fields.values()
    ]
    assert all(field.description for field in fields)


def test_score_needs_no_experiment(tiny_model, tmp_path, store):
    data = write_jsonl(tmp_path / "rows.jsonl", rows())
    out = tmp_path / "scores.parquet"
    code, text, err = ilp(
        "score", "--checkpoint", f"base={tiny_model}", "--data", data, "--out", out
    )
    assert code == 0, err
    assert "8 samples" in text
    import pyarrow.parquet as pq

    assert pq.read_table(out).num_rows == 8


def test_a_step_that_fails_alone_still_leaves_a_report(experiment_file, store, monkeypatch):
    from ilp_mlflow.mitigation import search

    monkeypatch.setattr(search, "checked_plan", lambda *a: {}["boom"])
    code, out, err = ilp("run", edit_yaml(experiment_file, mitigations=["control"]), "--json")
    assert code == 3
    assert json.loads(out)["outcomes"] == []
    assert (
        "mitigation 'control' failed: KeyError: 'boom' (traceback: ilp/error.txt of its run)" in err
    )


def test_a_run_ends_with_the_verdict_table_and_the_way_into_the_ui(experiment_file, store):
    code, out, err = ilp("run", experiment_file)
    assert code == 0, err
    assert err == ""
    assert "samples by status:" in out
    assert "learned, % of" in out
    assert f"mlflow ui --backend-store-uri {store}" in out
    assert "?workflowType=machine_learning" in out
    assert max(len(line) for line in out.splitlines() if "://" not in line) <= 80


def test_alone_it_says_what_it_can():
    code, out, err = ilp()
    assert (code, out) == (2, "")
    assert len(err.splitlines()) > 10
    assert "Commands:" in err


def test_a_part_of_a_run_is_told_from_the_run(experiment_file, store):
    run_id = json.loads(ilp("run", experiment_file, "--json")[1])["run_id"]
    (part,) = (
        r for r in MlflowClient().search_runs(["1"]) if r.data.tags["ilp.kind"] == "diagnosis"
    )
    code, _, err = ilp("report", "--run-id", part.info.run_id)
    assert code == 2
    assert f"it is a part of run {run_id}: give that one" in err


def test_to_ask_for_a_run_makes_no_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    for words in (
        ["report", "--run-id", "deadbeef"],
        ["compare", "deadbeef", "b"],
        ["diagnose", "--run-id", "deadbeef"],
    ):
        code, _, err = ilp(*words)
        assert code == 2
        assert "run deadbeef: there is no sqlite:///" in err
    assert not (tmp_path / "mlflow.db").exists()


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
