"""Wrong options for samples: given ones, answers to similar prompts, models' answers, edits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ilp_mlflow.core.terminal.progress import track
from ilp_mlflow.core.texts import asks_nothing
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.lexical import WORD
from ilp_mlflow.data.matching import (
    answer_key,
    is_part_of,
    normalize_answer,
    option_label,
    prompt_key,
)
from ilp_mlflow.data.option_labels import align_options
from ilp_mlflow.data.perturbations import Vocabulary, collect_vocabulary, perturb
from ilp_mlflow.data.similarity import nearest_answers, stable_hash

MAX_POOL = 10_000
"""Samples of a stage, at most, whose answers its samples draw from."""
MAX_ASKED = 256
"""Samples, at most, for which models are asked."""
MAX_SHORT_ANSWER = 20
"""Words of a short answer. Answers to other prompts are no rivals to a longer one, small changes
of it are."""

AskModels = Callable[[Sequence[Sample]], Mapping[str, Sequence[str]]]
"""Returns what models answer to samples, by sample id."""


def choose_distractors(
    samples: Iterable[Sample], n: int, seed: int, ask: AskModels | None = None
) -> Mapping[str, tuple[str, ...]]:
    """Up to `n` wrong options for each sample, by its id; of given options all, and no others.

    A sample without given options takes from these sources in turn, until it has `n`:

    1. minimal edits of the answer, if that is long
    2. if its answer is a label (several prompts of the stage have it, such as `yes`): the other
       labels of the stage, those that answer the most similar prompts first
    3. if its answer is short: the answers to the most similar prompts of the stage, of the same
       kind and about the same length
    4. what `ask` says that models answer, and then minimal edits; neither for a label that has
       options already

    `ask` is called once at most, with up to MAX_ASKED samples. No option says the same as an answer
    to the same prompt or as another option. Options depend on the seed and on the set of samples,
    not on its order.
    """
    ordered = sorted(samples, key=lambda sample: sample.id)
    right_answers_by_id = _collect_right_answers(ordered)
    options_by_id = {}
    for sample in ordered:
        options_by_id[sample.id] = _wrong_given_options(sample, right_answers_by_id[sample.id])
    open_samples = []
    for sample in ordered:
        # where nothing is asked, there is no other answer
        if n and not options_by_id[sample.id] and not asks_nothing(sample.prompt):
            open_samples.append(sample)
    pools = _draw_pools(ordered, {sample.stage for sample in open_samples}, seed)
    choices = [
        _Choice(sample, pools[sample.stage], right_answers_by_id[sample.id], n)
        for sample in open_samples
    ]
    for source in STAGE_SOURCES:
        source.fill(choices)
    # decided before both last sources: a label that finds nothing in its stage may use them both
    may_be_made_up = [choice for choice in choices if not (choice.has_label() and choice.options)]
    ask_models = _Source("ask models", partial(_model_answers, ask=ask), rejects_overlap=True)
    for source in (ask_models, EDITS):
        source.fill(may_be_made_up)
    for choice in choices:
        options_by_id[choice.sample.id] = tuple(choice.options.values())
    return options_by_id


@dataclass(frozen=True)
class _StagePool:
    """What the samples of a stage draw from: up to MAX_POOL of its samples, drawn by the seed."""

    seed: int
    short_samples: Sequence[Sample]
    """Those with a short answer."""
    labels: Mapping[str, str]
    """Short answers that at least two prompts have, one spelling of each, by their keys."""
    vocabulary: Vocabulary
    """Names and words of all answers."""

    @classmethod
    def draw(cls, stage_samples: Sequence[Sample], seed: int) -> _StagePool:
        """The pool of a stage."""
        in_drawn_order = sorted(stage_samples, key=lambda sample: _draw(seed, sample.id))
        samples = in_drawn_order[:MAX_POOL]
        vocabulary = collect_vocabulary(sample.answer for sample in samples)
        short_samples = [sample for sample in samples if not _is_long(sample)]
        return cls(seed, short_samples, _find_labels(short_samples), vocabulary)

    def label_samples(self) -> list[Sample]:
        """Samples that are answered with a label."""
        return [s for s in self.short_samples if answer_key(s.answer) in self.labels]


def _draw_pools(
    samples: Sequence[Sample], stages: Collection[str], seed: int
) -> dict[str, _StagePool]:
    """The pools of these stages."""
    samples_by_stage = defaultdict[str, list[Sample]](list)
    for sample in samples:
        samples_by_stage[sample.stage].append(sample)
    return {stage: _StagePool.draw(samples_by_stage[stage], seed) for stage in stages}


def _find_labels(samples: Iterable[Sample]) -> dict[str, str]:
    """The answers that at least two prompts have, the first spelling of each, by their keys."""
    prompts_by_key = defaultdict[str, set[str]](set)
    spellings_by_key = defaultdict[str, set[str]](set)
    for sample in samples:
        key = answer_key(sample.answer)
        prompts_by_key[key].add(prompt_key(sample.prompt))
        spellings_by_key[key].add(sample.answer)
    # the same prompt twice with the same answer is one row that was copied
    labels = {}
    for key, prompts in prompts_by_key.items():
        if len(prompts) > 1:
            labels[key] = min(spellings_by_key[key])
    return labels


class _RightAnswers:
    """The answers to one prompt of a stage."""

    def __init__(self) -> None:
        self._normalized_by_key = dict[str, str]()
        self._overlaps = dict[str, bool]()

    def add(self, answer: str) -> None:
        self._normalized_by_key[answer_key(answer)] = normalize_answer(answer)

    def has(self, key: str) -> bool:
        """Whether an answer has this key."""
        return key in self._normalized_by_key

    def overlaps(self, option: str) -> bool:
        """Whether an option says more or less than an answer, and so may be right itself."""
        normalized = normalize_answer(option)
        # many samples have the same prompt and draw the same options
        if normalized not in self._overlaps:
            self._overlaps[normalized] = any(
                is_part_of(normalized, right) or is_part_of(right, normalized)
                for right in self._normalized_by_key.values()
            )
        return self._overlaps[normalized]


def _collect_right_answers(samples: Sequence[Sample]) -> dict[str, _RightAnswers]:
    """For each sample, by its id, the answers to its prompt in its stage."""
    by_prompt = defaultdict[tuple[str, str], _RightAnswers](_RightAnswers)
    by_id = {}
    for sample in track(samples, "collect answers"):
        right_answers = by_prompt[sample.stage, prompt_key(sample.prompt)]
        right_answers.add(sample.answer)
        by_id[sample.id] = right_answers
    return by_id


def _wrong_given_options(sample: Sample, right_answers: _RightAnswers) -> tuple[str, ...]:
    """The options that are given with a sample and wrong, with labels as its answer has them."""
    own_initial = option_label(sample.answer)
    aligned = align_options(sample.options or (), sample.answer)
    option_by_key = dict[str, str]()
    for option in aligned.options:
        # two options with one key are the same option twice
        key = answer_key(option)
        # options that were not labelled in order may be names: `C. Smith` is not `J. Smith`
        initial = "" if aligned.changed else option_label(option)
        is_other_name = initial and own_initial and initial != own_initial
        if key and (is_other_name or not right_answers.has(key)):
            option_by_key.setdefault(f"{initial} {key}", option)
    return tuple(option_by_key.values())


@dataclass
class _Choice:
    """A sample and the wrong options that were chosen for it so far."""

    sample: Sample
    pool: _StagePool
    right_answers: _RightAnswers
    n: int
    """Options it needs."""
    options: dict[str, str] = field(default_factory=dict)
    """By their keys."""

    def has_long_answer(self) -> bool:
        """Answers to other prompts are no rivals to its own."""
        return _is_long(self.sample)

    def has_short_answer(self) -> bool:
        """Answers to other prompts may be rivals."""
        return not _is_long(self.sample)

    def has_label(self) -> bool:
        """Its answer is a label of its stage."""
        return answer_key(self.sample.answer) in self.pool.labels

    def take(self, options: Iterable[str], rejects_overlap: bool) -> None:
        """Take wrong options in turn, until there are enough."""
        # some sources work for every option: none is asked for that is not needed
        options = iter(options)
        while len(self.options) < self.n:
            option = next(options, None)
            if option is None:
                return
            key = answer_key(option)
            if not key or key in self.options or self.right_answers.has(key):
                continue
            if not (rejects_overlap and self.right_answers.overlaps(option)):
                self.options[key] = option


_Candidates = Iterator[tuple[_Choice, Iterable[str]]]
"""Samples in turn, each with options for it, best first."""


@dataclass(frozen=True)
class _Source:
    """Where wrong options come from."""

    name: str
    """What is done, for the progress bar."""
    candidates: Callable[[Sequence[_Choice]], _Candidates]
    """Finds options for samples."""
    serves: Callable[[_Choice], bool] | None = None
    """For which samples it is; None: for all."""
    rejects_overlap: bool = False
    """Leave out options that say more or less than a right answer."""

    def fill(self, choices: Sequence[_Choice]) -> None:
        """Give options to those it serves that lack some."""
        lacking = [choice for choice in choices if len(choice.options) < choice.n]
        if self.serves:
            lacking = list(filter(self.serves, lacking))
        for choice, options in track(self.candidates(lacking), self.name, len(lacking)):
            choice.take(options, self.rejects_overlap)


def _edits(choices: Sequence[_Choice]) -> _Candidates:
    """Minimal edits of the answer."""
    for choice in choices:
        sample, pool = choice.sample, choice.pool
        yield choice, perturb(sample.answer, pool.vocabulary, f"{pool.seed}/{sample.id}")


def _nearest_answers(choices: Sequence[_Choice]) -> _Candidates:
    """The short answers to the most similar prompts, of the same kind and length."""
    for stage_choices in _by_stage(choices):
        yield from _nearest(stage_choices, stage_choices[0].pool.short_samples)


def _nearest_labels(choices: Sequence[_Choice]) -> _Candidates:
    """The labels that answer the most similar prompts, of the same kind and length."""
    for stage_choices in _by_stage(choices):
        yield from _nearest(stage_choices, stage_choices[0].pool.label_samples())


def _nearest(stage_choices: Sequence[_Choice], answered: Sequence[Sample]) -> _Candidates:
    """The answers of these samples, those to the most similar prompts first."""
    samples = [choice.sample for choice in stage_choices]
    answers = nearest_answers(samples, answered, stage_choices[0].pool.seed)
    return zip(stage_choices, answers, strict=True)


def _by_stage(choices: Sequence[_Choice]) -> Iterable[list[_Choice]]:
    """The choices of each stage together: they draw from the same pool."""
    choices_by_stage = defaultdict[str, list[_Choice]](list)
    for choice in choices:
        choices_by_stage[choice.sample.stage].append(choice)
    return choices_by_stage.values()


def _all_labels(choices: Sequence[_Choice]) -> _Candidates:
    """All labels, in an order of each sample's own."""
    for choice in choices:
        draw = partial(_draw, choice.pool.seed, choice.sample.id)
        yield choice, sorted(choice.pool.labels.values(), key=draw)


