"""Wrong options for a sample: those given with it, answers to similar prompts, models' own answers, edits of the right one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from ilp_mlflow.core.progress import track
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import (
    LABEL,
    is_part_of,
    normalize_answer,
    option_label,
    prompt_key,
    without_label,
    without_spacing,
)
from ilp_mlflow.data.perturbations import WORD, Vocabulary, collect_vocabulary, perturb
from ilp_mlflow.data.similarity import feature_hash, nearest_answers

POOL = 10_000
"""Answers of a stage, at most, that its samples draw from."""
MOST = 256
"""Samples, at most, for which models are asked."""
LONG = 20
"""Words from which an answer is long: answers to other prompts are then no rivals, but small changes are."""

LETTER = re.compile(r"\s*[(\[]?([A-J])[.)\]]?\s*")
SEQUENCES = ("ABCDEFGHIJ", "abcdefghij", "123456789", "0123456789")


def choose_distractors(
    samples: Iterable[Sample],
    n: int,
    seed: int,
    ask: Callable[[Sequence[Sample]], Mapping[str, Sequence[str]]] | None = None,
) -> Mapping[str, tuple[str, ...]]:
    """Up to `n` wrong options by sample id; of given options all are kept, and no others added.

    Else they are, in this order, answers of the same kind and about the same length to the most similar prompts of
    the stage, what `ask` says models answer (it is called once at most, with up to MOST samples that lack options), and
    minimal edits of the answer. A long answer takes edits first and never an answer to another prompt. An answer that
    several prompts of the stage have is a label: it takes other labels first, then other answers, and nothing made up.
    No option is equivalent to an answer to the same prompt or to another option. They depend on the seed and on the set
    of samples, not on its order.
    """
    samples = sorted(samples, key=lambda s: s.id)
    rights = defaultdict[tuple[str, str], _Right](_Right)
    for sample in track(samples, "collect answers"):
        rights[sample.stage, prompt_key(sample.prompt)].add(sample.answer)
    choices = [
        _Choice(sample, rights[sample.stage, prompt_key(sample.prompt)], n) for sample in samples
    ]
    stages = defaultdict[str, list[_Choice]](list)
    for choice in choices:
        if given := choice.sample.options:
            choice.take(given)
        if not choice.found and n:
            stages[choice.sample.stage].append(choice)
    words = dict[str, Vocabulary]()
    for stage, open_ in stages.items():
        pool = sorted(
            (s for s in samples if s.stage == stage), key=lambda s: feature_hash(f"{seed}/{s.id}")
        )[:POOL]
        words[stage] = collect_vocabulary(s.answer for s in pool)
        for choice in track([c for c in open_ if c.long], "edit long answers"):
            choice.fill(perturb(choice.sample.answer, words[stage], f"{seed}/{choice.sample.id}"))
        short = [s for s in pool if not _is_long(s)]
        labels = _labels(short)
        labelled = [c for c in open_ if c.key in labels]
        _fill_nearest(
            labelled,
            [s for s in short if without_spacing(normalize_answer(s.answer)) in labels],
            seed,
        )
        for choice in (c for c in labelled if len(c.found) < n):
            choice.fill(
                sorted(
                    labels.values(),
                    key=lambda label, own=choice.sample.id: feature_hash(f"{seed}/{own}/{label}"),
                )
            )  # type: ignore[misc]
        _fill_nearest([c for c in open_ if not c.long and len(c.found) < n], short, seed)
        for choice in labelled:
            choice.n = len(choice.found) or n  # nothing is made up where the data has labels
    lacking = [c for open_ in stages.values() for c in open_ if len(c.found) < c.n]
    asked = sorted((c.sample for c in lacking), key=lambda s: feature_hash(f"{seed}/{s.id}"))[:MOST]
    said = ask(sorted(asked, key=lambda s: s.id)) if ask and asked else {}
    for choice in track(lacking, "edit answers"):
        choice.fill(map(_first_line, said.get(choice.sample.id, ())), apart=True)
        choice.fill(
            perturb(choice.sample.answer, words[choice.sample.stage], f"{seed}/{choice.sample.id}")
        )
    return {c.sample.id: tuple(c.found.values()) for c in choices}


class _Right:
    """The answers to one prompt."""

    def __init__(self) -> None:
        self.words = dict[str, str]()
        self._apart = dict[str, bool]()

    def add(self, answer: str) -> None:
        words = normalize_answer(answer)
        self.words[without_spacing(words)] = words

    def apart(self, words: str) -> bool:
        """`words` neither say more nor less than an answer."""
        if words not in self._apart:
            self._apart[words] = not any(
                is_part_of(words, own) or is_part_of(own, words) for own in self.words.values()
            )
        return self._apart[words]


class _Choice:
    """A sample, up to `n` wrong options found for it, by what tells them apart."""

    def __init__(self, sample: Sample, right: _Right, n: int) -> None:
        self.sample, self.right, self.n = sample, right, n
        self.found = dict[str, str]()
        self.long = _is_long(sample)
        self.key = without_spacing(normalize_answer(sample.answer))

    def take(self, given: Sequence[str]) -> None:
        """Take the `given` options that are wrong, labelled as the answer is; an initial (`J. Smith`) is no label."""
        aligned, own = _aligned(given, self.sample.answer), option_label(self.sample.answer)
        for option in aligned:
            key, initial = (
                without_spacing(normalize_answer(option)),
                option_label(option) if aligned is given else "",
            )
            if key and not (key in self.right.words and (not own or not initial or own == initial)):
                self.found.setdefault(f"{initial} {key}", option)

    def fill(self, options: Iterable[str], apart: bool = False) -> None:
        """Take wrong `options` in turn, those `apart` from the answers only, until there are enough."""
        options = iter(options)
        while len(self.found) < self.n and (option := next(options, None)) is not None:
            words = normalize_answer(option)
            key = without_spacing(words)
            if (
                key
                and key not in self.right.words
                and key not in self.found
                and (not apart or self.right.apart(words))
            ):
                self.found[key] = option


def _fill_nearest(choices: Sequence[_Choice], pool: Sequence[Sample], seed: int) -> None:
    found = zip(choices, nearest_answers([c.sample for c in choices], pool, seed), strict=True)
    for choice, answers in track(found, "find wrong options", len(choices)):
        choice.fill(answers, apart=True)


def _labels(samples: Iterable[Sample]) -> dict[str, str]:
    """Answers that at least two prompts have, by what they say."""
    prompts, answers = defaultdict[str, set[str]](set), dict[str, str]()
    for sample in samples:
        key = without_spacing(normalize_answer(sample.answer))
        prompts[key].add(prompt_key(sample.prompt))
        answers[key] = min(sample.answer, answers.get(key, sample.answer))
    return {key: answers[key] for key, asked in prompts.items() if len(asked) > 1}


def _aligned(options: Sequence[str], answer: str) -> Sequence[str]:
    """`options` with labels such as `A.` where `answer` has one, and without where it has none."""
    labels = "".join(m[1] if (m := LABEL.match(option)) else " " for option in options)
    if any(sequence.startswith(labels) for sequence in SEQUENCES):
        options = [without_label(option) for option in options]
    keys, said = (
        [without_spacing(normalize_answer(option)) for option in options],
        without_spacing(normalize_answer(answer)),
    )
    if (label := LABEL.match(answer)) and said in keys:
        at = keys.index(said)
    elif (
        said not in keys
        and (label := LETTER.fullmatch(answer))
        and not all(map(LETTER.fullmatch, options))
    ):
        at = SEQUENCES[0].index(label[1])
    else:
        return options
    alone = label.re is LETTER
    for sequence in SEQUENCES:
        if sequence[at : at + 1] == label[1] and at < len(options) <= len(sequence):
            before, after = answer[: label.start(1)], answer[label.end(1) : label.end()]
            return [
                before + sequence[i] + after + ("" if alone else option.strip())
                for i, option in enumerate(options)
            ]
    return options


def _first_line(answer: str) -> str:
    return next(
        (line for line in (line.strip(" \t*`#_") for line in answer.splitlines()) if line), ""
    )


def _is_long(sample: Sample) -> bool:
    return len(WORD.findall(sample.answer)) > LONG
