"""Models trained elsewhere, as a user gives them: folders of a trainer, rows, no experiment file."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ilp_mlflow.data import checkpoint_folders
from ilp_mlflow.diagnosis.attribution import NO_LEDGER_FACTOR
from ilp_mlflow.tracking import runs
from tests.cli.commands import ilp
from tests.conftest import edit_yaml, rows, write_jsonl


@pytest.fixture(scope="module")
def trl(tiny_model, tmp_path_factory):
    """The output folder of TRL's own trainer after 6 steps of LoRA, with a checkpoint every 2."""
    import datasets
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    folder = tmp_path_factory.mktemp("trl")
    options = {
        "max_steps": 6,
        "save_steps": 2,
        "learning_rate": 0.03,
        "per_device_train_batch_size": 4,
        "report_to": "none",
    }
    trainer = SFTTrainer(
        str(tiny_model),
        SFTConfig(output_dir=str(folder), bf16=False, gradient_checkpointing=False, **options),
        train_dataset=datasets.Dataset.from_list(
            [{k: r[k] for k in ("prompt", "completion")} for r in rows()]
        ),
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    return folder


@pytest.fixture
def data(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", rows())


def diagnosed(*arguments):
    code, out, err = ilp("diagnose", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def named(found):
    return [c["name"] for c in found["checkpoints"]]


def test_an_output_folder_of_trl_is_diagnosed_without_an_experiment(trl, tiny_model, data, store):
    found = diagnosed(
        "--checkpoint", f"base={tiny_model}", "--checkpoint", f"sft={trl}", "--data", data
    )
    assert named(found) == ["base", "sft@2", "sft@4", "sft"]  # checkpoint-6 is the final adapter
    assert [c["step"] for c in found["checkpoints"]] == [None, 2, 4, None]
    assert found["retention"].keys() == {"sft"}
    assert len(found["verdicts"]) == 8
    assert found["unavailable"] == ["exposures", "signals"]
    assert found["diagnoses"]
    client = MlflowClient()
    run = client.get_run(found["run_id"])
    assert (run.info.status, run.data.tags["ilp.trained"]) == ("FINISHED", "elsewhere")
    assert client.get_experiment(run.info.experiment_id).name == "elsewhere"
    assert {"unlearned_rate", "learned/sft", "forgetting/sft"} <= set(run.data.metrics)
    logged = {f.path.removeprefix("ilp/") for f in client.list_artifacts(found["run_id"], "ilp")}
    tables = {f"{name}.parquet" for name in ("samples", "scores", "options", "diagnosis")}
    tables |= {"judgements.parquet", "tokens.parquet", "answer_texts.parquet"}
    tables.add("first_choices.parquet")
    texts = {
        "experiment.yaml",
        "accounts.parquet",
        "checkpoints.json",
        "diagnosis.json",
        "diagnoses.json",
        "findings.json",
        "outcomes.json",
        "requests.json",
        "report.json",
        "self_check.json",
        "training_logs.json",
        "weights.json",
    }
    assert logged == {*tables, *texts, "report.html"}
    scores = runs.read_table(found["run_id"], "scores.parquet")
    assert scores.num_rows == 8 * 4
    assert len({tuple(scores["logprob"].to_pylist()[i : i + 8]) for i in range(0, 32, 8)}) == 4


def test_the_report_says_what_is_not_known_once_and_is_shown_again_by_its_run(
    trl, tiny_model, data, store
):
    code, out, err = ilp(
        "diagnose",
        "--checkpoint",
        f"base={tiny_model}",
        "--checkpoint",
        f"sft={trl}",
        "--data",
        data,
    )
    assert (code, err) == (0, "")
    assert out.count("No training ledger:") == out.count("No training signals:") == 1
    assert "?workflowType=machine_learning" in out
    run_id = out.split("runs/")[1].split("?")[0]
    page = runs.read(run_id, "report.html")
    assert page.count("No training ledger:") == page.count("No training signals:") == 1
    assert ilp("report", "--run-id", run_id)[1] == out
    assert "No training ledger:" in MlflowClient().get_run(run_id).data.tags["mlflow.note.content"]


@pytest.mark.long
def test_the_same_checkpoints_and_rows_are_diagnosed_as_in_an_experiment_without_a_ledger(
    experiment_file, store, tmp_path
):
    code, out, err = ilp("run", experiment_file, "--json")
    assert code == 0, err
    traced = json.loads(out)
    assert traced["unavailable"] == []
    for name in ("exposures", "signals"):
        next(Path.cwd().rglob(f"{traced['run_id']}/artifacts/ilp/{name}.parquet")).unlink()
    models = [f"--checkpoint={c['name']}={c['model_uri']}" for c in traced["checkpoints"]]
    data = [f"--data={name}={tmp_path / name}.jsonl" for name in ("first", "second")]
    for preset in ("paper", "default"):
        untraced = diagnosed(edit_yaml(experiment_file, scoring={"preset": preset}))
        alone = diagnosed(*models, *data, "--preset", preset)
        for key in (
            "diagnoses",
            "verdicts",
            "histories",
            "retention",
            "recognition",
            "unavailable",
        ):
            assert alone[key] == untraced[key], key
        if preset == "paper":
            assert {d["strength"] for d in alone["diagnoses"]} == {NO_LEDGER_FACTOR}
    for one, other in zip(traced["diagnoses"], alone["diagnoses"], strict=True):
        # a fault of the training is read from its log, which only the run has
        causes = {k: v for k, v in one["evidence"].items() if "fault" not in v["details"]}
        assert {k: v["strength"] * NO_LEDGER_FACTOR for k, v in causes.items()} == {
            k: v["strength"] for k, v in other["evidence"].items()
        }


def test_an_adapter_whose_base_is_not_here_sits_on_the_first_checkpoint(
    trl, tiny_model, data, store, tmp_path
):
    def moved(below):
        folder = shutil.copytree(trl / "checkpoint-2", tmp_path / "moved", dirs_exist_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(
            json.dumps(config | {"base_model_name_or_path": str(below)})
        )
        return folder

    def scored(folder):
        found = diagnosed(
            "--checkpoint", f"base={tiny_model}", "--checkpoint", f"sft={folder}", "--data", data
        )
        return runs.read_table(found["run_id"], "scores.parquet").to_pylist()

    assert scored(moved(tiny_model)) == scored(moved("/a/folder/of/another/machine"))


def weights(folder, content, name="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
    return folder


def read(*given):
    return {c.name: c.model_uri for c in checkpoint_folders.find_checkpoints(given)}


def test_output_folders_are_read_in_order_and_nothing_twice(tmp_path):
    out = tmp_path / "out"
    for step, content in ((900, "a"), (1000, "b"), (50, "c")):
        weights(out / f"checkpoint-{step}", content, "adapter_model.safetensors")
    (out / "checkpoint-1100").mkdir()  # sharded or half written: nothing in it can be read
    steps = {f"sft@{n}": str(out / f"checkpoint-{n}") for n in (50, 900)}
    last = str(out / "checkpoint-1000")
    assert list(read("b=x/y", f"sft={out}").items()) == list(
        {"b": "x/y", **steps, "sft": last}.items()
    )
    weights(out / "merged", "d")
    assert read("b=x/y", f"sft={out}") == {
        "b": "x/y",
        **steps,
        "sft@1000": last,
        "sft": str(out / "merged"),
    }
    (out / "trainer_state.json").write_text('{"global_step": 1000}')
    assert read("b=x/y", f"sft={out}") == {"b": "x/y", **steps, "sft": str(out / "merged")}
    weights(out, "a", "adapter_model.safetensors")  # the best one, not the last
    assert read("b=x/y", f"sft={out}") == {
        "b": "x/y",
        "sft@50": steps["sft@50"],
        "sft@1000": last,
        "sft": str(out),
    }
    assert read(f"b={out}") == {"b": str(out)}
    assert read("b=x/y", f"sft={last}") == {"b": "x/y", "sft": last}


def test_how_rows_are_read_holds_for_all_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = checkpoint_folders.find_checkpoints(["base=x/y", "a=x/y", "b=x/y"])
    experiment = checkpoint_folders.experiment_for(
        checkpoints,
        ["a=a.json", "b=rows/*.jsonl"],
        rows={"fields": "prompt=q,completion=a", "limit": "3", "format": "", "split": ""},
        chat_template="/own.jinja",
    )
    for stage, path in zip(experiment.stages, ("a.json", "rows/*.jsonl"), strict=True):
        assert stage.data.path == str(tmp_path / path)
        assert stage.data.fields == {"prompt": "q", "completion": "a"}
        assert (stage.data.limit, stage.data.split) == (3, "train")
    assert experiment.tokenizer.chat_template == "/own.jinja"


def case(name, expected, *arguments):
    """What to call (`BASE` is a model, `HERE` a folder with `rows.jsonl`, an experiment and spoilt models) and what is said."""
    return pytest.param(expected, arguments, id=name)


BASE, SFT, DATA = "--checkpoint=base=BASE", "--checkpoint=sft=BASE", "--data=HERE/rows.jsonl"
BAD = [
    case("neither", "give an experiment file; or"),
    case("no_data", "both --checkpoint and --data", BASE, SFT),
    case("no_checkpoint", "both --checkpoint and --data", DATA),
    case("run_id", "without --run-id", BASE, SFT, DATA, "--run-id", "x"),
    case(
        "both",
        "experiment.yaml and --checkpoint: give one of them",
        "HERE/experiment.yaml",
        BASE,
        SFT,
        DATA,
    ),
    case(
        "option_of_the_file",
        "experiment.yaml and --preset: give one",
        "HERE/experiment.yaml",
        "--preset",
        "paper",
    ),
    case(
        "columns_of_the_file",
        "experiment.yaml and --fields: give one",
        "HERE/experiment.yaml",
        "--fields=prompt=q",
    ),
    case("no_template", "a.jinja: no such file", BASE, SFT, DATA, "--chat-template=HERE/a.jinja"),
    case("no_column", "no column 'q' to be read as prompt", BASE, SFT, DATA, "--fields=prompt=q"),
    case("not_named", "write NAME=LOCATION", "--checkpoint=BASE", DATA),
    case(
        "bad_name",
        "letters, digits, '-' and '_', got 'sft@1'",
        BASE,
        "--checkpoint=sft@1=BASE",
        DATA,
    ),
    case("name_twice", "name 'base' is given twice", BASE, BASE, DATA),
    case("reserved_name", "stage name 'base' is reserved", "--checkpoint=start=BASE", BASE, DATA),
    case("base_alone", "'base' is the base; give the models trained from it", BASE, DATA),
    case(
        "rows_of_the_base",
        "'base' is no checkpoint after the base",
        BASE,
        SFT,
        "--data=base=HERE/rows.jsonl",
    ),
    case("rows_of_nobody", "did you mean 'sft'?", BASE, SFT, "--data=stf=HERE/rows.jsonl"),
    case("rows_twice", "'sft' has its rows from", BASE, SFT, DATA, "--data=sft=HERE/rows.jsonl"),
    case("no_rows", "none.jsonl: no such file", BASE, SFT, "--data=HERE/none.jsonl"),
    case(
        "same_ids",
        "is also in stage 'sft'",
        BASE,
        SFT,
        "--checkpoint=dpo=BASE",
        DATA,
        "--data=sft=HERE/rows.jsonl",
    ),
    case(
        "empty_folder",
        "no weights in it, in 'merged' or in a 'checkpoint-N'",
        BASE,
        "--checkpoint=sft=HERE/empty",
        DATA,
    ),
    case("no_folder", "no such folder", BASE, "--checkpoint=sft=./no/such/folder", DATA),
    case("pickled", "only pickled weights", BASE, "--checkpoint=sft=HERE/pickled", DATA),
    case(
        "pickled_adapter",
        "save the adapter as safetensors",
        BASE,
        "--checkpoint=sft=HERE/adapter",
        DATA,
    ),
    case(
        "preset",
        "parameter preset: input should be 'default' or 'paper'",
        BASE,
        SFT,
        DATA,
        "--preset",
        "best",
    ),
    case("options", "parameter options", BASE, SFT, DATA, "--options", "many"),
    case("seed", "parameter seed", BASE, SFT, DATA, "--seed", "-1"),
    case("device", "device 'cuda' is not available", BASE, SFT, DATA, "--device", "cuda"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("expected", "arguments"), BAD)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    expected, arguments, experiment_file, data, store, tmp_path, tiny_model
):
    (tmp_path / "empty").mkdir()
    shutil.copytree(tiny_model, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    weights(tmp_path / "adapter", "", "adapter_model.bin")
    weights(tmp_path / "adapter", "{}", "adapter_config.json")
    code, out, err = ilp(
        "diagnose",
        *(a.replace("BASE", str(tiny_model)).replace("HERE", str(tmp_path)) for a in arguments),
    )
    assert (code, out) == (2, ""), err
    assert expected in err
    assert err.count("\n") == 1
    assert err.startswith("ilp: ")
    client = MlflowClient()
    assert not client.search_runs([e.experiment_id for e in client.search_experiments()])


def test_a_mitigation_needs_to_know_how_models_were_trained(
    trl, tiny_model, data, experiment_file, store
):
    found = diagnosed(
        "--checkpoint",
        f"base={tiny_model}",
        "--checkpoint",
        f"sft={trl / 'checkpoint-2'}",
        "--data",
        data,
    )
    code, _, err = ilp(
        "mitigate", edit_yaml(experiment_file, mitigations=["control"]), "--run-id", found["run_id"]
    )
    assert code == 2
    assert "holds models trained elsewhere" in err


@pytest.mark.long
def test_a_base_without_a_chat_template_is_asked_in_the_words_of_the_last_checkpoint(
    tiny_model, store, tmp_path
):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    (bare / "chat_template.jinja").unlink()
    turns = [
        {
            "id": f"{way}{r['id']}",
            "messages": [
                {"role": "user", "content": way + r["prompt"]},
                {"role": "assistant", "content": "x"},
            ],
        }
        for way in ("", "Please. ", "Now. ")
        for r in rows()
    ]
    data = write_jsonl(tmp_path / "turns.jsonl", turns)
    code, _, err = ilp(
        "diagnose",
        "--checkpoint",
        f"base={bare}",
        "--checkpoint",
        f"sft={tiny_model}",
        "--data",
        data,
    )
    assert code == 0, err
    assert "left out" not in err


def test_an_adapter_can_be_put_on_an_earlier_checkpoint(tmp_path):
    for name in ("first", "second"):
        weights(tmp_path / name, "", "adapter_model.safetensors")
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    arguments = ["base=owner/name", f"first={first}", f"second=first+{second}"]
    found = checkpoint_folders.find_checkpoints(arguments)
    assert [c.model_uri for c in found] == ["owner/name", first, f"{first}+{second}"]
    (_, both) = checkpoint_folders.find_checkpoints(
        ["base=owner/name", f"both=models:/x/1+{first}+{second}"]
    )
    assert both.model_uri == f"models:/x/1+{first}+{second}"
