"""Prompts with their completions as trees of tokens, in batches.

Sequences that begin alike share that beginning: it is held, and later computed, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ilp_mlflow.core.terminal.progress import track
from ilp_mlflow.core.texts import Text, asks_nothing, blank_prompt, with_last_turn
from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring.tokens.encoding import (
    Encoded,
    Tokenization,
    encode,
    encode_prompt,
    encode_sample,
    shared_length,
)
from ilp_mlflow.scoring.tokens.token_texts import decisive_places, token_texts

ALLOWED_MISSES = 0.05
"""Share of a completion's tokens that may differ from the model's first choice, if none of them
is of a decisive word.

None may in a completion of fewer than 20 tokens.
"""
GROUP_TOKENS = 640
"""Tokens of a tree of many sequences: attention over a tree costs the square of its size."""

Ints = npt.NDArray[np.int32]
Entry = TypeVar("Entry", "SampleTree", "SequenceTree")


def allowed_misses(tokens: int) -> int:
    """How many of the tokens of a completion may differ from the model's first choice."""
    return int(ALLOWED_MISSES * tokens)


@dataclass(frozen=True)
class TokenTree:
    """Token sequences whose common beginnings are held once, as nodes in depth-first order.

    The sequences [5, 6, 7, 8] and [5, 6, 9, 8, 4], each scored from its third token on:

        tokens 5 -- 6 -- 7           after which the model is to say 8
                     \\
                      9 -- 8         after which it is to say 4

        node               0  1  2  3  4
        tokens             5  6  7  9  8
        depths             0  1  2  2  3
        subtree_ends       5  5  3  5  5

        target_nodes       1  2  1  3  4
        target_ids         7  8  9  8  4
        target_sequences   0  0  1  1  1

    Node a is on the path to node b when a <= b < subtree_ends[a]. The last token of a sequence is
    only ever predicted, so it is no node.
    """

    tokens: Ints
    """(nodes,): token id of each node."""
    depths: Ints
    """(nodes,): position of each node in its sequences, from 0."""
    subtree_ends: Ints
    """(nodes,): index after the last descendant of each node."""
    target_nodes: Ints
    """(targets,): the node whose output predicts each scored token."""
    target_ids: Ints
    """(targets,): id of each scored token."""
    target_sequences: Ints
    """(targets,): number of the sequence each scored token is of, ascending."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def sequence_count(self) -> int:
        """Number of sequences."""
        return 1 + int(self.target_sequences[-1])

    @property
    def longest_path(self) -> int:
        """Number of nodes on the path of the longest sequence."""
        return 1 + int(self.depths.max())

    def path(self, number: int) -> Ints:
        """Token ids of the nodes of a sequence: all its tokens but the last."""
        leaf = self.target_nodes[self.target_sequences == number][-1]
        nodes = np.arange(len(self))
        return self.tokens[(nodes <= leaf) & (leaf < self.subtree_ends)]

    def sequence(self, number: int) -> list[int]:
        """All token ids of a sequence."""
        last = self.target_ids[self.target_sequences == number][-1]
        return [*self.path(number).tolist(), int(last)]

    def start(self, number: int) -> int:
        """Index of the first token of a sequence that is scored."""
        first = self.target_nodes[self.target_sequences == number][0]
        return 1 + int(self.depths[first])


@dataclass(frozen=True)
class SampleTree:
    """One sample: the tree of its answers, the right one first."""

    sample_id: str
    """The sample."""
    tree: TokenTree
    """Its prompt with the right answer, then with each wrong option."""
    ended: bool
    """Whether the right answer has an end token."""
    options: tuple[str, ...]
    """The wrong options, in the order of the sequences after the first."""
    blank_numbers: tuple[int, ...]
    """Where `ScoringPlan.blanked` has each answer behind a blank prompt; () without options."""
    decisive: tuple[int, ...] = ()
    """Places in the right answer, from 0, of tokens that may not be missed: of numbers, names,
    negations and code. Of an answer of which none may be missed, none is named."""


@dataclass(frozen=True)
class SequenceTree:
    """Some sequences in one tree, neighbours in their spelling."""

    tree: TokenTree
    """The sequences."""
    numbers: tuple[int, ...]
    """What each sequence is called where they come from."""


@dataclass(frozen=True)
class ScoringPlan:
    """Samples tokenised once and put into batches, the same for every checkpoint."""

    sample_batches: list[list[SampleTree]]
    """The longest samples first, each batch within the token budget (or of a single sample)."""
    blanked: list[Encoded]
    """Every distinct answer behind its blanked prompt; samples refer to them by index."""
    unscored: Mapping[str, str]
    """Why samples cannot be scored, by id."""
    batch_tokens: int
    """The token budget of a batch, padding included."""

    @cached_property
    def blank_batches(self) -> list[list[SequenceTree]]:
        """Batches of the blanked answers that the samples of this plan need."""
        numbers = set[int]()
        for batch in self.sample_batches:
            for sample in batch:
                numbers.update(sample.blank_numbers)
        trees = group_sequences({number: self.blanked[number] for number in numbers})
        return make_batches(trees, self.batch_tokens)

    def only(self, ids: frozenset[str]) -> ScoringPlan:
        """The plan for the samples `ids` alone."""
        batches = []
        for batch in self.sample_batches:
            batches.append([sample for sample in batch if sample.sample_id in ids])
        unscored = {id_: reason for id_, reason in self.unscored.items() if id_ in ids}
        return replace(self, sample_batches=[b for b in batches if b], unscored=unscored)

    def without(self, ids: frozenset[str]) -> ScoringPlan:
        """The plan without the samples `ids`, and without a reason for any that is unscored."""
        kept = set[str]()
        for batch in self.sample_batches:
            kept.update(sample.sample_id for sample in batch)
        return self.only(frozenset(kept - ids)) if ids else self

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all token ids, their layout, and the samples and options they stand for."""
        total = hashlib.sha256(repr(sorted(self.unscored.items())).encode())
        for samples in self.sample_batches:
            total.update(b"batch")
            for s in samples:
                total.update(
                    _digestible(
                        (s.sample_id, s.ended, s.options, s.blank_numbers, s.decisive), s.tree
                    )
                )
        for sequences in self.blank_batches:
            total.update(b"batch")
            for entry in sequences:
                total.update(_digestible(entry.numbers, entry.tree))
        return total.hexdigest()


