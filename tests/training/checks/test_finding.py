"""How many rows have a fault, in words."""

import pytest

from ilp_mlflow.training.checks.finding import counted, excerpt, row_finding
from tests.training.checks.accounts import row


@pytest.mark.parametrize(
    ("rows", "total", "words"),
    [
        (3, 12, "3 of 12 rows (25 %)"),
        (12, 12, "12 of 12 rows (100 %)"),
        (1, 491, "1 of 491 rows (0.2 %)"),
        (490, 491, "490 of 491 rows (99.8 %)"),
    ],
)
def test_a_share_is_never_rounded_to_none_or_all(rows, total, words):
    assert counted(rows, total) == words


def test_without_faulty_rows_there_is_no_finding():
    assert row_finding("kind", "error", [], 3, "so") == []


def test_the_first_faulty_row_is_the_example():
    (finding,) = row_finding(
        "kind", "note", [row(2), row(5)], 4, "so", lambda one: one.sample.answer, "do that"
    )
    assert finding.sentence == "2 of 4 rows (50 %): so"
    assert finding.example == "sample 's2':  Lima"
    assert (finding.rows, finding.share, finding.change) == (2, 0.5, "do that")


def test_an_excerpt_is_one_short_line():
    assert excerpt("a\n b") == "'a b'"
    assert len(excerpt("word " * 100)) <= 62
