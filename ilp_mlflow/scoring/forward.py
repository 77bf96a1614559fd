"""One forward pass over a batch of token trees.

Every sequence scores as in a pass of its own, but what sequences share is computed once: a node
attends to the nodes on its path, and stands at the position it has in its sequences (tree
attention).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils.memory import should_reduce_batch_size

from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.scoring.tokens.token_trees import TokenTree, build_tree

MAX_DIFFERENCE, MAX_LOW_PRECISION_DIFFERENCE = 1e-3, 0.5
"""By how much a tree and its sequences apart may differ, nats per square root of a token.

The same tokens in the same order differ by rounding, another architecture by much more.
"""
NEVER_SAID = -100.0
"""Log-probability of a token that the model does not have, or that comes behind such a one, nats.

A number in place of minus infinity, so that sums and differences of scores stay numbers.
"""
READ_ROWS = 8
"""Rows of logits that are read at a time: a few, so that they stay in the processor's cache."""

Integers = npt.NDArray[np.int64]


class TreeResult(NamedTuple):
    """What the model gives for one tree."""

    logprobs: npt.NDArray[np.float64]
    """(sequences,): log-probability of the scored tokens of each, summed, nats."""
    gaps: npt.NDArray[np.float32]
    """(scored tokens of the first sequence,): logit of each less the best other one, nats.

    Minus infinity for one that is NEVER_SAID.
    """
    token_logprobs: npt.NDArray[np.float32]
    """(scored tokens of the first sequence,): log-probability of each, nats."""
    best_logprobs: npt.NDArray[np.float32]
    """(scored tokens of the first sequence,): that of the model's first choice there, nats."""
    best_ids: npt.NDArray[np.int32]
    """(scored tokens of the first sequence,): the model's first choice there."""


class _TargetScores(NamedTuple):
    """What the model gives for each scored token of a layout."""

    logprobs: npt.NDArray[np.float32]
    """(targets,): log-probability, nats."""
    gaps: npt.NDArray[np.float32]
    """(targets,): logit less the best other one, nats; minus infinity where it is NEVER_SAID, nan
    outside of first sequences."""
    best_logprobs: npt.NDArray[np.float32]
    """(targets,): log-probability of the best other token, or of the own one where that is better,
    nats; of first sequences."""
    best_ids: npt.NDArray[np.int32]
    """(targets,): that token; of first sequences."""


@dataclass(frozen=True)
class _Targets:
    """The scored tokens of a layout, tree by tree; all fields are (targets,)."""

    rows: Integers
    """Row of the output that predicts the token."""
    columns: Integers
    """Column of that output."""
    token_ids: Integers
    """The token."""
    trees: Integers
    """Number of its tree."""
    sequences: Integers
    """Number of its sequence within the tree."""
    never_said: npt.NDArray[np.bool_]
    """Whether the model lacks the token, or one before it."""


@dataclass(frozen=True)
class _Layout:
    """Trees laid out for one forward pass."""

    token_ids: torch.Tensor
    """(rows, columns), right-padded."""
    mask: torch.Tensor
    """Attention mask: (rows, columns), or (rows, 1, queries, keys) where rows are trees."""
    position_ids: torch.Tensor | None
    """(rows, columns), or None where they are simply the columns."""
    targets: _Targets
    """The scored tokens."""


def forward(trees: Sequence[TokenTree], loaded: LoadedModel, as_trees: bool) -> list[TreeResult]:
    """Run the model on every tree.

    With `as_trees` each tree is one row, else each of its sequences: see `supports_trees`.
    """
    if as_trees and any(tree.sequence_count > 1 for tree in trees):
        layout = _one_row_per_tree(trees, loaded)
    else:
        layout = _one_row_per_sequence(trees, loaded)
    return _tree_results(layout, len(trees), loaded)