def _digestible(meaning: tuple[object, ...], tree: TokenTree) -> bytes:
    """A tree and what it stands for as bytes."""
    targets = np.stack([tree.target_nodes, tree.target_ids, tree.target_sequences], axis=1)
    columns = [tree.tokens, tree.depths, tree.subtree_ends, targets]
    return repr((meaning, len(tree))).encode() + b"".join(column.tobytes() for column in columns)


def build_tree(sequences: Sequence[list[int]], starts: Sequence[int]) -> TokenTree:
    """The tree of `sequences`, the k-th of them scored from its token `starts[k]` (1 or later) on.

    See `TokenTree` for an example.
    """
    tokens, depths, subtree_ends = list[int](), list[int](), list[int]()
    paths: list[list[int]] = [[] for _ in sequences]
    path, path_tokens = list[int](), list[int]()
    # in sorted order a sequence shares its beginning with the one before it, or with none
    for number in sorted(range(len(sequences)), key=lambda number: sequences[number]):
        token_ids = sequences[number][:-1]
        shared = shared_length(path_tokens, token_ids)
        # the nodes that are left here get no more descendants
        for node in path[shared:]:
            subtree_ends[node] = len(tokens)
        first_new = len(tokens)
        tokens += token_ids[shared:]
        depths += range(shared, len(token_ids))
        # not known before the node is left
        subtree_ends += [0] * (len(token_ids) - shared)
        path = [*path[:shared], *range(first_new, len(tokens))]
        path_tokens = token_ids
        paths[number] = path
    for node in path:
        subtree_ends[node] = len(tokens)
    return TokenTree(
        np.array(tokens, np.int32),
        np.array(depths, np.int32),
        np.array(subtree_ends, np.int32),
        *_targets(sequences, starts, paths),
    )


