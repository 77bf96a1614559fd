import pytest

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.core.texts import Exchange
from ilp_mlflow.data.samples import (
    load_samples,
    samples_digest,
    samples_from_table,
    samples_to_table,
)
from tests.conftest import rows, write_jsonl
from tests.conversations import chat

CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
GOOD = '{"prompt": "p", "completion": "c"}\n'


def read(path, **options):
    return load_samples("s", DataConfig(path=str(path), **options))


def test_a_row_without_an_id_is_named_by_its_place_whatever_is_filtered(tmp_path):
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [{"prompt": f"p{i}", "completion": "c", "kind": i % 2} for i in range(4)],
    )
    assert [s.id for s in read(path)] == ["s/1", "s/2", "s/3", "s/4"]
    assert [s.id for s in read(path, where={"kind": 1})] == ["s/2", "s/4"]
    assert [s.id for s in read(path, where={"kind": 1}, limit=1)] == ["s/2"]


def test_the_last_assistant_turn_is_the_completion(tmp_path):
    (sample,) = read(write_jsonl(tmp_path / "a.jsonl", [CHAT]))
    assert sample.prompt == chat(user="hi")
    assert sample.answer == "hello"


def test_only_the_last_of_several_turns_is_the_completion(tmp_path):
    turns = [
        {"role": r, "content": c}
        for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    ]
    given = [
        {"messages": turns},
        {"prompt": turns[:1], "completion": turns[1:]},
        {"prompt": turns[:3], "completion": turns[3:]},
    ]
    found = read(write_jsonl(tmp_path / "a.jsonl", given))
    assert {s.answer for s in found} == {"d"}
    assert len({s.prompt for s in found}) == 1


def test_optional_fields_are_read_and_the_rest_is_kept(tmp_path):
    record = rows(n=1)[0] | {
        "options": [" Lyon"],
        "source": "me",
        "probes": [{"prompt": "a", "completion": "b"}],
        "colour": "red",
    }
    (sample,) = read(write_jsonl(tmp_path / "a.jsonl", [record]))
    assert sample.options == (" Lyon",)
    assert sample.source == "me"
    assert sample.probes == (Exchange(prompt="a", completion="b"),)
    assert sample.metadata == {"colour": "red"}


def test_lists_in_csv_are_json(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,completion,options\np,c,"[""x"", ""y""]"\n')
    assert read(tmp_path / "a.csv")[0].options == ("x", "y")


def test_samples_survive_the_way_through_columns(tmp_path):
    chat = read(
        write_jsonl(
            tmp_path / "a.jsonl", [CHAT | {"probes": [{"prompt": "a", "completion": "b"}], "n": 3}]
        )
    )
    text = read(write_jsonl(tmp_path / "b.jsonl", [rows(n=1)[0] | {"options": ["x"]}]))
    for samples in (chat, text, []):
        assert samples_from_table(samples_to_table(samples)) == samples


def test_the_digest_changes_with_the_data_and_only_then(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", rows())
    first = samples_digest(read(path))
    assert samples_digest(read(path)) == first
    write_jsonl(path, [*rows(n=7), {**rows()[7], "completion": " Busan"}])
    assert samples_digest(read(path)) != first


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GOOD + '{"prompt": "p"}', "line 2: no 'completion'"),
        (GOOD + '{"completion": "p"}', "line 2: no 'prompt'"),
        ('{"prompt": "p", "completion": "  "}', "line 1: completion is empty"),
        ('{"prompt": "", "completion": "c"}', "line 1: prompt is empty"),
        (
            '{"prompt": 3, "completion": "c"}',
            "line 1: prompt must be text or a list of messages, got int",
        ),
        ('{"id": "a", "prompt": "p", "completion": "c"}\n' * 2, "line 2: id 'a' was given in"),
        (GOOD + '{"prompt": "p", "compl', "line 2: not valid JSON"),
        (GOOD + "[1]", "line 2: expected an object"),
        (b'{"prompt": "caf\xe9", "completion": "c"}', "line 1: not UTF-8"),
        (
            GOOD + '{"prompt": "\\ud800 x", "completion": "c"}',
            "line 2: holds half of a surrogate pair",
        ),
        ('{"id": [1], "prompt": "p", "completion": "c"}', "line 1: id must be"),
        ('{"prompt": "p", "completion": "c", "options": "x"}', "line 1: options must be a list"),
        ('{"prompt": "p", "completion": "c", "options": [1]}', "line 1: options"),
        ('{"prompt": "p", "completion": "c", "probes": [{"prompt": "p"}]}', "line 1: probes"),
        ('{"prompt": "p", "completion": "c", "source": 3}', "line 1: source"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "ends with an assistant turn"),
        (
            '{"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}',
            "messages[0] has no 'content'",
        ),
        (
            '{"prompt": [{"role": "user", "content": "x"}], "completion": "c"}',
            "both be text or both be messages",
        ),
        (
            GOOD
            + '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}',
            "line 2: a conversation, but",
        ),
        ("", "no rows"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, content, expected):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError) as error:
        read(path)
    assert expected in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
