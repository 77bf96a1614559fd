"""What the base model believes about the thing a sample asks for, over several phrasings of it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ilp_mlflow.answers import key_of, within, words_of
from ilp_mlflow.plugin import Context
from ilp_mlflow.types import Sample

KNOWN = 0.5
"""Probability 0..1 of a right answer from which it is known: no other answer can be more probable."""
FIRM = 0.85
"""How sure of an answer a model is that counts as firm, where too little is known that it could be compared with (prototype)."""
FIRMEST_MISSED = 0.1
"""Share 0..1 of what a model knows of which it is less sure than of what counts as firm."""
COMPARED = 20
"""Known answers needed for that."""


@dataclass(frozen=True)
class Belief:
    """What the base model says about one sample."""

    right: float
    """Probability 0..1 of the right answer, in the phrasing in which it is lowest."""
    wrong: str
    """The other answer that is its first choice in most phrasings; "" where there is none."""
    confidence: float
    """Probability 0..1 of `wrong`, in the phrasing in which it is lowest."""
    phrasings: tuple[str, ...]
    """How it was asked."""

    @property
    def known(self) -> bool:
        """The right answer is known however it is asked for."""
        return self.right >= KNOWN


def beliefs(samples: Sequence[Sample], context: Context) -> dict[str, Belief]:
    """What the base model says about each of `samples` that has probes, by id."""
    samples, base, probe = [s for s in samples if s.probes], context.checkpoints[0].name, context.probe
    asked = [p for s in samples for p in s.probes]
    sure = iter(probe.logprobs(base, [(p.prompt, p.completion) for p in asked]))
    said = iter(probe.say(base, [p.prompt for p in asked]))
    right, wrong = dict[str, float](), dict[str, str]()
    for sample in samples:
        right[sample.id] = _lowest(itertools.islice(sure, len(sample.probes)))
        others = [a.text for p, a in zip(sample.probes, said, strict=False) if a.text and not _agree(a.text, p.completion)]
        wrong[sample.id] = Counter(others).most_common(1)[0][0] if 2 * len(others) > len(sample.probes) else ""
    instead = [(p.prompt, _like(p.completion, wrong[s.id])) for s in samples if wrong[s.id] for p in s.probes]
    sure = iter(probe.logprobs(base, instead))
    confidence = {s.id: _lowest(itertools.islice(sure, len(s.probes))) for s in samples if wrong[s.id]}
    return {s.id: Belief(right[s.id], wrong[s.id], confidence.get(s.id, 0.0), tuple(p.prompt for p in s.probes)) for s in samples}


def firm(found: Mapping[str, Belief]) -> float:
    """Probability 0..1 from which an answer of the base is as sure as nearly all of what it knows."""
    known = sorted(b.right for b in found.values() if b.known)
    return known[int(FIRMEST_MISSED * len(known))] if len(known) >= COMPARED else FIRM


def contradicted(belief: Belief, reference: float) -> float:
    """How much surer the base is of a wrong answer than of what counts as firm: 0..1, one half where it is equally sure.

    The odds of the wrong answer over those of `reference` as a probability.
    """
    if not belief.wrong:
        return 0.0
    ours, theirs = (min(max(p, 1e-6), 1 - 1e-6) for p in (belief.confidence, reference))
    return ours * (1 - theirs) / (ours * (1 - theirs) + theirs * (1 - ours))


def _lowest(logprobs: Iterable[float]) -> float:
    """The lowest of these as a probability 0..1; one that could not be computed counts as 0."""
    return min(0.0 if math.isnan(x) else math.exp(min(x, 0.0)) for x in logprobs)


def _like(completion: str, answer: str) -> str:
    """`answer` with the white space in front that `completion` has."""
    return completion[: len(completion) - len(completion.lstrip())] + answer


def _agree(said: str, right: str) -> bool:
    said, right = words_of(said), words_of(right)
    return key_of(said) == key_of(right) or within(right, said)
