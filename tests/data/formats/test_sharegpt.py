import json
import re

import pytest

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.formats.names import Names
from ilp_mlflow.data.formats.sharegpt import convert

TOOL = {"name": "weather", "description": "Says it.", "parameters": {"type": "object"}}
CALL = {"name": "weather", "arguments": {"city": "Oslo"}}


def row(*said, **columns):
    """A row whose turns are these pairs of `from` and `value`."""
    return {"conversations": [{"from": who, "value": what} for who, what in said], **columns}


def test_a_call_and_what_came_back_become_turns_of_a_chat_template():
    said = (
        ("human", "Rain in Oslo?"),
        ("function_call", json.dumps(CALL)),
        ("observation", '{"rain": true}'),
        ("gpt", "Yes."),
    )
    found = convert(row(*said, tools=json.dumps([TOOL])), "here", Names())
    assert found["messages"] == [
        {"role": "user", "content": "Rain in Oslo?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": CALL}],
        },
        {"role": "tool", "content": '{"rain": true}'},
        {"role": "assistant", "content": "Yes."},
    ]
    assert found["tools"] == [{"type": "function", "function": TOOL}]


def test_several_calls_at_once_are_one_turn():
    found = convert(row(("human", "x"), ("function_call", json.dumps([CALL] * 2))), "here", Names())
    assert len(found["messages"][1]["tool_calls"]) == 2


def test_the_system_column_stands_in_front_and_may_not_contradict_a_turn():
    said = (("human", "q"), ("gpt", "a"))
    assert convert(row(*said, system="S"), "here", Names())["messages"][0] == {
        "role": "system",
        "content": "S",
    }
    assert len(convert(row(*said, system=""), "here", Names())["messages"]) == 2
    turn = ("system", "S")
    assert len(convert(row(turn, *said, system="S"), "here", Names())["messages"]) == 3
    with pytest.raises(DatasetError, match="here: system is another text than the system turn"):
        convert(row(turn, *said, system="T"), "here", Names())
    names = Names({"system": ""})
    assert len(convert(names.row(row(turn, *said, system="T")), "here", names)["messages"]) == 3


def test_what_else_a_turn_has_stays():
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "weight": 0, "reasoning_content": "r"},
    ]
    assert convert({"conversations": turns}, "here", Names())["messages"] == turns


def test_whether_a_turn_is_trained_may_have_another_name():
    names = Names({"role": "from", "content": "value", "weight": "train"})
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "train": False}]
    found = convert({"conversations": turns}, "here", names)["messages"]
    assert found[1] == {"role": "assistant", "content": "a", "weight": 0}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (row(("alien", "q")), "conversations[0]: role 'alien' is not known"),
        ({"conversations": [{"value": "q"}]}, "conversations[0]: role None is not known"),
        ({"conversations": ["q"]}, "conversations[0] must be an object"),
        ({"conversations": []}, "conversations must be a list of turns"),
        ({"conversations": "q"}, "conversations is not valid JSON"),
        (
            row(("human", "q"), ("function_call", "weather()")),
            "conversations[1]: must be a call as JSON",
        ),
        (row(("function_call", '{"arguments": {}}')), "conversations[0]: must be a call as JSON"),
        (
            row(("human", [{"type": "image"}])),
            "conversations[0]: content has a part of type 'image'",
        ),
    ],
)
def test_a_turn_that_is_none_is_named(given, expected):
    with pytest.raises(DatasetError, match=f"^here: {re.escape(expected)}"):
        convert(given, "here", Names())


def test_turns_are_numbered_as_in_the_row_also_behind_a_system_column():
    given = {**row(("human", [{"type": "image"}])), "system": "be kind"}
    with pytest.raises(DatasetError, match=r"^here: conversations\[0\]: content has a part"):
        convert(given, "here", Names())
