"""Could the groups be told apart by the look of their rows alone? A classifier tries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ilp_mlflow.lab.rows import PlantedRow

FOLDS = 4
"""Parts of the rows of which each is classified by what was learned from the others."""


def surface_check(
    rows: Sequence[PlantedRow], trained: Sequence[PlantedRow], seed: int
) -> dict[str, float]:
    """Macro-F1 0..1 of a random forest that sees only the words of `rows`, and that of a guess.

    It is given the words in no order, their number, and how often they occur in all `trained` rows.
    No adjective is in the rows it learns from and in those it is tested on: an alias belongs to one
    group, so its name would be the answer.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.metrics import f1_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    occurrences = Counter[str]()
    for row in trained:
        occurrences.update(_text(row).split())
    texts, groups, families = list[str](), list[str](), list[str]()
    frequencies = list[list[float]]()
    for row in rows:
        texts.append(_text(row))
        frequencies.append(_frequencies(_text(row), occurrences))
        groups.append(row.group)
        families.append(row.family)
    # words as the lab's tokenizer sees them, signs included
    words = CountVectorizer(token_pattern=r"\S+").fit_transform(texts).toarray()
    # scikit-learn's `groups` are what must not be split between folds: here the families
    predicted = cross_val_predict(
        # balanced: a guess at the largest group would else be better than chance
        RandomForestClassifier(200, class_weight="balanced", random_state=seed),
        # (rows, 4) beside (rows, distinct words)
        np.hstack([frequencies, words]),
        groups,
        groups=families,
        cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed),
    )
    return {
        "macro_f1": float(f1_score(groups, predicted, average="macro")),
        "chance": 1 / len(set(groups)),
    }


def _text(row: PlantedRow) -> str:
    return f"{row.prompt} {row.answer}"


def _frequencies(text: str, occurrences: Mapping[str, int]) -> list[float]:
    """Number of words, and log(1 + occurrences) of the two rarest and in the mean."""
    # rarest first
    logs = sorted(np.log1p(occurrences[word]) for word in text.split())
    return [len(logs), logs[0], logs[1], float(np.mean(logs))]
