import random

import pytest

from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.similarity import nearest_answers, similar_rows, stable_hash
from tests.conversations import chat


def sample(key, prompt, answer="x"):
    return Sample(id=str(key), stage="s", prompt=prompt, completion=answer)


def nearest(answer, *others, prompt="who was it"):
    """The answers for one sample out of those to other prompts, written `prompt: answer` or alone."""
    pairs = [other.rpartition(": ") for other in others]
    pool = [sample(i, before or "unlike", other) for i, (before, _, other) in enumerate(pairs)]
    (found,) = nearest_answers([sample("x", prompt, answer)], pool, 0)
    return list(found)


def test_answers_to_similar_prompts_come_first():
    others = ["what is it: Oslo", "who was it: Rome", "who was she: Bern"]
    assert nearest("Paris", *others)[0] == "Rome"
    assert sorted(nearest("Paris", *others)) == ["Bern", "Oslo", "Rome"]


def test_answers_are_of_the_same_kind_and_at_most_twice_as_long_or_half_as_long():
    assert sorted(nearest("42", "7", "Oslo", "365", "12345", "blue")) == ["365", "7"]
    assert nearest("Rome", "Constantinople", "Oslo", "X", "grey") == ["Oslo"]
    assert nearest("grey", "Oslo", "red", "blue and green and so on", "7") == ["red"]


def test_the_same_form_goes_before_a_more_similar_prompt():
    assert nearest("12 kg", "who was it: 15%", "7 lbs")[0] == "7 lbs"


def test_answers_that_say_the_same_come_once():
    assert nearest("Oslo", "Rome", "rome.", "The Rome") in (["Rome"], ["The Rome"], ["rome."])


def test_an_empty_pool_has_no_answers():
    assert [list(found) for found in nearest_answers([sample(1, "p"), sample(2, "q")], [], 0)] == [
        [],
        [],
    ]


def test_equals_are_ordered_by_the_seed_and_all_of_many_are_found():
    rng = random.Random(0)
    words = sorted({"".join(rng.choices("abcdefgh", k=5)) for _ in range(300)})
    pool = [sample(i, "q", word) for i, word in enumerate(words)]
    orders = [
        list(next(iter(nearest_answers([sample("x", "p", "zzzzz")], pool, s)))) for s in (0, 1)
    ]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == words
    mixed = random.Random(1).sample(pool, len(pool))
    assert list(next(iter(nearest_answers([sample("x", "p", "zzzzz")], mixed, 0)))) == orders[0]


def test_similar_rows_are_in_order_of_their_cosine_and_then_of_the_pool():
    pool = [
        sample("a", "capital of Norway"),
        sample("b", "moons of Mars"),
        sample("c", "capital of Norway"),
        sample("d", "capital of Peru"),
    ]
    rows = list(similar_rows(pool, pool, 4))
    assert [place for place, _ in rows[0]] == [0, 2, 3]
    assert [place for place, _ in rows[1]] == [1]
    assert rows[0][0][1] == rows[0][1][1] == pytest.approx(1)
    assert 0.3 <= rows[0][2][1] < 1
    assert [len(row) for row in similar_rows(pool, pool, 1)] == [1, 1, 1, 1]
    assert [place for place, _ in next(similar_rows(pool, pool, 4, 0.0))] == [0, 2, 3, 1]


def test_prompts_without_words_are_similar_to_nothing():
    pool = [sample("a", "?!"), sample("b", "?!"), sample("c", "moons of Mars")]
    assert [len(row) for row in similar_rows(pool, pool, 3)] == [0, 0, 1]
    assert list(similar_rows(pool, [], 3)) == []


def test_only_the_end_of_a_prompt_is_compared():
    pool = [sample("a", "moons " * 10), sample("b", "moons " + "x" * 2000)]
    assert [place for place, _ in next(similar_rows(pool, pool, 2))] == [0]


def test_all_turns_of_a_conversation_are_compared():
    def row(system):
        turns = chat(system=system, user="go on")
        return sample(system, turns, chat(assistant="ok"))

    pool = [row("moons of Mars"), row("capital of Norway"), row("moons of Mars now")]
    assert [place for place, _ in next(similar_rows(pool, pool, 2))] == [0, 2]


def test_a_hash_is_the_same_everywhere():
    assert stable_hash("0/x") == 12263839751488262191
