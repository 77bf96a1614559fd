import pytest

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.formats.names import Names
from ilp_mlflow.data.formats.openai import convert

CALL = {"name": "weather", "arguments": '{"city": "Oslo"}'}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def test_calls_weights_and_null_content_stay_as_they_are():
    turns = [
        {"role": "user", "content": "Rain?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": CALL}],
            "weight": 0,
        },
        {"role": "tool", "tool_call_id": "1", "content": "true"},
        {"role": "assistant", "content": "Yes.", "weight": 1},
    ]
    row = {"messages": turns, "tools": [TOOL], "parallel_tool_calls": False}
    assert convert(row, "here", Names()) == row


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "you."}]
    found = convert({"messages": [{"role": "user", "content": parts}]}, "here", Names())
    assert found["messages"][0]["content"] == "Hello, you."


def test_content_that_is_left_out_beside_a_call_is_null():
    turn = {"role": "assistant", "tool_calls": [{"type": "function", "function": CALL}]}
    assert convert({"messages": [turn]}, "here", Names())["messages"][0]["content"] is None


def test_functions_of_old_files_become_tools():
    turns = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "function_call": CALL},
        {"role": "function", "name": "weather", "content": "true"},
    ]
    row = {"messages": turns, "functions": [TOOL["function"]], "function_call": "auto"}
    found = convert(row, "here", Names())
    assert found["tools"] == [TOOL]
    assert found["messages"][1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": CALL}],
    }
    assert found["messages"][2] == {"role": "tool", "name": "weather", "content": "true"}


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_what_is_no_text_is_refused(kind):
    turns = [{"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": kind}]}]
    with pytest.raises(DatasetError, match=rf"here: messages\[0\]: content has .*'{kind}'"):
        convert({"messages": turns}, "here", Names())


def test_functions_and_tools_are_not_both_read():
    row = {"messages": [], "tools": [TOOL], "functions": [TOOL["function"]]}
    with pytest.raises(DatasetError, match="here: has both"):
        convert(row, "here", Names())
