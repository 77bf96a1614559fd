"""Prompts with their completions as trees of tokens, in batches: what sequences share is held, and computed, once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ilp_mlflow.core.progress import track
from ilp_mlflow.core.values import Sample, Text, blank_prompt, with_last_turn
from ilp_mlflow.scoring.encoding import Encoded, Tokenization, encode, encode_prompt

BRANCHES = 256
"""Tokens of a tree of many sequences; attention over a tree costs the square of its size."""

Ints = npt.NDArray[np.int32]
T = TypeVar("T", "Item", "Completions")


@dataclass(frozen=True)
class TokenTree:
    """Token sequences, their common beginnings held once, in depth-first order.

    Node a is on the path to node b when a <= b < ends[a]. The last token of a sequence is only ever predicted, so it is
    no node.
    """

    tokens: Ints
    """Token id of each node."""
    depths: Ints
    """Position of each node in its sequences."""
    ends: Ints
    """Index behind each node's last descendant."""
    reads: Ints
    """(scored tokens, 3): the node that predicts it, its id, the number of its sequence."""

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Item:
    """One sample: the tree of its completions, the right one first."""

    sample_id: str
    tree: TokenTree
    ended: bool
    """The right completion has an end token."""
    options: tuple[str, ...]
    """The wrong answers, in the order of the sequences behind the first."""
    blanks: tuple[int, ...]
    """Number of each completion with the prompt blanked; none without options."""


@dataclass(frozen=True)
class Completions:
    """Sequences with something in common, or short."""

    tree: TokenTree
    numbers: tuple[int, ...]
    """Number of each sequence."""


