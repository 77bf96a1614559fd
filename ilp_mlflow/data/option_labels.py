"""Options that are given with a sample get the labels that its answer has: `A.`, `(b)`, `3)`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ilp_mlflow.data.matching import LABEL, answer_key, without_label

BARE_LABEL = re.compile(r"\s*[(\[]?([A-J])[.)\]]?\s*")
"""An answer that is a label and nothing else: `B`, `(B)`."""
SEQUENCES = ("ABCDEFGHIJ", "abcdefghij", "123456789", "0123456789")
"""How options are labelled; an option's label is its place in one of them."""


@dataclass(frozen=True)
class AlignedOptions:
    """Options that are written as the answer is."""

    options: Sequence[str]
    changed: bool
    """Labels were taken away or put in front; else the options are as they were given."""


@dataclass(frozen=True)
class _AnswerLabel:
    """The label of an answer whose place among the options is known."""

    match: re.Match[str]
    """Group 1 is the label itself, what is around it its form: `(b) `."""
    place: int
    """Of the right option, from 0."""
    is_whole_answer: bool
    """The answer is the label alone."""


def align_options(options: Sequence[str], answer: str) -> AlignedOptions:
    """Options with labels where the answer has one, and without where it has none.

    `A. Rome`, `B. Paris` for the answer `Paris` become `Rome`, `Paris`;
    `Rome`, `Paris` for the answer `(b) Paris` become `(a) Rome`, `(b) Paris`;
    `Rome`, `Paris` for the answer `B` become `A`, `B`.
    """
    is_labelled = _are_labelled(options)
    bare_options = list(map(without_label, options)) if is_labelled else options
    relabelled = _label_like(bare_options, answer)
    if relabelled is not None:
        return AlignedOptions(relabelled, changed=True)
    return AlignedOptions(bare_options, changed=is_labelled)


def _are_labelled(options: Sequence[str]) -> bool:
    """Whether the options' labels are the start of one of the SEQUENCES, in order."""
    # a space for an option without label is in none of the sequences
    labels = ""
    for option in options:
        label = LABEL.match(option)
        labels += label[1] if label else " "
    return any(sequence.startswith(labels) for sequence in SEQUENCES)


def _label_like(options: Sequence[str], answer: str) -> list[str] | None:
    """Options labelled as the answer is; None where its label does not tell how."""
    label = _answer_label(options, answer)
    if label is None:
        return None
    for sequence in SEQUENCES:
        if _fits(label, sequence, len(options)):
            return _labelled(options, answer, label, sequence)
    return None


def _answer_label(options: Sequence[str], answer: str) -> _AnswerLabel | None:
    """The label of the answer, if it has one and the place of the right option is known.

    The place is that of the option that says the same; of a bare label, the label's own.
    """
    # keys are without labels: `B. Paris` is found among bare options, too
    key = answer_key(answer)
    keys = [answer_key(option) for option in options]
    label = LABEL.match(answer)
    if label and key in keys:
        return _AnswerLabel(label, keys.index(key), is_whole_answer=False)
    bare_label = BARE_LABEL.fullmatch(answer)
    # where an option says the same, or all are letters, a letter is no label but what is said
    if bare_label and key not in keys and not all(map(BARE_LABEL.fullmatch, options)):
        return _AnswerLabel(bare_label, SEQUENCES[0].index(bare_label[1]), is_whole_answer=True)
    return None


def _fits(label: _AnswerLabel, sequence: str, n_options: int) -> bool:
    """The sequence has the answer's label at the answer's place, and labels for all options."""
    if label.place >= n_options or n_options > len(sequence):
        return False
    return sequence[label.place] == label.match[1]


def _labelled(options: Sequence[str], answer: str, label: _AnswerLabel, sequence: str) -> list[str]:
    """Options behind labels of the sequence, in the form of the answer's; or these alone."""
    before = answer[: label.match.start(1)]
    after = answer[label.match.end(1) : label.match.end()]
    labelled = []
    for letter, option in zip(sequence, options, strict=False):
        text = "" if label.is_whole_answer else option.strip()
        labelled.append(f"{before}{letter}{after}{text}")
    return labelled
