"""What the base model believes about what a sample asks for, over several phrasings of it."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from ilp_mlflow.answers import agree, answered, gist
from ilp_mlflow.phrasings import Question, drawn, questions
from ilp_mlflow.plugin import FIRM, Belief, Probe
from ilp_mlflow.types import Sample, Text

ROWS = 20_000
"""Rows whose prompts other phrasings are mined from."""
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

Asked = tuple[Text, Text]
"""A prompt, and the completion whose form its answers have."""


def beliefs(unlearned: Sequence[Sample], learned: Sequence[Sample], base: str, probe: Probe, seed: int) -> dict[str, Belief]:
    """What the base model says about each unlearned sample of which that can be asked, by id.

    Asked are the sample's own probes, else other rows' prompts about the same thing, see `phrasings`. Some of the `learned`
    samples show how sure the base is of what it knows.
    """
    rest = random.Random(seed).sample(list(learned), min(max(COMPARED, ROWS - len(unlearned)), len(learned)))
    some = rest[:COMPARED]
    asked, mined = [*unlearned, *some], questions([*unlearned, *rest])
    found = _given([s for s in asked if s.probes], base, probe)
    found |= _mined([s for s in asked if not s.probes and s.id in mined], mined, base, probe, seed)
    known = sorted(b.confidence for b in found.values() if b.known and not b.wrong)
    firm = known[int(UNSUREST * len(known))] if len(known) >= LEAST else FIRM
    entity = {id_: question.entity for id_, question in mined.items()}
    return {s.id: replace(found[s.id], firm=firm, entity=entity.get(s.id, "")) for s in unlearned if s.id in found}


def _given(samples: Sequence[Sample], base: str, probe: Probe) -> dict[str, Belief]:
    sure = iter(probe.logprobs(base, [(p.prompt, p.completion) for s in samples for p in s.probes]))
    right = {s.id: min(_probability(next(sure)) for _ in s.probes) for s in samples}
    asked = {s.id: [(p.prompt, p.completion) for p in s.probes] for s in samples}
    said = _said(asked, {s.id: s.probes[0].completion for s in samples}, base, probe)
    return {s.id: Belief(right[s.id], *said[s.id], tuple(p.prompt for p in s.probes)) for s in samples}


def _mined(samples: Sequence[Sample], found: Mapping[str, Question], base: str, probe: Probe, seed: int) -> dict[str, Belief]:
    if not samples:
        return {}
    groups, like = _sorted(found, {found[s.id].template: found[s.id] for s in samples}, base, probe, seed)
    ways = [group[:WAYS] for group in groups]
    asks = (q.answered(found[s.id].entity, s.answer) for s in samples for way in ways for q in way)
    sure = iter(probe.logprobs(base, list(asks)))
    reach = {s.id: max((fmean(_probability(next(sure)) for _ in way) for way in ways), default=0.0) for s in samples}
    asked = {
        s.id: [(q.about(found[s.id].entity), q.completion) for q in (found[s.id], *like[found[s.id].template])] for s in samples
    }
    said = _said(asked, {s.id: s.answer for s in samples}, base, probe)
    return {s.id: Belief(reach[s.id], *said[s.id], tuple(prompt for prompt, _ in asked[s.id])) for s in samples}


def _said(asked: Mapping[str, Sequence[Asked]], right: Mapping[str, str], base: str, probe: Probe) -> dict[str, tuple[str, float]]:
    """The answer given to most prompts, "" in place of the `right` one, and its mean probability 0..1 over all of them."""
    answers = iter(probe.say(base, [prompt for prompts in asked.values() for prompt, _ in prompts]))
    usual = {}
    for id_, prompts in asked.items():
        texts = [next(answers).text for _ in prompts]
        usual[id_] = Counter(text for text in texts if text).most_common(1)[0][0] if any(texts) else ""
    exchanges = [(prompt, answered(form, usual[id_])) for id_, prompts in asked.items() if usual[id_] for prompt, form in prompts]
    sure = iter(probe.logprobs(base, exchanges))
    found = {}
    for id_, prompts in asked.items():
        confidence = fmean(_probability(next(sure)) for _ in prompts) if usual[id_] else 0.0
        found[id_] = ("" if agree(usual[id_], right[id_]) else usual[id_], confidence)
    return found


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


def _probability(logprob: float) -> float:
    return 0.0 if math.isnan(logprob) else math.exp(min(logprob, 0.0))
