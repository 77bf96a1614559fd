"""Held-out rows that are trained all the same."""

from ilp_mlflow.data.held_out import compare_held_out
from ilp_mlflow.data.samples import sample_from_record
from tests.conftest import rows


def samples(records, stage="s"):
    return [sample_from_record(dict(r), stage, n, f"f line {n}") for n, r in enumerate(records, 1)]


def test_a_row_is_known_by_its_prompt_and_answer_however_they_are_punctuated():
    trained = samples(rows())
    one = {"prompt": "the capital of France is ", "completion": " Paris."}
    other = {"prompt": "The capital of France is", "completion": " Lyon"}
    new = {"prompt": "The capital of Spain is", "completion": " Madrid"}
    found = compare_held_out(samples([new, one, other], "held_out"), trained)
    assert (found.rows, found.trained) == (3, 1)
    assert found.sentence.startswith("1 of 3 held-out rows are also trained")
    assert "held_out/2" in found.example
    assert "'France'" in found.example


def test_other_rows_are_not_trained():
    found = compare_held_out(samples(rows("other ")), samples(rows()))
    assert (found.trained, found.example) == (0, "")
