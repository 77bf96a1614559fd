"""IlpCallback in anyone's own SFTTrainer."""

import re

import datasets
import mlflow
import pytest
import torch
from click.testing import CliRunner
from mlflow import MlflowClient
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from ilp_mlflow import ConfigError, DatasetError, IlpCallback, TrackingError, pipeline
from ilp_mlflow.cli import main
from ilp_mlflow.diagnosis.context import read_logs
from ilp_mlflow.scoring import scorer
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.tokens import token_trees
from ilp_mlflow.scoring.tokens.encoding import encode, load_tokenizer
from ilp_mlflow.tracking import model_registry, runs
from tests.conftest import rows
from tests.training.test_trainer import PEFT, TRAINING, stage, weights

ROWS = datasets.Dataset.from_list(rows())


def turned(records):
    return [
        {
            "id": r["id"],
            "messages": [
                {"role": "user", "content": r["prompt"]},
                {"role": "assistant", "content": r["completion"]},
            ],
        }
        for r in records
    ]


def trainer(model, out, callbacks, data=ROWS, peft=None, **args):
    options = {
        **TRAINING,
        "output_dir": str(out),
        "report_to": "none",
        "save_strategy": "no",
        "seed": 0,
        "logging_steps": 1,
    }
    return SFTTrainer(
        str(model),
        SFTConfig(**{**options, **args}),
        train_dataset=data,
        callbacks=callbacks,
        peft_config=peft and LoraConfig(task_type="CAUSAL_LM", **peft),
    )


def trained(model, out, data=ROWS, peft=None, given=None, **args):
    ilp = IlpCallback(data, **(given or {}))
    whole = trainer(model, out, [ilp], data, peft, **args)
    whole.train()
    assert ilp.report
    return ilp.report, whole


@pytest.mark.slow
@pytest.mark.parametrize("peft", [{**PEFT, "lora_dropout": 0.3}, None])
def test_a_trainer_is_followed_registered_and_diagnosed_and_its_weights_stay_the_same(
    tiny_model, store, tmp_path, peft, capsys
):
    with mlflow.start_run():
        found, ours = trained(tiny_model, tmp_path, peft=peft, weight_decay=0.1)
        state = torch.random.get_rng_state()
    bare = trainer(tiny_model, tmp_path, [], peft=peft, weight_decay=0.1)
    bare.train()
    assert torch.equal(state, torch.random.get_rng_state())
    one, other = weights(ours.model), weights(bare.model)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in other)

    exposures = runs.read_table(found.run_id, "exposures.parquet").to_pylist()
    assert [(e["sample_id"], e["exposures"], e["truncated_tokens"]) for e in exposures] == [
        (r["id"], 3, 0) for r in rows()
    ]
    signals = runs.read_table(found.run_id, "signals.parquet")
    assert signals["step"].to_pylist() == [s for s in range(1, 7) for _ in range(4)]
    logged = MlflowClient().get_run(found.run_id).data
    assert found.unavailable == ()
    assert not found.repeatable
    assert "No mitigation can be tried" in runs.read(found.run_id, "report.html")
    assert (logged.params["ilp.sft.num_train_epochs"], logged.params["ilp.sft.weight_decay"]) == (
        "3",
        "0.1",
    )
    assert "num_train_epochs: 3" in found.settings
    assert ("r: 4" in found.settings) is (peft is not None)
    assert found.unlearned_rate == logged.metrics["unlearned_rate"]
    assert runs.has(found.run_id, "report.html")
    version = MlflowClient().get_model_version("trl.sft", "1")
    assert version.tags["ilp.run_id"] == found.run_id
    loaded = loading.load_model(model_registry.resolve_parts("models:/trl.sft/1")).model
    again = {k: v for k, v in loaded.named_parameters() if "lora" in k or not peft}
    assert all(torch.equal(v, one[k]) for k, v in again.items())
    said = capsys.readouterr().err
    assert "samples" in said
    assert f"mlflow ui --backend-store-uri {store}" in said
    with pytest.raises(TrackingError, match="trained elsewhere, so no mitigation"):
        pipeline.mitigate(runs.read_experiment(None, found.run_id), found.run_id, tmp_path)


