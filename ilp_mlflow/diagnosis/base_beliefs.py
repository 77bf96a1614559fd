"""What the base model believes about what a sample asks for, over several phrasings of it."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple, TypeVar

from ilp_mlflow.core.interfaces import (
    DEFAULT_FIRM_CONFIDENCE,
    MIN_KNOWN_PROBABILITY,
    Belief,
    Probe,
    UnlearnedRisk,
)
from ilp_mlflow.core.values import Exchange, Sample, Text
from ilp_mlflow.data.matching import answer_key, contains_answer, same_answer, with_answer
from ilp_mlflow.diagnosis.elicitation import Question, draw_questions, mine_questions
from ilp_mlflow.diagnosis.few_shot import (
    EXAMPLES_PER_DRAW,
    draw_examples,
    reveals_answer,
    is_short,
    with_examples,
)

ROWS = 20_000
"""Rows whose prompts other phrasings are mined from, unless more are unlearned."""
COMPARED = 100
"""Learned samples that are asked about too: what the base knows of them shows how sure it is of what it knows."""
LEAST = 20
"""Known ones among them from which that is read."""
UNSUREST = 0.1
"""Share 0..1 of what the base knows of which it is less sure than of what counts as firm."""
TEMPLATES = 200
"""Mined templates that are sorted by what they ask."""
ENTITIES = 12
"""Entities the base is asked about with each of them."""
SAME = 0.7
"""Share 0..1 of those with the same answer from which two templates ask the same."""
DISTINCT = 16
"""Questions told apart, those with most templates first."""
WAYS = 3
"""Templates of each with which the base is asked for the right answer."""
PHRASINGS = 9
"""Templates with which the base is asked what a sample asks."""
ALIKE = 10
"""Known samples that are added to those seen, failing as often as all."""
SHARED = 10
"""Rows with one answer from which it is a label; where most of a stage are, its rows teach them, whatever the base knows."""
K = TypeVar("K")


class Usual(NamedTuple):
    """The answer given to most of some prompts."""

    text: str
    """"" where there is none."""
    confidence: float
    """Its mean probability 0..1 over the prompts."""
    ended: bool
    """It was not cut off."""
    most: bool
    """It was given to more than half of them."""


Write = Callable[[Sample], Sequence[Text]]
"""Other wordings of a sample's prompt."""
Asked = tuple[Text, Text]
"""A prompt, and the completion whose form its answers have."""


def read_beliefs(
    unlearned: Sequence[Sample],
    learned: Sequence[Sample],
    base: str,
    probe: Probe,
    seed: int,
    write: Write | None = None,
    asked: Container[str] | None = None,
    barely: Container[str] = (),
) -> dict[str, Belief]:
    """What the base model says about each unlearned sample of which that can be asked, by id; of those `asked` only, if given.

    Asked are the sample's own probes, else other rows' prompts about the same thing, see `phrasings`, else its own prompt (and,
    with `write`, what that makes of it) behind a few learned rows. Some of the `learned` samples show how sure the base is of
    what it knows, and whether it matters for being learned. What does not fit into the model is not asked. `barely` are the stages
    that taught fewer than half of their rows.
    """
    rng = random.Random(seed)
    few = [s for s in unlearned if asked is None or s.id in asked]
    rest = rng.sample(list(learned), min(max(COMPARED, ROWS - len(few)), len(learned)))
    draws = draw_examples(rest, rng)
    shown = {row.id for stage in draws.values() for draw in stage for row in draw}
    compared = _compared([s for s in rest if s.id not in shown], {s.stage for s in few})
    read, mined = [*few, *compared], mine_questions([*few, *rest])
    found = _given([s for s in read if s.probes], base, probe)
    found |= _mined([s for s in read if not s.probes and s.id in mined], mined, base, probe, seed)
    lacking = [
        s for s in read if not s.probes and (s.id not in found or len(found[s.id].phrasings) < 2)
    ]
    often = Counter(answer_key(s.answer) for s in (*unlearned, *learned))
    labels = Counter(
        s.stage for s in (*unlearned, *learned) if often[answer_key(s.answer)] >= SHARED
    )
    rows = Counter(s.stage for s in (*unlearned, *learned))
    lacking = [s for s in lacking if s.id in mined or 2 * labels[s.stage] < rows[s.stage]]
    found |= _behind_examples(lacking, draws, base, probe, write)
    known = sorted(b.confidence for b in found.values() if b.agrees)
    firm = (
        max(MIN_KNOWN_PROBABILITY, known[int(UNSUREST * len(known))])
        if len(known) >= LEAST
        else DEFAULT_FIRM_CONFIDENCE
    )
    risks = _risks([few, compared], [unlearned, learned], found)
    entity = {id_: question.entity for id_, question in mined.items()}
    return {
        s.id: replace(
            found[s.id],
            firm_confidence=firm,
            unlearned_risk=risks.get(s.stage),
            stage_undertrained=s.stage in barely,
            entity=entity.get(s.id, ""),
        )
        for s in few
        if s.id in found
    }


