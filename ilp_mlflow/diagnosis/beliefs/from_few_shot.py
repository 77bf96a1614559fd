"""Beliefs about samples with short answers, asked behind solved questions of the same kind."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from ilp_mlflow.core.interfaces import Belief
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Sample
from ilp_mlflow.diagnosis.beliefs.asking import BaseProbe, CommonAnswer, Phrasing
from ilp_mlflow.diagnosis.beliefs.belief import to_belief
from ilp_mlflow.diagnosis.beliefs.few_shot import (
    EXAMPLES_PER_SET,
    ROWS_PER_KIND,
    SETS_PER_KIND,
    SETS_PER_SAMPLE,
    draw_sets,
    fair_sets,
    few_shot_prompts,
    is_short,
)
from ilp_mlflow.diagnosis.beliefs.kinds import Kind, examples_by_kind, kinds_of
from ilp_mlflow.diagnosis.beliefs.made_up import made_up_entities
from ilp_mlflow.diagnosis.beliefs.templates import Question

MADE_UP_PER_KIND = 8
"""Things that do not exist, about which the base is asked with a template."""

Reword = Callable[[Sample], Sequence[Text]]
"""Gives other wordings of a sample's prompt."""


@dataclass(frozen=True)
class FewShotAnswers:
    """What the base says behind examples."""

    beliefs: dict[str, Belief] = field(default_factory=dict)
    """By sample id."""
    kind_of: dict[str, Kind] = field(default_factory=dict)
    """The kind of each sample that was asked about, by its id."""
    guessed: dict[Kind, list[float]] = field(default_factory=dict)
    """Confidences 0..1 of what it says about things that do not exist."""


@dataclass(frozen=True)
class FewShot:
    """Asks a base behind solved questions.

    A base that can use examples sees from them what is asked for and which form an answer has.
    Samples of a kind share their sets of examples, so that most of what the base reads, it reads
    once.
    """

    base: BaseProbe
    """Who is asked."""
    solved: Sequence[Sample]
    """Rows with short answers that were learned: the examples come from them."""
    questions: Mapping[str, Question]
    """Prompts taken apart, by sample id."""
    seed: int
    """Of the draws of examples and made-up things."""
    reword: Reword | None = None
    """Gives further wordings."""

    def ask(self, samples: Sequence[Sample]) -> FewShotAnswers:
        """Beliefs about `samples`; left out are those that cannot be asked behind two sets."""
        short = [sample for sample in samples if is_short(sample)]
        kind_of = kinds_of([*short, *self.solved], self.questions)
        # in the order of the samples, so that a seed means the same
        kinds = list(dict.fromkeys(kind_of[sample.id] for sample in short))
        rng = random.Random(self.seed)
        rows = examples_by_kind(kinds, self.solved, kind_of, ROWS_PER_KIND, rng)
        sets = {kind: draw_sets(rows[kind], SETS_PER_KIND, rng) for kind in kinds}

        phrasings: dict[str, list[Phrasing]] = {}
        for sample in short:
            kind = kind_of[sample.id]
            fair = fair_sets(sample, sets[kind], rows[kind], self.seed)
            # asked in one way only, a firm belief and a passing guess look the same
            if len(fair) > 1:
                phrasings[sample.id] = self._phrasings(sample, fair)
        about_nothing = self._about_made_up(short, kind_of, sets, rng)
        # in one call, so that what is shared is read once
        answers = self.base.common_answers({**phrasings, **about_nothing})
        guessed: dict[Kind, list[float]] = {kind: [] for kind in kinds}
        for kind, number in about_nothing:
            # one that does not fit into the model has no answer
            if (kind, number) in answers and answers[kind, number].text:
                guessed[kind].append(answers[kind, number].confidence)
        return FewShotAnswers(
            self._beliefs(short, phrasings, answers),
            {sample.id: kind_of[sample.id] for sample in short},
            guessed,
        )

    def _phrasings(self, sample: Sample, sets: Sequence[Sequence[Sample]]) -> list[Phrasing]:
        """A sample's prompt, and its other wordings, behind the sets."""
        wordings = [sample.prompt]
        if self.reword:
            wordings += self.reword(sample)
        prompts = few_shot_prompts(wordings, sets)
        return [Phrasing(prompt, sample.completion) for prompt in prompts]

    def _about_made_up(
        self,
        samples: Sequence[Sample],
        kind_of: Mapping[str, Kind],
        sets: Mapping[Kind, Sequence[Sequence[Sample]]],
        rng: random.Random,
    ) -> dict[tuple[Kind, int], list[Phrasing]]:
        """Questions of each kind about things that do not exist, by kind and number."""
        one_of: dict[Kind, Sample] = {}
        for sample in samples:
            if sample.id in self.questions:
                one_of.setdefault(kind_of[sample.id], sample)
        entities: dict[Kind, list[str]] = {kind: [] for kind in one_of}
        for row in [*samples, *self.solved]:
            if kind_of[row.id] in entities:
                entities[kind_of[row.id]].append(self.questions[row.id].entity)
        phrasings: dict[tuple[Kind, int], list[Phrasing]] = {}
        for kind, sample in one_of.items():
            question = self.questions[sample.id]
            made_up = made_up_entities(entities[kind], MADE_UP_PER_KIND, rng)
            for number, entity in enumerate(made_up):
                asked = sample.model_copy(update={"prompt": question.about(entity)})
                some = sets[kind][:SETS_PER_SAMPLE]
                if len(some) > 1:
                    phrasings[kind, number] = self._phrasings(asked, some)
        return phrasings

    def _beliefs(
        self,
        samples: Sequence[Sample],
        phrasings: Mapping[str, Sequence[Phrasing]],
        answers: Mapping[Hashable, CommonAnswer],
    ) -> dict[str, Belief]:
        """The beliefs that the answers show, by sample id."""
        exchanges = {}
        for sample in samples:
            if sample.id in answers:
                asked = phrasings[sample.id]
                exchanges[sample.id] = [(p.prompt, p.completion) for p in asked]
        probabilities = self.base.probabilities(exchanges)
        beliefs = {}
        for sample in samples:
            if probabilities.get(sample.id):
                p_correct = fmean(probabilities[sample.id])
                asked = phrasings[sample.id]
                belief = to_belief(answers[sample.id], p_correct, sample.answer, asked)
                if belief:
                    text = f"in {{}} ways, each behind {EXAMPLES_PER_SET} solved questions"
                    beliefs[sample.id] = replace(belief, phrasings_format=text)
        return beliefs