def test_an_mlflow_that_does_not_answer_is_told_before_the_first_step(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(
        mlflow.tracking._tracking_service.utils, "_tracking_uri", "http://127.0.0.1:9"
    )
    whole = trainer(tiny_model, tmp_path, [IlpCallback(ROWS, base=str(tiny_model))])
    with pytest.raises(TrackingError, match="does not answer; check that it is up"):
        whole.train()
    assert whole.state.global_step == 0


def test_rows_may_be_a_data_set_of_mlflow():
    assert IlpCallback(mlflow.data.from_huggingface(ROWS)).samples == IlpCallback(ROWS).samples


@pytest.mark.slow
def test_signals_are_the_loss_of_each_sample_before_its_step(tiny_model, store, tmp_path):
    data = ROWS.remove_columns("id")
    options = {
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 3,
        "train_sampling_strategy": "sequential",
    }
    found, _ = trained(tiny_model, tmp_path, data, PEFT, {"stage": "s"}, **options)
    signals = runs.read_table(found.run_id, "signals.parquet").to_pylist()
    assert [s["step"] for s in signals] == [1] * 6 + [2] * 2 + [3] * 6 + [4] * 2 + [5] * 6 + [6] * 2
    assert [s["sample_id"] for s in signals] == [f"s/{n}" for n in range(1, 9)] * 3
    loaded = loading.load_model([str(tiny_model)])
    plan = token_trees.plan_batches(
        stage([{k: r[k] for k in ("prompt", "completion")} for r in rows()]).samples,
        {},
        loaded,
        2048,
    )
    expected = {s.sample_id: s for s in scorer.score_samples(plan, loaded, "base")}
    for row, signal in enumerate(signals[:6]):
        score = expected[f"s/{row}"]
        assert signal["loss"] == pytest.approx(-score.logprob / score.tokens, abs=1e-4)
        assert signal["token_accuracy"] == pytest.approx(score.token_accuracy)


@pytest.mark.slow
def test_conversations_are_followed_by_their_answer(tiny_model, store, tmp_path):
    found, _ = trained(tiny_model, tmp_path, datasets.Dataset.from_list(turned(rows())), PEFT)
    counted = {
        e["sample_id"]: e["supervised_tokens"]
        for e in runs.read_table(found.run_id, "exposures.parquet").to_pylist()
    }
    tokenizer = load_tokenizer([str(tiny_model)])
    assert counted == {
        r["id"]: len(tokenizer(r["completion"] + "<|end|>")["input_ids"]) for r in rows()
    }  # neither the question's nor what the template adds behind the end


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_cut_dropped_and_equal_rows_are_counted_as_they_were(tiny_model, store, tmp_path, mode):
    lost = {"id": "lost", "prompt": "x" * 70, "completion": " y"}
    cut = {"id": "cut", "prompt": "The capital of France is", "completion": " Paris" * 40}
    data = datasets.Dataset.from_list([lost, cut, *rows(), {**rows()[0], "id": "twin"}])
    found, _ = trained(
        tiny_model, tmp_path, data, PEFT, max_length=40, truncation_mode=mode, shuffle_dataset=True
    )
    by_id = {
        e["sample_id"]: e for e in runs.read_table(found.run_id, "exposures.parquet").to_pylist()
    }
    assert [by_id[i]["exposures"] for i in ("France", "twin", "cut", "Korea")] == [3] * 4
    assert by_id["lost"]["exposures"] == (0 if mode == "keep_start" else 3)
    assert by_id["lost"]["truncated_tokens"] > 0
    tokenizer = load_tokenizer([str(tiny_model)])
    whole = encode(tokenizer, cut["prompt"], cut["completion"], frozenset())
    assert by_id["cut"]["truncated_tokens"] == len(whole.ids) - 40 > 0
    # cut in front, the row is all answer, and its first token is not predicted from anything
    expected = 40 - whole.start if mode == "keep_start" else 39
    assert by_id["cut"]["supervised_tokens"] == expected < len(whole.ids) - whole.start
    assert by_id["France"]["truncated_tokens"] == 0
    if mode == "keep_start":
        assert {d.cause for d in found.diagnoses if d.verdict.sample_id == "lost"} == {
            "not_trained"
        }


@pytest.mark.slow
def test_what_is_evaluated_meanwhile_is_no_training(tiny_model, store, tmp_path):
    ilp = IlpCallback(ROWS)
    one = trainer(tiny_model, tmp_path, [], peft=PEFT, num_train_epochs=1)
    one.add_callback(ilp)
    one.eval_dataset = one.train_dataset
    one.args.eval_strategy, one.args.eval_steps = "steps", 1
    one.train()
    assert sum("eval_loss" in entry for entry in one.state.log_history) == 2
    exposures = runs.read_table(ilp.report.run_id, "exposures.parquet")["exposures"].to_pylist()
    assert exposures == [1] * 8


def history(run_id, key):
    return [(m.step, m.value) for m in MlflowClient().get_metric_history(run_id, key)]


def alone(tiny_model, tmp_path, **args):
    """Params, metrics and their histories of the same training without us."""
    with mlflow.start_run() as run:
        trainer(tiny_model, tmp_path, [], peft=PEFT, **args).train()
    data = MlflowClient().get_run(run.info.run_id).data
    return data.params, data.metrics, history(run.info.run_id, "loss")


def all_runs():
    """All runs but those that are below another."""
    found = MlflowClient().search_runs(
        [e.experiment_id for e in MlflowClient().search_experiments()]
    )
    return [run for run in found if "mlflow.parentRunId" not in run.data.tags]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "own"),
    [
        ("report_to", True),
        ("report_to", False),
        ("autolog", True),
        ("autolog", False),
        ("both", True),
    ],
)
def test_beside_mlflow_of_transformers_nothing_is_lost_and_nothing_is_there_twice(
    tiny_model, store, tmp_path, way, own
):
    args = {"report_to": "mlflow"} if way != "autolog" else {}
    if way != "report_to":
        mlflow.autolog(silent=True)
    try:
        params, metrics, losses = alone(tiny_model, tmp_path, **args)
        assert losses
        before = len(all_runs())
        ilp = IlpCallback(ROWS)
        if own:
            with mlflow.start_run(description="Mine.") as run:
                mlflow.log_params({"mine": 1})
                trainer(tiny_model, tmp_path, [ilp], peft=PEFT, **args).train()
                mlflow.log_metric("after", 2)
            assert run.info.run_id == ilp.report.run_id
            params, metrics = params | {"mine": "1"}, metrics | {"after": 2.0}
        else:
            trainer(tiny_model, tmp_path, [ilp], peft=PEFT, **args).train()
    finally:
        mlflow.autolog(disable=True, silent=True)
    assert len(all_runs()) == before + 1  # one run: the user's
    assert mlflow.active_run() is None
    found = MlflowClient().get_run(ilp.report.run_id)
    assert found.info.status == "FINISHED"
    assert {k for k in found.data.params if not k.startswith("ilp.")} == set(params)
    assert {k: v for k, v in found.data.params.items() if k in params and v != params[k]} == {}
    assert set(metrics) < set(found.data.metrics)
    assert history(found.info.run_id, "loss") == losses
    assert found.data.tags["mlflow.note.content"].startswith("Mine.\n\n") == own
    assert {f.path for f in MlflowClient().list_artifacts(found.info.run_id)} == {"ilp"}
    assert runs.has(found.info.run_id, "report.html")


