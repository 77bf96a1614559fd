"""What is said of a stage whose rows were left out of batches, or whose ledger is not known."""

import pytest

from ilp_mlflow import Exposure, pipeline
from ilp_mlflow.core import config
from ilp_mlflow.diagnosis.faults.data.exposure import find_exposure_faults
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.training.accounts.ledger_note import LedgerNote
from tests.conftest import edit_yaml, rows, write_jsonl
from tests.contexts import context, sample

LEARNED = ("unlearned", "learned", "learned")


def facts(counts, training=None, note=None, unlearned=None, supervised=2):
    """A stage whose rows were in so many batches; those that were in none are unlearned."""
    ids = [str(n) for n in range(len(counts))]
    entries = [
        Exposure(
            sample_id=id_,
            stage="first",
            exposures=count,
            supervised_tokens=supervised,
            truncated_tokens=0,
        )
        for id_, count in zip(ids, counts, strict=True)
    ]
    if unlearned is None:
        unlearned = {id_ for id_, count in zip(ids, counts, strict=True) if count == 0}
    known = context(
        [sample(id_) for id_ in ids],
        {id_: LEARNED for id_ in ids if id_ not in unlearned},
        exposures=entries,
    )
    (stage,) = known.stages
    options = {"per_device_train_batch_size": 4, **(training or {})}
    object.__setattr__(known, "stages", [stage.model_copy(update={"training": options})])
    notes = {"first": LedgerNote(stage="first", **note)} if note else {}
    return RunFacts(known, ledgers=notes)


@pytest.mark.parametrize(
    ("counts", "training", "note", "reason", "change"),
    [
        ([3] * 8 + [0, 0], {"dataloader_drop_last": True}, None, "dataloader_drop_last", "false"),
        ([1] * 4 + [0] * 6, {"max_steps": 1}, None, "max_steps 1 ends", "raise max_steps to 3"),
        (
            [1] * 4 + [0] * 6,
            {"num_train_epochs": 0.4},
            None,
            "num_train_epochs 0.4 ends the training after 4 of 10 rows",
            "num_train_epochs to 1",
        ),
        (
            [1] * 4 + [0] * 6,
            {"max_steps": 30},
            {"steps": 1},
            "stopped at step 1",
            "3 steps at least",
        ),
        ([3] * 8 + [0, 0], {}, None, "order in which the trainer draws", "sampler"),
        ([1] * 8 + [0, 0], {"dataloader_drop_last": True}, None, "last rows of each pass", "false"),
    ],
)
def test_rows_in_no_batch_are_said_once_with_what_left_them_out(
    counts, training, note, reason, change
):
    (fault,) = find_exposure_faults(facts(counts, training, note))
    assert fault.kind == "rows_in_no_batch"
    assert fault.subject.name == "first"
    assert len(fault.samples) == counts.count(0)
    assert reason in fault.reason
    assert change in fault.change
    assert all(said.startswith("it was in no batch") for said in fault.reasons.values())


def test_a_stage_whose_rows_were_all_seen_or_learned_all_the_same_has_no_fault():
    assert find_exposure_faults(facts([3] * 10, {"dataloader_drop_last": True})) == []
    assert find_exposure_faults(facts([3] * 8 + [0, 0], unlearned=set())) == []
    # a trainer leaves out rows that have nothing in the loss
    assert find_exposure_faults(facts([3] * 8 + [0, 0], supervised=0)) == []
    # one pass more of some rows, as a limit on steps makes it
    assert find_exposure_faults(facts([2] * 5 + [1] * 5, unlearned={"9"})) == []


def test_rows_that_a_sampler_seldom_draws_are_said_once():
    (fault,) = find_exposure_faults(facts([9] * 20 + [1, 2, 1, 2, 4], unlearned={"20", "24"}))
    assert (fault.kind, fault.samples) == ("rows_seldom_seen", ("20", "24"))
    assert "5 of 25 rows were seen 4 times or less, others 9 times" in fault.reason
    assert "sampler" in fault.change
    few = facts([9] * 20 + [1, 2, 1, 2], unlearned={"20"})
    assert find_exposure_faults(few) == []


def test_steps_behind_the_kept_weights_are_said_whether_or_not_rows_are_lost_by_it():
    note = {"steps": 90, "kept_step": 30}
    (fault,) = find_exposure_faults(facts([2] * 10, note=note))
    assert fault.reason.startswith("weights of step 30 of 90 were kept")
    assert (fault.samples, fault.change) == ((), "")
    (fault,) = find_exposure_faults(facts([2] * 8 + [0, 0], note=note))
    assert fault.samples == ("8", "9")
    assert fault.reasons["8"].startswith("it was in no batch up to step 30 of 90")
    assert "load_best_model_at_end: false" in fault.change
    assert find_exposure_faults(facts([2] * 10, note={"steps": 90, "kept_step": 90})) == []


def test_a_ledger_that_was_not_read_is_unknown():
    samples = [sample("x")]
    note = LedgerNote(stage="first", steps=7, unread="no training pass was seen")
    (fault,) = find_exposure_faults(RunFacts(context(samples), ledgers={"first": note}))
    assert (fault.kind, fault.samples) == ("no_ledger", ())
    assert "7 steps trained is not known: no training pass was seen" in fault.reason
    assert find_exposure_faults(RunFacts(context(samples))) == []


@pytest.mark.long
def test_a_run_that_drops_its_last_rows_and_trains_held_out_ones_says_both_once(
    experiment_file, store, tmp_path
):
    held_out = [*rows("first ")[:3], *rows("third ")]
    write_jsonl(tmp_path / "held.jsonl", held_out)
    experiment = config.read(edit_yaml(experiment_file, held_out="held.jsonl"))
    first = experiment.stages[0]
    options = {
        **first.training,
        "per_device_train_batch_size": 3,
        "dataloader_drop_last": True,
        "num_train_epochs": 60,
    }
    first = first.model_copy(update={"training": options, "schedule": "sequential"})
    experiment = experiment.model_copy(update={"stages": (first,)})
    run_id = pipeline.train(experiment, experiment_file)
    diagnoses = {d.verdict.sample_id: d for d in pipeline.diagnose(experiment, run_id)}
    report = pipeline.make_report(experiment, run_id)
    by_kind = {finding.kind: finding for finding in report.findings}
    assert set(by_kind) == {"rows_in_no_batch", "held_out_trained"}
    dropped = by_kind["rows_in_no_batch"]
    assert dropped.evidence.reason == (
        "2 of 8 rows were in no batch: dataloader_drop_last leaves out the last rows of each pass"
    )
    assert dropped.samples == 2
    assert {d.cause for i, d in diagnoses.items() if i in ("first India", "first Korea")} == {
        "not_trained"
    }
    assert by_kind["held_out_trained"].evidence.reason.startswith("3 of 11 held-out rows")
