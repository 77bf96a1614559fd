"""What the base model believes about what each unlearned sample asks, over several phrasings."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from ilp_mlflow.core.interfaces import Belief, Probe
from ilp_mlflow.core.texts import Text, last_turn
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key, contains_answer, same_answer
from ilp_mlflow.diagnosis.beliefs.asking import BaseProbe, CommonAnswer, Phrasing
from ilp_mlflow.diagnosis.beliefs.calibration import firm_confidence, unlearned_risks
from ilp_mlflow.diagnosis.beliefs.few_shot import (
    EXAMPLES_PER_DRAW,
    draw_examples,
    fair_draws,
    few_shot_prompts,
    is_short,
)
from ilp_mlflow.diagnosis.beliefs.template_groups import TemplateGroups, group_templates
from ilp_mlflow.diagnosis.beliefs.templates import Question, mine_questions

MAX_MINED_ROWS = 20_000
"""Rows whose prompts phrasings are mined from, unless more are unlearned."""
MAX_COMPARED = 100
"""Learned samples of a stage that the base is asked about, too."""
MAX_DISTINCT_QUESTIONS = 16
"""Groups of templates with which the base is asked for the right answer, the largest first."""
TEMPLATES_PER_QUESTION = 3
"""Templates of each of these groups."""
MAX_PHRASINGS = 9
"""Templates with which the base is asked what a sample asks."""
MIN_LABEL_ROWS = 10
"""Rows with one answer from which that answer is a label."""

Reword = Callable[[Sample], Sequence[Text]]
"""Gives other wordings of a sample's prompt."""


def read_beliefs(
    unlearned: Sequence[Sample],
    learned: Sequence[Sample],
    base: str,
    probe: Probe,
    seed: int,
    reword: Reword | None = None,
    asked_ids: Container[str] | None = None,
    undertrained_stages: Container[str] = (),
) -> dict[str, Belief]:
    """What the base model believes about each unlearned sample, by id.

    A sample is asked about with its own `probes`; without them, with other rows' prompts about the
    same thing; where there are fewer than two ways to ask so, with its own prompt behind a few
    learned rows. Left out are samples that cannot be asked about in any of these ways. Up to
    MAX_COMPARED learned samples of each stage are asked about, too: they show how sure the base is
    of what it knows, and whether that matters for being learned.

    `base` is the name of the base checkpoint. If `asked_ids` are given, only these are asked
    about; the other unlearned samples are counted. `reword` gives further wordings of prompts. Of
    `undertrained_stages` it is noted with the belief that their rows had little training.
    """
    rng = random.Random(seed)
    asked = [s for s in unlearned if asked_ids is None or s.id in asked_ids]
    # enough to mine phrasings from, and to compare with
    n_drawn = min(max(MAX_COMPARED, MAX_MINED_ROWS - len(asked)), len(learned))
    # the order of draws, rows before examples, decides what a seed means
    drawn = rng.sample(list(learned), n_drawn)
    examples = draw_examples(drawn, rng)
    compared = _compared_samples(drawn, examples, {s.stage for s in asked})
    questions = mine_questions([*asked, *drawn])
    label_stages = _label_stages([*unlearned, *learned])

    model = BaseProbe(probe, base)
    beliefs = from_probes([s for s in (*asked, *compared) if s.probes], model)
    without_probes = [s for s in (*asked, *compared) if not s.probes]
    templated = [s for s in without_probes if s.id in questions]
    beliefs |= from_templates(templated, questions, model, seed)
    few_shot = []
    for sample in without_probes:
        asked_enough = sample.id in beliefs and len(beliefs[sample.id].phrasings) > 1
        # a label is taught by the many rows that have it, whatever the base knows
        is_label = sample.id not in questions and sample.stage in label_stages
        if not asked_enough and not is_label:
            few_shot.append(sample)
    beliefs |= from_few_shot(few_shot, examples, model, reword)

    firm = firm_confidence(beliefs.values())
    risks = unlearned_risks(unlearned, learned, asked, compared, beliefs)
    calibrated = {}
    for sample in asked:
        if sample.id in beliefs:
            calibrated[sample.id] = replace(
                beliefs[sample.id],
                firm_confidence=firm,
                unlearned_risk=risks.get(sample.stage),
                stage_undertrained=sample.stage in undertrained_stages,
                entity=questions[sample.id].entity if sample.id in questions else "",
            )
    return calibrated


