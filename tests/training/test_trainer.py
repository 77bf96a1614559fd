import pytest
import torch

from ilp_mlflow.core.errors import DatasetError, ModelError
from ilp_mlflow.core.values import Stage
from ilp_mlflow.data.samples import sample_from_record
from ilp_mlflow.scoring import scorer
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.tokens import token_trees
from ilp_mlflow.scoring.tokens.encoding import encode, load_tokenizer
from ilp_mlflow.training.scheduled_trainer import ScheduledTrainer
from ilp_mlflow.training.trainer import answer_fits, train_stage
from tests.conftest import rows

TRAINING = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "bf16": False,
    "gradient_checkpointing": False,
}
PEFT = {"r": 4, "target_modules": "all-linear"}


def stage(records=None, training=None, seed=0, **fields):
    samples = tuple(
        sample_from_record(dict(r), "s", i, "here") for i, r in enumerate(records or rows())
    )
    return Stage(
        name="s", samples=samples, training={"seed": seed, **TRAINING, **(training or {})}, **fields
    )


@pytest.fixture
def base(tiny_model):
    return loading.load_model([str(tiny_model)])


def weights(model):
    return {name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad}


def test_every_sample_is_counted_from_the_real_batches(base, tmp_path):
    logged = []
    done = train_stage(
        stage(peft=PEFT, training={"logging_steps": 1}),
        base,
        tmp_path,
        lambda m, step: logged.append((step, m)),
    )
    assert [e.exposures for e in done.exposures] == [3] * 8
    assert all(e.supervised_tokens >= 2 and e.truncated_tokens == 0 for e in done.exposures)
    assert [step for step, _ in logged] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "learning_rate", "tokens_per_second"} <= set(logged[0][1])
    lengths = [len(base.tokenizer(r["prompt"] + r["completion"])["input_ids"]) + 1 for r in rows()]
    assert done.tokens == 3 * sum(lengths)


@pytest.mark.parametrize("schedule", ["sequential", "shuffled"])
def test_batches_follow_the_schedule(base, tmp_path, monkeypatch, schedule):
    batches = []
    original = ScheduledTrainer.compute_loss

    def spy(self, model, inputs, *args, **kwargs):
        batches.append(inputs["row"].tolist())
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(ScheduledTrainer, "compute_loss", spy)
    train_stage(stage(peft=PEFT, schedule=schedule), base, tmp_path)
    rounds = [batches[i] + batches[i + 1] for i in (0, 2, 4)]
    assert all(sorted(r) == list(range(8)) for r in rounds)
    if schedule == "sequential":
        assert rounds == [list(range(8))] * 3
    else:
        assert len({tuple(r) for r in rounds}) == 3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(tiny_model, tmp_path):
    def trained(seed):
        done = train_stage(
            stage(peft=PEFT, seed=seed), loading.load_model([str(tiny_model)]), tmp_path
        )
        return weights(done.loaded.model)

    one, same, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def bare_weights(tiny_model, tmp_path, seed=0, **peft):
    """Weights after the same training with TRL's own trainer and nothing of ours, in file order."""
    import datasets
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    args = {
        **TRAINING,
        "output_dir": str(tmp_path),
        "report_to": "none",
        "save_strategy": "no",
        "seed": seed,
    }
    trainer = SFTTrainer(
        loading.load_model([str(tiny_model)]).model,
        SFTConfig(**args, train_sampling_strategy="sequential"),
        train_dataset=datasets.Dataset.from_list(
            [{k: r[k] for k in ("prompt", "completion")} for r in rows()]
        ),
        processing_class=load_tokenizer([str(tiny_model)]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **PEFT, **peft),
    )
    trainer.train()
    return weights(trainer.model)


def test_the_ledger_does_not_change_what_is_trained(tiny_model, tmp_path):
    dropout = {"lora_dropout": 0.3}
    done = train_stage(
        stage(peft=PEFT | dropout, schedule="sequential"),
        loading.load_model([str(tiny_model)]),
        tmp_path,
    )
    ours, bare = weights(done.loaded.model), bare_weights(tiny_model, tmp_path, **dropout)
    assert ours.keys() == bare.keys()
    assert all(torch.equal(ours[k], bare[k]) for k in ours)


