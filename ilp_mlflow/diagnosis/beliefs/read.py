"""What the base model believes about what each unlearned sample asks, over several phrasings."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from ilp_mlflow.core.interfaces import Belief, Firmness, Probe
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key, same_answer
from ilp_mlflow.diagnosis.beliefs.asking import BaseProbe
from ilp_mlflow.diagnosis.beliefs.calibration import (
    firm_quantile,
    firmness_by_kind,
    risks_of_kinds,
    unlearned_risks,
)
from ilp_mlflow.diagnosis.beliefs.examples import plain_facts, plain_questions
from ilp_mlflow.diagnosis.beliefs.few_shot import is_short
from ilp_mlflow.diagnosis.beliefs.from_few_shot import FewShot, Reword
from ilp_mlflow.diagnosis.beliefs.from_probes import from_probes
from ilp_mlflow.diagnosis.beliefs.from_templates import from_templates
from ilp_mlflow.diagnosis.beliefs.kinds import Kind, kinds_of
from ilp_mlflow.diagnosis.beliefs.templates import mine_questions

MAX_MINED_ROWS = 20_000
"""Rows whose prompts phrasings are mined from, unless more are unlearned."""
MAX_COMPARED = 40
"""Learned samples of a stage that the base is asked about, too."""
MAX_OF_KIND = 8
"""Learned samples of one kind and stage that are among them, or come on top, where some of the kind
are unlearned."""
TRIED = 24
"""Learned samples on which ways to ask are compared."""
MIN_LABEL_ROWS = 10
"""Rows with one answer from which that answer is a label."""


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

    A sample is asked about with its own `probes`. Without them it is asked in the way that the base
    answers better, which is found on TRIED learned samples: behind solved questions of the same
    kind, or with other rows' prompts about the same thing and nothing in front, as a base is
    asked that was trained on such questions. Left out are samples that cannot be asked about in
    two ways. Up to MAX_COMPARED learned samples of each stage are asked about, too, some of every
    kind: they show how sure the base is of what it knows, and whether that matters for being
    learned.

    `base` is the name of the base checkpoint. If `asked_ids` are given, only these are asked
    about; the other unlearned samples are counted. `reword` gives further wordings of prompts. Of
    `undertrained_stages` it is noted with the belief that their rows had little training.
    """
    rng = random.Random(seed)
    asked = [s for s in unlearned if asked_ids is None or s.id in asked_ids]
    # enough to mine phrasings from, and to compare with
    n_drawn = min(max(MAX_COMPARED, MAX_MINED_ROWS - len(asked)), len(learned))
    drawn = rng.sample(list(learned), n_drawn)
    questions = mine_questions([*asked, *drawn])
    kind_of = kinds_of([*asked, *drawn], questions)
    group_of = {s.id: (s.stage, kind_of[s.id]) for s in (*asked, *drawn)}
    compared = _compared_samples(drawn, asked, group_of)
    label_stages = _label_stages([*unlearned, *learned])

    model = BaseProbe(probe, base)
    beliefs = from_probes([s for s in (*asked, *compared) if s.probes], model)
    without_probes = [s for s in (*asked, *compared) if not s.probes]
    plain = plain_questions(questions)
    solved = plain_facts([s for s in drawn if is_short(s)], asked, plain, kind_of)
    few_shot = FewShot(model, solved, plain, kind_of, seed, reword)
    if not _examples_help([s for s in compared if not s.probes], few_shot):
        templated = [s for s in without_probes if s.id in questions]
        beliefs |= from_templates(templated, questions, model, seed)
    to_ask = []
    for sample in without_probes:
        asked_enough = sample.id in beliefs and len(beliefs[sample.id].phrasings) > 1
        # a label is taught by the many rows that have it, whatever the base knows
        is_label = sample.id not in questions and sample.stage in label_stages
        if not asked_enough and not is_label:
            to_ask.append(sample)
    firm = firm_quantile(beliefs.values())
    few_shot_beliefs = few_shot.beliefs(to_ask)
    # what is firm is asked for only where the base says something else than an unlearned sample
    doubted = {kind_of[s.id] for s in asked if _says_another(few_shot_beliefs.get(s.id))}
    guesses = few_shot.guesses(to_ask, doubted)
    firm_of_kind = _firmness(few_shot_beliefs, kind_of, guesses)
    beliefs |= _with_reach(few_shot_beliefs, few_shot, to_ask)

    risks = unlearned_risks(unlearned, learned, asked, compared, beliefs, undertrained_stages)
    of_kinds = risks_of_kinds(unlearned, learned, asked, compared, beliefs, group_of, risks)
    calibrated = {}
    for sample in asked:
        if sample.id in beliefs:
            of_kind = firm_of_kind if sample.id in few_shot_beliefs else {}
            calibrated[sample.id] = replace(
                beliefs[sample.id],
                firm=of_kind.get(kind_of[sample.id], firm),
                unlearned_risk=of_kinds.get(group_of[sample.id], risks.get(sample.stage)),
                stage_undertrained=sample.stage in undertrained_stages,
                entity=questions[sample.id].entity if sample.id in questions else "",
            )
    return calibrated


