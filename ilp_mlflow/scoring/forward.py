"""One forward pass over a batch of token trees: every sequence scores as in a pass of its own, what they share runs once.

A node attends to the nodes on its path, and stands at the position it has in its sequences (tree attention).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils.memory import should_reduce_batch_size

from ilp_mlflow.scoring.loading import LoadedModel
from ilp_mlflow.scoring.token_trees import TokenTree, build_tree


@dataclass(frozen=True)
class Read:
    """What the model says of one tree."""

    sums: npt.NDArray[np.float64]
    """Summed log-probability of every sequence, nats."""
    gaps: npt.NDArray[np.float32]
    """For each token of the first sequence: its logit minus the best other, nats."""


@dataclass(frozen=True)
class _Rows:
    """Trees laid out for one forward pass."""

    ids: torch.Tensor
    """Token ids (row, column), right-padded."""
    mask: torch.Tensor
    """Attention mask: (row, column), or (row, 1, query, key) for trees."""
    positions: torch.Tensor | None
    """Position ids (row, column) where they are not simply the columns."""
    reads: npt.NDArray[np.int64]
    """(scored tokens, 5): row and column whose output predicts it, its id, its tree, its sequence."""


def forward(trees: Sequence[TokenTree], loaded: LoadedModel, shared: bool) -> list[Read]:
    """What the model says of every tree; `shared` lays a tree that branches out once, else each sequence has its own row."""
    branching = any(tree.reads[-1, 2] for tree in trees)
    return _read(trees, _together(trees, loaded) if shared and branching else _apart(trees), loaded)


def _read(trees: Sequence[TokenTree], rows: _Rows, loaded: LoadedModel) -> list[Read]:
    logprob, gap = _run(rows, loaded)
    place, sequence = rows.reads[:, 3], rows.reads[:, 4]
    found = []
    for k in range(len(trees)):
        own = place == k
        found.append(
            Read(
                np.bincount(sequence[own], logprob[own]).astype(np.float64),
                gap[own & (sequence == 0)],
            )
        )
    return found


def shares(whole: TokenTree, loaded: LoadedModel) -> bool:
    """Whether this model scores the sequences of a tree as it does apart, found by trying two of them.

    The longest one is among them. Not so where attention slides over a window shorter than that, where states or
    convolutions run along the row, or where positions are not told by position ids.
    """
    few = _two(whole)
    (apart,) = _read([few], _apart([few]), loaded)
    try:
        (together,) = _read([few], _together([few], loaded), loaded)
    except (ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        if should_reduce_batch_size(error):
            raise
        return False
    # the same tokens in the same order; half precision differs by rounding, another architecture by much more
    off = abs(apart.sums - together.sums) / np.sqrt(np.bincount(few.reads[:, 2]))
    return bool(off.max() <= (1e-3 if loaded.model.dtype == torch.float32 else 0.5))


def _two(whole: TokenTree) -> TokenTree:
    """The longest sequence of a tree with one other, where there is one."""
    reads = [whole.reads[whole.reads[:, 2] == k] for k in range(1 + whole.reads[:, 2].max())]
    kept = sorted(reads, key=lambda r: -whole.depths[r[-1, 0]])[:2]
    sequences = [[*_path(whole, read[-1, 0]).tolist(), int(read[-1, 1])] for read in kept]
    return build_tree(sequences, [int(whole.depths[read[0, 0]]) + 1 for read in kept])


def _path(whole: TokenTree, leaf: int) -> npt.NDArray[np.int32]:
    """Token ids from the root to the node `leaf`."""
    return whole.tokens[(np.arange(len(whole)) <= leaf) & (leaf < whole.ends)]


def _together(trees: Sequence[TokenTree], loaded: LoadedModel) -> _Rows:
    """One row per tree; sequences see what they share and themselves."""
    width = max(map(len, trees))
    ids, positions, ends = (np.zeros((len(trees), width), np.int64) for _ in range(3))
    for row, tree in enumerate(trees):
        ids[row, : len(tree)] = tree.tokens
        positions[row, : len(tree)] = tree.depths
        ends[row, : len(tree)] = tree.ends
    reads = np.concatenate(
        [_reads(tree, tree.reads[:, 0], row, row) for row, tree in enumerate(trees)]
    )
    dtype, device = loaded.model.dtype, loaded.model.device
    at = torch.arange(width, device=device)
    sees = (at[None, :] <= at[:, None]) & (
        at[:, None] < torch.from_numpy(ends).to(device)[:, None, :]
    )
    mask = torch.where(sees, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]
    return _Rows(torch.from_numpy(ids), mask, torch.from_numpy(positions), reads)


def _apart(trees: Sequence[TokenTree]) -> _Rows:
    """One row per sequence."""
    sequences, reads = list[npt.NDArray[np.int32]](), []
    for place, tree in enumerate(trees):
        columns = tree.depths[tree.reads[:, 0]]
        for k in range(1 + tree.reads[:, 2].max()):
            own = tree.reads[:, 2] == k
            reads.append(_reads(tree, columns, len(sequences), place)[own])
            sequences.append(_path(tree, tree.reads[own, 0].max()))
    ids = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(sequences):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return _Rows(torch.from_numpy(ids), torch.from_numpy(mask), None, np.concatenate(reads))


def _reads(
    tree: TokenTree, columns: npt.NDArray[np.int32], row: int, place: int
) -> npt.NDArray[np.int64]:
    there = (
        np.full(len(columns), row),
        columns,
        tree.reads[:, 1],
        np.full(len(columns), place),
        tree.reads[:, 2],
    )
    return np.stack(there, 1).astype(np.int64)


def without_router(model: Any) -> dict[str, Any]:
    """Options of a forward pass that leave a mixture of experts without the loss of its router, which training leaves on."""
    return (
        {"output_router_logits": False}
        if hasattr(model.config.get_text_config(), "output_router_logits")
        else {}
    )


@torch.inference_mode()
def _run(
    rows: _Rows, loaded: LoadedModel
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Log-probability of every scored token and, nan but for first sequences, its gap to the best other, nats."""
    model, device = loaded.model, loaded.model.device
    # one output may predict the next token of several sequences
    outputs, at = np.unique(rows.reads[:, :2], axis=0, return_inverse=True)
    row, column = torch.from_numpy(outputs).to(device).T
    first = rows.reads[:, 4] == 0

    def keep_read(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0][row, column][None],)  # (rows, width, hidden) -> (1, outputs, hidden)

    options: dict[str, Any] = without_router(model) | (
        {} if rows.positions is None else {"position_ids": rows.positions.to(device)}
    )
    # the head sees the outputs that are read only, and whatever the model does with its logits stays the model's own
    hook = model.get_output_embeddings().register_forward_pre_hook(keep_read)
    try:
        seen = {"input_ids": rows.ids.to(device), "attention_mask": rows.mask.to(device)}
        logits = (
            model(**seen, use_cache=False, **options).logits[0].float()
        )  # (outputs, vocabulary)
    finally:
        hook.remove()
    output, token = torch.from_numpy(at).to(device), torch.from_numpy(rows.reads[:, 2]).to(device)
    target = logits[output, token]
    # a few rows at a time: its intermediate copies of them then stay in the processor's cache
    logprob = target - torch.cat([few.logsumexp(1) for few in logits.split(32)])[output]
    best = logits[output[first]].topk(2)
    own = best.indices[:, 0] == token[first]
    gap = np.full(len(at), np.nan, np.float32)
    gap[first] = (
        (target[first] - torch.where(own, best.values[:, 1], best.values[:, 0])).cpu().numpy()
    )
    return logprob.cpu().numpy(), gap
