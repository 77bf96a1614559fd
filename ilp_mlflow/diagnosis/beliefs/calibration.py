"""What the base's beliefs about learned samples say about those about unlearned ones.

How sure the base is of what it knows, and whether knowing an answer matters for learning it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from ilp_mlflow.core.interfaces import (
    DEFAULT_FIRMNESS,
    MIN_KNOWN_PROBABILITY,
    Belief,
    Firmness,
    UnlearnedRisk,
    log_odds,
)
from ilp_mlflow.core.values import Sample

K = TypeVar("K", bound=Hashable)

MIN_COMPARED = 20
"""Right beliefs, or learned samples asked about, below which neither estimate is made."""
MIN_OF_KIND = 6
"""Learned samples of one kind asked about from which the kind has an estimate of its own."""
FIRM_QUANTILE = 0.1
"""Share 0..1 of the right beliefs that are less confident than a firm one."""
PRIOR_KNOWN_SAMPLES = 10
"""Known samples, unlearned as often as all samples, that are added to those seen."""
PRIOR_ANSWERS = 4
"""Answers, like those of all kinds, that are added to those of one kind: few show little."""
PRIOR_LEAD = 3.0
"""How far, in log odds, beliefs lead guesses where nothing is known yet: in ten kinds of easy
facts it was 2.4 to 4.5 for SmolLM2-135M-Instruct."""
LEAST_SAID = 0.02
"""Confidence 0..1 below which an answer counts as this sure: to say nothing is to say nothing, and
the log odds of one such answer would outweigh those of all others."""
MIN_SPREAD = 1.0
"""Standard deviation, in log odds, below which none of beliefs or of guesses is taken to be."""


def firmness_by_kind(
    right: Mapping[K, Sequence[float]], guessed: Mapping[K, Sequence[float]]
) -> dict[K, Firmness]:
    """From which confidence a belief is firm, for every kind of `right`; {} without any guesses.

    `right` are the confidences 0..1 of right beliefs of each kind, `guessed` those of what the base
    says of things that do not exist. In log odds both are taken to be normal with one spread, so
    that the odds of a belief grow by (right - guessed) / spread^2 for each of those of confidence,
    and are even halfway (linear discriminant analysis). Means of a kind are pulled to those of all.
    """
    all_guessed = [_log_odds(c) for c in itertools.chain.from_iterable(guessed.values())]
    if not all_guessed:
        return {}
    overall = fmean(all_guessed)
    guess, leads = {}, {}
    for kind, confidences in right.items():
        guess[kind] = _pulled(map(_log_odds, guessed.get(kind, ())), overall)
        leads[kind] = [_log_odds(confidence) - guess[kind] for confidence in confidences]
    usual_lead = _pulled(itertools.chain.from_iterable(leads.values()), PRIOR_LEAD)
    lead = {kind: _pulled(leads[kind], usual_lead) for kind in guess}
    spread = _spread(
        [_log_odds(c) - guess[kind] for kind in guess for c in guessed.get(kind, ())]
        + [own - lead[kind] for kind in guess for own in leads[kind]]
    )
    firmness = {}
    for kind in guess:
        # a kind of which the base is no surer than of what does not exist shows no belief
        distance = max(lead[kind], MIN_SPREAD)
        halfway = 1 / (1 + math.exp(-(guess[kind] + distance / 2)))
        firmness[kind] = Firmness(halfway, distance / spread**2)
    return firmness


def _log_odds(confidence: float) -> float:
    """Log odds of a confidence, LEAST_SAID at least."""
    return log_odds(max(confidence, LEAST_SAID))


def _pulled(values: Iterable[float], to: float) -> float:
    """The mean of values and of PRIOR_ANSWERS more that are `to`."""
    seen = list(values)
    return (sum(seen) + PRIOR_ANSWERS * to) / (len(seen) + PRIOR_ANSWERS)


def _spread(differences: Sequence[float]) -> float:
    """Root mean square of differences from the means of their kinds."""
    return max(MIN_SPREAD, math.sqrt(fmean(difference**2 for difference in differences)))


def firm_quantile(beliefs: Iterable[Belief]) -> Firmness:
    """Where nothing can be made up: firm is what nearly all right beliefs are at least."""
    confidences = sorted(belief.confidence for belief in beliefs if belief.agrees)
    if len(confidences) < MIN_COMPARED:
        return DEFAULT_FIRMNESS
    quantile = confidences[int(FIRM_QUANTILE * len(confidences))]
    return Firmness(max(MIN_KNOWN_PROBABILITY, quantile))


def unlearned_risks(
    unlearned: Sequence[Sample],
    learned: Sequence[Sample],
    asked: Sequence[Sample],
    compared: Sequence[Sample],
    beliefs: Mapping[str, Belief],
    undertrained_stages: Container[str] = (),
) -> dict[str, UnlearnedRisk]:
    """By stage, how often samples stay unlearned that the base knows, and that it does not know.

    The base was asked about `asked`, which are unlearned, and about `compared`, which are learned.
    A stage with too few of them takes the risk over all stages, unless it is one of
    `undertrained_stages`: more training would teach there what other stages could not. Left out
    are stages where these are too few as well.
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
        if stage not in undertrained_stages:
            risk = risk or overall
        if risk:
            risks[stage] = risk
    return risks