@dataclass(frozen=True)
class ScoringPlan:
    """Samples tokenised once and put into batches, the same for every checkpoint."""

    samples: list[list[Item]]
    """Batches, the longest samples first, each within the token budget (or a single sample)."""
    completions: list[Encoded]
    """Every distinct completion behind its blanked prompt; its place is its number."""
    unscored: Mapping[str, str]
    """Why samples cannot be scored, by id."""
    batch_tokens: int
    """The token budget of a batch."""

    @cached_property
    def blanks(self) -> list[list[Completions]]:
        """Batches of the completions that the samples need."""
        numbers = {number for batch in self.samples for item in batch for number in item.blanks}
        return batched(
            grouped({number: self.completions[number] for number in numbers}), self.batch_tokens
        )

    def only(self, ids: frozenset[str]) -> ScoringPlan:
        """The plan for the samples `ids` alone."""
        kept = [[item for item in batch if item.sample_id in ids] for batch in self.samples]
        unscored = {i: reason for i, reason in self.unscored.items() if i in ids}
        return replace(self, samples=[batch for batch in kept if batch], unscored=unscored)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all token ids, their layout, and the samples and options they stand for."""
        total = hashlib.sha256(repr(sorted(self.unscored.items())).encode())
        batches: Iterable[Sequence[Item | Completions]] = (*self.samples, *self.blanks)
        for batch in batches:
            total.update(b"batch")
            for entry in batch:
                what = (
                    (entry.sample_id, entry.ended, entry.options, entry.blanks)
                    if isinstance(entry, Item)
                    else entry.numbers
                )
                total.update(repr((what, len(entry.tree))).encode())
                for column in (
                    entry.tree.tokens,
                    entry.tree.depths,
                    entry.tree.ends,
                    entry.tree.reads,
                ):
                    total.update(column.tobytes())
        return total.hexdigest()


def build_tree(sequences: Sequence[list[int]], starts: Sequence[int]) -> TokenTree:
    """The tree of `sequences`, the k-th of them scored from its token `starts[k]` (1 or later) on."""
    tokens, depths, ends = list[int](), list[int](), list[int]()
    reads: list[list[tuple[int, int, int]]] = [[] for _ in sequences]
    path: list[int] = []  # nodes from the root to the last one added
    for k in sorted(range(len(sequences)), key=lambda k: sequences[k]):
        nodes = sequences[k][:-1]
        shared = next(
            (i for i, (a, b) in enumerate(zip(path, nodes, strict=False)) if tokens[a] != b),
            min(len(path), len(nodes)),
        )
        for node in path[shared:]:
            ends[node] = len(tokens)
        path = path[:shared] + list(range(len(tokens), len(tokens) + len(nodes) - shared))
        tokens += nodes[shared:]
        depths += range(shared, len(nodes))
        ends += [0] * (len(nodes) - shared)
        reads[k] = [(path[j - 1], sequences[k][j], k) for j in range(starts[k], len(sequences[k]))]
    for node in path:
        ends[node] = len(tokens)
    flat = [read for one in reads for read in one]
    tokens_, depths_, ends_ = (np.array(column, np.int32) for column in (tokens, depths, ends))
    return TokenTree(tokens_, depths_, ends_, np.array(flat, np.int32).reshape(-1, 3))


def grouped(encoded: Mapping[int, Encoded]) -> list[Completions]:
    """Sequences, by number, in trees of about BRANCHES tokens beside the first prompt, neighbours in spelling together."""
    groups: list[list[int]] = []
    room, before = 0, list[int]()
    for number in sorted(encoded, key=lambda number: (encoded[number].ids, number)):
        one = encoded[number]
        own = len(one.ids) - next(
            (i for i, (a, b) in enumerate(zip(before, one.ids, strict=False)) if a != b),
            len(before),
        )
        if not groups or room < own:
            groups.append([])
            room, own = BRANCHES, len(one.ids) - one.start
        groups[-1].append(number)
        room, before = room - own, one.ids
    found = list[Completions]()
    for group in track(groups, "share beginnings"):
        ones = [encoded[number] for number in group]
        found.append(
            Completions(build_tree([e.ids for e in ones], [e.start for e in ones]), tuple(group))
        )
    return found


def plan_batches(
    samples: Sequence[Sample],
    wrong: Mapping[str, Sequence[str]],
    tokenization: Tokenization,
    batch_tokens: int,
) -> ScoringPlan:
    """Tokenise `samples` with their `wrong` answers by id, and batch them by `batch_tokens` (padding included).

    An option that does not fit the model, or is another one to its tokenizer, is left out; a sample that does not fit is
    unscored.
    """
    items, unscored = list[Item](), dict[str, str]()
    numbers: dict[tuple[Text, Text], int] = {}
    for sample in track(samples, "tokenise"):
        options = [_like(option, sample.answer) for option in wrong.get(sample.id, ())]
        answers = [
            sample.completion,
            *(with_last_turn(sample.completion, option) for option in options),
        ]
        begun = encode_prompt(tokenization.tokenizer, sample.prompt)
        right, *others = (
            encode(tokenization.tokenizer, sample.prompt, answer, tokenization.end_token_ids, begun)
            for answer in answers
        )
        if reason := _misfit(right, tokenization):
            unscored[sample.id] = reason
            continue
        # what a tokenizer makes one of is one: an option may be the answer without its end token written out
        told = [right.ids, *(other.ids for other in others)]
        fit = [
            k
            for k, other in enumerate(others)
            if not _misfit(other, tokenization) and told.index(other.ids) == k + 1
        ]
        encoded = [right, *(others[k] for k in fit)]
        keys = (
            [(blank_prompt(sample.prompt), answers[k]) for k in (0, *(k + 1 for k in fit))]
            if fit
            else []
        )
        items.append(
            Item(
                sample_id=sample.id,
                tree=build_tree([e.ids for e in encoded], [e.start for e in encoded]),
                ended=right.ended,
                options=tuple(wrong[sample.id][k] for k in fit),
                blanks=tuple(numbers.setdefault(key, len(numbers)) for key in keys),
            )
        )
    items.sort(key=lambda item: item.sample_id)
    blanks = {
        prompt: encode_prompt(tokenization.tokenizer, prompt)
        for prompt in {prompt for prompt, _ in numbers}
    }
    completions = [
        _led(
            encode(
                tokenization.tokenizer, prompt, answer, tokenization.end_token_ids, blanks[prompt]
            ),
            tokenization,
        )
        for prompt, answer in track(numbers, "tokenise answers")
    ]
    return ScoringPlan(batched(items, batch_tokens), completions, unscored, batch_tokens)


def _led(encoded: Encoded, tokenization: Tokenization) -> Encoded:
    """`encoded` with a token to predict its first one from, where a blank prompt has none."""
    if encoded.start:
        return encoded
    lead = tokenization.tokenizer.bos_token_id
    return Encoded(
        [min(tokenization.end_token_ids) if lead is None else lead, *encoded.ids], 1, encoded.ended
    )


def batched(entries: Sequence[T], batch_tokens: int) -> list[list[T]]:
    """Batches of at most `batch_tokens` tokens with padding, or of one entry, the longest first."""
    batches: list[list[T]] = []
    for entry in sorted(entries, key=lambda e: -len(e.tree)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].tree) <= batch_tokens:
            batches[-1].append(entry)
        else:
            batches.append([entry])
    return batches


def _misfit(encoded: Encoded, tokenization: Tokenization) -> str | None:
    """Why a sequence cannot be scored by the model, or None."""
    if tokenization.max_length is not None and len(encoded.ids) > tokenization.max_length:
        return f"{len(encoded.ids)} tokens, the model has positions for {tokenization.max_length}"
    if not encoded.start:
        return "the prompt has no tokens of its own"
    if encoded.start == len(encoded.ids):
        return "the completion has no tokens of its own"
    return None


def _like(option: str, answer: str) -> str:
    """`option` with the white space that `answer` begins with, which is part of the format and not of the answer."""
    return answer[: len(answer) - len(answer.lstrip())] + option.lstrip()
