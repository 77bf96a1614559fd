"""Scorers and judges of MLflow's GenAI evaluation as checks of completions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

PASSES = ("yes", "pass", "passed", "true", "correct")
"""Values of judges, in small letters, that say that an answer is right."""


def is_scorer(value: object) -> bool:
    """Whether a value is a scorer of MLflow: made by `@scorer`, a judge, or built in."""
    # whoever has made one has imported that module, which takes seconds
    scorers = sys.modules.get("mlflow.genai.scorers")
    return scorers is not None and isinstance(value, scorers.Scorer)


def as_check(scorer: Any) -> Callable[..., list[float | None]]:
    """A scorer as a check with the signature of TRL's reward functions.

    It is given `inputs` (`{"prompt": ...}`), `outputs` (the completion) and `expectations` (the
    row's columns, its answer as `expected_response`).
    """

    def check(
        completions: Sequence[str],
        prompts: Sequence[Any],
        answer: Sequence[str],
        **columns: Sequence[Any],
    ) -> list[float | None]:
        values = []
        for place, said in enumerate(completions):
            expectations = {name: column[place] for name, column in columns.items()}
            expectations["expected_response"] = answer[place]
            given = scorer.run(
                inputs={"prompt": prompts[place]}, outputs=said, expectations=expectations
            )
            values.append(_value(given))
        return values

    check.takes_text = True  # type: ignore[attr-defined]
    return check


def _value(given: Any) -> float | None:
    """What a scorer gives as a number: 1 for yes; None where it gives nothing, or an error."""
    value = getattr(given, "value", given)
    if value is None:
        return None
    if isinstance(value, str):
        return float(value.strip().lower() in PASSES)
    return float(value)
