import math

import pytest

from ilp_mlflow.core.finite_scores import KEPT, NOT_FINITE, NUMBERS, unscore_nonfinite
from ilp_mlflow.core.values import Score, to_rows, to_table

WHOLE = {
    "sample_id": "a",
    "checkpoint": "c",
    "logprob": -1.0,
    "tokens": 3,
    "greedy": True,
    "token_accuracy": 1.0,
    "gap": 2.0,
    "stops": True,
    "option_logprobs": (-1.0, -2.0),
    "option_tokens": (3, 3),
    "option_priors": (-4.0, -4.0),
    "p_correct": 0.7,
    "p_wrong": 0.3,
    "wrong": "other",
    "dtype": "float32",
}


def unscored(**changes):
    (found,) = to_rows(unscore_nonfinite(to_table([Score(**{**WHOLE, **changes})], Score)), Score)
    return found


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [*NUMBERS, "option_logprobs"])
def test_a_row_with_what_is_no_number_has_no_numbers_at_all(column, number):
    spoiled = (-1.0, number) if column == "option_logprobs" else number
    found = unscored(**{column: spoiled})
    assert found.unscored == NOT_FINITE
    left = {name for name, value in found.model_dump().items() if value is not None}
    assert left == set(KEPT)


def test_a_whole_row_and_one_that_lacks_a_number_stay_as_they_are():
    assert unscored() == Score(**WHOLE)
    assert unscored(logprob=None) == Score(**{**WHOLE, "logprob": None})
    assert unscore_nonfinite(to_table([], Score)).num_rows == 0


def test_a_row_that_says_it_is_unscored_keeps_its_reason_and_no_numbers():
    found = unscored(unscored="too long", gap=math.nan)
    assert (found.unscored, found.gap, found.p_correct) == ("too long", None, None)


def test_priors_are_lost_alone():
    assert unscored(option_priors=(math.nan, -1.0)) == Score(**{**WHOLE, "option_priors": None})
