"""Score the samples of a plan under one checkpoint: one `Score` for each."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from peft import PeftModel
from scipy.special import softmax
from transformers import PreTrainedModel

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.finite_scores import NOT_FINITE
from ilp_mlflow.core.terminal.progress import track
from ilp_mlflow.core.values import Score
from ilp_mlflow.core.verdict_rules import AnswerTokens
from ilp_mlflow.data.decisive_words import decisive_words
from ilp_mlflow.scoring.forward import NEVER_SAID, TreeResult, forward, supports_trees
from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.scoring.models.vocabularies import lacking_token
from ilp_mlflow.scoring.tokens.token_trees import (
    SampleTree,
    ScoringPlan,
    SequenceTree,
    TokenTree,
    allowed_misses,
)

Entry = TypeVar("Entry", SampleTree, SequenceTree)

TURNING_KINDS = ("negation", "number")
"""Kinds of decisive words that are told from a token alone."""
VERSION = 8
"""To be raised with every change of scores or of what is kept beside them: cached ones are then
scored afresh."""
log = logging.getLogger(__name__)


NO_TOKENS = AnswerTokens(np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.int32))
"""Of a sample that is not scored."""


class SampleScore(NamedTuple):
    """A sample scored, as a whole and token by token."""

    score: Score
    """As a whole."""
    tokens: AnswerTokens
    """Token by token; NO_TOKENS where it is not scored."""


def score_samples(plan: ScoringPlan, loaded: LoadedModel, checkpoint: str) -> list[Score]:
    """Scores of all samples of `plan`, sorted by id; see `score_tokens`."""
    return [scored.score for scored in score_tokens(plan, loaded, checkpoint)]


def score_tokens(plan: ScoringPlan, loaded: LoadedModel, checkpoint: str) -> list[SampleScore]:
    """Scores of all samples of `plan`, sorted by id, with those of their tokens.

    A batch that does not fit into memory is halved, and so are those after it. Raises ModelError
    when a single sample does not fit.
    """
    lacking = _lacking_prompts(plan, loaded)
    scores = []
    for sample_id, reason in {**plan.unscored, **lacking}.items():
        unscored = Score(sample_id=sample_id, checkpoint=checkpoint, unscored=reason)
        scores.append(SampleScore(unscored, NO_TOKENS))
    plan = plan.without(frozenset(lacking))
    # dropout, which training leaves on, would make scores random
    loaded.model.eval()
    trees = [entry.tree for batch in plan.sample_batches for entry in batch]
    as_trees = can_run_as_trees(trees, loaded)

    blanked = sum(map(len, plan.blank_batches))
    results = run_batches(plan.blank_batches, loaded, as_trees, plan.batch_tokens)
    # log-probability of every answer behind its blanked prompt, nats, by its number in the plan
    priors = dict[int, float]()
    for group, result in track(results, f"score {checkpoint}, prompts blanked", blanked):
        priors.update(zip(group.numbers, result.logprobs.tolist(), strict=True))

    sample_results = run_batches(plan.sample_batches, loaded, as_trees, plan.batch_tokens)
    for sample, result in track(sample_results, f"score {checkpoint}", len(trees)):
        sample_priors = [priors[number] for number in sample.blank_numbers]
        dtype = loaded.model.dtype
        sample = _with_said(sample, result, loaded)
        score = _sample_score(sample, result, sample_priors, checkpoint, dtype)
        tokens = AnswerTokens(result.token_logprobs, result.best_logprobs, result.best_ids)
        scores.append(SampleScore(score, NO_TOKENS if score.unscored else tokens))
    return sorted(scores, key=lambda scored: scored.score.sample_id)


def _lacking_prompts(plan: ScoringPlan, loaded: LoadedModel) -> dict[str, str]:
    """Why samples whose prompt has a token that the model lacks are not scored, by id."""
    reasons = {}
    for batch in plan.sample_batches:
        for sample in batch:
            prompt = sample.tree.path(0)[: sample.tree.start(0)]
            token = lacking_token(prompt, loaded.vocabulary)
            if token is not None:
                text = loaded.tokenizer.convert_ids_to_tokens(token)
                reasons[sample.sample_id] = (
                    f"the prompt has the token {text!r} ({token}), which the model does not have"
                )
    return reasons


def can_run_as_trees(trees: Sequence[TokenTree], loaded: LoadedModel) -> bool:
    """Whether the model can run `trees` as they are; else each sequence needs a pass of its own.

    The latter is said once. Raises ModelError when the largest tree does not fit into memory.
    """
    if all(tree.sequence_count == 1 for tree in trees):
        # nothing is shared, so nothing has to be tried
        return True
    try:
        as_trees = all(supports_trees(tree, loaded) for tree in _hardest(trees))
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise _too_large(max(map(len, trees)), loaded) from None
    if not as_trees:
        _warn_of_separate_passes(_architecture(loaded.model))
    return as_trees


def _hardest(trees: Sequence[TokenTree]) -> list[TokenTree]:
    """The trees to try an architecture on, which fails at length or at branching.

    These are the deepest tree, and the deepest one with several sequences where it has only one.
    """
    if not trees:
        return []
    deepest = max(trees, key=lambda tree: tree.longest_path)
    branching = [tree for tree in trees if tree.sequence_count > 1]
    if deepest.sequence_count > 1 or not branching:
        return [deepest]
    return [deepest, max(branching, key=lambda tree: tree.longest_path)]


def _architecture(model: PreTrainedModel | PeftModel) -> str:
    """What decides whether sequences can share a beginning: a type of model, or of adapter."""
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return str(model.active_peft_config.peft_type.value)
    return str(model.config.model_type)


@cache
def _warn_of_separate_passes(architecture: str) -> None:
    """Cached, so said once per process and architecture."""
    log.warning(
        "%s: this architecture cannot share a prompt among completions; "
        "scoring each in its own pass",
        architecture,
    )


def run_batches(
    batches: Sequence[Sequence[Entry]], loaded: LoadedModel, as_trees: bool, batch_tokens: int
) -> Iterator[tuple[Entry, TreeResult]]:
    """Run the model on all batches; yields every entry with its result.

    A batch that does not fit into memory is halved, and so are those after it. Not `as_trees`,
    batches are split so that their sequences stay within `batch_tokens` per pass. Raises ModelError
    when a single entry does not fit.
    """
    pending = deque(batches)
    # batches are made for trees; the sequences of a tree, one row each, are more tokens
    limit = None if as_trees else batch_tokens
    while pending:
        batch = pending.popleft()
        trees = [entry.tree for entry in batch]
        tokens = _tokens_of_pass(trees, as_trees)
        if limit is not None and tokens > limit and len(batch) > 1:
            # both halves go back in front of the queue and are looked at again
            half = len(batch) // 2
            pending.extendleft((batch[half:], batch[:half]))
            continue
        results = _forward_if_it_fits(trees, loaded, as_trees)
        if results is not None:
            yield from zip(batch, results, strict=True)
            continue
        if len(batch) == 1:
            raise _too_large(tokens, loaded)
        clear_device_cache(garbage_collection=True)
        limit = tokens // 2
        log.warning("out of memory with %d tokens in a batch; going on with %d", tokens, limit)
        pending.appendleft(batch)


def _forward_if_it_fits(
    trees: Sequence[TokenTree], loaded: LoadedModel, as_trees: bool
) -> list[TreeResult] | None:
    """The results of a forward pass, or None when memory runs out."""
    try:
        return forward(trees, loaded, as_trees)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
    # returned outside of the handler, so that no traceback keeps the tensors of the pass alive
    return None


def _tokens_of_pass(trees: Sequence[TokenTree], as_trees: bool) -> int:
    """Tokens of a forward pass over `trees`, padding included."""
    if as_trees:
        return len(trees) * max(map(len, trees))
    rows = sum(tree.sequence_count for tree in trees)
    return rows * max(tree.longest_path for tree in trees)


def _too_large(tokens: int, loaded: LoadedModel) -> ModelError:
    return ModelError(
        f"{tokens} tokens, a sample with its options, do not fit into the memory of "
        f"{loaded.model.device}; use another device, fewer scoring.options or dtype bfloat16"
    )


def _with_said(sample: SampleTree, result: TreeResult, loaded: LoadedModel) -> SampleTree:
    """A sample in which a token is decisive, too, that the model says a decisive word in place of.

    Where the row goes on and the model says "not", the row's own word is any word.
    """
    missed = np.flatnonzero(result.gaps <= 0)
    # of more misses than may be the sample is not learned anyway
    if not 0 < len(missed) <= allowed_misses(len(result.gaps)):
        return sample
    turning = []
    for place in missed.tolist():
        said = loaded.tokenizer.decode([int(result.best_ids[place])])
        if any(word.kind in TURNING_KINDS for word in decisive_words(said)):
            turning.append(place)
    return replace(sample, decisive=(*sample.decisive, *turning))


def _sample_score(
    sample: SampleTree,
    result: TreeResult,
    priors: Sequence[float],
    checkpoint: str,
    dtype: torch.dtype,
) -> Score:
    """The score of a sample from what the model gives for its tree.

    Where any of that is nan or infinite, the sample is unscored.
    """
    precision = str(dtype).removeprefix("torch.")
    # a gap of minus infinity with a finite log-probability marks a token that is NEVER_SAID; an
    # infinite logit makes the log-probability of its row infinite or nan, too
    is_number = np.isfinite(result.logprobs).all() and (result.gaps < np.inf).all()
    if not is_number:
        return Score(
            sample_id=sample.sample_id, checkpoint=checkpoint, dtype=precision, unscored=NOT_FINITE
        )
    is_first_choice = result.gaps > 0
    fields: dict[str, Any] = {
        "logprob": float(result.logprobs[0]),
        "tokens": len(result.gaps),
        "greedy": bool(is_first_choice.all()),
        "token_accuracy": float(is_first_choice.mean()),
        "first_wrong": _first_wrong(sample, is_first_choice),
        "gap": _weakest_gap(result.gaps, sample.decisive),
        "stops": bool(is_first_choice[-1]) if sample.ended else None,
        "end_logprob": float(result.token_logprobs[-1]) if sample.ended else None,
        "dtype": precision,
    }
    if sample.options:
        fields.update(_option_fields(sample, result, priors))
    return Score(sample_id=sample.sample_id, checkpoint=checkpoint, **fields)


def _weakest_gap(gaps: npt.NDArray[np.float32], decisive: Sequence[int]) -> float:
    """The gap of the weakest token among those that must be right, nats.

    The weakest floor(0.05 n) tokens need not be, but for those of decisive words, and for one that
    is never said: with such a one a sample is not learned.
    """
    if np.isneginf(gaps).any():
        return NEVER_SAID
    must_be_right = np.zeros(len(gaps), bool)
    must_be_right[list(decisive)] = True
    free = allowed_misses(len(gaps))
    weakest = np.argsort(gaps, kind="stable")
    may_be_missed = weakest[~must_be_right[weakest]][:free]
    must_be_right[:] = True
    must_be_right[may_be_missed] = False
    return float(gaps[must_be_right].min())


def _first_wrong(sample: SampleTree, is_first_choice: npt.NDArray[np.bool_]) -> int | None:
    """Position in the row of the first token that is not the model's first choice."""
    wrong = np.flatnonzero(~is_first_choice)
    return sample.tree.start(0) + int(wrong[0]) if len(wrong) else None


def _option_fields(
    sample: SampleTree, result: TreeResult, priors: Sequence[float]
) -> dict[str, Any]:
    """The fields of a score that compare the right answer, which comes first, with the options."""
    # the paper's eq. 1 in expectation: each option is drawn with its share of the probability
    p = softmax(result.logprobs)
    best_wrong = int(p[1:].argmax())
    return {
        "option_logprobs": tuple(result.logprobs.tolist()),
        "option_tokens": tuple(np.bincount(sample.tree.target_sequences).tolist()),
        # no verdict goes by them, so what is no number is left out alone
        "option_priors": tuple(priors) if np.isfinite(priors).all() else None,
        "p_correct": float(p[0]),
        "p_wrong": float(p[1 + best_wrong]),
        "wrong": sample.options[best_wrong],
    }