def _model_answers(choices: Sequence[_Choice], ask: AskModels | None) -> _Candidates:
    """What models answer, asked once for up to MAX_ASKED samples that are drawn by the seed."""
    if ask is None or not choices:
        return
    # drawn in random order, asked in the order of ids: what models say is cached by both
    drawn = sorted(choices, key=lambda choice: _draw(choice.pool.seed, choice.sample.id))
    asked = sorted(drawn[:MAX_ASKED], key=lambda choice: choice.sample.id)
    answers_by_id = ask([choice.sample for choice in asked])
    for choice in asked:
        yield choice, map(_first_line, answers_by_id.get(choice.sample.id, ()))


STAGE_SOURCES = (
    _Source("edit long answers", _edits, _Choice.has_long_answer),
    _Source("find labels", _nearest_labels, _Choice.has_label, rejects_overlap=True),
    _Source("add labels", _all_labels, _Choice.has_label),
    _Source("find answers", _nearest_answers, _Choice.has_short_answer, rejects_overlap=True),
)
"""What the stage of a sample has to offer, in the order in which it is tried."""
EDITS = _Source("edit answers", _edits)
"""The last resort."""


def _draw(seed: int, *names: str) -> int:
    """A pseudo-random number for what has these names: sorted by it, things are in random order."""
    return stable_hash("/".join([str(seed), *names]))


def _first_line(answer: str) -> str:
    """The first line with something in it but marks of Markdown, without these."""
    for line in answer.splitlines():
        text = line.strip(" \t*`#_")
        if text:
            return text
    return ""


def _is_long(sample: Sample) -> bool:
    return len(WORD.findall(sample.answer)) > MAX_SHORT_ANSWER
