"""The seam between a trainer and the ledger, against the installed TRL and on batches made by hand."""

import math

import datasets
import pytest
import torch
from peft import LoraConfig
from transformers.modeling_outputs import CausalLMOutput
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

from ilp_mlflow.core.interfaces import SampleResult
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.models.tokenization import read_tokenization
from ilp_mlflow.scoring.tokens.encoding import load_tokenizer
from ilp_mlflow.training.accounts.exposure_ledger import (
    NO_PASS,
    OTHER_ROWS,
    EndOfBatch,
    ExposureLedger,
    Pass,
)
from ilp_mlflow.training.accounts.forward_passes import read_pass, read_results
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
        processing_class=load_tokenizer([str(tiny_model)]),
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
    text = read_tokenization([str(tiny_model)])
    samples = stage().samples
    ledger = ExposureLedger("s", samples, match_rows(samples, text, bare_trainer.train_dataset, {}))
    listener = ledger.follow(bare_trainer.model, lambda: bare_trainer.state.global_step + 1)
    bare_trainer.add_callback(EndOfBatch(listener))
    bare_trainer.train()
    listener.stop()
    assert ledger.signals().equals(by_number.signals)
    assert ledger.exposures() == by_number.exposures
    assert ledger.trained_tokens == by_number.tokens
    theirs, ours = weights(bare_trainer.model), weights(by_number.loaded.model)
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def note(ledger, step, inputs, outputs, rows=None):
    """Note a batch of one pass."""
    ledger.note_batch(step, [read_pass((), inputs, outputs, rows)])


def test_evaluation_is_not_noted_nor_anything_once_the_listener_is_stopped(bare_trainer):
    ledger = ledger_of([b""] * 8)
    seen = []
    ledger.note_batch = lambda step, passes: seen.append(len(passes))
    listener = ledger.follow(bare_trainer.model, lambda: 1)
    bare_trainer.evaluate(bare_trainer.train_dataset)
    listener.end_batch()
    assert seen == [0]
    listener.stop()
    bare_trainer.add_callback(EndOfBatch(listener))
    bare_trainer.train()
    assert set(seen) == {0}


def test_the_model_never_sees_the_row_numbers():
    class Model(torch.nn.Module):
        def forward(self, input_ids, labels, attention_mask):
            inputs = {"labels": labels}
            return head(inputs, [[-1.0, -3.0], [-2.0, 0.0]], [[True, False], [True, False]])

    model, ledger = Model(), ledger_of([b""] * 4)
    listener = ledger.follow(model, lambda: 7)
    model(**batch(), row=torch.tensor([3, 1]))
    listener.end_batch()
    listener.stop()
    assert ledger.passes == [Pass(3, 7, SampleResult(2.0, 0.5)), Pass(1, 7, SampleResult(2.0, 1.0))]
    assert ledger.trained_tokens == 5


def results(inputs, outputs, first_counted):
    rows = read_pass((), inputs, outputs).rows
    pairs = zip(rows, first_counted, strict=True)
    return [read_results(row, row.labels, first) for row, first in pairs]


def test_results_are_means_over_the_tokens_that_count():
    inputs = batch(labels=[[5, 6, 7], [5, 6, -100]])
    outputs = head(inputs, [[-1.0, -3.0], [-2.0, -9.0]], [[True, False], [True, True]])
    assert results(inputs, outputs, [0, 0]) == [(2.0, 0.5), (2.0, 1.0)]
    assert results(inputs, outputs, [2, 1]) == [(3.0, 0.0), (2.0, 1.0)]
    (_, nothing) = results(inputs, outputs, [2, 2])
    assert math.isnan(nothing.loss)
    assert math.isnan(nothing.token_accuracy)


def test_padding_on_the_left_does_not_shift_what_counts():
    inputs = batch([[0, 5, 6]], [[-100, 5, 6]], [[0, 1, 1]])
    outputs = head(inputs, [[-1.0, -3.0]], [[True, False]])
    assert results(inputs, outputs, [1]) == [(3.0, 0.0)]


KNOWN = [row_key([5, 6], [-100, 6]), row_key([5, 6, 7], [-100, 6, 7])]


