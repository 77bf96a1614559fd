"""Rows that crowd others out, and held-out rows among the trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ilp_mlflow.core.values import Exposure, Sample, Stage, Subject, to_rows
from ilp_mlflow.data import held_out
from ilp_mlflow.data.matching import answer_key, prompt_key
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault

MANY_COPIES = 10
"""Rows with one text from which it crowds others out: the share below is then that of few texts."""
CROWDING = 0.8
"""Share 0..1 of all that is trained that such texts must have: of five tokens, one is of others."""
FEW_EXPOSURES = 5
"""A row that is seen more often than this has been trained, whatever was trained beside it."""
UNLEARNED_OTHERS, UNLEARNED_COPIES = 0.5, 0.1
"""Shares 0..1 that must be unlearned at least of the others, and at most of the copied texts: a
stage that taught little taught neither."""
CROWDED_ROWS = 5
"""Unlearned rows among the others, at least."""
STRENGTH = 0.6
"""How sure: rows that are there once may also be the harder ones."""


def find_row_faults(facts: RunFacts) -> list[Fault]:
    """Rows that crowd others out, and held-out rows among the trained."""
    faults = []
    for stage in facts.context.stages:
        faults += _crowded_out(stage, facts)
    return [*faults, *_held_out_trained(facts), *_evaluated_trained(facts)]


def _crowded_out(stage: Stage, facts: RunFacts) -> list[Fault]:
    """Rows that are a small part of what was trained, beside many copies of others."""
    samples = [sample for sample in facts.context.samples.values() if sample.stage == stage.name]
    rows_by_text: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        text = prompt_key(sample.prompt), answer_key(sample.answer)
        rows_by_text.setdefault(text, []).append(sample)
    groups = [group for group in rows_by_text.values() if len(group) >= MANY_COPIES]
    copies = {sample.id for group in groups for sample in group}
    others = [sample for sample in samples if sample.id not in copies]
    exposures = _exposures(facts)
    if not groups or not others or not _is_crowded(copies, others, exposures):
        return []
    unlearned = set(facts.unlearned)
    lost = tuple(sample.id for sample in others if sample.id in unlearned)
    lost_copies = len(copies & unlearned)
    is_concentrated = (
        len(lost) >= CROWDED_ROWS
        and len(lost) >= UNLEARNED_OTHERS * len(others)
        and lost_copies <= UNLEARNED_COPIES * len(copies)
    )
    if not is_concentrated:
        return []
    return [
        Fault(
            kind="crowded_out",
            cause="not_trained",
            reason=f"{len(copies)} of {len(samples)} rows are copies of {_texts(groups)}, and "
            f"{len(lost)} of the {len(others)} other rows are unlearned, {lost_copies} of the "
            "copies",
            change="remove the copies, or train longer for the rows that are there once",
            strength=STRENGTH,
            subject=Subject(kind="stage", name=stage.name),
            samples=lost,
            reasons=dict.fromkeys(
                lost,
                f"it is one of {len(others)} rows beside {len(copies)} copies of {_texts(groups)}",
            ),
        )
    ]


def _is_crowded(
    copies: set[str], others: Sequence[Sample], exposures: Mapping[str, int] | None
) -> bool:
    """Whether copies are most of what was trained, and others were seen a few times only."""
    if exposures is None:
        return len(copies) >= CROWDING * (len(copies) + len(others))
    seen_copies = sum(exposures.get(id_, 0) for id_ in copies)
    seen_others = [exposures.get(sample.id, 0) for sample in others]
    is_most = seen_copies >= CROWDING * (seen_copies + sum(seen_others))
    return is_most and max(seen_others) <= FEW_EXPOSURES


def _texts(groups: Sequence[Sequence[Sample]]) -> str:
    return "one text" if len(groups) == 1 else f"{len(groups)} texts"


def _exposures(facts: RunFacts) -> dict[str, int] | None:
    """How often each sample was in a batch, by id; None where that is not known."""
    if facts.context.exposures is None:
        return None
    entries = to_rows(facts.context.exposures, Exposure)
    return {entry.sample_id: entry.exposures for entry in entries}


def _held_out_trained(facts: RunFacts) -> list[Fault]:
    """Held-out rows that a stage trains."""
    rows = facts.held_out
    if rows is None or not rows.trained:
        return []
    return [
        Fault(
            kind="held_out_trained",
            cause="not_trained",
            reason=f"{rows.sentence} (e.g. {rows.example})",
            change=held_out.CHANGE,
            subject=Subject(kind="run"),
        )
    ]


def _evaluated_trained(facts: RunFacts) -> list[Fault]:
    """Rows of a trainer's evaluation that it trains, too."""
    faults = []
    for note in facts.ledgers.values():
        if note.evaluated_trained:
            faults.append(
                Fault(
                    kind="evaluated_trained",
                    cause="not_trained",
                    reason=note.evaluated_sentence,
                    change="evaluate on rows that are not trained",
                    subject=Subject(kind="stage", name=note.stage),
                )
            )
    return faults