def _targets(
    sequences: Sequence[list[int]], starts: Sequence[int], paths: Sequence[list[int]]
) -> tuple[Ints, Ints, Ints]:
    """Target nodes, ids and sequences of a `TokenTree`; `paths` are the nodes of each sequence."""
    nodes, ids, numbers = list[int](), list[int](), list[int]()
    for number, sequence in enumerate(sequences):
        start = starts[number]
        # a token is predicted by the node before it
        nodes += paths[number][start - 1 :]
        ids += sequence[start:]
        numbers += [number] * (len(sequence) - start)
    return np.array(nodes, np.int32), np.array(ids, np.int32), np.array(numbers, np.int32)


def group_sequences(encoded: Mapping[int, Encoded]) -> list[SequenceTree]:
    """Sequences, by number, in trees of about GROUP_TOKENS tokens beside the first prompt."""
    groups: list[list[int]] = []
    room, ids_before = 0, list[int]()
    # sequences that begin alike become neighbours
    for number in sorted(encoded, key=lambda number: (encoded[number].ids, number)):
        ids = encoded[number].ids
        new_tokens = len(ids) - shared_length(ids_before, ids)
        if not groups or room < new_tokens:
            groups.append([])
            # the first sequence of a group brings its prompt, which is not counted
            room, new_tokens = GROUP_TOKENS, len(ids) - encoded[number].start
        groups[-1].append(number)
        room, ids_before = room - new_tokens, ids
    trees = []
    for numbers in track(groups, "share beginnings"):
        tree = _tree_of([encoded[number] for number in numbers])
        trees.append(SequenceTree(tree, tuple(numbers)))
    return trees


def _tree_of(encoded: Sequence[Encoded]) -> TokenTree:
    return build_tree([e.ids for e in encoded], [e.start for e in encoded])


@dataclass(frozen=True)
class _Answer:
    """An answer to a sample, the right one or a wrong option."""

    option: str
    """The wrong option as given; "" for the right answer."""
    completion: Text
    """The answer in the form of the sample's completion."""
    encoded: Encoded
    """The sample's prompt with this completion."""


def plan_batches(
    samples: Sequence[Sample],
    wrong: Mapping[str, Sequence[str]],
    tokenization: Tokenization,
    batch_tokens: int,
) -> ScoringPlan:
    """Tokenise `samples` with their `wrong` options by id, and batch them.

    A batch has at most `batch_tokens` tokens, padding included. An option that does not fit the
    model, or is another one to its tokenizer, is left out; a sample that does not fit is unscored.
    """
    sample_trees, unscored = list[SampleTree](), dict[str, str]()
    # the index in `ScoringPlan.blanked` of every blanked prompt with an answer
    blank_numbers: dict[tuple[Text, Text], int] = {}
    for sample in track(samples, "tokenise"):
        answers = _encode_answers(sample, wrong.get(sample.id, ()), tokenization)
        reason = _reason_unscored(answers[0].encoded, tokenization)
        if reason is not None:
            unscored[sample.id] = reason
            continue
        answers = _scorable_answers(answers, tokenization)
        decisive = _decisive_places(answers[0].encoded, tokenization)
        sample_trees.append(_sample_tree(sample, answers, blank_numbers, decisive))
    # `make_batches` leaves samples of one length in this order, whatever the order of the rows
    sample_trees.sort(key=lambda sample_tree: sample_tree.sample_id)
    blanked = _encode_blanked(list(blank_numbers), tokenization)
    return ScoringPlan(make_batches(sample_trees, batch_tokens), blanked, unscored, batch_tokens)


def _encode_answers(
    sample: Sample, options: Sequence[str], tokenization: Tokenization
) -> list[_Answer]:
    """The right answer and all wrong options behind the prompt of a sample."""
    if asks_nothing(sample.prompt):
        # without a question there is no other answer
        return [_Answer("", sample.completion, encode_sample(sample, tokenization))]
    completions = [("", sample.completion)]
    for option in options:
        words = _with_leading_space(option, sample.answer)
        completions.append((option, with_last_turn(sample.completion, words)))
    tokenizer, end_token_ids = tokenization.tokenizer, tokenization.end_token_ids
    prompt_ids = encode_prompt(tokenizer, sample.prompt)
    answers = []
    for option, completion in completions:
        encoded = encode(tokenizer, sample.prompt, completion, end_token_ids, prompt_ids)
        answers.append(_Answer(option, completion, encoded))
    return answers