@pytest.mark.slow
def test_a_run_with_a_diagnosis_keeps_it_and_gets_a_child(tiny_model, store, tmp_path):
    with mlflow.start_run() as run:
        first, _ = trained(tiny_model, tmp_path, peft=PEFT)
        second, _ = trained(tiny_model, tmp_path, peft=PEFT, given={"stage": "more"})
    assert first.run_id == run.info.run_id
    assert runs.parent_of(second.run_id) == first.run_id
    children = MlflowClient().search_runs([run.info.experiment_id], "tags.`ilp.kind` = 'diagnosis'")
    assert [runs.parent_of(child.info.run_id) for child in children] == [
        first.run_id
    ]  # and none below the child
    assert runs.read_checkpoints(first.run_id)[-1].name == "sft"


@pytest.mark.slow
def test_a_resumed_training_has_no_ledger_and_says_so(tiny_model, store, tmp_path):
    trainer(tiny_model, tmp_path, [], peft=PEFT, save_strategy="steps", save_steps=2).train()
    ilp = IlpCallback(ROWS)
    trainer(tiny_model, tmp_path, [ilp], peft=PEFT).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-4")
    )
    assert ilp.report.unavailable == ("exposures", "signals")


@pytest.mark.slow
def test_a_model_that_does_not_say_where_it_is_from_needs_a_base(tiny_model, store, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config._name_or_path = ""
    tokenizer = load_tokenizer([str(tiny_model)])
    args = SFTConfig(**TRAINING, output_dir=str(tmp_path), report_to="none", save_strategy="no")

    def made(ilp):
        return SFTTrainer(
            model, args, train_dataset=ROWS, processing_class=tokenizer, callbacks=[ilp]
        )

    with pytest.raises(ConfigError, match="give that as base="):
        made(IlpCallback(ROWS))
    ilp = IlpCallback(ROWS, base=str(tiny_model))
    made(ilp).train()
    assert not isinstance(
        loading.load_model(model_registry.resolve_parts("models:/trl.sft/1")).model, PeftModel
    )
    assert ilp.report.checkpoints[0].model_uri.startswith("models:/tiny/")


def test_a_diagnosis_that_fails_leaves_the_training_alone(
    tiny_model, store, tmp_path, monkeypatch, capsys
):
    def broken(*_):
        raise RuntimeError("no more disk")

    monkeypatch.setattr(pipeline, "diagnose", broken)
    ilp = IlpCallback(ROWS)
    assert trainer(tiny_model, tmp_path, [ilp], peft=PEFT).train().global_step == 6
    assert ilp.report is None
    assert "the model is trained, but its diagnosis failed: no more disk" in capsys.readouterr().err


@pytest.mark.slow
def test_a_diagnosis_that_is_interrupted_says_how_to_go_on(
    tiny_model, store, tmp_path, monkeypatch, capsys
):
    def interrupted(*_):
        raise KeyboardInterrupt

    followed = trainer(tiny_model, tmp_path, [IlpCallback(ROWS)], peft=PEFT)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "diagnose", interrupted)
        with pytest.raises(KeyboardInterrupt):
            followed.train()
    said = re.search(
        r"the model is registered, to diagnose it: ilp (diagnose --run-id \w+)\n",
        capsys.readouterr().err,
    )
    result = CliRunner().invoke(main, said[1].split())
    assert result.exit_code == 0, result.output
    assert f"of {len(ROWS)} samples" in result.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"packing": True, "max_length": 32}, "leave out packing"),
        ({"padding_free": True, "max_length": None}, "out padding_free"),
    ],
)
def test_batches_that_hide_their_samples_are_refused(
    tiny_model, store, tmp_path, options, expected
):
    with pytest.raises(ConfigError, match=expected):
        trainer(tiny_model, tmp_path, [IlpCallback(ROWS)], **options)


