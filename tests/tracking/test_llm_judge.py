"""A judge behind a server that speaks as OpenAI's does."""

import json

import pytest

from ilp_mlflow import PluginError
from ilp_mlflow.tracking.llm_judge import judge_contradiction, reword_question, write_texts


@pytest.mark.slow
def test_a_judge_is_shown_both_questions_and_answers(store, served):
    asked = served({"result": "second", "rationale": "Mars has two moons"})
    assert (
        judge_contradiction(
            "openai:/m", ("moons of Mars?", "how many moons has Mars?"), ("two", "three")
        )
        == "second"
    )
    text = json.dumps(asked[0])
    assert all(
        part in text for part in ("moons of Mars?", "how many moons has Mars?", "two", "three")
    )


@pytest.mark.parametrize(
    ("answer", "status"), [({"result": "perhaps", "rationale": ""}, 200), ({}, 400)]
)
def test_a_judge_that_does_not_rule_is_named(store, served, answer, status):
    served(answer, status)
    with pytest.raises(PluginError, match="judge 'openai:/m'"):
        judge_contradiction("openai:/m", ("p", "q"), ("a", "b"))


def test_a_judge_words_a_question_otherwise(store, served):
    asked = served(
        {"result": ["Mars has how many moons?", " ", "how many moons has Mars?"], "rationale": ""}
    )
    assert reword_question("openai:/m", "how many moons has Mars?") == ["Mars has how many moons?"]
    assert "how many moons has Mars?" in json.dumps(asked[0])


def test_a_judge_that_cannot_be_asked_for_wordings_is_named(store, served):
    served({}, 400)
    with pytest.raises(PluginError, match="judge 'openai:/m'"):
        reword_question("openai:/m", "p")


def test_a_model_writes_texts(store, served):
    asked = served(
        {"result": ["Mars has two moons.", " ", "Mars has two moons. "], "rationale": ""}
    )
    assert write_texts("openai:/m", 'two texts about "Mars"') == ["Mars has two moons."]
    assert "two texts about" in json.dumps(asked[0])


@pytest.mark.parametrize(("answer", "status"), [({"result": 3, "rationale": ""}, 200), ({}, 400)])
def test_a_model_that_writes_nothing_is_named(store, served, answer, status):
    served(answer, status)
    with pytest.raises(PluginError, match="judge 'openai:/m'"):
        write_texts("openai:/m", "a text")
