"""Rows that are too long for the cut-off, or for the model."""

import types

import pytest

from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.training.checks.lengths import _kept_of_answer, check_lengths
from tests.training.checks.accounts import kinds, row


def check(rows, positions=None, **setup):
    return check_lengths(rows, TrainingSetup(**setup), types.SimpleNamespace(max_length=positions))


def test_rows_that_fit_are_no_finding():
    assert check([row(1)], positions=10, max_length=10) == []
    assert check([row(1)], positions=None, max_length=None) == []


def test_a_cut_row_loses_its_answer_or_its_end():
    cut = {"prompt_tokens": 8, "cut_tokens": 2}
    rows = [
        row(1),
        row(2, **cut, supervised_answer_tokens=0, supervised_tokens=0, end_supervised=False),
        row(3, **cut, supervised_answer_tokens=2, end_supervised=False),
        # cut in front, the answer whole
        row(4, **cut),
    ]
    (finding,) = check(rows, max_length=10)
    assert kinds([finding]) == [("cut", "warning", 3)]
    assert "max_length 10 and cut: 1 lose the whole answer, 1 its end" in finding.sentence
    assert finding.example == "sample 's2': 2 of 12 tokens are cut"
    assert "raise max_length to 12" in finding.change


def test_axolotl_leaves_long_rows_out():
    (finding,) = check([row(1)], trainer="axolotl", too_long="drop", max_length=9)
    assert kinds([finding]) == [("left_out", "warning", 1)]
    assert "sequence_len 9: axolotl leaves such rows out" in finding.sentence


@pytest.mark.parametrize(
    ("prompt", "answer", "kept"),
    [(90, 10, 10), (10, 90, 40), (50, 50, 25), (30, 20, 20)],
    ids=["answer short", "prompt short", "both long", "fits"],
)
def test_llama_factory_cuts_prompt_and_answer_by_their_share(prompt, answer, kept):
    assert _kept_of_answer([(prompt, answer)], 50) == kept


def test_llama_factory_fills_the_room_turn_by_turn():
    turns = [(20, 20), (5, 10), (5, 3)]
    assert _kept_of_answer(turns, 100) == 3
    # the second turn leaves nothing
    assert _kept_of_answer(turns, 54) == 0
    assert _kept_of_answer(turns, 58) == 1
    # the first one was all there is room for
    assert _kept_of_answer(turns, 40) == 0
    assert _kept_of_answer(turns, 40, last_first=True) == 3


def test_llama_factory_says_which_end_is_lost():
    rows = [
        row(1, prompt_tokens=90, answer_tokens=10),
        row(2, prompt_tokens=10, answer_tokens=90),
        row(3),
    ]
    (finding,) = check(rows, trainer="LLaMA-Factory", too_long="share", max_length=50)
    assert finding.rows == 2
    assert "0 lose the whole last answer, 1 its end, 1 what stands before it" in finding.sentence
    assert "cutoff_len" in finding.change


def test_rows_longer_than_the_model_has_positions():
    rows = [row(1), row(2, prompt_tokens=96)]
    (finding,) = check(rows, positions=96, max_length=None)
    assert kinds([finding]) == [("beyond_positions", "warning", 1)]
    # the cut-off keeps all rows within the positions
    assert "beyond_positions" not in str(check(rows, positions=96, max_length=96))


def test_packing_may_cut_rows_in_two():
    # 10 tokens each, 30 in all: one border at 16
    rows = [row(number) for number in (1, 2, 3)]
    (wrapped,) = check(rows, max_length=None, splits_at=16, splits_any_row=True)
    assert kinds([wrapped]) == [("split_by_packing", "warning", 1)]
    assert check(rows, max_length=None, splits_at=1000, splits_any_row=True) == []
    (long,) = check(rows, max_length=None, splits_at=9)
    assert kinds([long]) == [("split_by_packing", "warning", 3)]
    assert "packing_strategy: bfd" in long.change
    assert check(rows, max_length=None, splits_at=10) == []
