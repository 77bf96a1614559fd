import pytest

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.formats.names import Names
from ilp_mlflow.data.formats.text import convert


def test_a_text_is_all_that_is_read():
    assert convert({"text": "t", "prompt": "p", "n": 1}, "here", Names()) == {"text": "t", "n": 1}


def test_a_text_must_be_one():
    with pytest.raises(DatasetError, match="here: text must be text, got int"):
        convert({"text": 3}, "here", Names())