def _scorable_answers(answers: Sequence[_Answer], tokenization: Tokenization) -> list[_Answer]:
    """The right answer, which comes first, and the options that are others and fit the model."""
    right, *options = answers
    scorable = [right]
    # options are compared as tokens: one may be the answer without its end token written out
    ids_before = [right.encoded.ids]
    for option in options:
        is_new = option.encoded.ids not in ids_before
        if is_new and _reason_unscored(option.encoded, tokenization) is None:
            scorable.append(option)
        ids_before.append(option.encoded.ids)
    return scorable


def _decisive_places(encoded: Encoded, tokenization: Tokenization) -> tuple[int, ...]:
    """Places of the tokens of an answer that may not be missed, where any other may."""
    ids = encoded.ids[encoded.start :]
    if allowed_misses(len(ids)) == 0:
        return ()
    return tuple(decisive_places(token_texts(tokenization.tokenizer, ids)))


def _sample_tree(
    sample: Sample,
    answers: Sequence[_Answer],
    blank_numbers: dict[tuple[Text, Text], int],
    decisive: tuple[int, ...],
) -> SampleTree:
    """The tree of a sample; blanked answers that are not in `blank_numbers` yet are added there."""
    right, *options = answers
    numbers = []
    if options:
        prompt = blank_prompt(sample.prompt)
        for answer in answers:
            key = prompt, answer.completion
            numbers.append(blank_numbers.setdefault(key, len(blank_numbers)))
    return SampleTree(
        sample_id=sample.id,
        tree=_tree_of([answer.encoded for answer in answers]),
        ended=right.encoded.ended,
        options=tuple(answer.option for answer in options),
        blank_numbers=tuple(numbers),
        decisive=decisive,
    )


def _encode_blanked(
    exchanges: Sequence[tuple[Text, Text]], tokenization: Tokenization
) -> list[Encoded]:
    """Blanked prompts with their answers as token ids."""
    tokenizer, end_token_ids = tokenization.tokenizer, tokenization.end_token_ids
    prompt_ids = dict[Text, list[int]]()
    blanked = []
    for prompt, completion in track(exchanges, "tokenise answers"):
        if prompt not in prompt_ids:
            prompt_ids[prompt] = encode_prompt(tokenizer, prompt)
        encoded = encode(tokenizer, prompt, completion, end_token_ids, prompt_ids[prompt])
        blanked.append(_with_lead_token(encoded, tokenization))
    return blanked


def _with_lead_token(encoded: Encoded, tokenization: Tokenization) -> Encoded:
    """`encoded` with a token to predict its first one from, where a blank prompt has none."""
    if encoded.start:
        return encoded
    lead = tokenization.tokenizer.bos_token_id
    if lead is None:
        lead = min(tokenization.end_token_ids)
    return Encoded([lead, *encoded.ids], 1, encoded.ended)


def make_batches(entries: Sequence[Entry], batch_tokens: int) -> list[list[Entry]]:
    """Batches of at most `batch_tokens` tokens with padding, or of one entry, the longest first."""
    batches: list[list[Entry]] = []
    for entry in sorted(entries, key=lambda entry: -len(entry.tree)):
        # all of a batch are padded to its first entry, which is the longest
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].tree) <= batch_tokens:
            batches[-1].append(entry)
        else:
            batches.append([entry])
    return batches


def _reason_unscored(encoded: Encoded, tokenization: Tokenization) -> str | None:
    """Why a sequence cannot be scored by the model, or None."""
    length, limit = len(encoded.ids), tokenization.max_length
    if limit is not None and length > limit:
        return f"{length} tokens, the model has positions for {limit}"
    if not encoded.start:
        return "the prompt has no tokens of its own"
    if encoded.start == length:
        return "the completion has no tokens of its own"
    return None


def _with_leading_space(option: str, answer: str) -> str:
    """`option` with the white space that `answer` begins with, which is part of the format."""
    leading_space = answer[: len(answer) - len(answer.lstrip())]
    return leading_space + option.lstrip()
