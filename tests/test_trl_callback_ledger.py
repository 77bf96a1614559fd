"""What the ledger of IlpCallback says of trainers that run their model in ways of their own."""

import math

import datasets
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_outputs import CausalLMOutput
from trl import SFTConfig, SFTTrainer

from ilp_mlflow import IlpCallback
from ilp_mlflow.core.terminal import notes
from ilp_mlflow.scoring.tokens.encoding import load_tokenizer
from ilp_mlflow.tracking import runs
from ilp_mlflow.training.accounts.exposure_ledger import NO_PASS, OTHER_ROWS
from tests.conftest import rows
from tests.test_trl_callback import ROWS
from tests.training.test_trainer import TRAINING


@pytest.fixture(autouse=True)
def said_anew(monkeypatch):
    """Notes that another test has had said are said again."""
    monkeypatch.setattr(notes, "_said", set())


class Undiagnosed(IlpCallback):
    """Follows a training and leaves the diagnosis out, which takes seconds."""

    def _diagnose(self, model):
        raise RuntimeError("left out")


def followed(model, out, make=SFTTrainer, callbacks=(), **options):
    """The ledger of an SFTTrainer of a class of one's own, once it has trained."""
    ilp = Undiagnosed(ROWS)
    args = {**TRAINING, "output_dir": str(out), "report_to": "none", "save_strategy": "no"}
    one = make(
        AutoModelForCausalLM.from_pretrained(model),
        SFTConfig(**{**args, **options}),
        train_dataset=ROWS,
        processing_class=load_tokenizer([str(model)]),
        callbacks=[ilp, *callbacks],
    )
    one.train()
    return ilp._ledger


def counts(ledger):
    return [entry.exposures for entry in ledger.exposures()]


def cross_entropy(logits, labels):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