def test_equal_rows_take_turns_and_other_rows_leave_a_ledger_unread():
    ledger = ledger_of([KNOWN[0], KNOWN[1], KNOWN[0]])
    outputs = head(batch(), [[-1.0, -3.0], [-2.0, 0.0]], [[True, False], [True, False]])
    for step in (1, 2, 3):
        note(ledger, step, batch(), outputs)
    assert [(p.step, p.row) for p in ledger.passes] == [
        (1, 1),
        (1, 0),
        (2, 1),
        (2, 2),
        (3, 1),
        (3, 0),
    ]
    assert [e.exposures for e in ledger.exposures()] == [2, 3, 1]
    assert ledger.unread == ""
    note(ledger, 4, batch(labels=[[-100, 6, 7], [5, 6, -100]]), outputs)
    assert ledger.unread == OTHER_ROWS


def test_a_carried_number_tells_equal_rows_apart():
    ledger = ledger_of([KNOWN[0], KNOWN[1], KNOWN[0]])
    outputs = head(batch(), [[-1.0, -3.0], [-2.0, 0.0]], [[True, False], [True, False]])
    for step in (1, 2):
        note(ledger, step, batch(), outputs, rows=[1, 2])
    assert [e.exposures for e in ledger.exposures()] == [0, 2, 2]


def test_a_row_of_which_no_token_counts_is_exposed_and_gives_no_signal():
    outputs = head(batch(), [[-1.0, -3.0], [-2.0, 0.0]], [[True, False], [True, False]])
    ledger = ledger_of([b"", b""], supervised=0)
    note(ledger, 1, batch(), outputs, rows=[0, 1])
    assert [e.exposures for e in ledger.exposures()] == [1, 1]
    assert ledger.signals().num_rows == 0


def without_gradients(made):
    return made._replace(with_gradients=False)


def logits_of(ids, sure=5.0):
    """Logits of a model that is sure of every next token of a batch."""
    logits = torch.zeros(*torch.tensor(ids).shape, 9)
    for place, row in enumerate(ids):
        for before, token in enumerate(row[1:]):
            logits[place, before, token] = sure
    return CausalLMOutput(logits=logits)


def test_a_batch_that_is_run_more_than_once_is_trained_once():
    """As label smoothing does, and a loss that compares two passes."""
    unlabelled = {name: part for name, part in batch().items() if name != "labels"}
    ledger = ledger_of([*KNOWN, KNOWN[0]])
    plain = read_pass((), unlabelled, CausalLMOutput())
    outputs = head(batch(), [[-1.0, -3.0], [-2.0, 0.0]], [[True, False], [True, False]])
    fused = without_gradients(read_pass((), batch(), outputs))
    ledger.note_batch(1, [plain, fused])
    ledger.note_batch(2, [plain, plain])
    assert [(p.step, p.row) for p in ledger.passes] == [(1, 1), (1, 0), (2, 1), (2, 2)]
    assert [p.result for p in ledger.passes[:2]] == [(2.0, 0.5), (2.0, 1.0)]
    assert not ledger.has_results


def test_equal_rows_of_one_batch_are_each_trained():
    twice = batch([[5, 6], [5, 6]], [[-100, 6], [-100, 6]], [[1, 1], [1, 1]])
    ledger = ledger_of([KNOWN[0], KNOWN[0], KNOWN[0]])
    made = read_pass((), twice, CausalLMOutput())
    ledger.note_batch(1, [made, made])
    assert [e.exposures for e in ledger.exposures()] == [1, 1, 0]


def test_parts_of_a_batch_make_it_whole():
    whole = batch()
    parts = [{name: part[n : n + 1] for name, part in whole.items()} for n in (0, 1)]
    ledger = ledger_of(KNOWN)
    ledger.note_batch(1, [read_pass((), part, CausalLMOutput()) for part in parts])
    assert [e.exposures for e in ledger.exposures()] == [1, 1]


def test_results_are_read_from_logits_where_there_are_some():
    ledger = ledger_of(KNOWN)
    note(ledger, 1, batch(), logits_of(IDS))
    expected = math.log(math.exp(5.0) + 8) - 5.0
    for trained in ledger.passes:
        assert trained.result.loss == pytest.approx(expected, abs=1e-5)
        assert trained.result.token_accuracy == 1.0
    note(ledger, 2, batch(), (torch.zeros(()),))  # a loss alone, as a patched forward gives it
    assert not ledger.has_results
    assert [e.exposures for e in ledger.exposures()] == [2, 2]


