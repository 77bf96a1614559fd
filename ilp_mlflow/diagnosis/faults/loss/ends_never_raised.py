"""End tokens that were in no loss, as scores show it where nobody followed the training.

Training makes all that is in the loss more likely than it was, and what follows every answer of a
stage first of all. An end that became no more likely, where the answers did, was in no loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ilp_mlflow.core.values import Sample, Score, Stage, Subject, to_rows
from ilp_mlflow.diagnosis.faults.facts import RunFacts
from ilp_mlflow.diagnosis.faults.fault import Fault
from ilp_mlflow.scoring.forward import NEVER_SAID
from ilp_mlflow.scoring.tokens.token_trees import allowed_misses

MIN_ROWS = 5
"""Rows from which something may be said of a stage."""
NEARLY_ALL = 0.9
"""Share 0..1 of rows that must agree."""
MIN_RISE = 1.0
"""By how much the log-probability of what was trained rises at least, nats per token: after 20
steps, with hardly an answer right, tiny models had 3."""
MAX_END_RISE = 0.5
"""By how much that of an end that was not trained may rise, nats: it fell by .5 to 9 in tiny models
while answers were learned, and rose by 2 to 6 where it was trained."""
MAX_LACKING_END = math.log(0.01)
"""Log-probability up to which an end that the base has no token for was not trained, nats."""
STRENGTH = 0.95
"""How sure it is where scores tell and no account."""


class _Row(NamedTuple):
    """A sample before the training and after it."""

    before: Score
    after: Score

    @property
    def end_rise(self) -> float:
        """By how much the log-probability of the end rose, nats."""
        if _end(self.before) <= NEVER_SAID:
            return 0.0 if _end(self.after) < MAX_LACKING_END else math.inf
        return _end(self.after) - _end(self.before)

    @property
    def text_rise(self) -> float:
        """By how much that of the text before the end rose, nats per token."""
        return _text_logprob(self.after) - _text_logprob(self.before)


def is_only_end_wrong(score: Score) -> bool:
    """Whether all of an answer is the model's first choice, but for its end and allowed misses."""
    if score.stops is not False or score.token_accuracy is None:
        return False
    missed = round(score.tokens * (1 - score.token_accuracy))
    return missed - 1 <= allowed_misses(score.tokens)


def find_ends_never_raised(facts: RunFacts, stage: Stage) -> list[Fault]:
    """The end token of a stage's answers, where it became no likelier while the answers did."""
    rows = _rows_of(facts, stage)
    if len(rows) < MIN_ROWS or len(facts.context.checkpoints) < 2:
        return []
    going_on = sum(row.after.stops is False for row in rows)
    texts_rose = median(row.text_rise for row in rows) >= MIN_RISE
    texts_right = sum(_is_text_right(row.after) for row in rows) >= NEARLY_ALL * len(rows)
    # a base that stops at times goes on doing so
    if going_on < len(rows) / 2 or median(row.end_rise for row in rows) > MAX_END_RISE:
        return []
    if not (texts_rose or texts_right):
        return []
    # what is behind answers that are learned tells best; others may have lost their end otherwise
    learned = [row.end_rise for row in rows if _is_text_right(row.after)]
    if len(learned) >= MIN_ROWS and median(learned) > MAX_END_RISE:
        return []
    end_token = _end_token(facts, rows)
    # a token that no training touched is not learned either, and that is another fault
    if facts.last_model is not None and end_token and facts.last_model().untrained([end_token]):
        return []
    unlearned = [sample for sample in stage.samples if sample.id in set(facts.unlearned)]
    scores = facts.context.last_scores(unlearned)
    samples = [sample.id for sample in unlearned if is_only_end_wrong(scores[sample.id])]
    reason, change = _why_end(facts, end_token)
    row_reason = f"the answer is there, its end token is not: {end_token} was not in the loss"
    return [
        Fault(
            kind="end_not_in_the_loss",
            cause="not_trained",
            reason=f"the end token {end_token} was not in the loss: its log-probability went from "
            f"{median(_end(row.before) for row in rows):.1f} to "
            f"{median(_end(row.after) for row in rows):.1f} nats, that of the answers from "
            f"{median(_text_logprob(row.before) for row in rows):.1f} to "
            f"{median(_text_logprob(row.after) for row in rows):.1f} nats per token{reason}",
            change=change,
            strength=STRENGTH,
            subject=Subject(kind="stage", name=stage.name),
            samples=tuple(samples),
            reasons=dict.fromkeys(samples, row_reason + reason),
            stops=True,
        )
    ]


def _why_end(facts: RunFacts, end_token: str) -> tuple[str, str]:
    """Why the end token was not in the loss, as far as that is known, and what mends it."""
    pad = facts.last_model().tokenizer.pad_token if facts.last_model is not None else None
    if pad and pad == end_token:
        return (
            f" (the padding token is {pad}, too, and collators that take padding out of the loss "
            "take the end with it)",
            "label the end token: set a pad_token of its own, or take a collator that masks by "
            "attention_mask",
        )
    return "", f"label the end token: end every training text with {end_token}, in its labels, too"


def _end_token(facts: RunFacts, rows: Sequence[_Row]) -> str:
    """The token that ends the answers."""
    for row in rows:
        account = facts.accounts.get(row.after.sample_id)
        if account is not None and account.end_token:
            return account.end_token
    return ""


def _rows_of(facts: RunFacts, stage: Stage) -> list[_Row]:
    """The samples of a stage that end and are scored before it and after it."""
    before = _scores(facts, facts.context.checkpoints[0].name, stage.samples)
    after = _scores(facts, facts.checkpoint_of(stage), stage.samples)
    rows = []
    for id_ in after:
        if id_ in before and after[id_].tokens > 1:
            rows.append(_Row(before[id_], after[id_]))
    return rows


def _scores(facts: RunFacts, checkpoint: str, samples: Sequence[Sample]) -> dict[str, Score]:
    """The scores with an end of samples under a checkpoint, by id."""
    table = facts.context.scores
    wanted = pc.and_(
        pc.equal(table["checkpoint"], checkpoint),
        pc.is_in(table["sample_id"], pa.array([s.id for s in samples], pa.string())),
    )
    scores = {}
    for score in to_rows(table.filter(wanted), Score):
        if score.end_logprob is not None and score.logprob is not None:
            scores[score.sample_id] = score
    return scores


def _end(score: Score) -> float:
    assert score.end_logprob is not None
    return score.end_logprob


def _text_logprob(score: Score) -> float:
    """Log-probability of what stands before the end, nats per token."""
    assert score.logprob is not None
    return (score.logprob - _end(score)) / (score.tokens - 1)


def _is_text_right(score: Score) -> bool:
    return bool(score.greedy) or is_only_end_wrong(score)
