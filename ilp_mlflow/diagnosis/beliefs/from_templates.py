"""Beliefs about samples whose prompts are made from templates, asked with other templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from ilp_mlflow.core.interfaces import Belief
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Sample
from ilp_mlflow.diagnosis.beliefs.asking import BaseProbe, Phrasing
from ilp_mlflow.diagnosis.beliefs.belief import to_belief
from ilp_mlflow.diagnosis.beliefs.template_groups import TemplateGroups, group_templates
from ilp_mlflow.diagnosis.beliefs.templates import Question

MAX_DISTINCT_QUESTIONS = 16
"""Groups of templates with which the base is asked for the right answer, the largest first."""
TEMPLATES_PER_QUESTION = 3
"""Templates of each of these groups."""
MAX_PHRASINGS = 9
"""Templates with which the base is asked what a sample asks."""


def from_templates(
    samples: Sequence[Sample], questions: Mapping[str, Question], base: BaseProbe, seed: int
) -> dict[str, Belief]:
    """Beliefs about samples whose prompts were taken apart into `questions`, by sample id.

    The right answer is as probable as in the one of all questions to which the base gives it most
    readily: a label it gives to any question about the entity is known, whatever the words of the
    prompt. What the base answers is read from templates that ask what the prompt asks.
    """
    if not samples:
        return {}
    groups = group_templates(questions, [questions[s.id] for s in samples], base, seed)
    p_correct = _largest_probability(samples, questions, groups, base)
    phrasings = _template_phrasings(samples, questions, groups)
    answers = base.common_answers(phrasings)
    beliefs = {}
    for sample in samples:
        if sample.id in answers:
            belief = to_belief(
                answers[sample.id], p_correct[sample.id], sample.answer, phrasings[sample.id]
            )
            if belief:
                beliefs[sample.id] = belief
    return beliefs


def _template_phrasings(
    samples: Sequence[Sample], questions: Mapping[str, Question], groups: TemplateGroups
) -> dict[str, list[Phrasing]]:
    """Each sample's question, and up to MAX_PHRASINGS - 1 others that ask the same, by its id."""
    others: dict[Text, list[Question]] = {}
    phrasings: dict[str, list[Phrasing]] = {}
    for sample in samples:
        question = questions[sample.id]
        # many samples share a template
        if question.template not in others:
            others[question.template] = groups.others_like(question.template, MAX_PHRASINGS - 1)
        phrasings[sample.id] = []
        for other in (question, *others[question.template]):
            prompt = other.about(question.entity)
            phrasings[sample.id].append(Phrasing(prompt, other.completion))
    return phrasings


def _largest_probability(
    samples: Sequence[Sample],
    questions: Mapping[str, Question],
    groups: TemplateGroups,
    base: BaseProbe,
) -> dict[str, float]:
    """Probability 0..1 of each sample's answer in the question that makes it most probable.

    The mean over TEMPLATES_PER_QUESTION templates that ask it, about the sample's entity.
    """
    exchanges = {}
    for sample in samples:
        entity = questions[sample.id].entity
        for i, group in enumerate(groups.groups[:MAX_DISTINCT_QUESTIONS]):
            templates = group[:TEMPLATES_PER_QUESTION]
            exchanges[sample.id, i] = [q.answered(entity, sample.answer) for q in templates]
    largest = dict.fromkeys((s.id for s in samples), 0.0)
    for (id_, _), probabilities in base.probabilities(exchanges).items():
        if probabilities:
            largest[id_] = max(largest[id_], fmean(probabilities))
    return largest
