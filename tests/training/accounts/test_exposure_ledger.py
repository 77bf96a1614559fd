"""The seam between a trainer and the ledger, against the installed TRL and on batches made by hand."""

import math

import datasets
import pytest
import torch
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.interfaces import SampleResult
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.training.accounts.exposure_ledger import ExposureLedger, Pass, read_results
from ilp_mlflow.training.accounts.prepared_rows import PreparedRow, match_rows, row_key
from ilp_mlflow.training.accounts.row_account import RowAccount
from ilp_mlflow.training.trainer import train_stage
from tests.conftest import rows
from tests.training.test_trainer import PEFT, TRAINING, stage, weights

IDS, LABELS = [[5, 6, 7], [5, 6, 0]], [[-100, 6, 7], [-100, 6, -100]]
MASK = [[1, 1, 1], [1, 1, 0]]


def batch(ids=IDS, labels=LABELS, mask=MASK):
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "attention_mask": torch.tensor(mask),
    }


def head(inputs, log_probs, is_top1):
    """What TRL's head says of a batch: zero where there is no label."""
    mask = inputs["labels"][:, 1:] != -100
    return FusedCausalLMOutput(
        log_probs=torch.tensor(log_probs) * mask,
        is_top1=torch.tensor(is_top1) & mask,
        label_mask=mask,
    )


def account(supervised, cut=0):
    """An account of a row with so many supervised tokens."""
    return RowAccount(
        sample_id="x",
        segments=(),
        prompt_tokens=1,
        answer_tokens=supervised + cut,
        supervised_tokens=supervised,
        supervised_answer_tokens=supervised,
        cut_tokens=cut,
    )


def ledger_of(keys, supervised=2):
    """A ledger over samples that are known by their keys."""
    prepared = [PreparedRow(account(supervised), 3, key=key) for key in keys]
    return ExposureLedger("s", stage().samples[: len(keys)], prepared)


@pytest.fixture
def bare_trainer(tiny_model, tmp_path):
    """TRL's own trainer and nothing of ours, in file order."""
    args = SFTConfig(
        **TRAINING,
        output_dir=str(tmp_path),
        report_to="none",
        save_strategy="no",
        seed=0,
        train_sampling_strategy="sequential",
    )
    texts = [{k: r[k] for k in ("prompt", "completion")} for r in rows()]
    return SFTTrainer(
        loading.load_model([str(tiny_model)]).model,
        args,
        train_dataset=datasets.Dataset.from_list(texts),
        processing_class=loading.load_tokenizer([str(tiny_model)]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **PEFT),
    )


def test_trl_gives_what_the_seam_needs(bare_trainer):
    """Fails when TRL calls its model otherwise, or names or computes its outputs otherwise."""
    seen = []

    def note(model, args, inputs, outputs):
        if len(seen) < 2:
            with torch.no_grad():
                logits = model.get_base_model().model(inputs["input_ids"]).last_hidden_state
                logits = model.get_output_embeddings()(logits)
            seen.append((args, inputs, outputs, model.training, logits))

    bare_trainer.model.register_forward_hook(note, with_kwargs=True)
    losses = []
    original = bare_trainer.compute_loss

    def compute_loss(*args, **kwargs):
        losses.append(original(*args, **kwargs))
        return losses[-1]

    bare_trainer.compute_loss = compute_loss
    bare_trainer.train()
    for (args, inputs, outputs, training, logits), loss in zip(seen, losses[:2], strict=True):
        assert training
        assert args == ()
        ids, labels, mask = (inputs[k] for k in ("input_ids", "labels", "attention_mask"))
        assert ids.shape == labels.shape == mask.shape
        assert isinstance(outputs, FusedCausalLMOutput)
        supervised = labels[:, 1:] != -100
        assert torch.equal(outputs.label_mask, supervised)
        assert outputs.log_probs.dtype == torch.float32
        assert outputs.is_top1.dtype == torch.bool
        assert not outputs.log_probs[~supervised].any()
        assert not outputs.is_top1[~supervised].any()
        expected = logits[:, :-1].float().log_softmax(-1)
        expected = expected.gather(2, ids[:, 1:, None])[..., 0][supervised]
        torch.testing.assert_close(outputs.log_probs[supervised], expected)
        best = logits[:, :-1].argmax(-1) == ids[:, 1:]
        assert torch.equal(outputs.is_top1[supervised], best[supervised])
        mean = -outputs.log_probs.sum() / supervised.sum()
        torch.testing.assert_close(loss, mean)


