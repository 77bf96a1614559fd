"""Every checkpoint's scores against plain passes: a few rows, one at a time, by the model alone."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence

import torch

from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Score
from ilp_mlflow.scoring.forward import without_router
from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.scoring.tokens.token_trees import SampleTree, ScoringPlan

ROWS = 8
"""Rows of a checkpoint that are scored both ways."""
MAX_DIFFERENCE = 1e-4
"""By how much both ways may differ in float32, nats per token: the same sums in another order."""
MAX_LOW_PRECISION_DIFFERENCE = 0.6
"""The same for types of 16 bits, nats per square root of a token: errors of rounding add up like a
random walk. Of 72 answers of 1 to 100 tokens under SmolLM2-135M-Instruct in bfloat16 the largest
was 0.34, the mean 0.1."""


class SelfCheck(Value):
    """How far the scores of a checkpoint are from what plain separate passes give."""

    checkpoint: str
    """The checkpoint."""
    dtype: str
    """What it was scored in."""
    rows: tuple[str, ...]
    """Ids of the samples that were scored both ways; () where none is scored."""
    largest_difference: float = 0.0
    """Of the log-probabilities of their answers, nats per token; of the answer that comes nearest
    to what is allowed."""
    allowed: float
    """The largest difference that rounding explains in this answer, nats per token."""

    @property
    def agrees(self) -> bool:
        """Whether the difference is one of rounding."""
        return self.largest_difference <= self.allowed


def check_scores(
    plan: ScoringPlan, loaded: LoadedModel, checkpoint: str, scores: Sequence[Score]
) -> SelfCheck:
    """Score the answers of ROWS samples of `plan` again, each in a plain pass of its own.

    `scores` are those that the model gave to the plan. Samples that are not scored, and answers
    with tokens that the model lacks, are left out.
    """
    logprobs = {score.sample_id: score.logprob for score in scores}
    in_float32 = loaded.model.dtype == torch.float32
    differences = {}
    for sample in _chosen(plan, logprobs, loaded.vocabulary):
        tokens = len(sample.tree.sequence(0)) - sample.tree.start(0)
        scored = logprobs[sample.sample_id] or 0.0
        difference = abs(scored - _plain_logprob(sample, loaded)) / tokens
        # what is no number is as far off as can be
        difference = difference if math.isfinite(difference) else sys.float_info.max
        differences[sample.sample_id] = difference, _allowed(tokens, in_float32)
    worst = max(differences.values(), key=lambda row: row[0] / row[1], default=None)
    return SelfCheck(
        checkpoint=checkpoint,
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        rows=tuple(differences),
        largest_difference=worst[0] if worst else 0.0,
        allowed=worst[1] if worst else MAX_DIFFERENCE,
    )


def _allowed(tokens: int, in_float32: bool) -> float:
    """The difference of an answer's log-probabilities that rounding explains, nats per token."""
    if in_float32:
        return MAX_DIFFERENCE
    return MAX_LOW_PRECISION_DIFFERENCE / math.sqrt(tokens)


def _chosen(
    plan: ScoringPlan, logprobs: dict[str, float | None], vocabulary: int
) -> list[SampleTree]:
    """The samples to score again: the same ones whatever the order of the rows."""
    candidates = []
    for batch in plan.sample_batches:
        for sample in batch:
            is_scored = logprobs.get(sample.sample_id) is not None
            if is_scored and max(sample.tree.sequence(0)) < vocabulary:
                candidates.append(sample)
    candidates.sort(key=lambda sample: hashlib.sha256(sample.sample_id.encode()).digest())
    return candidates[:ROWS]


@torch.inference_mode()
def _plain_logprob(sample: SampleTree, loaded: LoadedModel) -> float:
    """Log-probability of a sample's right answer in one ordinary pass, nats."""
    ids, start = sample.tree.sequence(0), sample.tree.start(0)
    token_ids = torch.tensor([ids], device=loaded.model.device)
    logits = loaded.model(
        input_ids=token_ids, use_cache=False, **without_router(loaded.model)
    ).logits[0]
    # virtual tokens of an adapter may stand in front of the row's own
    virtual = len(logits) - len(ids)
    predicting = logits[virtual + start - 1 : virtual + len(ids) - 1].double()
    answer = token_ids[0, start:, None]
    return float(predicting.log_softmax(-1).gather(1, answer).sum())
