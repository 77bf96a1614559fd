"""All faults of a run, the gravest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ilp_mlflow.diagnosis.faults.data.batches import find_batch_faults
from ilp_mlflow.diagnosis.faults.data.cut_off import find_cut_off
from ilp_mlflow.diagnosis.faults.data.exposure import find_exposure_faults
from ilp_mlflow.diagnosis.faults.data.rows import find_row_faults
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.diagnosis.faults.loss.loss_mask import find_mask_faults
from ilp_mlflow.diagnosis.faults.optimization.got_nowhere import find_optimization_faults
from ilp_mlflow.diagnosis.faults.optimization.logged_loss import LOSS_GAP, find_loss_gaps
from ilp_mlflow.diagnosis.faults.text.new_tokens import find_untrained_tokens
from ilp_mlflow.diagnosis.faults.text.text_form import find_text_faults
from ilp_mlflow.diagnosis.faults.weights.checkpoint_weights import (
    find_still_checkpoints,
    find_weight_faults,
)
from ilp_mlflow.diagnosis.faults.weights.other_base import find_other_bases
from ilp_mlflow.diagnosis.faults.weights.self_check import find_scoring_gaps

FINDERS: tuple[Callable[[RunFacts], list[Fault]], ...] = (
    find_weight_faults,
    find_scoring_gaps,
    find_other_bases,
    find_batch_faults,
    find_mask_faults,
    find_text_faults,
    find_untrained_tokens,
    find_optimization_faults,
    find_loss_gaps,
    find_cut_off,
    find_exposure_faults,
    find_row_faults,
    find_still_checkpoints,
)
"""What looks for faults, in the order in which they are said: weights, mask, text, vocabulary,
optimisation, data, ledger; that a checkpoint does nothing comes behind what says why."""


def find_faults(facts: RunFacts) -> list[Fault]:
    """All faults of a run, those that stop the diagnosis of their samples first.

    A sample that a stopping fault speaks for is not spoken for by the ones behind it, one that
    explains nothing is left out where all rows of its stage are spoken for, and a stage most of
    whose rows are spoken for is not asked why its loss is not the logged one.
    """
    faults: list[Fault] = []
    for finder in FINDERS:
        faults += finder(facts)
    faults.sort(key=lambda fault: not fault.stops)
    stopped: set[str] = set()
    kept, asked = [], []
    for fault in faults:
        if _is_beside_the_point(fault, stopped, facts):
            continue
        left = tuple(id_ for id_ in fault.samples if id_ not in stopped)
        asked.append(fault)
        kept.append(fault.model_copy(update={"samples": left}))
        if fault.stops:
            stopped.update(left)
    # one that spoke for samples, all of which have a graver fault, is not worth a line
    worth = [f for f, was in zip(kept, asked, strict=True) if f.samples or not was.samples]
    explained = _explaining_a_gap(worth)
    return [f for f in worth if f.kind != LOSS_GAP or not _is_explained(f, explained, facts)]


def _is_beside_the_point(fault: Fault, stopped: set[str], facts: RunFacts) -> bool:
    """Whether a fault that explains no row is of a stage all of whose rows have a graver one.

    What scores and labels seem to say of the loss is then the doing of that.
    """
    if not fault.stops or fault.samples or fault.subject is None:
        return False
    samples = facts.context.samples
    rows = {id_ for id_ in facts.unlearned if samples[id_].stage == fault.subject.name}
    return bool(rows) and rows <= stopped


def _explaining_a_gap(faults: Sequence[Fault]) -> set[str]:
    """Ids of samples of which faults say why they lose more than was logged.

    What an optimizer did not reach is in its log, too.
    """
    explained: set[str] = set()
    for fault in faults:
        if fault.stops or fault.cause != "failed_optimization":
            explained.update(fault.samples)
    return explained


def _is_explained(gap: Fault, explained: set[str], facts: RunFacts) -> bool:
    """Whether faults speak for most unlearned rows of the stage that has the gap."""
    assert gap.subject is not None
    samples = facts.context.samples
    rows = [id_ for id_ in facts.unlearned if samples[id_].stage == gap.subject.name]
    return 2 * sum(id_ in explained for id_ in rows) > len(rows)