def test_both_ways_to_know_a_row_note_the_same(bare_trainer, tiny_model, tmp_path):
    by_number = train_stage(
        stage(peft=PEFT, schedule="sequential"), loading.load_model([str(tiny_model)]), tmp_path
    )
    text = loading.read_tokenization([str(tiny_model)])
    samples = stage().samples
    ledger = ExposureLedger("s", samples, match_rows(samples, text, bare_trainer.train_dataset, {}))
    listener = ledger.follow(bare_trainer.model, lambda: bare_trainer.state.global_step + 1)
    bare_trainer.train()
    listener.stop()
    assert ledger.signals().equals(by_number.signals)
    assert ledger.exposures() == by_number.exposures
    assert ledger.trained_tokens == by_number.tokens
    theirs, ours = weights(bare_trainer.model), weights(by_number.loaded.model)
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_evaluation_is_not_noted_nor_anything_once_the_listener_is_stopped(bare_trainer):
    ledger = ledger_of([b""] * 8)
    ledger.note_batch = lambda *args: pytest.fail("noted")
    listener = ledger.follow(bare_trainer.model, lambda: 1)
    bare_trainer.evaluate(bare_trainer.train_dataset)
    bare_trainer.model.train()
    ids = torch.tensor([[5, 6]])
    bare_trainer.model(input_ids=ids, labels=ids)  # full logits, not TRL's head
    listener.stop()
    bare_trainer.train()
    assert ledger.passes == []


def test_the_model_never_sees_the_row_numbers():
    class Model(torch.nn.Module):
        def forward(self, input_ids, labels, attention_mask):
            inputs = {"labels": labels}
            return head(inputs, [[-1.0, -3.0], [-2.0, 0.0]], [[True, False], [True, False]])

    model, ledger = Model(), ledger_of([b""] * 4)
    listener = ledger.follow(model, lambda: 7)
    model(**batch(), row=torch.tensor([3, 1]))
    listener.stop()
    assert ledger.passes == [Pass(3, 7, SampleResult(2.0, 0.5)), Pass(1, 7, SampleResult(2.0, 1.0))]
    assert ledger.trained_tokens == 5


def test_results_are_means_over_the_tokens_that_count():
    inputs = batch(labels=[[5, 6, 7], [5, 6, -100]])
    outputs = head(inputs, [[-1.0, -3.0], [-2.0, -9.0]], [[True, False], [True, True]])
    assert read_results(inputs, outputs, [0, 0]) == [(2.0, 0.5), (2.0, 1.0)]
    assert read_results(inputs, outputs, [2, 1]) == [(3.0, 0.0), (2.0, 1.0)]
    (_, nothing) = read_results(inputs, outputs, [2, 2])
    assert math.isnan(nothing.loss)
    assert math.isnan(nothing.token_accuracy)


def test_padding_on_the_left_does_not_shift_what_counts():
    inputs = batch([[0, 5, 6]], [[-100, 5, 6]], [[0, 1, 1]])
    outputs = head(inputs, [[-1.0, -3.0]], [[True, False]])
    assert read_results(inputs, outputs, [1]) == [(3.0, 0.0)]


def test_equal_rows_take_turns_and_unknown_ones_are_refused():
    known = row_key([5, 6], [-100, 6])
    ledger = ledger_of([known, row_key([5, 6, 7], [-100, 6, 7]), known])
    outputs = head(batch(), [[-1.0, -3.0], [-2.0, 0.0]], [[True, False], [True, False]])
    for step in (1, 2, 3):
        ledger.note_batch(step, batch(), outputs)
    assert [(p.step, p.row) for p in ledger.passes] == [
        (1, 1),
        (1, 0),
        (2, 1),
        (2, 2),
        (3, 1),
        (3, 0),
    ]
    assert [e.exposures for e in ledger.exposures()] == [2, 3, 1]
    with pytest.raises(ConfigError, match="step 4 trains a row that is not in the data set"):
        ledger.note_batch(4, batch(labels=[[-100, 6, 7], [5, 6, -100]]), outputs)


def test_a_carried_number_tells_equal_rows_apart():
    known = row_key([5, 6], [-100, 6])
    ledger = ledger_of([known, row_key([5, 6, 7], [-100, 6, 7]), known])
    outputs = head(batch(), [[-1.0, -3.0], [-2.0, 0.0]], [[True, False], [True, False]])
    for step in (1, 2):
        ledger.note_batch(step, batch(), outputs, rows=[1, 2])
    assert [e.exposures for e in ledger.exposures()] == [0, 2, 2]


def test_a_row_of_which_no_token_counts_is_exposed_and_gives_no_signal():
    outputs = head(batch(), [[-1.0, -3.0], [-2.0, 0.0]], [[True, False], [True, False]])
    ledger = ledger_of([b"", b""], supervised=0)
    ledger.note_batch(1, batch(), outputs, rows=[0, 1])
    assert [e.exposures for e in ledger.exposures()] == [1, 1]
    assert ledger.signals().num_rows == 0


def test_tables_say_which_stage_trained_a_sample():
    sample = stage().samples[0].model_copy(update={"stage": "before"})
    ledger = ExposureLedger("s", [sample], [PreparedRow(account(2, cut=2), 7)])
    inputs = batch([[5, 6]], [[-100, 6]], [[1, 1]])
    ledger.note_batch(3, inputs, head(inputs, [[-0.5]], [[True]]), rows=[0])
    assert ledger.signals().to_pylist() == [
        {"sample_id": sample.id, "stage": "s", "step": 3, "loss": 0.5, "token_accuracy": 1.0}
    ]
    (exposure,) = ledger.exposures()
    assert (exposure.stage, exposure.supervised_tokens, exposure.truncated_tokens) == ("s", 2, 2)
