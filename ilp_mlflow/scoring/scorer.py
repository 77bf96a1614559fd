"""Score samples under a checkpoint: log-probabilities and first choices, turned into one Score per sample."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from scipy.special import softmax

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.progress import track
from ilp_mlflow.core.values import Score
from ilp_mlflow.scoring.forward import Read, forward, shares
from ilp_mlflow.scoring.loading import LoadedModel
from ilp_mlflow.scoring.token_trees import Completions, Item, ScoringPlan, TokenTree

E = TypeVar("E", Item, Completions)

ALLOWED_MISSES = 0.05
"""Share of a completion's tokens that may differ from the model's first choice: none below 20 tokens."""
VERSION = 3
"""To be raised with every change that changes scores: cached ones are then scored afresh."""
log = logging.getLogger(__name__)


def score_samples(plan: ScoringPlan, loaded: LoadedModel, checkpoint: str) -> list[Score]:
    """Scores of all samples of `plan`, sorted by id.

    A batch that does not fit into memory is halved, and so are those after it. Raises ModelError when a single sample
    does not fit.
    """
    scores = [
        Score(sample_id=i, checkpoint=checkpoint, unscored=reason)
        for i, reason in plan.unscored.items()
    ]
    loaded.model.eval()
    shared = branches([item.tree for batch in plan.samples for item in batch], loaded)
    priors = dict[int, float]()
    blanks = reads(plan.blanks, loaded, shared, plan.batch_tokens)
    samples = reads(plan.samples, loaded, shared, plan.batch_tokens)
    for blank, read in track(
        blanks, f"score {checkpoint}, prompts blanked", sum(map(len, plan.blanks))
    ):
        priors.update(zip(blank.numbers, read.sums.tolist(), strict=True))
    for item, read in track(samples, f"score {checkpoint}", sum(map(len, plan.samples))):
        scores.append(
            _score(
                item,
                read,
                [priors[number] for number in item.blanks],
                checkpoint,
                loaded.model.dtype,
            )
        )
    return sorted(scores, key=lambda s: s.sample_id)


def branches(trees: Sequence[TokenTree], loaded: LoadedModel) -> bool:
    """Whether the model can read `trees`, or has to read each sequence in a pass of its own, which is then said.

    Raises ModelError when the largest does not fit into memory.
    """
    # an architecture fails at length, or at branching
    tried = (
        max(some, key=lambda tree: tree.depths.max())
        for some in (trees, [t for t in trees if t.reads[-1, 2]])
        if some
    )
    try:
        shared = all(shares(tree, loaded) for tree in {id(tree): tree for tree in tried}.values())
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise _too_large(max(map(len, trees)), loaded) from None
    if not shared:
        _tell_apart(loaded.model.config.model_type)
    return shared


@cache
def _tell_apart(architecture: str) -> None:
    """Said once per process."""
    log.warning(
        "%s: this architecture cannot share a prompt among completions; scoring each in its own pass",
        architecture,
    )


def _too_large(tokens: int, loaded: LoadedModel) -> ModelError:
    return ModelError(
        f"{tokens} tokens, a sample with its options, do not fit into the memory of {loaded.model.device}; "
        "use another device, fewer scoring.options or dtype bfloat16"
    )


def reads(
    batches: Sequence[Sequence[E]], loaded: LoadedModel, shared: bool, budget: int
) -> Iterator[tuple[E, Read]]:
    """What the model says of every entry of `batches`; one that does not fit into memory is halved, and so are those after it.

    Sequences that are read apart (not `shared`) stay within `budget` tokens per pass. Raises ModelError when a single entry
    does not fit.
    """
    # batches are made for trees; sequences apart are more
    pending, limit = deque(batches), None if shared else budget
    while pending:
        batch = pending.popleft()
        size = _size([entry.tree for entry in batch], shared)
        if limit is not None and size > limit and len(batch) > 1:
            half = len(batch) // 2
            pending.extendleft((batch[half:], batch[:half]))
            continue
        found = None
        try:
            found = forward([entry.tree for entry in batch], loaded, shared)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        if found is not None:
            yield from zip(batch, found, strict=True)
            continue
        if len(batch) == 1:
            raise _too_large(size, loaded)
        clear_device_cache(garbage_collection=True)
        limit = size // 2
        log.warning("out of memory with %d tokens in a batch; going on with %d", size, limit)
        pending.appendleft(batch)


def _size(trees: Sequence[TokenTree], shared: bool) -> int:
    """Tokens of a forward pass over `trees`, padding included."""
    if shared:
        return len(trees) * max(map(len, trees))
    return sum(1 + int(tree.reads[-1, 2]) for tree in trees) * (
        1 + max(int(tree.depths.max()) for tree in trees)
    )


def _score(
    item: Item, read: Read, priors: Sequence[float], checkpoint: str, dtype: torch.dtype
) -> Score:
    right = read.gaps > 0
    gaps = np.sort(read.gaps)
    scored: dict[str, Any] = {
        "logprob": float(read.sums[0]),
        "tokens": len(gaps),
        "greedy": bool(right.all()),
        "token_accuracy": float(right.mean()),
        "gap": float(gaps[int(ALLOWED_MISSES * len(gaps))]),
        "stops": bool(right[-1]) if item.ended else None,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if item.options:
        p = softmax(read.sums)
        best = 1 + int(p[1:].argmax())
        scored |= {
            "option_logprobs": tuple(read.sums.tolist()),
            "option_tokens": tuple(np.bincount(item.tree.reads[:, 2]).tolist()),
            "option_priors": tuple(priors),
            "p_correct": float(p[0]),
            "p_wrong": float(p[best]),
            "wrong": item.options[best - 1],
        }
    return Score(sample_id=item.sample_id, checkpoint=checkpoint, **scored)