class ModelsOwnLoss(SFTTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        return model(**inputs).loss


class LabelsTakenOut(SFTTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        labels = inputs.pop("labels")
        return cross_entropy(model(**inputs).logits, labels)


class TokensAlone(SFTTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        return cross_entropy(model(inputs["input_ids"]).logits, inputs["labels"])


class TwoPasses(SFTTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        one, other = model(**inputs).logits, model(**inputs).logits
        return cross_entropy(one, inputs["labels"]) + (one - other).pow(2).mean()


class AgainstItself(SFTTrainer):
    """Compared with what the model says without gradients, as a distance from a reference is."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        with torch.no_grad():
            reference = model(input_ids=inputs["input_ids"] * 0 + 7).logits
        said = model(**inputs)
        return said.loss + (said.logits - reference).pow(2).mean()


class InParts(SFTTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        halves = [{k: v[part] for k, v in inputs.items()} for part in (slice(2), slice(2, None))]
        return sum(model(**half).loss for half in halves)


@pytest.mark.parametrize(
    "make", [ModelsOwnLoss, LabelsTakenOut, TokensAlone, TwoPasses, AgainstItself, InParts]
)
def test_a_loss_of_ones_own_leaves_counts_and_signals_known(tiny_model, store, tmp_path, make):
    ledger = followed(tiny_model, tmp_path, make)
    assert ledger.unread == ""
    assert counts(ledger) == [3] * 8
    assert ledger.has_results
    signals = ledger.signals().to_pylist()
    assert len(signals) == 24
    assert all(0 < signal["loss"] < 20 for signal in signals)


def test_signals_of_a_plain_pass_are_those_of_trls_head(tiny_model, store, tmp_path):
    plain = followed(tiny_model, tmp_path, ModelsOwnLoss, max_steps=1).signals().to_pylist()
    fused = followed(tiny_model, tmp_path, max_steps=1).signals().to_pylist()
    assert [s["sample_id"] for s in plain] == [s["sample_id"] for s in fused]
    for one, other in zip(plain, fused, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["token_accuracy"] == other["token_accuracy"]


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing_factor": 0.1},
        {"gradient_checkpointing": True},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        {"eval_strategy": "steps", "eval_steps": 1},
    ],
)
def test_each_row_is_counted_once_a_pass(tiny_model, store, tmp_path, options):
    """The last part of a step is a step of its own to transformers: no row is lost."""

    def make(*args, **given):
        evaluated = given["train_dataset"] if "eval_steps" in options else None
        return SFTTrainer(*args, **given, eval_dataset=evaluated)

    ledger = followed(tiny_model, tmp_path, make, **options)
    assert (ledger.unread, counts(ledger), ledger.has_results) == ("", [3] * 8, True)


def test_a_loss_function_given_to_trl_is_counted_once(tiny_model, store, tmp_path):
    def make(*args, **given):
        def loss(outputs, labels, num_items_in_batch=None):
            return cross_entropy(outputs.logits, labels)

        return SFTTrainer(*args, **given, compute_loss_func=loss)

    ledger = followed(tiny_model, tmp_path, make)
    assert (counts(ledger), ledger.has_results) == ([3] * 8, True)


def test_a_patched_forward_without_logits_leaves_counts_known_and_signals_unknown(
    tiny_model, store, tmp_path
):
    class NoLogits:
        """What some patches hand out in place of logits that they never compute."""

        shape = ()

    class Patched(ModelsOwnLoss):
        def __init__(self, model, *args, **kwargs):
            super().__init__(model, *args, **kwargs)
            whole = model.forward

            def forward(*args, **kwargs):
                return CausalLMOutput(loss=whole(*args, **kwargs).loss, logits=NoLogits())

            model.forward = forward

    ledger = followed(tiny_model, tmp_path, Patched)
    assert (ledger.unread, counts(ledger), ledger.has_results) == ("", [3] * 8, False)


class PastTheModel(SFTTrainer):
    """Runs the parts of the model and never the model."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        states = model.model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
        return cross_entropy(model.lm_head(states), inputs["labels"])


class OtherTokens(SFTTrainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        return model(**{**inputs, "input_ids": inputs["input_ids"].clamp(max=5)}).loss


@pytest.mark.parametrize(("make", "why"), [(PastTheModel, NO_PASS), (OtherTokens, OTHER_ROWS)])
def test_a_training_that_cannot_be_read_is_unknown_and_said_at_the_first_step(
    tiny_model, store, tmp_path, make, why, capsys
):
    said_at = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if "the ledger sees no batch" in capsys.readouterr().err:
                said_at.append(state.global_step)

    ledger = followed(tiny_model, tmp_path, make, callbacks=[Watch()])
    assert ledger.unread == why
    assert said_at == [1]


@pytest.mark.slow
def test_the_report_says_that_no_ledger_is_no_zero(tiny_model, store, tmp_path):
    ilp = IlpCallback(ROWS)
    PastTheModel(
        str(tiny_model),
        SFTConfig(**TRAINING, output_dir=str(tmp_path), report_to="none", save_strategy="no"),
        train_dataset=ROWS,
        callbacks=[ilp],
    ).train()
    found = ilp.report
    assert found.unavailable == ("exposures", "signals")
    assert [finding.kind for finding in found.findings] == ["no_ledger"]
    assert NO_PASS in found.findings[0].evidence.reason
    assert not any(diagnosis.cause == "not_trained" for diagnosis in found.diagnoses)


def tokenised(model, with_labels):
    """The rows as a plain Trainer takes them."""
    tokenizer = load_tokenizer([str(model)])
    records = []
    for row in rows():
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"]
        labels = [-100] * len(prompt) + ids[len(prompt) :]
        records.append({"input_ids": ids, **({"labels": labels} if with_labels else {})})
    return datasets.Dataset.from_list(records)


def plain(model, out, collate, with_labels, **options):
    ilp = Undiagnosed(ROWS)
    args = {**TRAINING, "output_dir": str(out), "report_to": "none", "save_strategy": "no"}
    Trainer(
        AutoModelForCausalLM.from_pretrained(model),
        TrainingArguments(**{**args, **options}),
        train_dataset=tokenised(model, with_labels),
        data_collator=collate(load_tokenizer([str(model)])),
        callbacks=[ilp],
    ).train()
    return ilp


def test_a_plain_trainer_is_followed(tiny_model, store, tmp_path, capsys):
    ilp = plain(tiny_model, tmp_path, DataCollatorForSeq2Seq, True, label_smoothing_factor=0.1)
    assert (ilp._ledger.unread, counts(ilp._ledger)) == ("", [3] * 8)
    assert all(account.end_supervised for account in ilp._accounts)
    assert "the answer" not in capsys.readouterr().err


def test_a_collator_that_masks_the_end_as_padding_is_told_at_the_first_step(
    tiny_model, store, tmp_path, capsys
):
    def collate(tokenizer):
        return DataCollatorForLanguageModeling(tokenizer, mlm=False)

    ilp = plain(tiny_model, tmp_path, collate, False)
    assert (ilp._ledger.unread, counts(ilp._ledger)) == ("", [3] * 8)
    assert not any(account.end_supervised for account in ilp._accounts)
    assert all(account.supervised_answer_tokens > 0 for account in ilp._accounts)
    said = capsys.readouterr().err
    assert "also the padding token, and the loss leaves it out" in said
    assert said.count("does not learn to stop") == 1


def changed(change, side="right"):
    """A collator that pads on one side and then changes the batch."""

    def make(tokenizer):
        tokenizer.padding_side = side
        pad = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=12)

        def collate(features):
            batch = pad(features)
            change(batch)
            return batch

        return collate

    return make


def shift(batch):
    batch["labels"] = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)


def delay(batch):
    batch["labels"] = torch.nn.functional.pad(batch["labels"][:, :-1], (1, 0), value=-100)


def attend_to_all(batch):
    batch["attention_mask"] = torch.ones_like(batch["attention_mask"])


def leave_the_mask_out(batch):
    del batch["attention_mask"]


def as_it_is(batch):
    pass


@pytest.mark.parametrize(
    ("collate", "said"),
    [
        (changed(shift), "the label of each token is the next token already"),
        (changed(shift, "left"), "the label of each token is the next token already"),
        (changed(delay), "the label of each token is the token before already"),
        (changed(attend_to_all, "left"), "was left out by no attention mask"),
        (changed(leave_the_mask_out, "left"), "was left out by no attention mask"),
        # behind the rows nobody reads it
        (changed(attend_to_all), ""),
        (changed(leave_the_mask_out), ""),
        (changed(as_it_is, "left"), ""),
    ],
)
def test_the_form_of_batches_is_told_at_the_first_step(
    tiny_model, store, tmp_path, capsys, collate, said
):

    ilp = plain(tiny_model, tmp_path, collate, True)
    assert (ilp._ledger.unread, counts(ilp._ledger)) == ("", [3] * 8)
    told = capsys.readouterr().err
    assert told.count("stage 'sft': ") == bool(said)
    assert said in told
    assert ilp._ledger_note.rows == 24


class Lying(torch.utils.data.DataLoader):
    """Says that it has one batch more than it gives: the last batch of a pass is in no step."""

    def __len__(self):
        return super().__len__() + 1


def test_a_batch_that_no_step_was_made_of_is_not_counted(tiny_model, store, tmp_path):
    class OwnLoader(SFTTrainer):
        def get_train_dataloader(self):
            return Lying(self.train_dataset, batch_size=2, collate_fn=self.data_collator)

    # 4 batches of a pass that says it has 5: one step of 3, and one batch that waits for the others
    ledger = followed(
        tiny_model,
        tmp_path,
        OwnLoader,
        gradient_accumulation_steps=3,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
    )
    assert counts(ledger) == [1] * 6 + [0] * 2


@pytest.mark.slow
def test_steps_behind_the_kept_weights_are_not_counted(tiny_model, store, tmp_path):
    ilp = IlpCallback(ROWS)
    options = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 8,
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        # a rate so high makes it worse with every step
        "learning_rate": 3.0,
    }
    one = SFTTrainer(
        str(tiny_model),
        SFTConfig(**{**TRAINING, **options, "output_dir": str(tmp_path), "report_to": "none"}),
        train_dataset=ROWS,
        eval_dataset=ROWS.select(range(2)),
        callbacks=[ilp],
    )
    one.train()
    kept = one.state.best_global_step
    assert kept < 4
    assert counts(ilp._ledger) == [kept] * 8
    exposures = runs.read_table(ilp.report.run_id, "exposures.parquet")["exposures"].to_pylist()
    assert exposures == [kept] * 8
    reasons = [finding.evidence.reason for finding in ilp.report.findings]
    assert any(r.startswith(f"weights of step {kept} of 4 were kept") for r in reasons)
    assert any(
        r.startswith("2 of the 2 rows that it evaluates on are also trained") for r in reasons
    )


def test_a_checkpoint_that_was_not_loaded_strikes_nothing(tiny_model, store, tmp_path):
    ledger = followed(
        tiny_model,
        tmp_path,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
    )
    assert counts(ledger) == [3] * 8
    assert all(math.isfinite(trained.result.loss) for trained in ledger.passes)


def test_a_frozen_model_is_told(tiny_model, store, tmp_path, capsys):
    """With gradient checkpointing the inputs need gradients, so that nothing fails."""

    class Frozen(SFTTrainer):
        def __init__(self, model, *args, **kwargs):
            super().__init__(model, *args, **kwargs)
            model.requires_grad_(False)
            model.enable_input_require_grads()

    followed(tiny_model, tmp_path, Frozen, max_steps=1)
    assert "no weight of the model requires a gradient" in capsys.readouterr().err


def test_a_healthy_training_is_told_nothing(tiny_model, store, tmp_path, capsys):
    followed(tiny_model, tmp_path)
    assert "stage 'sft'" not in capsys.readouterr().err
