"""Which rows vote on a sample's label."""

import pytest

from ilp_mlflow.diagnosis.contradictions.label_votes import find_similar, nearest_voters
from tests.contexts import FakeProbe, context, sample

QUESTION = "how many moons has Mars"
X = sample("x", QUESTION, " two")
EQUAL = sample("e", f"{QUESTION}?", " three")
LIKE = [sample(f"l{i}", f"{QUESTION} {i}", f" {word}") for i, word in enumerate(("four", "two"))]
FAR = sample("f", "who painted the bridge", " Ann")


def test_similar_are_other_rows_that_share_words():
    venus = sample("v", "how many moons has Venus", " none")
    (similar,) = find_similar([X], [X, EQUAL, venus, FAR], 8)
    assert [row.id for row, _ in similar.rows] == ["e", "v"]
    assert similar.rows[0][1] == pytest.approx(1)
    assert find_similar([], [X], 8) == []


def test_those_vote_that_are_nearest_in_words_and_to_the_last_checkpoint():
    rows = [(LIKE[0], 0.8), (LIKE[1], 0.6)]
    states = {X.prompt: (1.0, 0.0), LIKE[0].prompt: (-1.0, 0.0), LIKE[1].prompt: (1.0, 0.0)}
    known = context([X, *LIKE], probe=FakeProbe(states=states))
    voters = nearest_voters([(X, rows)], known, 2)
    assert [(row.id, round(cosine, 2)) for row, cosine in voters["x"]] == [("l1", 0.8), ("l0", 0.0)]
    assert [row.id for row, _ in nearest_voters([(X, rows)], known, 1)["x"]] == ["l1"]
    silent = context([X, *LIKE], probe=FakeProbe(states={"another prompt": (1.0, 0.0)}))
    assert nearest_voters([(X, rows)], silent, 2)["x"] == rows
    assert nearest_voters([], silent, 2) == {}
