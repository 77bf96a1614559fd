"""Which rows may answer a sample's question, and how their answers rank."""

import pytest

from ilp_mlflow.diagnosis.contradictions.rivals import (
    Neighbourhood,
    candidates,
    find_similar,
    group_by_answer,
    group_by_prompt,
    nearest_voters,
    rank,
    rank_rivals,
)
from tests.contexts import FakeProbe, context, sample

QUESTION = "how many moons has Mars"
X = sample("x", QUESTION, " two")
EQUAL = sample("e", f"{QUESTION}?", " three")
LIKE = [sample(f"l{i}", f"{QUESTION} {i}", f" {word}") for i, word in enumerate(("four", "two"))]
FAR = sample("f", "who painted the bridge", " Ann")


def neighbourhood(similar=(), voters=(), votes=None, equal=(EQUAL,)):
    return Neighbourhood(X, equal, similar, voters, votes or {})


def test_rows_are_grouped_by_prompts_that_ask_something():
    rows = [X, EQUAL, FAR, sample("empty", ""), sample("blank", " ")]
    assert list(group_by_prompt(rows).values()) == [[X, EQUAL], [FAR]]


def test_similar_are_rows_that_share_words_and_name_what_is_asked_about():
    venus = sample("v", "how many moons has Venus", " none")
    pool = [X, EQUAL, venus, FAR]
    (anything,) = find_similar([X], pool, {}, 8)
    assert [row.id for row, _ in anything.rows] == ["e", "v"]
    assert anything.rows[0][1] == pytest.approx(1)
    (about,) = find_similar([X], pool, {"x": "mars"}, 8)
    assert [row.id for row, _ in about.rows] == ["e"]
    (nothing,) = find_similar([X], pool, {"x": "moon"}, 8)  # a part of a word names nothing
    assert [row.id for row, _ in nothing.rows] == ["e"]  # the very prompt is left


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


def test_candidates_have_the_very_prompt_or_are_similar_or_have_a_vote():
    similar = [(EQUAL, 1.0), (LIKE[0], 0.5), (LIKE[1], 0.2), (FAR, 0.1)]
    assert candidates(neighbourhood(similar), 0.3) == [EQUAL, LIKE[0]]
    heard = neighbourhood(similar, voters=[(FAR, 0.1)], votes={"ann": 0.4})
    assert candidates(heard, 0.3) == [EQUAL, LIKE[0], FAR]


def test_rows_that_say_the_same_or_merely_more_agree():
    more = sample("m", "p", " the two moons")
    grouped = group_by_answer(X, [EQUAL, more, LIKE[1], LIKE[0]])
    assert grouped.agreeing == [more, LIKE[1]]
    assert grouped.by_answer == {"three": [EQUAL], "four": [LIKE[0]]}


def test_the_very_prompt_ranks_before_votes_and_those_before_numbers():
    rows = {"many": LIKE * 3, "voted": [LIKE[0]], "equal": [EQUAL]}
    assert rank(rows, {"e"}, {"voted": 0.2}) == ["equal", "voted", "many"]
    assert rank(rows, set(), {}) == ["many", "voted", "equal"]


def test_of_rows_with_the_very_prompt_no_others_are_counted():
    similar = [(LIKE[1], 0.9), (sample("t", f"{QUESTION} then", " three"), 0.9), (LIKE[0], 0.9)]
    equal, like = rank_rivals(neighbourhood(similar, votes={"four": 0.7}), 0.3, 9, False)
    assert (equal.rows, equal.agreeing, equal.vote, equal.equal) == ((EQUAL,), (), 0.0, True)
    assert (like.rows, like.agreeing, like.vote, like.equal) == ((LIKE[0],), (LIKE[1],), 0.7, False)
    assert [r.equal for r in rank_rivals(neighbourhood(similar), 0.3, 9, equal_only=True)] == [True]
    assert [r.equal for r in rank_rivals(neighbourhood(similar), 0.3, 1, False)] == [True]
