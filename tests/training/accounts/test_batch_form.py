import numpy as np
import pytest

from ilp_mlflow.training.accounts.batch_form import BatchForm, is_padded_in_front, label_offset

IDS = np.array([7, 8, 9, 4, 5, 1])
ANSWER = [-100, -100, -100]


@pytest.mark.parametrize(
    ("labels", "offset"),
    [
        ([*ANSWER, 4, 5, 1], 0),
        (list(IDS), 0),
        ([-100, -100, 4, 5, 1, -100], 1),
        # all of it, the last one filled with anything
        ([8, 9, 4, 5, 1, 0], 1),
        ([8, 9, 4, 5, 1, 7], 1),
        ([-100, 7, 8, 9, 4, 5], -1),
        # single tokens left out
        ([*ANSWER, 4, -100, 1], 0),
        ([2, 2, 2, 2, 2, 2], None),
        ([-100] * 6, None),
    ],
)
def test_how_far_labels_stand_from_their_tokens(labels, offset):
    assert label_offset(IDS, np.array(labels)) == offset


def test_equal_tokens_are_taken_to_be_in_place():
    assert label_offset(np.array([3, 3, 3, 3]), np.array([-100, 3, 3, 3])) == 0


def test_most_rows_tell_and_rows_without_a_label_do_not_count():
    form = BatchForm()
    assert form.label_offset == 0
    in_place, shifted = np.array([*ANSWER, 4, 5, 1]), np.array([-100, -100, 4, 5, 1, -100])
    form.note_labels(IDS, np.array([-100] * 6))
    form.note_labels(IDS, shifted)
    assert form.label_offset == 1
    form.note_labels(IDS, in_place)
    assert form.label_offset == 0
    other = BatchForm()
    other.note_labels(IDS, np.array([2] * 6))
    assert other.label_offset == 0


def test_padding_in_front_is_told_from_padding_behind():
    assert is_padded_in_front(np.array([0, 0, *IDS]), IDS)
    assert not is_padded_in_front(np.array([*IDS, 0, 0]), IDS)
    assert not is_padded_in_front(IDS, IDS)
