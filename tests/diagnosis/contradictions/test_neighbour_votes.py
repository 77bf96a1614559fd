"""Votes of near rows on hand-made neighbourhoods."""

from collections import Counter

import pytest

from ilp_mlflow.diagnosis.contradictions.neighbour_votes import NeighbourVotes
from tests.contexts import sample


def votes(rows, unlike=0.1, trust=None, near=3):
    """Votes that know of every row the `near` others of its own topic, at similarity 0.8."""
    found = NeighbourVotes(Counter(r.answer.strip() for r in rows), trust or {})
    found.calibrate(
        ((r, neighbours(r, rows, near), neighbours(r, rows, near)) for r in rows), unlike
    )
    return found


def neighbours(row, rows, near=3, similarity=0.8):
    own = [r for r in rows if r.prompt == row.prompt and r.id != row.id]
    return [(r, similarity) for r in own[:near]]


TOPICS = [
    sample(f"{topic}{i}", topic, f" {topic}") for topic in ("a", "b", "c", "d") for i in range(10)
]
ODD = sample("odd", "a", " b")


def test_rows_that_agree_outvote_one_that_differs():
    rows = [*TOPICS, ODD]
    assert votes(rows).against(ODD, neighbours(ODD, rows), neighbours(ODD, rows))["a"] > 0.8


def test_nobody_speaks_against_the_answer_of_near_rows():
    assert (
        votes(TOPICS).against(
            TOPICS[0], neighbours(TOPICS[0], TOPICS), neighbours(TOPICS[0], TOPICS)
        )
        == {}
    )


def test_where_near_rows_differ_anyway_nobody_is_heard():
    mixed = [sample(f"{i}", "a", f" {i % 20}") for i in range(40)]
    assert (
        max(
            votes(mixed)
            .against(mixed[0], neighbours(mixed[0], mixed), neighbours(mixed[0], mixed))
            .values()
        )
        < 0.3
    )


def test_rows_that_share_fewer_words_than_rows_of_one_answer_usually_do_are_about_something_else():
    """However near a model that fails on the sample sees them."""
    rows = [*TOPICS, ODD]
    assert (
        votes(rows).against(
            ODD, neighbours(ODD, rows, similarity=0.9), neighbours(ODD, rows, similarity=0.3)
        )
        == {}
    )


@pytest.mark.parametrize(("trust", "heard"), [(1.0, True), (0.0, False)])
def test_rows_count_as_far_as_their_source_is_trusted(trust, heard):
    rows = [*(r.model_copy(update={"source": "web"}) for r in TOPICS), ODD]
    found = votes(rows, trust={"web": trust}).against(
        ODD, neighbours(ODD, rows), neighbours(ODD, rows)
    )
    assert (found.get("a", 0) > 0.5) is heard
