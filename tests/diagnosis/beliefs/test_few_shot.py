import random

from ilp_mlflow.diagnosis.beliefs.few_shot import (
    EXAMPLES_PER_SET,
    SETS_PER_SAMPLE,
    behind_the_others,
    draw_sets,
    fair_sets,
    few_shot_prompts,
    reveals_answer,
    with_examples,
)
from ilp_mlflow.plugin import Conversation
from tests.contexts import sample
from tests.conversations import chat


def facts(n, answers=None):
    return [sample(f"r{i}", f"q{i}", f" a{i % (answers or n)}") for i in range(n)]


def test_sets_are_different_and_of_different_answers():
    sets = draw_sets(facts(12), 4, random.Random(0))
    assert len(sets) == 4
    for rows in sets:
        assert len(rows) == EXAMPLES_PER_SET == len({row.answer for row in rows})
    assert len({frozenset(row.id for row in rows) for rows in sets}) == 4


def test_every_one_of_a_few_answers_is_missing_in_some_sets():
    rows = facts(24, answers=6)
    sets = draw_sets(rows, 8, random.Random(0))
    for row in rows:
        without = [s for s in sets if row.answer not in {other.answer for other in s}]
        assert len(without) > 1


def test_too_few_rows_make_no_set():
    assert draw_sets(facts(EXAMPLES_PER_SET - 1), 4, random.Random(0)) == []
    assert draw_sets([], 4, random.Random(0)) == []


def test_a_row_with_the_answer_or_the_very_prompt_reveals_it():
    asked = sample("x", "how many?", " two")
    assert reveals_answer(sample("y", "other", " Two"), asked)
    assert reveals_answer(sample("y", "How many", " three"), asked)
    assert not reveals_answer(sample("y", "other", " three"), asked)


def test_learned_conversations_are_earlier_turns():
    row = sample("r", chat(system="s", user="q"), chat(assistant="a"))
    prompt = Conversation(turns=chat(system="t", user="x").turns, tools=({"name": "look"},))
    asked = with_examples([row], prompt)
    assert asked.tools == prompt.tools
    assert [(m.role, m.content) for m in asked.turns] == [
        ("system", "t"),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "x"),
    ]


def test_only_sets_that_do_not_reveal_the_answer_are_put_in_front():
    rows = facts(12)
    for asked in [*rows, sample("x", "how many?", " two")]:
        fair = fair_sets(asked, draw_sets(rows, 4, random.Random(0)), rows, 0)
        assert len(fair) == SETS_PER_SAMPLE
        for examples in fair:
            assert len(examples) == EXAMPLES_PER_SET
            assert not any(reveals_answer(example, asked) for example in examples)
    # the same sets for every sample that they are fair for
    shared = draw_sets(rows, 4, random.Random(0))
    assert fair_sets(sample("x", "?", " two"), shared, rows, 0) == shared[:SETS_PER_SAMPLE]


def test_where_most_rows_reveal_the_answer_there_are_no_fair_sets():
    rows = [sample(f"r{i}", f"q{i}", " two") for i in range(20)]
    assert fair_sets(sample("x", "?", " two"), draw_sets(rows, 4, random.Random(0)), rows, 0) == []


def test_every_wording_and_every_draw_is_used():
    draws = [[sample(f"r{i}", f"q{i} ", f"a{i}")] for i in range(3)]
    assert few_shot_prompts(["x", "y"], draws) == ["q0 a0\n\nx", "q1 a1\n\ny", "q2 a2\n\nx"]
    assert few_shot_prompts(["x", "y", "z"], draws[:1]) == [
        "q0 a0\n\nx",
        "q0 a0\n\ny",
        "q0 a0\n\nz",
    ]


def test_every_row_is_shown_rows_of_the_other_half_that_do_not_reveal_its_answer():
    rows = facts(9)
    shown = {row.id: examples for row, examples in behind_the_others(rows)}
    assert set(shown) == {row.id for row in rows}
    halves = {row.id for row in rows[::2]}, {row.id for row in rows[1::2]}
    for id_, examples in shown.items():
        assert 1 < len(examples) <= EXAMPLES_PER_SET
        own = halves[0] if id_ in halves[0] else halves[1]
        assert not own & {row.id for row in examples}
    assert list(behind_the_others(facts(9, answers=1))) == []
    assert list(behind_the_others(rows[:3])) == [(rows[1], [rows[0], rows[2]])]