def test_several_processes_are_refused(tiny_model, store, tmp_path, monkeypatch):
    monkeypatch.setattr(SFTConfig, "world_size", 2)
    with pytest.raises(ConfigError, match="follows one process, there are 2"):
        trainer(tiny_model, tmp_path, [IlpCallback(ROWS)])


def test_streams_are_refused(tiny_model, store, tmp_path):
    with pytest.raises(ConfigError, match="IterableDataset is streamed"):
        IlpCallback(ROWS.to_iterable_dataset())
    with pytest.raises(ConfigError, match="both as a Dataset"):
        trainer(
            tiny_model, tmp_path, [IlpCallback(ROWS)], ROWS.to_iterable_dataset(), max_steps=1
        ).train()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (rows(n=7), "has 7 rows, the trainer 8"),
        (rows()[::-1], "sample 'Korea': the trainer has other tokens"),
        (
            [{**r, "prompt": f"Please. {r['prompt']}"} for r in rows()],
            "sample 'France': the trainer has other tokens",
        ),
    ],
)
def test_other_rows_than_the_trainers_are_refused(tiny_model, store, tmp_path, given, expected):
    one = trainer(tiny_model, tmp_path, [IlpCallback(given)])
    with pytest.raises(ConfigError, match=expected):
        one.train()
    assert not all_runs()


