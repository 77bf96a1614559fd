"""Wrong options for a sample: those given with it, else answers to other prompts of its stage."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence

from ilp_mlflow.types import Sample

LABEL = re.compile(r"^\s*\(?[A-Za-z0-9][.):]\s+")


def distractors(samples: Iterable[Sample], n: int, seed: int) -> Mapping[str, tuple[str, ...]]:
    """Up to `n` wrong options by sample id; of given options all are kept.

    An option is never an answer to the same prompt, compared without case, white space and a leading label such as
    `B.`; so a given list may hold the right answer too. Drawn options depend on the seed, the sample's id and the set
    of answers, not on the order of the samples.
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
        right = correct[sample.stage, sample.prompt]
        given = tuple({_key(option): option for option in sample.options or () if _key(option) not in right}.values())
        if given:
            chosen[sample.id] = given
            continue
        pool = pools[sample.stage]
        draw = random.Random(f"{seed}/{sample.id}").sample(pool, min(len(pool), n + len(right)))
        keys = [key for key in draw if key not in right][:n]
        chosen[sample.id] = tuple(answers[sample.stage][key] for key in keys)
    return chosen


def _key(answer: str) -> str:
    return " ".join(LABEL.sub("", answer).split()).casefold()
