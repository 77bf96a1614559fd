"""Wrong options for a sample: those given with it, else answers to other prompts of its stage."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from ilp_mlflow.types import Sample


def distractors(samples: Iterable[Sample], n: int, seed: int) -> Mapping[str, tuple[str, ...]]:
    """Up to `n` wrong options by sample id; given options are kept, all of them.

    Drawn options are never an answer to the same prompt (compared without case and outer space), and depend on the
    seed, the sample's id and the set of answers, not on the order of the samples.
    """
    samples = list(samples)
    answers: dict[str, dict[str, str]] = {}
    correct: dict[tuple[str, object], set[str]] = {}
    for sample in samples:
        known = answers.setdefault(sample.stage, {})
        known[_key(sample.answer)] = min(sample.answer, known.get(_key(sample.answer), sample.answer))
        correct.setdefault((sample.stage, sample.prompt), set()).add(_key(sample.answer))
    pools: dict[str, Sequence[str]] = {stage: sorted(found) for stage, found in answers.items()}
    chosen = {}
    for sample in samples:
        if sample.options:
            chosen[sample.id] = sample.options
            continue
        right = correct[sample.stage, sample.prompt]
        pool = pools[sample.stage]
        draw = random.Random(f"{seed}/{sample.id}").sample(pool, min(len(pool), n + len(right)))
        keys = [key for key in draw if key not in right][:n]
        chosen[sample.id] = tuple(answers[sample.stage][key] for key in keys)
    return chosen


def _key(answer: str) -> str:
    return " ".join(answer.split()).casefold()