def _says_another(belief: Belief | None) -> bool:
    """Whether the base gives another answer, and does not know the right one."""
    return belief is not None and bool(belief.wrong) and not belief.known


def _examples_help(learned: Sequence[Sample], few_shot: FewShot) -> bool:
    """Whether the base answers more of some learned samples rightly behind solved questions.

    Compared with their bare prompts; samples of every stage are tried in turn.
    """
    by_stage: dict[str, list[Sample]] = {}
    for sample in learned:
        if is_short(sample):
            by_stage.setdefault(sample.stage, []).append(sample)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_stage.values()))
    tried = [sample for sample in in_turn if sample][:TRIED]
    beliefs = few_shot.beliefs(tried)
    bare = few_shot.base.answers({s.id: [s.prompt] for s in tried if s.id in beliefs})
    right_behind_examples, right_bare = 0, 0
    for sample in tried:
        if sample.id in beliefs:
            right_behind_examples += beliefs[sample.id].agrees
            right_bare += same_answer(bare[sample.id][0].text, sample.answer)
    return right_behind_examples > right_bare


def _with_reach(
    beliefs: Mapping[str, Belief], few_shot: FewShot, samples: Sequence[Sample]
) -> dict[str, Belief]:
    """The beliefs, with the right answer as probable as in any question about the same thing.

    Asked are only `samples` whose answers the base does not know as they are asked for.
    """
    unknown = [s for s in samples if s.id in beliefs and not beliefs[s.id].known]
    reached = dict(beliefs)
    for id_, probability in few_shot.reach(unknown).items():
        if probability > beliefs[id_].p_correct:
            reached[id_] = replace(beliefs[id_], p_correct=probability)
    return reached


def _firmness(
    beliefs: Mapping[str, Belief],
    kind_of: Mapping[str, Kind],
    guesses: Mapping[Kind, Sequence[float]],
) -> dict[Kind, Firmness]:
    """From which confidence a belief is firm, for every kind that there are beliefs about."""
    right: dict[Kind, list[float]] = {}
    for id_, belief in beliefs.items():
        of_kind = right.setdefault(kind_of[id_], [])
        if belief.agrees:
            of_kind.append(belief.confidence)
    return firmness_by_kind(right, guesses)


def _compared_samples(
    learned: Sequence[Sample],
    asked: Sequence[Sample],
    group_of: Mapping[str, tuple[str, Kind]],
) -> list[Sample]:
    """Learned samples to compare those with that are `asked`: of their kinds, and of their stages.

    Up to MAX_OF_KIND of each kind and stage, then others until it is MAX_COMPARED of each stage.
    """
    kinds = {group_of[sample.id] for sample in asked}
    stages = {sample.stage for sample in asked}
    of_kind, of_stage = Counter[tuple[str, Kind]](), Counter[str]()
    chosen, others = list[Sample](), list[Sample]()
    for sample in learned:
        group = group_of[sample.id]
        if group in kinds and of_kind[group] < MAX_OF_KIND:
            of_kind[group] += 1
            of_stage[sample.stage] += 1
            chosen.append(sample)
        else:
            others.append(sample)
    for sample in others:
        if sample.stage in stages and of_stage[sample.stage] < MAX_COMPARED:
            of_stage[sample.stage] += 1
            chosen.append(sample)
    return chosen


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
