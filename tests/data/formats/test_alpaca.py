import pytest

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.formats.alpaca import convert
from ilp_mlflow.data.formats.names import Names


def test_a_row_becomes_the_turns_that_a_chat_model_is_trained_on():
    row = {
        "instruction": "Translate",
        "input": "bonjour",
        "output": "hello",
        "system": "Be brief.",
        "history": [["Ready?", "Yes."]],
        "id": "a",
    }
    found = convert(row, "here", Names())
    assert [(turn["role"], turn["content"]) for turn in found["messages"]] == [
        ("system", "Be brief."),
        ("user", "Ready?"),
        ("assistant", "Yes."),
        ("user", "Translate\nbonjour"),
        ("assistant", "hello"),
    ]
    assert set(found) == {"id", "messages"}


@pytest.mark.parametrize("empty", [{}, {"input": ""}, {"input": None, "history": [], "system": ""}])
def test_what_is_empty_adds_nothing(empty):
    found = convert({"instruction": "q", "output": "a", **empty}, "here", Names())
    assert [turn["content"] for turn in found["messages"]] == ["q", "a"]


def test_an_input_may_stand_alone():
    found = convert({"instruction": "", "input": "q", "output": "a"}, "here", Names())
    assert found["messages"][0]["content"] == "q"


def test_a_history_in_csv_is_json():
    row = {"instruction": "q", "output": "a", "history": '[["b", "c"]]'}
    assert [t["content"] for t in convert(row, "here", Names())["messages"]] == ["b", "c", "q", "a"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"output": " "}, "output is empty or missing"),
        ({"output": None}, "output is empty or missing"),
        ({"instruction": ""}, "instruction is empty or missing"),
        ({"output": ["a"]}, "output must be text, got list"),
        ({"history": [["a"]]}, "history must be a list"),
        ({"history": [["a", 1]]}, "history must be a list"),
        ({"history": "no"}, "history is not valid JSON"),
    ],
)
def test_a_row_that_is_none_is_named(changed, expected):
    with pytest.raises(DatasetError, match=f"^here: {expected}"):
        convert({"instruction": "q", "output": "a", **changed}, "here", Names())


def test_a_field_is_called_what_the_rows_call_it():
    names = Names({"output": "answer"})
    with pytest.raises(DatasetError, match="answer is empty"):
        convert(names.row({"instruction": "q", "answer": ""}), "here", names)
