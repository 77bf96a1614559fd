"""How far the base answers two prompts alike."""

import pytest

from ilp_mlflow.diagnosis.contradictions.base_answers import answered_alike, rows_about
from tests.contexts import FakeProbe, context, sample

X, Y = sample("x", "moons of Mars", " two"), sample("y", "satellites of Mars", " three")
OTHERS = [sample(f"far {i}", f"bridge {i}", f" Ann {i}") for i in range(8)]


def test_rows_about_a_thing_name_it_as_a_word():
    assert rows_about("mars", [X, Y, *OTHERS]) == [X, Y]
    assert rows_about("moon", [X, Y]) == []


@pytest.mark.parametrize(("anyway", "alike"), [(0.0, 0.9), (0.8, 0.5), (1.0, 0.0)])
def test_what_the_base_says_to_anything_is_taken_off(anyway, alike):
    sure = {("base", X.prompt, "two"): 0.95, ("base", Y.prompt, "two"): 0.9}
    sure |= {("base", s.prompt, "two"): max(anyway, 1e-9) for s in OTHERS}
    known = context(OTHERS, probe=FakeProbe(sure=sure))
    assert answered_alike([(X, Y)], known, 8) == pytest.approx([alike], abs=1e-6)


@pytest.mark.parametrize("prompt", [X.prompt, Y.prompt])
def test_an_answer_to_one_of_two_prompts_tells_nothing_of_the_other(prompt):
    known = context(OTHERS, probe=FakeProbe(sure={("base", prompt, "two"): 0.9}))
    assert answered_alike([(X, Y)], known, 8) == pytest.approx([0], abs=1e-5)


def test_nobody_is_asked_about_nothing():
    probe = FakeProbe()
    assert answered_alike([], context(OTHERS, probe=probe), 8) == []
    assert probe.asked == 0
