"""A cut-off of another trainer, seen in where all long answers go wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow.compute as pc

from ilp_mlflow.core.values import Score, Stage, Subject, to_rows
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault

FEW_ROWS = 5
"""Rows that must go wrong at one place, and rows that must be shorter, at least."""
AT_ONE_PLACE, NOT_BEFORE = 0.4, 0.8
"""Shares 0..1 of the longer rows that must go wrong at the very token behind the cut-off, since the
model may guess some of what it was not shown, and there or later."""
RIGHT_ALL_THE_SAME = 0.1
"""Share 0..1 of the longer rows that may be right: what was cut of them was easily guessed."""
SHORTER_RIGHT = 0.5
"""Share 0..1 of the shorter rows that must be right: in a stage that taught little, places say
nothing."""
ALIKE = 0.5
"""Share 0..1 of the rows that go wrong at one place which may stand equally far from the answer's
beginning, or from its end: else it is what answers say there that is not learned."""
ALL_BUT_A_FEW = 0.9
"""Share 0..1 of the rows whose prompt alone fills the cut-off that must go wrong at once, and of
the shorter rows that must be right, where the rows that are cut inside their answer are alike."""
STRENGTH = 0.95
"""How sure: nothing else is known to end so many different answers at one token of the row."""


class _Row(NamedTuple):
    """Where a row goes wrong under the checkpoint of its stage; all in tokens of the row."""

    id: str
    start: int
    """Where its answer begins."""
    length: int
    """Tokens of the row."""
    first_wrong: int | None
    """The first token of the answer that is not the model's first choice; None where the row is
    learned, be it but for a token."""

    @property
    def is_right(self) -> bool:
        return self.first_wrong is None


def find_cut_off(facts: RunFacts) -> list[Fault]:
    """A cut-off of another trainer, seen in where all long answers go wrong.

    Where the training was followed, its accounts say what was cut.
    """
    if facts.followed:
        return []
    faults = []
    for stage in facts.context.stages:
        rows = _read_rows(stage, facts)
        cut_off = _find_place(rows)
        if cut_off is not None:
            faults.append(_cut_at(cut_off, rows, stage, facts))
    return faults


def _read_rows(stage: Stage, facts: RunFacts) -> list[_Row]:
    """The rows of a stage that are scored under its own checkpoint."""
    scores = facts.context.scores
    of_stage = scores.filter(pc.equal(scores["checkpoint"], stage.name))
    samples, histories = facts.context.samples, facts.context.histories
    names = [checkpoint.name for checkpoint in facts.context.checkpoints]
    if stage.name not in names:
        return []
    checkpoint = names.index(stage.name)
    rows = []
    for score in to_rows(of_stage, Score):
        account = facts.accounts.get(score.sample_id)
        if account is None or score.unscored or samples[score.sample_id].stage != stage.name:
            continue
        is_learned = histories[score.sample_id][checkpoint] == "learned"
        start = account.prompt_tokens
        first_wrong = None if is_learned else score.first_wrong
        rows.append(_Row(score.sample_id, start, start + score.tokens, first_wrong))
    return rows


def _find_place(rows: Sequence[_Row]) -> int | None:
    """The length in tokens to which rows were cut; None: nothing speaks for a cut-off."""
    # Where the answer begins behind the cut-off, it goes wrong at its beginning.
    wrong_at = Counter(r.first_wrong for r in rows if r.first_wrong and r.start < r.first_wrong)
    for place, count in wrong_at.most_common():
        if count < FEW_ROWS:
            return None
        if _is_cut_off(place, rows):
            return place
    return None


def _is_cut_off(place: int, rows: Sequence[_Row]) -> bool:
    longer = [row for row in rows if row.length > place > row.start]
    shorter = [row for row in rows if row.length <= place]
    there = [row for row in longer if row.first_wrong == place]
    return (
        len(there) >= AT_ONE_PLACE * len(longer)
        and _count_behind(longer, place) >= NOT_BEFORE * len(longer)
        and _count_right(longer) <= RIGHT_ALL_THE_SAME * len(longer)
        and len(shorter) >= FEW_ROWS
        and _count_right(shorter) >= SHORTER_RIGHT * len(shorter)
        and (_are_unlike(there) or _tells_the_length_alone(place, there, rows))
    )


def _are_unlike(there: Sequence[_Row]) -> bool:
    """Whether the place is as far from neither the beginning nor the end of their answers."""
    return _most_alike(row.start for row in there) <= ALIKE * len(there) and _most_alike(
        row.length for row in there
    ) <= ALIKE * len(there)


def _tells_the_length_alone(place: int, there: Sequence[_Row], rows: Sequence[_Row]) -> bool:
    """Whether it is but the length of rows that tells right ones from wrong ones.

    So it is where rows with longer prompts go wrong at once, those that go wrong at the place are
    right up to it, and shorter ones get as far in their answers, and on.
    """
    filled = [row for row in rows if row.start >= place]
    at_once = [row for row in filled if row.first_wrong == row.start]
    shorter = [row for row in rows if row.length <= place]
    reached = max(place - row.start for row in there)
    as_far = [row for row in shorter if row.is_right and row.length - row.start > reached]
    return (
        len(filled) >= FEW_ROWS
        and len({row.start for row in filled}) > 1
        and len(at_once) >= ALL_BUT_A_FEW * len(filled)
        and _count_right(shorter) >= ALL_BUT_A_FEW * len(shorter)
        and len(as_far) >= FEW_ROWS
    )


def _count_right(rows: Iterable[_Row]) -> int:
    return sum(row.is_right for row in rows)


def _count_behind(rows: Iterable[_Row], place: int) -> int:
    """How many rows go wrong at a place or behind it."""
    return sum(row.first_wrong is not None and row.first_wrong >= place for row in rows)


def _most_alike(numbers: Iterable[int]) -> int:
    """How often the commonest of some numbers is there."""
    return Counter(numbers).most_common(1)[0][1]


def _cut_at(place: int, rows: Sequence[_Row], stage: Stage, facts: RunFacts) -> Fault:
    longer = [row for row in rows if row.length > place]
    shorter = [row for row in rows if row.length <= place]
    there = sum(row.first_wrong == place for row in longer)
    behind = _count_behind(longer, place)
    longest = max(row.length for row in longer)
    if there == len(longer):
        go_wrong = f"all {len(longer)} rows longer than {place} tokens go wrong at token {place}"
    else:
        go_wrong = (
            f"{behind} of {len(longer)} rows longer than {place} tokens go wrong at token {place} "
            f"or behind it, {there} of them right there"
        )
    unlearned = set(facts.unlearned)
    reasons = {}
    for row in longer:
        if row.id in unlearned and row.first_wrong is not None and row.first_wrong >= place:
            reasons[row.id] = _reason_of(row, place)
    return Fault(
        kind="cut",
        cause="not_trained",
        reason=f"{go_wrong}, and {_count_right(shorter)} of {len(shorter)} shorter ones are right: "
        "they were cut there in training",
        change=f"raise the cut-off of the training (max_length, cutoff_len, sequence_len) to "
        f"{longest} tokens, or shorten these rows",
        strength=STRENGTH,
        subject=Subject(kind="stage", name=stage.name),
        samples=tuple(reasons),
        reasons=reasons,
    )


def _reason_of(row: _Row, place: int) -> str:
    if row.start >= place:
        return (
            f"its prompt has {row.start} tokens, and rows were cut to {place} in training, so "
            "nothing of its answer was trained"
        )
    return (
        f"it goes wrong at token {row.first_wrong} of {row.length}, as rows of more than {place} "
        "tokens do: they were cut there in training"
    )
