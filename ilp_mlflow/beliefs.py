"""What the base model believes about what a sample asks for, over several phrasings of it."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TypeVar

from ilp_mlflow.answers import agree, answered, gist
from ilp_mlflow.phrasings import Question, drawn, questions
from ilp_mlflow.plugin import FIRM, KNOWN, Belief, Probe
from ilp_mlflow.types import Exchange, Sample, Text

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

K = TypeVar("K")
Asked = tuple[Text, Text]
"""A prompt, and the completion whose form its answers have."""


def beliefs(unlearned: Sequence[Sample], learned: Sequence[Sample], base: str, probe: Probe, seed: int) -> dict[str, Belief]:
    """What the base model says about each unlearned sample of which that can be asked, by id.

    Asked are the sample's own probes, else other rows' prompts about the same thing, see `phrasings`. Some of the `learned`
    samples show how sure the base is of what it knows. What does not fit into the model is not asked.
    """
    rest = random.Random(seed).sample(list(learned), min(max(COMPARED, ROWS - len(unlearned)), len(learned)))
    asked, mined = [*unlearned, *rest[:COMPARED]], questions([*unlearned, *rest])
    found = _given([s for s in asked if s.probes], base, probe)
    found |= _mined([s for s in asked if not s.probes and s.id in mined], mined, base, probe, seed)
    known = sorted(b.confidence for b in found.values() if b.agrees)
    firm = max(KNOWN, known[int(UNSUREST * len(known))]) if len(known) >= LEAST else FIRM
    entity = {id_: question.entity for id_, question in mined.items()}
    return {s.id: replace(found[s.id], firm=firm, entity=entity.get(s.id, "")) for s in unlearned if s.id in found}


def _given(samples: Sequence[Sample], base: str, probe: Probe) -> dict[str, Belief]:
    """From own probes: of those with one completion, which ask one thing in several ways; of several things the least known."""
    asked = dict[tuple[str, str], list[Exchange]]()
    for sample in samples:
        for own in sample.probes:
            asked.setdefault((sample.id, gist(own.completion)), []).append(own)
    sure = iter(probe.logprobs(base, [(p.prompt, p.completion) for probes in asked.values() for p in probes]))
    right = {key: min(_probabilities(itertools.islice(sure, len(probes))), default=0.0) for key, probes in asked.items()}
    said = _said({key: [(p.prompt, p.completion) for p in probes] for key, probes in asked.items()}, base, probe)
    found: dict[str, Belief] = {}
    for key, probes in asked.items():
        if key in said and (key[0] not in found or right[key] < found[key[0]].right):
            found[key[0]] = _belief(right[key], said[key], probes[0].completion, [p.prompt for p in probes])
    return found


def _mined(samples: Sequence[Sample], found: Mapping[str, Question], base: str, probe: Probe, seed: int) -> dict[str, Belief]:
    if not samples:
        return {}
    groups, like = _sorted(found, {found[s.id].template: found[s.id] for s in samples}, base, probe, seed)
    ways = [group[:WAYS] for group in groups]
    sure = iter(probe.logprobs(base, [q.answered(found[s.id].entity, s.answer) for s in samples for way in ways for q in way]))
    reach = {s.id: [_probabilities(itertools.islice(sure, len(way))) for way in ways] for s in samples}
    asked = {
        s.id: [(q.about(found[s.id].entity), q.completion) for q in (found[s.id], *like[found[s.id].template])] for s in samples
    }
    said = _said(asked, base, probe)
    return {
        s.id: _belief(
            max((fmean(found) for found in reach[s.id] if found), default=0.0), said[s.id], s.answer, [p for p, _ in asked[s.id]]
        )
        for s in samples
        if s.id in said
    }


def _belief(reach: float, said: tuple[str, float], right: str, phrasings: Sequence[Text]) -> Belief:
    answer, confidence = said
    agrees = bool(answer) and agree(answer, right)
    return Belief(max(reach, confidence) if agrees else reach, "" if agrees else answer, confidence, tuple(phrasings), agrees)


def _said(asked: Mapping[K, Sequence[Asked]], base: str, probe: Probe) -> dict[K, tuple[str, float]]:
    """The answer given to most prompts, "" where there is none, and its mean probability 0..1 over them.

    Left out is what has no prompt that fits.
    """
    answers = iter(probe.say(base, [prompt for prompts in asked.values() for prompt, _ in prompts]))
    usual = {}
    for key, prompts in asked.items():
        given = [answer for answer in itertools.islice(answers, len(prompts)) if not math.isnan(answer.logprob)]
        if given:
            usual[key] = Counter(answer.text for answer in given).most_common(1)[0][0]
    exchanges = {key: [(prompt, answered(form, usual[key])) for prompt, form in asked[key]] for key in usual if usual[key]}
    sure = iter(probe.logprobs(base, [exchange for own in exchanges.values() for exchange in own]))
    found = {key: _probabilities(itertools.islice(sure, len(own))) for key, own in exchanges.items()}
    return {key: (answer, fmean(found[key]) if found.get(key) else 0.0) for key, answer in usual.items()}


def _sorted(
    found: Mapping[str, Question], own: Mapping[Text, Question], base: str, probe: Probe, seed: int
) -> tuple[list[list[Question]], dict[Text, list[Question]]]:
    """Templates grouped by what they ask, and for every template of `own` others that ask the same.

    Two templates ask the same when the base answers them alike about the same entities, and not alike about all of them.
    """
    rng = random.Random(seed)
    pool = drawn(found, TEMPLATES, rng)
    entities = sorted({q.entity for q in found.values()})
    entities = rng.sample(entities, min(ENTITIES, len(entities)))
    templates = {q.template: q for q in (*pool, *own.values())}
    answers = iter(probe.say(base, [q.about(e) for q in templates.values() for e in entities]))
    said = {template: [gist(next(answers).text) for _ in entities] for template in templates}

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
    like = {template: list(itertools.islice(_others(question, groups, alike), PHRASINGS - 1)) for template, question in own.items()}
    return groups[:DISTINCT], like


def _others(
    question: Question, groups: Iterable[Sequence[Question]], alike: Callable[[Question, Question], bool]
) -> Iterator[Question]:
    for group in groups:
        if alike(question, group[0]):
            yield from (q for q in group if q.template != question.template)


def _probabilities(logprobs: Iterable[float]) -> list[float]:
    """Without those that are nan: what did not fit was not asked."""
    return [math.exp(min(logprob, 0.0)) for logprob in logprobs if not math.isnan(logprob)]