@pytest.mark.slow
def test_signals_are_the_loss_of_each_sample_before_its_step(tiny_model, tmp_path):
    first = train_stage(
        stage(
            peft=PEFT,
            schedule="sequential",
            training={"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3},
        ),
        loading.load_model([str(tiny_model)]),
        tmp_path,
    )
    found = first.signals.to_pylist()
    assert [s["step"] for s in found] == [1] * 6 + [2] * 2 + [3] * 6 + [4] * 2 + [5] * 6 + [6] * 2
    assert [s["sample_id"] for s in found] == [r["id"] for r in rows()] * 3
    # under the untrained model (a fresh adapter changes nothing) the first step's losses are plain forward passes
    loaded = loading.load_model([str(tiny_model)])
    plan = token_trees.plan_batches(stage().samples, {}, loaded, 2048)
    expected = {s.sample_id: s for s in scorer.score_samples(plan, loaded, "base")}
    for signal in found[:6]:
        score = expected[signal["sample_id"]]
        assert signal["loss"] == pytest.approx(-score.logprob / score.tokens, abs=1e-4)
        assert signal["token_accuracy"] == pytest.approx(score.token_accuracy)


def test_truncation_is_recorded_per_sample(base, tmp_path):
    long = {"id": "long", "prompt": "The capital of France is", "completion": " Paris" * 12}
    done = train_stage(
        stage([*rows(), long], training={"max_length": 15}, peft=PEFT), base, tmp_path
    )
    by_id = {e.sample_id: e for e in done.exposures}
    assert by_id["long"].truncated_tokens > 0
    assert by_id["long"].supervised_tokens > 0
    assert by_id["France"].truncated_tokens == 0


@pytest.mark.filterwarnings("ignore:.*keep_end.*deprecated:FutureWarning")
@pytest.mark.parametrize("options", [{}, {"truncation_mode": "keep_end"}, {"max_length": None}])
def test_what_fits_is_what_is_trained_whole(base, tmp_path, options):
    lengths = range(1, 20)
    texts = [
        {"id": f"{n}", "prompt": "The capital of France is", "completion": " Paris" * n}
        for n in lengths
    ]
    turns = [
        ({"role": "user", "content": "P?"}, {"role": "assistant", "content": " Paris" * n})
        for n in lengths
    ]
    chats = [
        {"id": f"chat {n}", "prompt": [asked], "completion": [said]}
        for n, (asked, said) in enumerate(turns)
    ]
    one = stage([*texts, *chats], training={"max_length": 15, **options}, peft=PEFT)
    done = train_stage(one, base, tmp_path)
    encoded = [
        encode(base.tokenizer, s.prompt, s.completion, base.end_token_ids) for s in one.samples
    ]
    whole = [
        e.supervised_tokens >= len(x.ids) - x.start
        for e, x in zip(done.exposures, encoded, strict=True)
    ]
    assert [answer_fits(one, s, base) for s in one.samples] == whole
    assert {*whole} == ({True} if "max_length" in options else {True, False})


def test_a_dropped_row_has_no_exposures(base, tmp_path):
    lost = {"id": "lost", "prompt": "x" * 70, "completion": " y"}
    many = [{**r, "id": f"{i}{r['id']}"} for i in range(2) for r in rows()]
    done = train_stage(stage([lost, *many], training={"max_length": 60}, peft=PEFT), base, tmp_path)
    by_id = {e.sample_id: e for e in done.exposures}
    assert (by_id["lost"].exposures, by_id["lost"].supervised_tokens) == (0, 0)
    assert by_id["0France"].exposures == 3


def test_many_rows_without_a_supervised_token_are_refused(base, tmp_path):
    with pytest.raises(
        DatasetError, match=r"8 of 8 samples have no token to learn from.*training.max_length is 4"
    ):
        train_stage(stage(training={"max_length": 4}, peft=PEFT), base, tmp_path)


def test_checkpoints_inside_a_stage_are_saved(base, tmp_path):
    saved = []
    train_stage(
        stage(peft=PEFT, score_every=2),
        base,
        tmp_path,
        save_checkpoint=lambda loaded, step: saved.append(step),
    )
    assert saved == [2, 4]  # the sixth step is the end of the stage


@pytest.mark.slow
def test_a_stage_continues_an_adapter_or_trains_all_weights(base, tiny_model, tmp_path):
    first = train_stage(stage(peft=PEFT), base, tmp_path)
    before = weights(first.loaded.model)
    assert before
    assert all("lora" in name for name in before)
    second = train_stage(stage(peft=PEFT), first.loaded, tmp_path)
    after = weights(second.loaded.model)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    full = train_stage(stage(), loading.load_model([str(tiny_model)]), tmp_path)
    assert not any("lora" in name for name in weights(full.loaded.model))


def test_steps_and_dropped_batches_are_counted_as_they_were(base, tmp_path):
    options = {
        "max_steps": 3,
        "per_device_train_batch_size": 3,
        "dataloader_drop_last": True,
        "num_train_epochs": 1,
    }
    done = train_stage(stage(peft=PEFT, schedule="sequential", training=options), base, tmp_path)
    # two full batches of three a round, then one of the next round: rows 7 and 8 are never seen
    assert [e.exposures for e in done.exposures] == [2, 2, 2, 1, 1, 1, 0, 0]


def test_diverged_weights_are_refused(base, tmp_path):
    with pytest.raises(ModelError, match=r"lower training\.learning_rate"):
        train_stage(
            stage(training={"learning_rate": 1e30, "max_grad_norm": 0.0, "weight_decay": 0.0}),
            base,
            tmp_path,
        )


@pytest.mark.parametrize("broken", ["buffer", "outputs"])
def test_a_model_that_gives_no_numbers_is_refused_whatever_its_weights(
    base, tmp_path, monkeypatch, broken
):
    original = ScheduledTrainer.train

    def break_after_training(self, *args, **kwargs):
        done = original(self, *args, **kwargs)
        model = self.model.get_base_model()
        if broken == "buffer":
            model.model.register_buffer("running", torch.tensor([0.0, float("nan")]))
        else:
            # each weight is finite, their products are not
            model.lm_head.weight.data.fill_(3e38)
        return done

    monkeypatch.setattr(ScheduledTrainer, "train", break_after_training)
    part = "base_model.model.model.running is" if broken == "buffer" else "its outputs for the"
    with pytest.raises(ModelError, match=f"stage 's' diverged: {part}.* not finite"):
        train_stage(stage(peft=PEFT), base, tmp_path)
