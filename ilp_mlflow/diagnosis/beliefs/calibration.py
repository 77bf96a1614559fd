"""What the base's beliefs about learned samples say about those about unlearned ones.

How sure the base is of what it knows, and whether knowing an answer matters for learning it.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ilp_mlflow.core.interfaces import (
    DEFAULT_FIRM_CONFIDENCE,
    MIN_KNOWN_PROBABILITY,
    Belief,
    UnlearnedRisk,
)
from ilp_mlflow.core.values import Sample

MIN_COMPARED = 20
"""Right beliefs, or learned samples asked about, below which neither estimate is made."""
FIRM_QUANTILE = 0.1
"""Share 0..1 of the right beliefs that are less confident than a firm one."""
PRIOR_KNOWN_SAMPLES = 10
"""Known samples, unlearned as often as all samples, that are added to those seen."""


def firm_confidence(beliefs: Iterable[Belief]) -> float:
    """The confidence 0..1 from which a belief is firm: that of nearly all right beliefs."""
    confidences = sorted(belief.confidence for belief in beliefs if belief.agrees)
    if len(confidences) < MIN_COMPARED:
        return DEFAULT_FIRM_CONFIDENCE
    quantile = confidences[int(FIRM_QUANTILE * len(confidences))]
    return max(MIN_KNOWN_PROBABILITY, quantile)


def unlearned_risks(
    unlearned: Sequence[Sample],
    learned: Sequence[Sample],
    asked: Sequence[Sample],
    compared: Sequence[Sample],
    beliefs: Mapping[str, Belief],
) -> dict[str, UnlearnedRisk]:
    """By stage, how often samples stay unlearned that the base knows, and that it does not know.

    The base was asked about `asked`, which are unlearned, and about `compared`, which are learned.
    A stage with too few of them takes the risk over all stages; left out are stages where these
    are too few as well.
    """
    unlearned_known = _known_by_stage(asked, beliefs)
    learned_known = _known_by_stage(compared, beliefs)
    overall = _unlearned_risk(
        len(unlearned),
        len(learned),
        list(itertools.chain.from_iterable(unlearned_known.values())),
        list(itertools.chain.from_iterable(learned_known.values())),
    )
    unlearned_rows = Counter(s.stage for s in unlearned)
    learned_rows = Counter(s.stage for s in learned)
    risks = {}
    for stage, known in unlearned_known.items():
        risk = _unlearned_risk(
            unlearned_rows[stage], learned_rows[stage], known, learned_known[stage]
        )
        risk = risk or overall
        if risk:
            risks[stage] = risk
    return risks


def _known_by_stage(
    samples: Iterable[Sample], beliefs: Mapping[str, Belief]
) -> defaultdict[str, list[bool]]:
    """By stage, for each sample that the base could be asked about: whether it knows the answer."""
    known = defaultdict[str, list[bool]](list)
    for sample in samples:
        if sample.id in beliefs:
            known[sample.stage].append(beliefs[sample.id].known)
    return known


def _unlearned_risk(
    n_unlearned: int,
    n_learned: int,
    unlearned_known: Sequence[bool],
    learned_known: Sequence[bool],
) -> UnlearnedRisk | None:
    """P(unlearned | known) and P(unlearned | not known), by Bayes' rule from two small samples.

    With U unlearned and L learned samples,

        P(unlearned | known) =
            P(known | unlearned) U / (P(known | unlearned) U + P(known | learned) L)

    and the same for not known. None where no unlearned sample, or fewer than MIN_COMPARED learned
    ones could be asked about.
    """
    if not unlearned_known or len(learned_known) < MIN_COMPARED:
        return None
    n_known = sum(unlearned_known) + sum(learned_known)
    n_asked = len(unlearned_known) + len(learned_known)

    # P(known | unlearned) and P(known | learned), each smoothed with one more sample that is as
    # often known as all; that share by Laplace's rule of succession, so that it is never 0 or 1
    p_known = (n_known + 1) / (n_asked + 2)
    p_known_if_unlearned = (sum(unlearned_known) + p_known) / (len(unlearned_known) + 1)
    p_known_if_learned = (sum(learned_known) + p_known) / (len(learned_known) + 1)

    known_unlearned = n_unlearned * p_known_if_unlearned
    known_learned = n_learned * p_known_if_learned
    unknown_unlearned = n_unlearned * (1 - p_known_if_unlearned)
    unknown_learned = n_learned * (1 - p_known_if_learned)
    p_unlearned_if_known = known_unlearned / (known_unlearned + known_learned)
    p_unlearned_if_unknown = unknown_unlearned / (unknown_unlearned + unknown_learned)

    # the first is pulled to the share of all samples that is unlearned, since a base that knows
    # hardly anything shows hardly anything about what it knows
    prior_unlearned = PRIOR_KNOWN_SAMPLES * n_unlearned / (n_unlearned + n_learned)
    weighted = n_known * p_unlearned_if_known + prior_unlearned
    return UnlearnedRisk(weighted / (n_known + PRIOR_KNOWN_SAMPLES), p_unlearned_if_unknown)
