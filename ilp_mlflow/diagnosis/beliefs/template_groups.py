"""Mined templates, grouped by what they ask: those that the base answers alike ask the same."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ilp_mlflow.core.texts import Text
from ilp_mlflow.data.matching import answer_key
from ilp_mlflow.diagnosis.beliefs.asking import BaseProbe
from ilp_mlflow.diagnosis.beliefs.templates import Question, draw_questions

MAX_TEMPLATES = 200
"""Templates that are grouped."""
MAX_ENTITIES = 12
"""Entities that the base is asked about with each template."""
MIN_SAME_ANSWERS = 0.7
"""Share 0..1 of these entities with the same answer, from which two templates ask the same."""


@dataclass(frozen=True)
class TemplateGroups:
    """Groups of templates that ask the same, and how the base answers each template."""

    groups: Sequence[Sequence[Question]]
    """A question for each template of a group; the groups with most templates first."""
    answers: Mapping[Text, Sequence[str]]
    """By template, a key of the base's answer about each entity; "" for none."""

    def others_like(self, template: Text, n: int) -> list[Question]:
        """Up to `n` questions, of other templates, that ask what `template` asks."""
        alike = []
        for group in self.groups:
            if _ask_the_same(self.answers[template], self.answers[group[0].template]):
                alike += [q for q in group if q.template != template]
        return alike[:n]


def group_templates(
    questions: Mapping[str, Question], needed: Iterable[Question], base: BaseProbe, seed: int
) -> TemplateGroups:
    """Ask the base with mined templates about the same entities, and group those answered alike.

    `questions` are by sample id. The templates of `needed` questions are asked, too; the groups
    are of drawn templates only.
    """
    rng = random.Random(seed)
    # the order of draws, templates before entities, decides what a seed means
    drawn = draw_questions(questions, MAX_TEMPLATES, rng)
    entities = sorted({question.entity for question in questions.values()})
    entities = rng.sample(entities, min(MAX_ENTITIES, len(entities)))
    answers = _ask(itertools.chain(drawn, needed), entities, base)
    groups: list[list[Question]] = []
    for question in drawn:
        answer_keys = answers[question.template]
        # a template with few different answers hardly asks about the entity
        if 2 * len(set(answer_keys)) <= len(entities):
            continue
        group = _group_of(question, groups, answers)
        if group is None:
            groups.append([question])
        else:
            group.append(question)
    groups.sort(key=len, reverse=True)
    return TemplateGroups(groups, answers)


def _ask(
    questions: Iterable[Question], entities: Sequence[str], base: BaseProbe
) -> dict[Text, list[str]]:
    """By template, a key of the base's answer about each entity."""
    prompts: dict[Text, list[Text]] = {}
    for question in questions:
        if question.template not in prompts:
            prompts[question.template] = [question.about(entity) for entity in entities]
    answers = {}
    for template, greedy in base.answers(prompts).items():
        answers[template] = [answer_key(answer.text) for answer in greedy]
    return answers


def _group_of(
    question: Question, groups: Iterable[list[Question]], answers: Mapping[Text, Sequence[str]]
) -> list[Question] | None:
    """The first group whose first question asks the same."""
    for group in groups:
        if _ask_the_same(answers[question.template], answers[group[0].template]):
            return group
    return None


def _ask_the_same(answer_keys: Sequence[str], other_keys: Sequence[str]) -> bool:
    """Whether two templates are answered alike about enough of the entities."""
    pairs = zip(answer_keys, other_keys, strict=True)
    same = sum(key == other != "" for key, other in pairs)
    return same >= MIN_SAME_ANSWERS * len(answer_keys)