def from_probes(samples: Sequence[Sample], base: BaseProbe) -> dict[str, Belief]:
    """Beliefs about samples with `probes` of their own, by sample id.

    Probes with one completion ask one thing in several ways. Of several things a sample has probes
    for, the belief is about the least known.
    """
    phrasings: dict[tuple[str, str], list[Phrasing]] = {}
    for sample in samples:
        for probe in sample.probes:
            fact = sample.id, answer_key(probe.completion)
            phrasings.setdefault(fact, []).append(Phrasing(probe.prompt, probe.completion))
    probabilities = base.probabilities(phrasings)
    answers = base.common_answers(phrasings)
    beliefs: dict[str, Belief] = {}
    for fact, answer in answers.items():
        id_, _ = fact
        # what is known is known however it is asked
        p_correct = min(probabilities[fact], default=0.0)
        if id_ in beliefs and beliefs[id_].p_correct <= p_correct:
            continue
        correct = last_turn(phrasings[fact][0].completion)
        belief = _to_belief(answer, p_correct, correct, phrasings[fact])
        if belief:
            beliefs[id_] = belief
    return beliefs


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
            belief = _to_belief(
                answers[sample.id], p_correct[sample.id], sample.answer, phrasings[sample.id]
            )
            if belief:
                beliefs[sample.id] = belief
    return beliefs


def from_few_shot(
    samples: Sequence[Sample],
    draws: Mapping[str, Sequence[Sequence[Sample]]],
    base: BaseProbe,
    reword: Reword | None = None,
) -> dict[str, Belief]:
    """Beliefs about samples with short answers, by sample id, from prompts with examples.

    `draws` are draws of learned rows, by stage. A base that can use examples sees from them which
    form an answer has.
    """
    phrasings: dict[str, list[Phrasing]] = {}
    for sample in samples:
        fair = fair_draws(draws.get(sample.stage, ()), sample)
        # asked in one way only, a firm belief and a passing guess look the same
        if is_short(sample) and len(fair) > 1:
            wordings = [sample.prompt]
            if reword:
                wordings += reword(sample)
            prompts = few_shot_prompts(wordings, fair)
            phrasings[sample.id] = [Phrasing(prompt, sample.completion) for prompt in prompts]
    probabilities = base.probabilities(phrasings)
    answers = base.common_answers(phrasings)
    beliefs = {}
    for sample in samples:
        if sample.id in answers and probabilities[sample.id]:
            p_correct = fmean(probabilities[sample.id])
            belief = _to_belief(answers[sample.id], p_correct, sample.answer, phrasings[sample.id])
            if belief:
                text = f"in {{}} ways, each behind {EXAMPLES_PER_DRAW} learned rows"
                beliefs[sample.id] = replace(belief, phrasings_format=text)
    return beliefs


def _compared_samples(
    learned: Sequence[Sample],
    examples: Mapping[str, Sequence[Sequence[Sample]]],
    stages: Collection[str],
) -> list[Sample]:
    """The first MAX_COMPARED learned samples of each of the `stages` that are no examples."""
    example_ids = set[str]()
    for draw in itertools.chain.from_iterable(examples.values()):
        example_ids.update(row.id for row in draw)
    by_stage: dict[str, list[Sample]] = {stage: [] for stage in sorted(stages)}
    for sample in learned:
        if sample.stage in by_stage and sample.id not in example_ids:
            by_stage[sample.stage].append(sample)
    return list(itertools.chain.from_iterable(rows[:MAX_COMPARED] for rows in by_stage.values()))


def _label_stages(samples: Sequence[Sample]) -> set[str]:
    """The stages in which at least half of the rows have an answer that is a label."""
    rows_by_answer = Counter(answer_key(s.answer) for s in samples)
    rows = Counter[str]()
    label_rows = Counter[str]()
    for sample in samples:
        rows[sample.stage] += 1
        if rows_by_answer[answer_key(sample.answer)] >= MIN_LABEL_ROWS:
            label_rows[sample.stage] += 1
    return {stage for stage in rows if 2 * label_rows[stage] >= rows[stage]}


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


def _to_belief(
    answer: CommonAnswer, p_correct: float, correct: str, phrasings: Sequence[Phrasing]
) -> Belief | None:
    """The belief that an answer to `phrasings` shows.

    `p_correct` is the probability 0..1 of the right answer, `correct`. None where the answer was
    cut off before it differed from that.
    """
    prompts = tuple(phrasing.prompt for phrasing in phrasings)
    if answer.is_majority and _says(answer, correct):
        p_correct = max(p_correct, answer.confidence)
        return Belief(p_correct, "", answer.confidence, prompts, agrees=True)
    if not answer.text:
        return Belief(p_correct, "", answer.confidence, prompts)
    # what follows might have been the rest of the right answer
    if not answer.ended and answer_key(correct).startswith(answer_key(answer.text)):
        return None
    if answer.text.casefold().startswith(correct.strip().casefold()):
        # the probability of `1` includes that of `10`, which is another answer
        p_correct = max(0.0, p_correct - answer.confidence)
    wrong = "" if same_answer(answer.text, correct) else answer.text
    return Belief(p_correct, wrong, answer.confidence, prompts)


def _says(answer: CommonAnswer, correct: str) -> bool:
    """Whether an answer is the right one; one that was cut off need only contain it."""
    if not answer.text:
        return False
    if answer.ended:
        return same_answer(answer.text, correct)
    return contains_answer(answer.text, correct)