@pytest.mark.slow
def test_roles_that_trl_leaves_as_they_are_are_named(tiny_model, store, tmp_path):
    chats = [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": r["id"]}]}
        for r in rows()
    ]
    data = datasets.Dataset.from_list(chats)
    one = trainer(tiny_model, tmp_path, [IlpCallback(data)], data)
    with pytest.raises(ConfigError, match="the roles human, gpt to the chat template as they are"):
        one.train()


@pytest.mark.slow
def test_a_weight_that_trl_does_not_read_is_told(tiny_model, store, tmp_path, capsys):
    chats = turned(rows())
    chats[3]["messages"][1]["weight"] = 0
    data = datasets.Dataset.from_list(chats)
    ilp = IlpCallback(data)
    trainer(tiny_model, tmp_path, [ilp], data, max_steps=1).train()
    assert f"1 rows (such as row 4 (sample '{chats[3]['id']}')) have weight 0" in (
        capsys.readouterr().err
    )
    assert not any(account.weight_zero for account in ilp._accounts)


@pytest.mark.slow
def test_a_collator_that_changes_rows_is_told(tiny_model, store, tmp_path, capsys):
    ilp = IlpCallback(ROWS)
    one = trainer(tiny_model, tmp_path, [ilp])
    whole = one.data_collator
    one.data_collator = lambda examples: {k: v[:, :-1] for k, v in whole(examples).items()}
    one.train()
    assert "does a data_collator, or a loss of the trainer's own, change rows?" in (
        capsys.readouterr().err
    )
    assert ilp.report.unavailable == ("exposures", "signals")


def test_rows_may_have_columns_of_other_names(capsys):
    given = [{"question": r["prompt"], "answer": r["completion"]} for r in rows()]
    callback = IlpCallback(given, fields={"prompt": "question", "completion": "answer"})
    assert [s.prompt for s in callback.samples] == [r["prompt"] for r in rows()]
    assert "ilp: rows: read as trl (prompt=question, completion=answer)" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="rows: no column 'reply' to be read as completion"):
        IlpCallback(given, fields={"prompt": "question", "completion": "reply"})
    with pytest.raises(ConfigError, match=r"IlpCallback: .*'promt' is no field of a row"):
        IlpCallback(given, fields={"promt": "question"})


@pytest.mark.parametrize(
    ("given", "error", "expected"),
    [
        ({"rows": [{"prompt": "x"}]}, DatasetError, "row 1: no 'completion'"),
        ({"rows": datasets.DatasetDict(train=ROWS)}, DatasetError, "row 1: expected an object"),
        ({"rows": [*rows(), rows()[0]]}, DatasetError, "row 9: id 'France' was given in row 1"),
        ({"name": "a/b"}, ConfigError, "IlpCallback: name"),
        ({"scoring": {"prest": "paper"}}, ConfigError, "did you mean 'preset'"),
    ],
)
def test_bad_options_and_rows_are_named_at_once(given, error, expected):
    with pytest.raises(error, match=expected):
        IlpCallback(**{"rows": ROWS, **given})


@pytest.mark.slow
def test_a_training_that_got_nowhere_is_told_from_what_the_trainer_logged(
    tiny_model, store, tmp_path
):
    settings = {"max_grad_norm": 1e-8, "optim": "sgd", "learning_rate": 0.1}
    found, _ = trained(tiny_model, tmp_path, **settings)
    (log,) = read_logs(found.run_id)
    assert [entry.step for entry in log.entries] == [1, 2, 3, 4, 5, 6]
    assert (log.settings["max_grad_norm"], log.settings["optim"]) == (1e-8, "sgd")
    (fault,) = [finding for finding in found.findings if finding.kind]
    assert (fault.kind, fault.subject.name) == ("gradients_clipped", "sft")
    assert {diagnosis.cause for diagnosis in found.diagnoses} == {"failed_optimization"}
    assert "train longer" not in runs.read(found.run_id, "report.html")
