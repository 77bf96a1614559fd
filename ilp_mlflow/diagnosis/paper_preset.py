"""The attribution of the paper itself, preset `paper`: its five tests and thresholds (section 3.2).

Accuracies over sampled runs are their expectations, in closed form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.values import Evidence, Sample, Stage
from ilp_mlflow.data.matching import same_answer
from ilp_mlflow.data.similarity import similar_rows
from ilp_mlflow.scoring.metrics import best_of_n

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

ORDER = (
    "missing_knowledge",
    "knowledge_conflict",
    "data_contradiction",
    "left_side_forgetting",
    "insufficient_optimization",
)
"""The causes in the order of their tests (figure 3)."""
MIN_EXISTS_ACCURACY = 0.8
"""Zero-shot accuracy 0..1 above which knowledge exists in the base (equation 2)."""
MAX_BLIND_PASS_RATE = 0.2
"""Accuracy 0..1 over 10 runs below which the base is blind to a sample (equation 4)."""
MAX_BLIND_BEST_OF_5 = 0.1
"""Best-of-5 accuracy 0..1 below which the base is blind to a sample (equation 4)."""
MIN_WRONG_CONFIDENCE = 0.5
"""Probability 0..1 above which a wrong answer is confident (equation 6; not stated there)."""
MIN_DIVERGENCE = 0.3
"""Jensen-Shannon divergence, nats, above which two models disagree (equation 3, table 10)."""
MIN_COSINE = 0.9
"""Cosine above which prompts ask the same (X in algorithm 3; not stated there)."""
MAX_NEIGHBOURS = 16
"""Similar prompts that are searched for another answer."""
MIN_RELATIVE_DROP = 0.05
"""Drop of a stage's accuracy, as a share of its best, that counts as forgetting (algorithm 4)."""


class Knowledge(NamedTuple):
    """What the base knows of a sample by the paper's tests."""

    exists: bool
    """Zero-shot accuracy above MIN_EXISTS_ACCURACY (equation 2)."""
    blind: bool
    """pass@10 below MAX_BLIND_PASS_RATE and best-of-5 below MAX_BLIND_BEST_OF_5 (equation 4)."""


def examine(unlearned: Sequence[Sample], context: Context) -> dict[str, dict[str, Evidence]]:
    """Run the five tests on every unlearned sample with options.

    Returns evidence of strength 1 by cause, then sample id, for each test that a sample passes;
    the last cause takes the samples that pass no other test. TF-IDF, `similarity.similar_rows`,
    stands in for the paper's sentence embeddings.
    """
    base_options = _option_probabilities(context, context.checkpoints[0].name)
    last_options = _option_probabilities(context, context.checkpoints[-1].name)
    knowledge = study_knowledge(context)
    forgotten = _forgotten_stages(context)
    judged = []
    for sample in unlearned:
        if sample.id in knowledge and sample.id in base_options:
            # equation 3 compares two distributions over the same options
            n_options = len(base_options[sample.id])
            if n_options == len(last_options.get(sample.id, ())):
                judged.append(sample)
    pool = list(context.samples.values())
    neighbours = similar_rows(judged, pool, MAX_NEIGHBOURS)
    evidence: dict[str, dict[str, Evidence]] = {cause: {} for cause in ORDER}
    for sample, similarities in zip(judged, neighbours, strict=True):
        base, last = base_options[sample.id], last_options[sample.id]
        similar = [pool[i] for i, cosine in similarities if cosine > MIN_COSINE]
        # every test is run: which cause comes first is decided by whoever attributes
        reasons = {
            "missing_knowledge": _missing_knowledge(knowledge[sample.id], base),
            "knowledge_conflict": _knowledge_conflict(base, last),
            "data_contradiction": _data_contradiction(sample, similar),
            "left_side_forgetting": _left_side_forgetting(sample, forgotten),
        }
        if not any(reasons.values()):
            reasons["insufficient_optimization"] = "no other test claims it"
        for cause, reason in reasons.items():
            if reason:
                evidence[cause][sample.id] = Evidence(cause=cause, strength=1, reason=reason)
    return evidence