def supports_trees(tree: TokenTree, loaded: LoadedModel) -> bool:
    """Whether the model scores sequences in a tree as it does apart, found by trying two of `tree`.

    The longest one is among them. It does not where attention slides over a window shorter than
    that, where states or convolutions run along the row, or where positions are not told by
    position ids.
    """
    pair = _two_longest(tree)
    (apart,) = _tree_results(_one_row_per_sequence([pair], loaded), 1, loaded)
    try:
        (together,) = _tree_results(_one_row_per_tree([pair], loaded), 1, loaded)
    except (ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        if should_reduce_batch_size(error):
            raise
        return False
    # errors of rounding add up like a random walk, so they grow with the root of the length
    tokens = np.bincount(pair.target_sequences)
    difference = abs(apart.logprobs - together.logprobs) / np.sqrt(tokens)
    in_float32 = loaded.model.dtype == torch.float32
    allowed = MAX_DIFFERENCE if in_float32 else MAX_LOW_PRECISION_DIFFERENCE
    return bool(difference.max() <= allowed)


def without_router(model: Any) -> dict[str, Any]:
    """Options of a forward pass of a mixture of experts: without the loss of its router.

    Training leaves that on. {} for any other model.
    """
    if hasattr(model.config.get_text_config(), "output_router_logits"):
        return {"output_router_logits": False}
    return {}


def _two_longest(tree: TokenTree) -> TokenTree:
    """The longest sequence of a tree with the next one, where there is one."""
    sequences = [tree.sequence(number) for number in range(tree.sequence_count)]
    numbers = sorted(range(len(sequences)), key=lambda number: -len(sequences[number]))[:2]
    return build_tree(
        [sequences[number] for number in numbers], [tree.start(number) for number in numbers]
    )


def _one_row_per_tree(trees: Sequence[TokenTree], loaded: LoadedModel) -> _Layout:
    """Each node is a column; sequences see what they share and themselves."""
    shape = len(trees), max(map(len, trees))
    token_ids = np.zeros(shape, np.int64)
    position_ids = np.zeros(shape, np.int64)
    subtree_ends = np.zeros(shape, np.int64)
    rows, columns = [], []
    for row, tree in enumerate(trees):
        token_ids[row, : len(tree)] = tree.tokens
        position_ids[row, : len(tree)] = tree.depths
        subtree_ends[row, : len(tree)] = tree.subtree_ends
        rows.append(np.full(len(tree.target_ids), row))
        columns.append(tree.target_nodes)
    mask = _tree_mask(torch.from_numpy(subtree_ends), loaded)
    targets = _targets(trees, rows, columns, loaded.vocabulary)
    return _Layout(torch.from_numpy(token_ids), mask, torch.from_numpy(position_ids), targets)


def _tree_mask(subtree_ends: torch.Tensor, loaded: LoadedModel) -> torch.Tensor:
    """(rows, 1, queries, keys): 0 where the key is on the path to the query, else very negative.

    `subtree_ends` is (rows, columns). Padding is on no path and sees nothing; nobody reads it.
    """
    dtype, device = loaded.model.dtype, loaded.model.device
    nodes = torch.arange(subtree_ends.shape[1], device=device)
    queries, keys = nodes[:, None], nodes[None, :]
    # (queries, keys) and (rows, queries, keys): key <= query < subtree end of the key
    on_path = (keys <= queries) & (queries < subtree_ends.to(device)[:, None, :])
    return torch.where(on_path, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]


def _one_row_per_sequence(trees: Sequence[TokenTree], loaded: LoadedModel) -> _Layout:
    """Each token of a sequence but the last is a column, as in an ordinary pass."""
    paths, rows, columns = list[npt.NDArray[np.int32]](), [], []
    for tree in trees:
        rows.append(len(paths) + tree.target_sequences)
        columns.append(tree.depths[tree.target_nodes])
        paths += [tree.path(number) for number in range(tree.sequence_count)]
    token_ids = np.zeros((len(paths), max(map(len, paths))), np.int64)
    mask = np.zeros_like(token_ids)
    for row, path in enumerate(paths):
        token_ids[row, : len(path)] = path
        mask[row, : len(path)] = 1
    targets = _targets(trees, rows, columns, loaded.vocabulary)
    return _Layout(torch.from_numpy(token_ids), torch.from_numpy(mask), None, targets)


def _targets(
    trees: Sequence[TokenTree],
    rows: Sequence[npt.NDArray[Any]],
    columns: Sequence[Any],
    vocabulary: int,
) -> _Targets:
    """The scored tokens of all trees; `rows` and `columns` have one array for each tree."""
    numbers = [np.full(len(tree.target_ids), number) for number, tree in enumerate(trees)]
    token_ids = [tree.target_ids for tree in trees]
    sequences = [tree.target_sequences for tree in trees]
    return _Targets(
        np.concatenate(rows).astype(np.int64),
        np.concatenate(columns).astype(np.int64),
        np.concatenate(token_ids).astype(np.int64),
        np.concatenate(numbers).astype(np.int64),
        np.concatenate(sequences).astype(np.int64),
        np.concatenate([_never_said(tree, vocabulary) for tree in trees]),
    )


def _never_said(tree: TokenTree, vocabulary: int) -> npt.NDArray[np.bool_]:
    """(targets,): whether a model with `vocabulary` tokens lacks the token or one before it."""
    lacks: npt.NDArray[np.bool_] = tree.target_ids >= vocabulary
    for node in np.flatnonzero(tree.tokens >= vocabulary):
        lacks |= (node <= tree.target_nodes) & (tree.target_nodes < tree.subtree_ends[node])
    return lacks


def _tree_results(layout: _Layout, tree_count: int, loaded: LoadedModel) -> list[TreeResult]:
    """Run the model on a layout and sum up what it gives, tree by tree."""
    scores, targets = _score_targets(layout, loaded), layout.targets
    results = []
    for number in range(tree_count):
        of_tree = targets.trees == number
        # (targets of the tree,) -> (sequences,)
        sums = np.bincount(targets.sequences[of_tree], scores.logprobs[of_tree])
        of_first = of_tree & (targets.sequences == 0)
        token_logprobs = scores.logprobs[of_first]
        results.append(
            TreeResult(
                sums.astype(np.float64),
                scores.gaps[of_first],
                token_logprobs,
                scores.best_logprobs[of_first],
                scores.best_ids[of_first],
            )
        )
    return results


@torch.inference_mode()
def _score_targets(layout: _Layout, loaded: LoadedModel) -> _TargetScores:
    targets, device = layout.targets, loaded.model.device
    # one output may predict the next token of several sequences: (outputs, 2), and for every
    # target the index of its output
    places = np.stack([targets.rows, targets.columns], axis=1)
    outputs, output_of_target = np.unique(places, axis=0, return_inverse=True)
    logits = _logits_at(outputs, layout, loaded)

    output = torch.from_numpy(output_of_target).to(device)
    # a token that the model does not have is looked up as another one, and not read
    token = torch.from_numpy(np.where(targets.never_said, 0, targets.token_ids)).to(device)
    # (outputs, vocabulary) -> (targets,)
    target_logits = logits[output, token]
    in_first = torch.from_numpy(targets.sequences == 0).to(device)
    # the token of the first sequence behind each output; of those that have none any one
    first_tokens = torch.zeros(len(logits), dtype=torch.long, device=device)
    first_tokens[output[in_first]] = token[in_first]
    read = _read_rows(logits, first_tokens)

    logprobs = (target_logits - read.normalisers[output]).cpu().numpy()
    gaps = (target_logits - read.best_others[output]).where(in_first, torch.nan).cpu().numpy()
    gaps[(targets.sequences == 0) & targets.never_said] = -np.inf
    # a token that is never said cannot be a first choice
    never = torch.from_numpy(targets.never_said).to(device)
    own = target_logits.where(~never, -torch.inf)
    is_own = own > read.best_others[output]
    best = torch.where(is_own, own, read.best_others[output]) - read.normalisers[output]
    best_ids = torch.where(is_own, token, read.best_other_ids[output])
    return _TargetScores(
        np.where(targets.never_said, np.float32(NEVER_SAID), logprobs),
        gaps,
        best.cpu().numpy(),
        best_ids.to(torch.int32).cpu().numpy(),
    )


class _ReadRows(NamedTuple):
    """What is read off rows of logits; all fields are (rows,)."""

    normalisers: torch.Tensor
    """The logsumexp of each."""
    best_others: torch.Tensor
    """The best logit but that of its own token."""
    best_other_ids: torch.Tensor
    """The token of that."""


def _read_rows(logits: torch.Tensor, tokens: torch.Tensor) -> _ReadRows:
    """Read every row of `logits`, (rows, vocabulary), which are used up; `tokens` is (rows,)."""
    normalisers, best_others, best_other_ids = [], [], []
    for rows, own in zip(logits.split(READ_ROWS), tokens.split(READ_ROWS), strict=True):
        normalisers.append(rows.logsumexp(1))
        best, ids = rows.scatter_(1, own[:, None], -torch.inf).max(1)
        best_others.append(best)
        best_other_ids.append(ids)
    return _ReadRows(torch.cat(normalisers), torch.cat(best_others), torch.cat(best_other_ids))


def _logits_at(outputs: Integers, layout: _Layout, loaded: LoadedModel) -> torch.Tensor:
    """(outputs, vocabulary): logits in float32 at `outputs`, which is (outputs, 2): row, column.

    The language-model head is given these places only, which saves most of its time and memory;
    whatever the model does with its logits afterwards stays the model's own.
    """
    model, device = loaded.model, loaded.model.device
    row, column = torch.from_numpy(outputs).to(device).T

    def keep_outputs(
        _: torch.nn.Module, args: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        # virtual tokens of an adapter stand in front of the row's own
        virtual = args[0].shape[1] - layout.token_ids.shape[1]
        # (rows, columns, width) -> (1, outputs, width)
        return (args[0][row, column + virtual][None],)

    options = without_router(model)
    if layout.position_ids is not None:
        options["position_ids"] = layout.position_ids.to(device)
    # a token without an embedding is read as another one: nothing behind it counts
    token_ids = layout.token_ids.where(layout.token_ids < loaded.vocabulary, 0)
    hook = model.get_output_embeddings().register_forward_pre_hook(keep_outputs)
    try:
        output = model(
            input_ids=token_ids.to(device),
            attention_mask=layout.mask.to(device),
            use_cache=False,
            **options,
        )
    finally:
        hook.remove()
    # (1, outputs, vocabulary) -> (outputs, vocabulary)
    return output.logits[0].float()
