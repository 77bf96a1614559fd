"""Sources that a model writes, behind a server that speaks as OpenAI's does."""

import json

import pytest
from ilp_mitigations.augment_rare import AugmentRare
from ilp_mitigations.knowledge_augmentation import KnowledgeAugmentation
from ilp_mitigations.sources.writer import Writer

from ilp_mlflow import PluginError
from tests.contexts import context, sample
from tests.conversations import chat
from tests.plugins.test_plans import diagnosed

WRITER = Writer(model="openai:/m")
ANNA = sample("a", prompt="where is {anna} ?", completion=" oslo")


def instruction(request):
    """What the model was told to write."""
    return json.dumps(request["messages"], ensure_ascii=False)


@pytest.mark.slow
def test_texts_about_a_question_are_asked_for_once(store, served):
    asked = served(
        {"result": ["Anna lives in Oslo.", "Oslo is where Anna lives."], "rationale": ""}
    )
    plan = KnowledgeAugmentation(source=WRITER).plan(
        [diagnosed("a", "missing_knowledge")], context([ANNA])
    )
    assert [s.completion for s in plan.stages[0].samples] == [
        "Anna lives in Oslo.",
        "Oslo is where Anna lives.",
    ]
    assert all(part in instruction(asked[0]) for part in ("20 texts", "where is {anna} ?", "oslo"))
    again = KnowledgeAugmentation(source=WRITER).plan(
        [diagnosed("a", "missing_knowledge")], context([ANNA])
    )
    assert (again, len(asked)) == (plan, 1)


def test_another_server_is_named_by_the_other_variable_too(store, served, monkeypatch):
    import os

    served({"result": ["Anna lives in Oslo."], "rationale": ""})
    monkeypatch.setenv("OPENAI_BASE_URL", os.environ["OPENAI_API_BASE"])
    monkeypatch.delenv("OPENAI_API_BASE")
    assert WRITER.documents([ANNA], 1) == [["Anna lives in Oslo."]]


def test_many_texts_are_asked_for_in_parts_that_know_of_those_before(store, served):
    asked = served({"result": ["Anna lives in Oslo."], "rationale": ""})
    assert WRITER.documents([ANNA], 25) == [["Anna lives in Oslo."]]
    assert ["20 texts" in instruction(asked[0]), "5 texts" in instruction(asked[1])] == [True, True]
    assert ["Other than these" in instruction(request) for request in asked] == [False, True]


def test_more_rows_follow_those_that_have_the_word(store, served):
    lines = [
        "Is bob vrazo ? <answer> no",
        "is dan vrazo ?",
        "vrazo <answer> ",
        "is anna vrazo ? <answer> yes",
        "is eve grim ? <answer> no",
    ]
    asked = served({"result": lines, "rationale": ""})
    rows = [
        sample("c", prompt="say vrazo", completion=" vrazo"),
        sample("a", prompt="is anna vrazo ?\n", completion=" yes", stage="second"),
        sample("b", prompt="is carl plain ?\n", completion=" no", stage="second"),
    ]
    rare = [diagnosed("a", "insufficient_optimization", rarest_word="vrazo")]
    plan = AugmentRare(source=WRITER, more=4).plan(rare, context(rows))
    new, *_ = plan.stages[1].samples
    assert (new.prompt, new.completion, new.source) == ("Is bob vrazo ?\n", " no", "openai:/m")
    request = instruction(asked[0])
    assert request.index("is anna vrazo") < request.index("say vrazo")  # those of the stage first
    assert "carl" not in request
    assert AugmentRare(source=WRITER, more=4).plan(rare, context(rows)) == plan
    assert len(asked) == 1


def test_rows_of_a_conversation_are_conversations(store, served):
    served({"result": ["is bob vrazo ? <answer> no"], "rationale": ""})
    turns = chat(system="Be brief.", user="is anna vrazo ?")
    one = sample("a", prompt=turns, completion=chat(assistant="yes"))
    (new,) = WRITER.samples(["vrazo", "unseen"], {"a": one}, "first", 1)["vrazo"]
    assert new.prompt == chat(system="Be brief.", user="is bob vrazo ?")
    assert new.completion == chat(assistant="no")


def test_a_writer_that_cannot_be_asked_is_named_and_asked_again(store, served):
    served({}, 400)
    with pytest.raises(PluginError, match="judge 'openai:/m'") as raised:
        WRITER.documents([ANNA], 1)
    assert "\n" not in str(raised.value)
    served({"result": ["Anna lives in Oslo."], "rationale": ""})
    assert WRITER.documents([ANNA], 1) == [["Anna lives in Oslo."]]
