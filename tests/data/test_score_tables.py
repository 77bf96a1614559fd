import pandas as pd
import pytest

from ilp_mlflow.core.errors import ConfigError, DatasetError
from ilp_mlflow.core.values import Score, to_rows, to_table
from ilp_mlflow.data.score_tables import DEFAULT_STAGE, read_samples, read_score_table

SCORES = [
    Score(sample_id=id_, checkpoint=name, gap=gap, tokens=2)
    for id_, name, gap in [("x", "base", -1.0), ("x", "one", 2.0), ("y", "base", -1.0)]
]


def score_table(**columns):
    texts = {"prompt": ["p x", "p x", "p y"], "completion": ["c x", "c x", "c y"]}
    return to_table(SCORES, Score).to_pandas().assign(**texts, **columns)


def test_a_table_of_scores_gives_each_sample_once_and_all_scores():
    samples, scores = read_score_table(score_table(note=["kept", "kept", "kept"]))
    assert [(s.id, s.prompt, s.completion) for s in samples] == [
        ("x", "p x", "c x"),
        ("y", "p y", "c y"),
    ]
    assert {s.stage for s in samples} == {DEFAULT_STAGE}
    assert samples[0].metadata == {"note": "kept"}
    assert to_rows(scores, Score) == SCORES


def test_rows_of_checkpoints_that_are_not_named_are_left_out():
    samples, scores = read_score_table(score_table(), ["one"])
    assert [s.id for s in samples] == ["x"]
    assert to_rows(scores, Score) == [SCORES[1]]
    with pytest.raises(ConfigError, match="'two' is not in the data; known are: base, one"):
        read_score_table(score_table(), ["two"])


def test_a_missing_column_is_named_with_what_else_can_be_given():
    expected = (
        r"no column 'gap', and a table of scores has every field of Score \(to have samples scored, "
        r"name models: evaluator_config=\{'checkpoints': \{name: location\}\}\); did you mean 'gaps'"
    )
    with pytest.raises(DatasetError, match=expected):
        read_score_table(score_table().rename(columns={"gap": "gaps"}))


def test_samples_have_their_stages_and_ids_or_get_them():
    data = pd.DataFrame({"prompt": ["p", "q"], "completion": ["c", "d"], "stage": ["s", None]})
    samples = read_samples(data, once=True)
    assert [(s.id, s.stage) for s in samples] == [("s/1", "s"), (f"{DEFAULT_STAGE}/2", "data")]
    named = read_samples(data.assign(sample_id=["a", "b"]), once=True)
    assert [s.id for s in named] == ["a", "b"]


def test_a_sample_may_be_there_again_only_where_rows_are_checkpoints():
    data = pd.DataFrame({"sample_id": ["a", "a"], "prompt": ["p"] * 2, "completion": ["c"] * 2})
    assert len(read_samples(data, once=False)) == 1
    with pytest.raises(DatasetError, match="data row 2: sample 'a' is there twice"):
        read_samples(data, once=True)
    with pytest.raises(DatasetError, match="data row 2: sample 'a' has another prompt"):
        read_samples(data.assign(prompt=["p", "q"]), once=False)
