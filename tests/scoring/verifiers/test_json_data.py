from ilp_mlflow.scoring.verifiers.json_data import json_data

RIGHT = '{"name": "f", "arguments": {"x": 1, "y": [2, 3]}}'


def test_data_is_compared_and_not_its_text():
    said = '{"arguments": {"y": [2,3], "x": 1.0},\n "name": "f"}'
    fenced = f"Here:\n```json\n{said}\n```"
    other = said.replace("[2,3]", "[3,2]")
    assert json_data([said, fenced, other, "{", ""], [RIGHT] * 5) == [1, 1, 0, 0, 0]


def test_what_no_parser_takes_is_wrong_and_true_is_no_1():
    hostile = ["[" * 5000, "9" * 5000, '{"a": ' * 5000]
    assert json_data(hostile, [RIGHT] * 3) == [0, 0, 0]
    assert json_data(["true", "[1]", "1.0"], ["1", "[true]", "1"]) == [0, 0, 1]


def test_a_row_that_is_no_json_cannot_be_judged():
    assert json_data(["{}"], ["see above"]) == [None]


def test_with_a_schema_that_decides():
    schema = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    said = ['{"name": "g"}', '{"name": 1}', "{}", "nothing"]
    assert json_data(said, ["free text"] * 4, schema=schema) == [1, 0, 0, 0]
