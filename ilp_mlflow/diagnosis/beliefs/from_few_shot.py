"""Beliefs about samples with short answers, asked behind solved questions of the same kind."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ilp_mlflow.core.interfaces import Belief
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import contains_answer
from ilp_mlflow.diagnosis.beliefs.asking import BaseProbe, Phrasing
from ilp_mlflow.diagnosis.beliefs.belief import to_belief
from ilp_mlflow.diagnosis.beliefs.examples import Candidates, candidates_by_kind
from ilp_mlflow.diagnosis.beliefs.few_shot import (
    ENOUGH_ROWS,
    EXAMPLES_PER_SET,
    ROWS_PER_KIND,
    SETS_PER_KIND,
    SETS_PER_SAMPLE,
    behind_the_others,
    draw_sets,
    fair_sets,
    few_shot_prompts,
    is_short,
    with_examples,
)
from ilp_mlflow.diagnosis.beliefs.kinds import Kind, others_about_the_same
from ilp_mlflow.diagnosis.beliefs.made_up import made_up_entities
from ilp_mlflow.diagnosis.beliefs.templates import Question

MADE_UP_PER_KIND = 4
"""Things that do not exist, about which the base is asked with a template."""

KNOWN_EXAMPLE = 0.1
"""Probability 0..1 of its answer from which the base knows an example."""
MAX_OTHER_KINDS = 8
"""Other questions that the base is asked about the entity of a sample."""

Reword = Callable[[Sample], Sequence[Text]]
"""Gives other wordings of a sample's prompt."""


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
    """Prompts taken apart, by sample id, as they are to be asked: see `plain_questions`."""
    kind_of: Mapping[str, Kind]
    """The kind of every sample that may be asked about and of every solved row, by id."""
    seed: int
    """Of the draws of examples and made-up things."""
    reword: Reword | None = None
    """Gives further wordings."""

    def beliefs(self, samples: Sequence[Sample]) -> dict[str, Belief]:
        """What the base believes about `samples`, by id.

        Left out are those with long prompts or answers, and those that cannot be asked behind two
        sets.
        """
        short = [sample for sample in samples if is_short(sample)]
        rows, sets = self._examples(short)
        phrasings: dict[str, list[Phrasing]] = {}
        for sample in short:
            kind = self.kind_of[sample.id]
            fair = fair_sets(sample, sets[kind], rows[kind], self.seed)
            # asked in one way only, a firm belief and a passing guess look the same
            if len(fair) > 1:
                phrasings[sample.id] = self._phrasings(self._plain(sample), fair)
        answers = self.base.common_answers(phrasings)
        exchanges = {id_: [(p.prompt, p.completion) for p in phrasings[id_]] for id_ in answers}
        probabilities = self.base.probabilities(exchanges)
        beliefs: dict[str, Belief] = {}
        for sample in short:
            if probabilities.get(sample.id):
                p_correct = fmean(probabilities[sample.id])
                asked = phrasings[sample.id]
                belief = to_belief(answers[sample.id], p_correct, sample.answer, asked)
                if belief and self._only_repeats(sample, belief.wrong):
                    belief = replace(belief, wrong="")
                if belief:
                    text = f"in {{}} ways, each behind {EXAMPLES_PER_SET} solved questions"
                    beliefs[sample.id] = replace(belief, phrasings_format=text)
        return beliefs

    def guesses(self, samples: Sequence[Sample], kinds: Container[Kind]) -> dict[Kind, list[float]]:
        """How sure the base is of what it says of things that do not exist: confidences 0..1.

        By kind, for those of `kinds` that are made from templates and that some of `samples` have.
        """
        one_of: dict[Kind, Sample] = {}
        for sample in samples:
            kind = self.kind_of[sample.id]
            if kind in kinds and sample.id in self.questions and is_short(sample):
                one_of.setdefault(kind, sample)
        _, sets = self._examples(list(one_of.values()))
        phrasings: dict[tuple[Kind, int], list[Phrasing]] = {}
        entities: dict[tuple[Kind, int], str] = {}
        for kind, sample in one_of.items():
            some = sets[kind][:SETS_PER_SAMPLE]
            if len(some) < 2:
                continue
            for number, entity in enumerate(self._made_up(kind, samples)):
                entities[kind, number] = entity
                prompt = self.questions[sample.id].about(entity)
                asked = sample.model_copy(update={"prompt": prompt})
                phrasings[kind, number] = self._phrasings(asked, some)
        guesses: dict[Kind, list[float]] = {}
        for (kind, number), answer in self.base.common_answers(phrasings).items():
            if answer.text and not contains_answer(entities[kind, number], answer.text):
                guesses.setdefault(kind, []).append(answer.confidence)
        return guesses

    def reach(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Probability 0..1 of each sample's answer in the other question that makes it likeliest.

        Asked are the questions of other kinds that are about the same things, up to
        MAX_OTHER_KINDS, each once, about the sample's entity: what a new name or a new form is
        given to, the base may know under its own. Left out are samples without a template, and
        those that no other question can be asked about.
        """
        asked = [s for s in samples if s.id in self.questions and is_short(s)]
        by_id = {sample.id: sample for sample in [*samples, *self.solved]}
        one_of: dict[Kind, str] = {}
        for id_ in self.questions:
            if id_ in by_id:
                one_of.setdefault(self.kind_of[id_], id_)
        others = others_about_the_same(self.kind_of, self.questions, MAX_OTHER_KINDS)
        rows, sets = self._examples([by_id[id_] for id_ in one_of.values()])
        exchanges: dict[str, list[tuple[Text, Text]]] = {}
        for sample in asked:
            entity = self.questions[sample.id].entity
            for kind in others[self.kind_of[sample.id]]:
                if kind not in sets:
                    continue
                fair = fair_sets(sample, sets[kind], rows[kind], self.seed)
                if fair:
                    question = self.questions[one_of[kind]]
                    prompt, completion = question.answered(entity, sample.answer)
                    exchange = with_examples(fair[0], prompt), completion
                    exchanges.setdefault(sample.id, []).append(exchange)
        reached = {}
        for id_, probabilities in self.base.probabilities(exchanges).items():
            if probabilities:
                reached[id_] = max(probabilities)
        return reached

    def _plain(self, sample: Sample) -> Sample:
        """The sample with its prompt as it is to be asked."""
        question = self.questions.get(sample.id)
        if question is None:
            return sample
        return sample.model_copy(update={"prompt": question.about(question.entity)})

    def _only_repeats(self, sample: Sample, answer: str) -> bool:
        """Whether an answer does no more than to repeat what the sample asks about."""
        question = self.questions.get(sample.id)
        return bool(answer) and question is not None and contains_answer(question.entity, answer)

    def _examples(
        self, samples: Sequence[Sample]
    ) -> tuple[dict[Kind, list[Sample]], dict[Kind, list[list[Sample]]]]:
        """Solved rows for each kind of `samples`, and the sets of them that its samples share."""
        kinds = list(dict.fromkeys(self.kind_of[sample.id] for sample in samples))
        candidates = candidates_by_kind(
            kinds, samples, self.solved, self.kind_of, ROWS_PER_KIND, self.seed
        )
        known = self._known([*candidates.values()])
        rows = {kind: candidates[kind].choose(known, ENOUGH_ROWS) for kind in kinds}
        sets = {kind: draw_sets(rows[kind], SETS_PER_KIND, self._rng(kind)) for kind in kinds}
        return rows, sets

    def _known(self, candidates: Sequence[Candidates]) -> set[str]:
        """Ids of the rows whose answers the base finds likely behind others of their kind.

        Only rows that are of the kind, or akin to it, are asked about, each once.
        """
        exchanges: dict[str, list[tuple[Text, Text]]] = {}
        for candidate in candidates:
            rows = [*candidate.own, *candidate.akin][:ROWS_PER_KIND]
            for row, examples in behind_the_others(rows):
                exchange = with_examples(examples, row.prompt), row.completion
                exchanges.setdefault(row.id, [exchange])
        known = set()
        for id_, probabilities in self.base.probabilities(exchanges).items():
            if probabilities and probabilities[0] >= KNOWN_EXAMPLE:
                known.add(id_)
        return known

    def _made_up(self, kind: Kind, samples: Sequence[Sample]) -> list[str]:
        """Things that do not exist, like those that rows of a kind ask about."""
        entities = []
        for row in [*samples, *self.solved]:
            if self.kind_of[row.id] == kind and row.id in self.questions:
                entities.append(self.questions[row.id].entity)
        return made_up_entities(entities, MADE_UP_PER_KIND, self._rng(kind))

    def _phrasings(self, sample: Sample, sets: Sequence[Sequence[Sample]]) -> list[Phrasing]:
        """A sample's question, and its other wordings, behind the sets."""
        wordings = [sample.prompt]
        if self.reword:
            wordings += self.reword(sample)
        prompts = few_shot_prompts(wordings, sets)
        return [Phrasing(prompt, sample.completion) for prompt in prompts]

    def _rng(self, kind: Kind) -> random.Random:
        """One that depends on the kind alone, so that what was asked need not be asked again."""
        return random.Random(f"{self.seed} {kind}")