def risks_of_kinds(
    unlearned: Sequence[Sample],
    learned: Sequence[Sample],
    asked: Sequence[Sample],
    compared: Sequence[Sample],
    beliefs: Mapping[str, Belief],
    group_of: Mapping[str, tuple[str, Hashable]],
    stage_risks: Mapping[str, UnlearnedRisk],
) -> dict[tuple[str, Hashable], UnlearnedRisk]:
    """As `unlearned_risks`, for the kinds of questions of a stage, by stage and kind.

    `group_of` has the stage and kind of every sample by id. Where the base knows as little of a
    kind's learned samples (rows teach a label, whatever the base knows), not to be known explains
    nothing in that kind, however much it explains in its stage. How often known samples stay
    unlearned is pulled to what it is in the stage, since a kind has few. Left out are kinds with
    fewer than MIN_OF_KIND `compared` samples, those that are all of their stage, and stages without
    a risk.
    """
    unlearned_known = _known_by(group_of, asked, beliefs)
    learned_known = _known_by(group_of, compared, beliefs)
    unlearned_rows = Counter(group_of[s.id] for s in unlearned if s.id in group_of)
    learned_rows = Counter(group_of[s.id] for s in learned if s.id in group_of)
    of_stage = Counter(sample.stage for sample in compared if sample.id in beliefs)
    risks = {}
    for group, known in unlearned_known.items():
        stage, _ = group
        n_compared = len(learned_known[group])
        if stage in stage_risks and MIN_OF_KIND <= n_compared < of_stage[stage]:
            risks[group] = _bayes(
                unlearned_rows[group],
                learned_rows[group],
                known,
                learned_known[group],
                stage_risks[stage].if_known,
            )
    return risks


def _known_by_stage(
    samples: Iterable[Sample], beliefs: Mapping[str, Belief]
) -> defaultdict[str, list[bool]]:
    """By stage, for each sample that the base could be asked about: whether it knows the answer."""
    samples = list(samples)
    return _known_by({sample.id: sample.stage for sample in samples}, samples, beliefs)


def _known_by(
    group_of: Mapping[str, K], samples: Iterable[Sample], beliefs: Mapping[str, Belief]
) -> defaultdict[K, list[bool]]:
    """By group, for each sample that the base could be asked about: whether it knows the answer."""
    known = defaultdict[K, list[bool]](list)
    for sample in samples:
        if sample.id in beliefs:
            known[group_of[sample.id]].append(beliefs[sample.id].known)
    return known


def _unlearned_risk(
    n_unlearned: int,
    n_learned: int,
    unlearned_known: Sequence[bool],
    learned_known: Sequence[bool],
) -> UnlearnedRisk | None:
    """What `_bayes` says; None where too few samples tell.

    That is where no unlearned sample, or fewer than MIN_COMPARED learned ones could be asked about.
    """
    if not unlearned_known or len(learned_known) < MIN_COMPARED:
        return None
    share = n_unlearned / (n_unlearned + n_learned)
    return _bayes(n_unlearned, n_learned, unlearned_known, learned_known, share)


def _bayes(
    n_unlearned: int,
    n_learned: int,
    unlearned_known: Sequence[bool],
    learned_known: Sequence[bool],
    prior_if_known: float,
) -> UnlearnedRisk:
    """P(unlearned | known) and P(unlearned | not known), by Bayes' rule from two small samples.

    With U unlearned and L learned samples,

        P(unlearned | known) =
            P(known | unlearned) U / (P(known | unlearned) U + P(known | learned) L)

    and the same for not known. The first is pulled to `prior_if_known`.
    """
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

    # a base that knows hardly anything shows hardly anything about what it knows
    weighted = n_known * p_unlearned_if_known + PRIOR_KNOWN_SAMPLES * prior_if_known
    return UnlearnedRisk(weighted / (n_known + PRIOR_KNOWN_SAMPLES), p_unlearned_if_unknown)