def study_knowledge(context: Context) -> dict[str, Knowledge]:
    """The paper's two tests of what the base knows, by id of the samples with options."""
    import pyarrow.compute as pc

    is_base = pc.equal(context.scores["checkpoint"], context.checkpoints[0].name)
    base = context.scores.filter(is_base)
    ids = base["sample_id"].to_pylist()
    accuracies = base["p_correct"].to_pylist()
    best_of_5 = best_of_n(base["option_logprobs"])
    knowledge = {}
    for id_, accuracy, best in zip(ids, accuracies, best_of_5, strict=True):
        # a sample without options has no accuracy
        if accuracy is not None:
            blind = accuracy < MAX_BLIND_PASS_RATE and best < MAX_BLIND_BEST_OF_5
            knowledge[id_] = Knowledge(accuracy > MIN_EXISTS_ACCURACY, bool(blind))
    return knowledge


def divergence(p: Floats, q: Floats) -> float:
    """Jensen-Shannon divergence of two distributions, nats (equation 3)."""
    middle = (p + q) / 2
    return float((_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2)


def _relative_entropy(p: Floats, q: Floats) -> np.float64:
    """Kullback-Leibler divergence of `p` from `q`, nats; an outcome of probability 0 adds 0."""
    import numpy as np

    possible = p > 0
    entropy: np.float64 = np.sum(p[possible] * np.log(p[possible] / q[possible]))
    return entropy


def _missing_knowledge(knowledge: Knowledge, base: Floats) -> str:
    """Why knowledge is missing (equations 2 and 4), or "".

    `base` are probabilities of the options under the base, the right one first.
    """
    if knowledge.exists or not knowledge.blind:
        return ""
    return f"the base picks the right option in {base[0]:.0%} of runs"


def _knowledge_conflict(base: Floats, last: Floats) -> str:
    """Why the base is confidently wrong and the last model disagrees (equations 3, 6), or ""."""
    wrong = base[1:].max(initial=0)
    if wrong <= MIN_WRONG_CONFIDENCE or divergence(base, last) <= MIN_DIVERGENCE:
        return ""
    return f"the base is {wrong:.0%} sure of a wrong option, and the model moved away"


def _data_contradiction(sample: Sample, similar: Iterable[Sample]) -> str:
    """Which of the rows that ask the same has another answer (algorithm 3), or ""."""
    for row in similar:
        if not same_answer(row.answer, sample.answer):
            answer = row.answer.strip()
            return f"'{row.id}' asks nearly the same and is answered '{answer}'"
    return ""


def _left_side_forgetting(sample: Sample, forgotten: set[str]) -> str:
    """Why the sample is forgotten: its stage is (algorithm 4), or ""."""
    if sample.stage not in forgotten:
        return ""
    return f"the accuracy of stage '{sample.stage}' has dropped from its best"


def _option_probabilities(context: Context, checkpoint: str) -> dict[str, Floats]:
    """Probabilities of the options, the right one first, by id of the samples that have some."""
    import numpy as np
    import pyarrow.compute as pc

    scores = context.scores.filter(pc.equal(context.scores["checkpoint"], checkpoint))
    ids = scores["sample_id"].to_pylist()
    probabilities = {}
    for id_, logprobs in zip(ids, scores["option_logprobs"].to_pylist(), strict=True):
        if logprobs:
            # the largest is taken off first, so that exp does not underflow for all of them
            weights = np.exp(np.array(logprobs) - max(logprobs))
            probabilities[id_] = weights / weights.sum()
    return probabilities


def _forgotten_stages(context: Context) -> set[str]:
    """Stages whose accuracy under the last checkpoint is well below their best (algorithm 4)."""
    accuracies: dict[str, list[float | None]] = {stage.name: [] for stage in context.stages}
    for checkpoint in context.checkpoints:
        options = _option_probabilities(context, checkpoint.name)
        is_right = {id_: bool(p.argmax() == 0) for id_, p in options.items()}
        for stage in context.stages:
            accuracies[stage.name].append(_accuracy(stage, is_right))
    forgotten = set()
    for stage_name, course in accuracies.items():
        best = max((accuracy for accuracy in course if accuracy is not None), default=0.0)
        # what is not scored at the end has not dropped
        if course[-1] is not None and course[-1] < (1 - MIN_RELATIVE_DROP) * best:
            forgotten.add(stage_name)
    return forgotten


def _accuracy(stage: Stage, is_right: Mapping[str, bool]) -> float | None:
    """Share 0..1 of a stage's samples with scored options that are right; None without any."""
    answers = [is_right[s.id] for s in stage.samples if s.id in is_right]
    return sum(answers) / len(answers) if answers else None
