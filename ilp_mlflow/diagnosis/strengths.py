"""From how strong evidence is to how probable its cause is, as measured where causes were planted.

A diagnostic says how strong its evidence is on a scale of its own. What that is worth is known in
the labs only: of the planted rows for which such evidence decided, so many had that cause.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import yaml

from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Evidence
from ilp_mlflow.diagnosis.attribution import WEAK_EVIDENCE

K = TypeVar("K", bound=Hashable)
FILE = Path(__file__).with_name("strengths.yaml")
"""What was measured, written by `experiments/strengths.py`."""


class Curve(Value):
    """How probable a cause is by the strength of the evidence for it; a rising line."""

    strengths: tuple[float, ...]
    """Strengths 0..1 as the diagnostic gives them, rising."""
    probabilities: tuple[float, ...]
    """Share 0..1 of the planted rows with such evidence that had the cause, not falling."""


class NamedShare(Value):
    """What comes of naming causes from some probability on, over the rows of the labs."""

    from_probability: float
    """The probability."""
    named: float
    """Share 0..1 of the unlearned planted rows that are named."""
    wrong: float
    """Share 0..1 of the named rows whose cause is another one."""


class Strengths(Value):
    """What the labs say about the strengths of evidence."""

    measured_on: str
    """The labs and their seeds."""
    curves: dict[str, Curve]
    """By cause."""
    named: tuple[NamedShare, ...]
    """By rising probability."""

    def probability(self, cause: str, strength: float) -> float:
        """Probability 0..1 of a cause of the labs for which there is evidence of a strength 0..1.

        Strengths below WEAK_EVIDENCE stay as they are: they name no cause, so nothing was measured.
        So do those that are weaker than any that was seen, unless even that is right less often.
        """
        curve = self.curves[cause]
        if strength < WEAK_EVIDENCE:
            return strength
        if strength < curve.strengths[0]:
            return min(strength, curve.probabilities[0])
        return float(np.interp(strength, curve.strengths, curve.probabilities))

    def named_from(self, max_wrong: float) -> float:
        """The least probability from which at most a share `max_wrong` 0..1 of the named is wrong.

        1 where no probability is enough.
        """
        for point in self.named:
            if point.wrong <= max_wrong:
                return point.from_probability
        return 1.0


@functools.cache
def read_strengths() -> Strengths:
    """What was measured on the labs, from the package's own file."""
    return Strengths.model_validate(yaml.safe_load(FILE.read_text("utf-8")))


def as_probabilities(
    evidence: Mapping[str, Mapping[K, Evidence]], strengths: Strengths
) -> dict[str, dict[K, Evidence]]:
    """The evidence, each as strong as its cause is probable in the labs.

    Evidence for causes that no lab has stays as it is. `evidence` is by diagnostic, then by what it
    is for.
    """
    probable: dict[str, dict[K, Evidence]] = {}
    for name, evidence_by_key in evidence.items():
        probable[name] = {}
        for key, value in evidence_by_key.items():
            if value.cause in strengths.curves:
                probability = strengths.probability(value.cause, value.strength)
                update = {"strength": probability, "signal": value.strength}
                value = value.model_copy(update=update)
            probable[name][key] = value
    return probable
