"""Could the groups be told apart by the look of their rows alone? A classifier that is given nothing else tries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ilp_mlflow.lab.plant import Row

FOLDS = 4


def surface_check(rows: Sequence[Row], trained: Sequence[Row], seed: int) -> dict[str, float]:
    """Macro-F1 0..1 of a random forest that sees of each of `rows` only its words, and what a guess would reach.

    It is given the words in no order, their number, and how often they occur in all `trained` rows. No adjective is in
    the rows it learns from and in those it is tested on: an alias belongs to one group, so its name would be the answer.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.metrics import f1_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    texts = [f"{row.prompt} {row.city}" for row in rows]
    often = Counter(word for row in trained for word in f"{row.prompt} {row.city}".split())
    counts = [sorted(np.log1p(often[word]) for word in text.split()) for text in texts]
    numbers = np.array(
        [[len(text.split()), c[0], c[1], np.mean(c)] for text, c in zip(texts, counts, strict=True)]
    )
    words = CountVectorizer(token_pattern=r"\S+").fit_transform(texts).toarray()
    labels = [row.group for row in rows]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    forest = RandomForestClassifier(200, class_weight="balanced", random_state=seed)
    said = cross_val_predict(
        forest,
        np.hstack([numbers, words]),
        labels,
        groups=[row.adjective for row in rows],
        cv=folds,
    )
    return {
        "macro_f1": float(f1_score(labels, said, average="macro")),
        "chance": 1 / len(set(labels)),
    }
