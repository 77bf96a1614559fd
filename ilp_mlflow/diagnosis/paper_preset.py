"""The study's own attribution: its tests one after the other, with its thresholds (section 3.2, figure 3). The preset `paper`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.values import Evidence, Sample
from ilp_mlflow.data.matching import same_answer
from ilp_mlflow.data.similarity import similar_rows

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
"""Of its tests (figure 3)."""
CONFIDENT = 0.5
"""Probability 0..1 of a wrong answer above which an error is confident (equation 6; not stated there)."""
DIVERGED = 0.3
"""Jensen-Shannon divergence above which the two models disagree, nats (equation 3, table 10)."""
SIMILAR = 0.9
"""Cosine of prompts whose different answers contradict each other (X in algorithm 3; not stated there)."""
NEIGHBOURS = 16
"""Similar prompts looked at."""
DROPPED = 0.05
"""Relative drop of a stage's accuracy that counts as forgetting (algorithm 4)."""
EXISTS = 0.8
"""Accuracy 0..1 above which the base knows a sample (equation 2)."""
BLIND, BEST = 0.2, 0.1
"""Accuracy 0..1 over 10 runs, and of the best of 5, below which it is blind to it (equation 4)."""


class Knowledge(NamedTuple):
    """What the base knows of a sample by the study's tests."""

    exists: bool
    """Zero-shot accuracy above EXISTS (equation 2)."""
    blind: bool
    """pass@10 below BLIND and best-of-5 below BEST (equation 4), in expectation."""


def study_knowledge(context: Context) -> dict[str, Knowledge]:
    """The study's two tests of the base model, by id of the samples with options."""
    import pyarrow.compute as pc

    from ilp_mlflow.scoring import metrics

    base = context.scores.filter(
        pc.equal(context.scores["checkpoint"], context.checkpoints[0].name)
    )
    best = metrics.best_of_n(base["option_logprobs"])
    rows = zip(base["sample_id"].to_pylist(), base["p_correct"].to_pylist(), best, strict=True)
    return {
        id_: Knowledge(p > EXISTS, bool(p < BLIND and b < BEST))
        for id_, p, b in rows
        if p is not None
    }


def examine(unlearned: Sequence[Sample], context: Context) -> dict[str, dict[str, Evidence]]:
    """Evidence of strength 1 by test, then id, for every test that a sample with options passes.

    Accuracies over sampled runs are their expectations, and sentence embeddings are stood in for by `similarity.similar_rows`. The
    last cause takes what no other test claims.
    """
    found: dict[str, dict[str, Evidence]] = {cause: {} for cause in ORDER}

    def claim(cause: str, sample: Sample, reason: str) -> None:
        found[cause][sample.id] = Evidence(cause=cause, strength=1, reason=reason)

    base, last = (_options(context, context.checkpoints[i].name) for i in (0, -1))
    known, forgotten = study_knowledge(context), _forgotten(context)
    judged = [
        s
        for s in unlearned
        if s.id in known and s.id in base and len(base[s.id]) == len(last.get(s.id, ()))
    ]
    pool = list(context.samples.values())
    for sample, near in zip(judged, similar_rows(judged, pool, NEIGHBOURS), strict=True):
        p, q = base[sample.id], last[sample.id]
        other = next(
            (
                pool[i]
                for i, cosine in near
                if cosine > SIMILAR and not same_answer(pool[i].answer, sample.answer)
            ),
            None,
        )
        if not known[sample.id].exists and known[sample.id].blind:
            claim(
                "missing_knowledge",
                sample,
                f"the base picks the right option in {p[0]:.0%} of runs",
            )
        if p[1:].max(initial=0) > CONFIDENT and divergence(p, q) > DIVERGED:
            claim(
                "knowledge_conflict",
                sample,
                f"the base is {p[1:].max():.0%} sure of a wrong option, and the model moved away",
            )
        if other is not None:
            claim(
                "data_contradiction",
                sample,
                f"'{other.id}' asks nearly the same and is answered '{other.answer.strip()}'",
            )
        if sample.stage in forgotten:
            claim(
                "left_side_forgetting",
                sample,
                f"the accuracy of stage '{sample.stage}' has dropped from its best",
            )
        if not any(sample.id in by_id for by_id in found.values()):
            claim("insufficient_optimization", sample, "no other test claims it")
    return found


def divergence(p: Floats, q: Floats) -> float:
    """Jensen-Shannon divergence of two distributions, nats (equation 3)."""
    import numpy as np

    middle = (p + q) / 2
    return float(sum(np.sum(x[x > 0] * np.log(x[x > 0] / middle[x > 0])) for x in (p, q)) / 2)


def _options(context: Context, checkpoint: str) -> dict[str, Floats]:
    """Probabilities of the options of every sample that has some, the right one first."""
    import numpy as np
    import pyarrow.compute as pc

    rows = context.scores.filter(pc.equal(context.scores["checkpoint"], checkpoint))
    found = {}
    for id_, logprobs in zip(
        rows["sample_id"].to_pylist(), rows["option_logprobs"].to_pylist(), strict=True
    ):
        if logprobs:
            weights = np.exp(np.array(logprobs) - max(logprobs))
            found[id_] = weights / weights.sum()
    return found


def _forgotten(context: Context) -> set[str]:
    """Stages whose accuracy under the last checkpoint is a share DROPPED or more below their best."""
    course: Mapping[str, list[float]] = {s.name: [] for s in context.stages}
    for checkpoint in context.checkpoints:
        right = {id_: p.argmax() == 0 for id_, p in _options(context, checkpoint.name).items()}
        for stage in context.stages:
            mine = [right[s.id] for s in stage.samples if s.id in right]
            course[stage.name].append(sum(mine) / max(1, len(mine)))
    return {name for name, shares in course.items() if shares[-1] < (1 - DROPPED) * max(shares)}