def _compared(learned: Sequence[Sample], stages: set[str]) -> list[Sample]:
    """Up to COMPARED of each of the `stages`."""
    by_stage: dict[str, list[Sample]] = {stage: [] for stage in sorted(stages)}
    for sample in learned:
        if len(by_stage.get(sample.stage, (None,) * COMPARED)) < COMPARED:
            by_stage[sample.stage].append(sample)
    return [sample for own in by_stage.values() for sample in own]


def _risks(
    read: Sequence[Sequence[Sample]], whole: Sequence[Sequence[Sample]], found: Mapping[str, Belief]
) -> dict[str, UnlearnedRisk]:
    """By stage, the share 0..1 that is not learned of what the base knows, and of what it does not.

    Reckoned from the shares that it knows of the unlearned and of the learned samples it was asked about (`read`, unlearned first),
    each with one more that is as often known as all, and the number of the `whole`; with ALIKE more known ones that fail as often
    as all, so that nothing is read off a base that knows hardly anything. A stage of which fewer than LEAST learned samples could
    be asked is compared with all; left out are stages that cannot be compared with anything.
    """

    def risk(stage: str | None) -> UnlearnedRisk | None:
        lost, kept = (
            [found[s.id].known for s in some if stage in (None, s.stage) and s.id in found]
            for some in read
        )
        if not lost or len(kept) < LEAST:
            return None
        usual = (sum(lost) + sum(kept) + 1) / (len(lost) + len(kept) + 2)
        known = [(sum(some) + usual) / (len(some) + 1) for some in (lost, kept)]
        totals = [sum(stage in (None, s.stage) for s in some) for some in whole]
        fail, keep = (
            [total * share for share in (p, 1 - p)] for total, p in zip(totals, known, strict=True)
        )
        by_known, by_unknown = (a / (a + b) for a, b in zip(fail, keep, strict=True))
        m = sum(lost) + sum(kept)
        return UnlearnedRisk(
            (m * by_known + ALIKE * totals[0] / sum(totals)) / (m + ALIKE), by_unknown
        )

    stages = {s.stage: risk(s.stage) or risk(None) for s in read[0]}
    return {stage: risks for stage, risks in stages.items() if risks}


def _behind_examples(
    samples: Sequence[Sample],
    draws: Mapping[str, Sequence[Sequence[Sample]]],
    base: str,
    probe: Probe,
    write: Write | None,
) -> dict[str, Belief]:
    """From the sample's own prompt behind learned rows of its stage, with every draw of `draws` in which none has its answer.

    They show a base that can use them which form an answer has. Only short answers are asked for.
    """
    asked = dict[str, list[Asked]]()
    for sample in samples:
        if is_short(sample):
            fit = [
                draw
                for draw in draws.get(sample.stage, ())
                if not any(reveals_answer(row, sample) for row in draw)
            ]
            if len(fit) > 1:
                wordings = [sample.prompt, *(write(sample) if write else ())]
                asked[sample.id] = [
                    (
                        with_examples(fit[i % len(fit)], wordings[i % len(wordings)]),
                        sample.completion,
                    )
                    for i in range(max(len(fit), len(wordings)))
                ]
    answers = {s.id: s.answer for s in samples}
    sure = iter(probe.logprobs(base, [exchange for own in asked.values() for exchange in own]))
    right = {id_: _probabilities(itertools.islice(sure, len(own))) for id_, own in asked.items()}
    said = _said(asked, base, probe)
    words = f"in {{}} ways, each behind {EXAMPLES_PER_DRAW} learned rows"
    beliefs_ = {
        id_: _belief(fmean(right[id_]), said[id_], answers[id_], [p for p, _ in own])
        for id_, own in asked.items()
        if id_ in said and right[id_]
    }
    return {
        id_: replace(belief, phrasings_format=words) for id_, belief in beliefs_.items() if belief
    }


def _given(samples: Sequence[Sample], base: str, probe: Probe) -> dict[str, Belief]:
    """From own probes: of those with one completion, which ask one thing in several ways; of several things the least known."""
    asked = dict[tuple[str, str], list[Exchange]]()
    for sample in samples:
        for own in sample.probes:
            asked.setdefault((sample.id, answer_key(own.completion)), []).append(own)
    sure = iter(
        probe.logprobs(
            base, [(p.prompt, p.completion) for probes in asked.values() for p in probes]
        )
    )
    right = {
        key: min(_probabilities(itertools.islice(sure, len(probes))), default=0.0)
        for key, probes in asked.items()
    }
    said = _said(
        {key: [(p.prompt, p.completion) for p in probes] for key, probes in asked.items()},
        base,
        probe,
    )
    found: dict[str, Belief] = {}
    for key, probes in asked.items():
        if key in said and (key[0] not in found or right[key] < found[key[0]].p_correct):
            belief = _belief(
                right[key], said[key], probes[0].completion, [p.prompt for p in probes]
            )
            found |= {key[0]: belief} if belief else {}
    return found


