import pytest

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.formats.alpaca_prompt import convert
from ilp_mlflow.data.formats.names import Names


def test_a_row_becomes_the_text_that_a_base_model_is_trained_on():
    row = {"instruction": "Add {these}.", "input": "1 2", "output": "3", "messages": []}
    found = convert(row, "here", Names())
    assert found["prompt"].endswith(
        "completes the request.\n\n### Instruction:\nAdd {these}.\n\n### Input:\n1 2\n\n### Response:\n"
    )
    assert "paired with an input" in found["prompt"]
    assert found["completion"] == "3"
    assert "messages" not in found


def test_without_an_input_there_is_no_place_for_one():
    found = convert({"instruction": "Hi.", "input": "", "output": "3"}, "here", Names())
    assert "nput" not in found["prompt"]


def test_an_empty_output_is_refused():
    with pytest.raises(DatasetError, match="here: output is empty"):
        convert({"instruction": "Hi.", "output": ""}, "here", Names())
