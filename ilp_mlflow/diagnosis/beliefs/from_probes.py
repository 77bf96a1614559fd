"""Beliefs about samples that bring questions of their own, their `probes`."""

from __future__ import annotations

from collections.abc import Sequence

from ilp_mlflow.core.interfaces import Belief
from ilp_mlflow.core.texts import last_turn
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key
from ilp_mlflow.diagnosis.beliefs.asking import BaseProbe, Phrasing
from ilp_mlflow.diagnosis.beliefs.belief import to_belief


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
        belief = to_belief(answer, p_correct, correct, phrasings[fact])
        if belief:
            beliefs[id_] = belief
    return beliefs