def _mined(
    samples: Sequence[Sample], found: Mapping[str, Question], base: str, probe: Probe, seed: int
) -> dict[str, Belief]:
    if not samples:
        return {}
    groups, like = _sorted(
        found, {found[s.id].template: found[s.id] for s in samples}, base, probe, seed
    )
    ways = [group[:WAYS] for group in groups]
    sure = iter(
        probe.logprobs(
            base,
            [
                q.answered(found[s.id].entity, s.answer)
                for s in samples
                for way in ways
                for q in way
            ],
        )
    )
    reach = {
        s.id: [_probabilities(itertools.islice(sure, len(way))) for way in ways] for s in samples
    }
    asked = {
        s.id: [
            (q.about(found[s.id].entity), q.completion)
            for q in (found[s.id], *like[found[s.id].template])
        ]
        for s in samples
    }
    said = _said(asked, base, probe)
    most = {
        id_: max((fmean(own) for own in ways if own), default=0.0) for id_, ways in reach.items()
    }
    beliefs_ = {
        s.id: _belief(most[s.id], said[s.id], s.answer, [p for p, _ in asked[s.id]])
        for s in samples
        if s.id in said
    }
    return {id_: belief for id_, belief in beliefs_.items() if belief}


def _belief(reach: float, said: Usual, right: str, phrasings: Sequence[Text]) -> Belief | None:
    """What is believed, or None where the answer was cut off before it differed from the right one."""
    answer, confidence = said.text, said.confidence
    agrees = (
        bool(answer)
        and said.most
        and (same_answer(answer, right) if said.ended else contains_answer(answer, right))
    )
    if answer and not agrees:
        if not said.ended and answer_key(right).startswith(answer_key(answer)):
            return None
        if answer.casefold().startswith(right.strip().casefold()):
            reach = max(0.0, reach - confidence)  # to say 10 is to have said 1
    wrong = "" if agrees or same_answer(answer, right) else answer
    return Belief(
        max(reach, confidence) if agrees else reach, wrong, confidence, tuple(phrasings), agrees
    )


def _said(asked: Mapping[K, Sequence[Asked]], base: str, probe: Probe) -> dict[K, Usual]:
    """The answer given to most prompts of each key.

    Left out is what has no prompt that fits.
    """
    answers = iter(
        probe.answer(base, [prompt for prompts in asked.values() for prompt, _ in prompts])
    )
    usual = {}
    for key, prompts in asked.items():
        given = [
            answer
            for answer in itertools.islice(answers, len(prompts))
            if not math.isnan(answer.logprob)
        ]
        if given:
            (frequent, times), *_ = Counter(
                answer_key(answer.text) for answer in given
            ).most_common(1)
            same = sorted(
                (a for a in given if answer_key(a.text) == frequent), key=lambda a: not a.ended
            )
            usual[key] = same[0], 2 * times > len(given)
    exchanges = {
        key: [(prompt, with_answer(form, said.text)) for prompt, form in asked[key]]
        for key, (said, _) in usual.items()
        if said.text
    }
    sure = iter(probe.logprobs(base, [exchange for own in exchanges.values() for exchange in own]))
    found = {
        key: _probabilities(itertools.islice(sure, len(own))) for key, own in exchanges.items()
    }
    return {
        key: Usual(said.text, fmean(found[key]) if found.get(key) else 0.0, said.ended, most)
        for key, (said, most) in usual.items()
    }


def _sorted(
    found: Mapping[str, Question], own: Mapping[Text, Question], base: str, probe: Probe, seed: int
) -> tuple[list[list[Question]], dict[Text, list[Question]]]:
    """Templates grouped by what they ask, and for every template of `own` others that ask the same.

    Two templates ask the same when the base answers them alike about the same entities, and not alike about all of them.
    """
    rng = random.Random(seed)
    pool = draw_questions(found, TEMPLATES, rng)
    entities = sorted({q.entity for q in found.values()})
    entities = rng.sample(entities, min(ENTITIES, len(entities)))
    templates = {q.template: q for q in (*pool, *own.values())}
    answers = iter(probe.answer(base, [q.about(e) for q in templates.values() for e in entities]))
    said = {template: [answer_key(next(answers).text) for _ in entities] for template in templates}

    def alike(one: Question, other: Question) -> bool:
        pairs = list(zip(said[one.template], said[other.template], strict=True))
        return sum(a == b != "" for a, b in pairs) >= SAME * len(pairs)

    groups = list[list[Question]]()
    for question in pool:
        if 2 * len(set(said[question.template])) > len(entities):
            group = next((g for g in groups if alike(question, g[0])), None)
            if group is None:
                groups.append([question])
            else:
                group.append(question)
    groups.sort(key=len, reverse=True)
    like = {
        template: list(itertools.islice(_others(question, groups, alike), PHRASINGS - 1))
        for template, question in own.items()
    }
    return groups[:DISTINCT], like


def _others(
    question: Question,
    groups: Iterable[Sequence[Question]],
    alike: Callable[[Question, Question], bool],
) -> Iterator[Question]:
    for group in groups:
        if alike(question, group[0]):
            yield from (q for q in group if q.template != question.template)


def _probabilities(logprobs: Iterable[float]) -> list[float]:
    """Without those that are nan: what did not fit was not asked."""
    return [math.exp(min(logprob, 0.0)) for logprob in logprobs if not math.isnan(logprob)]
