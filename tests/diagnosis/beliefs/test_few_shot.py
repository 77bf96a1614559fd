import random

from ilp_mlflow.diagnosis.beliefs.few_shot import (
    DRAWS_PER_STAGE,
    EXAMPLES_PER_DRAW,
    draw_examples,
    fair_draws,
    few_shot_prompts,
    reveals_answer,
    with_examples,
)
from ilp_mlflow.plugin import Conversation
from tests.contexts import sample
from tests.conversations import chat


def test_examples_are_short_rows_of_one_stage():
    rows = [
        *(sample(f"a{i}") for i in range(EXAMPLES_PER_DRAW)),
        sample("long", completion=" c" * 99),
        sample("b", stage="other"),
    ]
    drawn = draw_examples(rows, random.Random(0))
    assert list(drawn) == ["first"]
    assert [sorted(row.id for row in draw) for draw in drawn["first"]] == [
        [f"a{i}" for i in range(EXAMPLES_PER_DRAW)]
    ] * DRAWS_PER_STAGE


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


def test_a_draw_with_an_example_that_reveals_the_answer_is_not_fair():
    asked = sample("x", "how many?", " two")
    fair = [sample("a", "who?", " Ann"), sample("b", "where?", " Oslo")]
    unfair = [sample("a", "who?", " Ann"), sample("c", "how much?", " Two")]
    assert fair_draws([fair, unfair], asked) == [fair]


def test_every_wording_and_every_draw_is_used():
    draws = [[sample(f"r{i}", f"q{i} ", f"a{i}")] for i in range(3)]
    assert few_shot_prompts(["x", "y"], draws) == ["q0 a0\n\nx", "q1 a1\n\ny", "q2 a2\n\nx"]
    assert few_shot_prompts(["x", "y", "z"], draws[:1]) == [
        "q0 a0\n\nx",
        "q0 a0\n\ny",
        "q0 a0\n\nz",
    ]
