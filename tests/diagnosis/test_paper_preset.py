import math

import numpy as np
import pytest

from ilp_mlflow import Score
from ilp_mlflow.diagnosis.attribution import attribute
from ilp_mlflow.diagnosis.paper_preset import ORDER, divergence, examine, study_knowledge
from tests.contexts import CHECKPOINTS, context, sample


def scores(table):
    """Scores from probabilities of options, the right one first, by sample id: one list per checkpoint."""
    return [
        Score(
            sample_id=id_,
            checkpoint=name,
            option_logprobs=tuple(math.log(p) for p in options),
            p_correct=options[0],
        )
        for id_, course in table.items()
        for name, options in zip(CHECKPOINTS, course, strict=True)
    ]


UNSURE, WRONG, RIGHT = (0.02, 0.49, 0.49), (0.3, 0.69, 0.01), (0.9, 0.05, 0.05)
MOVED = (0.3, 0.01, 0.69)


def causes(samples, table, unlearned):
    found = context(
        samples,
        histories={s.id: ("learned",) * 3 for s in samples if s.id not in unlearned},
        scores=scores(table),
    )
    evidence = examine([s for s in samples if s.id in unlearned], found)
    return {
        d.verdict.sample_id: d.cause
        for d in attribute(
            [*found.verdicts.values()],
            evidence,
            {cause: place for place, cause in enumerate(ORDER)},
        )
    }


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
    assert causes(samples, table, ["missing", "conflict", "side a", "plain"]) == {
        "missing": "missing_knowledge",
        "conflict": "knowledge_conflict",
        "side a": "data_contradiction",
        "plain": "left_side_forgetting",
    }


def test_what_no_test_claims_is_insufficient_optimization():
    samples = [sample("a", "who painted the old bridge", "Ann")]
    assert causes(samples, {"a": (WRONG, WRONG, WRONG)}, ["a"]) == {
        "a": "insufficient_optimization"
    }


def test_a_sample_without_options_is_left_unexplained():
    found = context(
        [sample("a")], scores=[Score(sample_id="a", checkpoint=name) for name in CHECKPOINTS]
    )
    assert not any(examine([found.samples["a"]], found).values())


def test_divergence_is_nought_for_equals_and_ln_2_for_strangers():
    assert divergence(np.array([0.2, 0.8]), np.array([0.2, 0.8])) == 0
    assert divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(math.log(2))


def test_the_base_knows_or_is_blind():
    samples = [sample(id_, f"prompt {id_}") for id_ in ("knows", "blind", "between")]
    table = {"knows": RIGHT, "blind": UNSURE, "between": WRONG}
    scored = scores({id_: (options,) * len(CHECKPOINTS) for id_, options in table.items()})
    assert study_knowledge(context(samples, scores=scored)) == {
        "knows": (True, False),
        "blind": (False, True),
        "between": (False, False),
    }