@pytest.mark.parametrize("padding", [0, 6])
def test_padding_that_nothing_marks_is_found(padding):
    """A loss of one's own may give the model nothing but token ids."""
    ledger = ledger_of(KNOWN)
    ids = torch.tensor([[5, 6, 7, padding], [5, 6, padding, padding]])
    ledger.note_batch(1, [read_pass((ids,), {}, CausalLMOutput())])
    ids = torch.tensor([[padding, 5, 6, 7], [padding, padding, 5, 6]])
    ledger.note_batch(2, [read_pass((), {"input_ids": ids}, CausalLMOutput())])
    assert [e.exposures for e in ledger.exposures()] == [2, 2]


def test_a_pass_over_changed_rows_beside_one_over_the_rows_does_not_count():
    ledger = ledger_of(KNOWN)
    made = read_pass((), batch(), CausalLMOutput())
    changed = read_pass((), batch([[5, 8, 7], [5, 8, 0]]), CausalLMOutput())
    ledger.note_batch(1, [made, changed])
    assert (ledger.unread, [e.exposures for e in ledger.exposures()]) == ("", [1, 1])
    ledger.note_batch(2, [changed])
    assert ledger.unread == OTHER_ROWS


def test_a_training_of_which_no_pass_is_seen_is_unknown_and_one_batch_left_out_is_not():
    ledger = ledger_of(KNOWN)
    ledger.note_batch(1, [])
    assert ledger.unread == NO_PASS
    made = read_pass((), batch(), CausalLMOutput())
    ledger.note_batch(2, [made])
    assert ledger.unread == ""
    ledger.note_batch(3, [without_gradients(made)])  # a comparison trains nothing
    assert ledger.unread == NO_PASS


def test_embeddings_in_place_of_tokens_leave_a_ledger_unread():
    ledger = ledger_of(KNOWN)
    embedded = {"inputs_embeds": torch.zeros(2, 3, 4)}
    ledger.note_batch(1, [read_pass((), embedded, CausalLMOutput())])
    assert ledger.unread == OTHER_ROWS


def test_labels_of_a_collator_are_accounted_for():
    prepared = [PreparedRow(account(2), 3, key=key) for key in KNOWN]

    def prepare_again(number, labels):
        return PreparedRow(account(sum(label != -100 for label in labels)), 3, key=KNOWN[number])

    ledger = ExposureLedger("s", stage().samples[:2], prepared, prepare_again)
    note(ledger, 1, batch(labels=[[-100, 6, -100], [-100, 6, -100]]), logits_of(IDS))
    assert ledger.relabelled == {1}
    assert [e.supervised_tokens for e in ledger.exposures()] == [2, 1]
    assert ledger.unread == ""


def test_what_was_trained_behind_the_kept_step_is_struck():
    ledger = ledger_of(KNOWN)
    made = read_pass((), batch(), logits_of(IDS))
    for step in (1, 2, 3):
        ledger.note_batch(step, [made])
    ledger.strike_after(2)
    assert [e.exposures for e in ledger.exposures()] == [2, 2]
    assert set(ledger.signals()["step"].to_pylist()) == {1, 2}
    assert ledger.trained_tokens == 15


def test_tables_say_which_stage_trained_a_sample():
    sample = stage().samples[0].model_copy(update={"stage": "before"})
    ledger = ExposureLedger("s", [sample], [PreparedRow(account(2, cut=2), 7)])
    inputs = batch([[5, 6]], [[-100, 6]], [[1, 1]])
    note(ledger, 3, inputs, head(inputs, [[-0.5]], [[True]]), rows=[0])
    assert ledger.signals().to_pylist() == [
        {"sample_id": sample.id, "stage": "s", "step": 3, "loss": 0.5, "token_accuracy": 1.0}
    ]
    (exposure,) = ledger.exposures()
    assert (exposure.stage, exposure.supervised_tokens, exposure.truncated_tokens) == ("s", 2, 2)
