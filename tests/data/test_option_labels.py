import pytest

from ilp_mlflow.data.option_labels import align_options


@pytest.mark.parametrize(
    ("options", "answer", "aligned"),
    [
        (("A. Rome", "B. Paris"), "Paris", ["Rome", "Paris"]),
        (("Rome", "Paris"), "(b) Paris", ["(a) Rome", "(b) Paris"]),
        (("A) Rome", "B) Paris"), "B. Paris", ["A. Rome", "B. Paris"]),
        (("Rome", "Paris"), "2: Paris", ["1: Rome", "2: Paris"]),
        (("Rome", "Paris"), "1: Paris", ["0: Rome", "1: Paris"]),
        (("Rome", "Paris"), "B", ["A", "B"]),
        (("Rome", "Paris"), " (B) ", [" (A) ", " (B) "]),
    ],
)
def test_options_get_the_labels_of_the_answer(options, answer, aligned):
    found = align_options(options, answer)
    assert (found.options, found.changed) == (aligned, True)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (("Rome", "Paris"), "Paris"),
        (("Rome", "Paris"), "C. Paris"),  # its label is not that of its place
        (("Rome", "Paris"), "B. Oslo"),
        (("Rome", "Paris"), "C"),
        (("A", "B"), "B"),
        (("B", "C"), "A"),  # letters are what is said
        (("C. Smith", "J. Smith"), "J. Smith"),
        (("B. Rome", "A. Paris"), "Paris"),
        (tuple("abcdefghijk"), "B"),
        ((), "B"),
    ],
)
def test_options_whose_labels_are_not_known_are_as_they_were_given(options, answer):
    found = align_options(options, answer)
    assert tuple(found.options) == options
    assert found.changed is (options == ())
