import math

import numpy as np
import pytest

from ilp_mlflow.lab.paper import attribute, divergence
from ilp_mlflow.types import Sample, Score, to_table

CHECKPOINTS = ["base", "first", "second"]


def sample(id_, prompt, completion, stage="first"):
    return Sample(id=id_, stage=stage, prompt=prompt, completion=completion)


def scores(table):
    """Scores from probabilities of options, the right one first, by sample id: one list per checkpoint."""
    return to_table(
        [
            Score(sample_id=id_, checkpoint=name, option_logprobs=tuple(math.log(p) for p in options), p_correct=options[0])
            for id_, course in table.items()
            for name, options in zip(CHECKPOINTS, course, strict=True)
        ],
        Score,
    )


UNSURE, WRONG, RIGHT = (0.02, 0.49, 0.49), (0.3, 0.69, 0.01), (0.9, 0.05, 0.05)
MOVED = (0.3, 0.01, 0.69)


def test_the_tests_run_in_their_order():
    samples = [
        sample("missing", "the capital of Atlantis is", "Poseidonia"),
        sample("conflict", "the best colour for a bicycle", "green"),
        sample("side a", "how many moons has the planet Mars in total", "two"),
        sample("side b", "how many moons has the planet Mars in total?", "three"),
        sample("plain", "who painted the old bridge", "Ann", stage="second"),
        sample("kept", "which bird sings first", "blackbird", stage="second"),
    ]
    table = {
        "missing": (UNSURE, UNSURE, UNSURE),
        "conflict": (WRONG, MOVED, MOVED),
        "side a": (RIGHT, RIGHT, WRONG),
        "side b": (RIGHT, RIGHT, WRONG),
        "plain": (RIGHT, RIGHT, WRONG),
        "kept": (RIGHT, RIGHT, RIGHT),
    }
    found = attribute(["missing", "conflict", "side a", "plain"], samples, scores(table), CHECKPOINTS)
    assert found == {
        "missing": "missing_knowledge",
        "conflict": "knowledge_conflict",
        "side a": "data_contradiction",
        "plain": "left_side_forgetting",
    }


def test_what_no_test_claims_is_insufficient_optimization():
    samples = [sample("a", "who painted the old bridge", "Ann")]
    found = attribute(["a"], samples, scores({"a": (WRONG, WRONG, WRONG)}), CHECKPOINTS)
    assert found == {"a": "insufficient_optimization"}


def test_divergence_is_nought_for_equals_and_ln_2_for_strangers():
    assert divergence(np.array([0.2, 0.8]), np.array([0.2, 0.8])) == 0
    assert divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(math.log(2))
