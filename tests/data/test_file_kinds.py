import gzip
import json

import pytest

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.file_kinds import read_file
from tests.conftest import rows

GOOD = {"prompt": "p", "completion": "c"}


def read(path, content=None):
    """The rows of a file, written first where there is content."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [record.fields for record in read_file(path, str(path))]


def test_json_is_an_array_or_lines(tmp_path):
    given = rows()
    assert read(tmp_path / "a.json", json.dumps(given, indent=2)) == given
    assert read(tmp_path / "a.json", "".join(json.dumps(r) + "\n" for r in given)) == given
    assert read(tmp_path / "a.json", "[]") == read(tmp_path / "a.json", "") == []


@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "json", "csv", "tsv"])
def test_a_gzipped_file_is_the_same(tmp_path, kind):
    content = {
        "jsonl": json.dumps(GOOD) + "\n",
        "ndjson": json.dumps(GOOD) + "\n",
        "json": json.dumps([GOOD]),
        "csv": "prompt,completion\np,c\n",
        "tsv": "prompt\tcompletion\np\tc\n",
    }[kind].encode()
    path = tmp_path / f"a.{kind}.gz"
    assert read(path, gzip.compress(content)) == [GOOD]
    with pytest.raises(DatasetError, match="not a whole gzip file"):
        read(path, gzip.compress(content * 100)[:-9])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "prompt,completion\np,c\n"),
        ("a.jsonl", "\n" + json.dumps(GOOD) + "\n\n   \n"),
        ("a.json", "\n " + json.dumps([GOOD])),
        ("b.json", json.dumps(GOOD) + "\n"),
    ],
)
def test_a_byte_order_mark_and_empty_lines_are_no_trouble(tmp_path, name, content):
    if name == "b.json":
        content += content
        expected = [GOOD, GOOD]
    else:
        expected = [GOOD]
    assert read(tmp_path / name, b"\xef\xbb\xbf" + content.encode()) == expected


def test_the_end_of_a_name_may_be_in_capitals(tmp_path):
    for name in ("a.JSONL", "a.Json"):
        assert read(tmp_path / name, '{"a": 1}\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]


def test_places_are_lines_or_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f"\n{json.dumps(GOOD)}\n")
    (record,) = read_file(path, "a.jsonl")
    assert record.where == "a.jsonl line 2"
    path = tmp_path / "a.json"
    path.write_text(json.dumps([GOOD, GOOD]))
    assert [record.where for record in read_file(path, "a.json")] == [
        "a.json row 1",
        "a.json row 2",
    ]


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    for name, content in (("a.jsonl", "%s"), ("a.json", "[%s]")):
        text = content % '{"prompt": "p", "completion": "\\ud83d\\ude00"}'
        assert read(tmp_path / name, text)[0]["completion"] == "\U0001f600"


def test_a_field_of_csv_may_be_long(tmp_path):
    text = "x" * 200_000
    assert read(tmp_path / "a.csv", f"prompt,completion\np,{text}\n")[0]["completion"] == text


def test_not_a_number_is_left_to_whoever_reads_the_field(tmp_path):
    (row,) = read(tmp_path / "a.jsonl", '{"prompt": "p", "score": NaN}')
    assert row["score"] != row["score"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"a": 1}\n{"b": {"c": 1, "c": 2}}', "line 2: key 'c' is given twice"),
        ("a.json", '[{"a": 1},\n {"b": [{"a": 1, "a": 2}]}]', "row 2: key 'a' is given twice"),
        ("a.json", '{"a": 1, "a": 2}', "a.json: key 'a' is given twice"),
        ("a.csv", "a,b,a\n1,2,3\n", "column 'a' is given twice in the header"),
        ("a.csv", "prompt,completion\np\n", "row 1: has not as many fields"),
        ("a.csv", b"a\n\xff\n", "not UTF-8"),
        ("a.json", b'["\xff"]', "not UTF-8"),
        ("a.json", '{"data": [{}], "version": 1}', "one object with data, version; .*'data', save"),
        ("a.json", '{"prompt": "p"}', r"one object with prompt; write \[...\] around it"),
        ("a.json", '{"messages": []}', r"one object with messages; write \[...\] around it"),
        ("a.json", "3", "expected an array of rows, got int"),
        ("a.json", '[{"a": 1},\n {"b": ', "line 2: not valid JSON .* is the file cut off"),
        ("a.json", '{"a": 1}\n{"b": ', "line 2: not valid JSON"),
        ("a.json", '[{"a": 1}, 3]', "row 2: expected an object .* got int"),
        ("a.json", '[{"a": "\\ud800"}]', "row 1: holds half of a surrogate pair"),
        ("a.jsonl", '[{"a": 1}]', "line 1: expected .* got list; .* name it .json"),
        ("a.jsonl", '[\n{"a": 1}\n]', "line 1: not valid JSON .* name it .json"),
        ("a.jsonl", '{"a": ' + 5000 * "9" + "}", "line 1: not valid JSON .number too long"),
        ("a.json", 100_000 * "[", "line 1: not valid JSON .*nested too deep"),
        ("a.json", '{"a": {"0": 1}, "b": {"0": 1}}', "one object with a, b, which holds columns"),
        ("a.json", '{"a": ["x"], "b": ["y"]}', "which holds columns; save rows"),
        ("a.json", '{"r1": {"a": 1}, "r2": {"a": 1}}', "save the rows in it as an array"),
        ("a.csv", "prompt;completion\nq;a\n", "fields are separated by semicolons"),
        ("a.csv", "prompt\tcompletion\nq\ta\n", "fields are separated by tabs"),
        ("a.jsonl.gz", '{"a": 1}\n', "not gzipped; take the .gz off its name"),
        ("a.parquet", "x", "not a Parquet file"),
        ("a.gz", "x", "unknown kind of file '.gz'"),
        ("a.parquet.gz", "x", "unknown kind of file '.gz'"),
    ],
)
def test_a_damaged_file_is_named_with_its_place(tmp_path, name, content, expected):
    with pytest.raises(DatasetError, match=expected) as error:
        read(tmp_path / name, content)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_tabs_separate_fields_that_may_hold_commas_quotes_and_lines(tmp_path):
    content = 'prompt\tcompletion\n"a, b"\t"c\td\n""e"""\n'
    assert read(tmp_path / "a.tsv", content) == [{"prompt": "a, b", "completion": 'c\td\n"e"'}]


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("a.csv", "prompt\tcompletion\n", "separated by tabs; name it .tsv"),
        ("a.tsv", "prompt,completion\n", "separated by commas; name it .csv"),
        ("a.tsv", "prompt;completion\n", "separated by semicolons; save it with tabs"),
    ],
)
def test_another_separator_is_named(tmp_path, name, content, hint):
    with pytest.raises(DatasetError, match=hint):
        read(tmp_path / name, content)


@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "json", "csv", "parquet", "jsonl.gz"])
def test_a_file_that_git_lfs_has_not_fetched_is_told(tmp_path, kind):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"
    with pytest.raises(DatasetError, match=rf"a.{kind}: a git-lfs pointer.*run 'git lfs pull'"):
        read(tmp_path / f"a.{kind}", pointer)
