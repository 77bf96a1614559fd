"""The study's own attribution, as a baseline: its tests one after the other, with its thresholds (section 3.2, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ilp_mlflow import passrate
from ilp_mlflow.types import Sample

Floats = npt.NDArray[np.float64]
EXISTS, BLIND, BEST = 0.8, 0.2, 0.1
"""Equations 2 and 4: accuracy above which the base knows a sample; pass@10 and best-of-5 below which it is blind to it."""
CONFIDENT, DIVERGED = 0.5, 0.3
"""Equations 3 and 6: probability of a wrong answer (not stated in the study), Jensen-Shannon divergence in nats."""
SIMILAR = 0.9
"""Cosine of prompts whose different answers contradict each other (X, not stated in the study)."""
DROPPED = 0.05
"""Algorithm 4: relative drop of a data set's accuracy that counts as forgetting."""


def attribute(unlearned: Sequence[str], samples: Sequence[Sample], scores: pa.Table, checkpoints: Sequence[str]) -> dict[str, str]:
    """Cause of every one of the sample ids `unlearned`; `scores` are of all `samples` under the `checkpoints`, base first.

    Accuracies over sampled runs are their expectations, and sentence embeddings are stood in for by TF-IDF over
    character n-grams. The last cause takes what no test before it claimed.
    """
    under = {name: scores.filter(pc.equal(scores["checkpoint"], name)) for name in checkpoints}
    base, last = (_by_id(under[name]) for name in (checkpoints[0], checkpoints[-1]))
    first = under[checkpoints[0]]
    best = dict(zip(first["sample_id"].to_pylist(), passrate.best_of(first["option_logprobs"]), strict=True))
    contradicted, forgotten = _contradicted(samples), _forgotten(samples, under)
    found = {}
    for sample in (s for s in samples if s.id in set(unlearned)):
        p, q = base[sample.id], last[sample.id]
        if p[0] <= EXISTS and p[0] < BLIND and best[sample.id] < BEST:
            found[sample.id] = "missing_knowledge"
        elif p[1:].max(initial=0) > CONFIDENT and divergence(p, q) > DIVERGED:
            found[sample.id] = "knowledge_conflict"
        elif sample.id in contradicted:
            found[sample.id] = "data_contradiction"
        elif sample.stage in forgotten:
            found[sample.id] = "left_side_forgetting"
        else:
            found[sample.id] = "insufficient_optimization"
    return found


def divergence(p: Floats, q: Floats) -> float:
    """Jensen-Shannon divergence of two distributions, nats (equation 3)."""
    middle = (p + q) / 2
    return float(sum(np.sum(x[x > 0] * np.log(x[x > 0] / middle[x > 0])) for x in (p, q)) / 2)


def _by_id(rows: pa.Table) -> dict[str, Floats]:
    """Probabilities of the options of every sample, the right one first."""
    found = {}
    for id_, logprobs in zip(rows["sample_id"].to_pylist(), rows["option_logprobs"].to_pylist(), strict=True):
        weights = np.exp(np.array(logprobs) - max(logprobs))
        found[id_] = weights / weights.sum()
    return found


def _contradicted(samples: Sequence[Sample]) -> set[str]:
    """Ids of samples with a near-duplicate prompt that is answered otherwise."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [s.prompt if isinstance(s.prompt, str) else s.prompt[-1].content for s in samples]
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(texts)
    near = (vectors @ vectors.T).tocoo()
    answers = np.array([s.answer.strip() for s in samples])
    clash = (near.data > SIMILAR) & (answers[near.row] != answers[near.col])
    return {samples[i].id for i in np.unique(near.row[clash])}


def _forgotten(samples: Sequence[Sample], under: dict[str, pa.Table]) -> set[str]:
    """Stages whose accuracy under the last checkpoint is a share DROPPED or more below their best."""
    stage = {s.id: s.stage for s in samples}
    accuracy: dict[str, list[float]] = {}
    for rows in under.values():
        right = {
            id_: max(range(len(p)), key=p.__getitem__) == 0
            for id_, p in zip(rows["sample_id"].to_pylist(), rows["option_logprobs"].to_pylist(), strict=True)
        }
        for name in set(stage.values()):
            mine = [won for id_, won in right.items() if stage[id_] == name]
            accuracy.setdefault(name, []).append(sum(mine) / len(mine))
    return {name for name, course in accuracy.items() if course[-1] < (1 - DROPPED) * max(course)}
