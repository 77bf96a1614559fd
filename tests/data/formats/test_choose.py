import json

import pytest

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.core.terminal import notes
from ilp_mlflow.data.formats.choose import FORMATS, canonical_records, names_of
from ilp_mlflow.data.readers import read_records
from ilp_mlflow.data.samples import load_first_samples, load_samples
from tests.conftest import rows, write_jsonl
from tests.data.formats.conversations import WRITERS, exchanges, turns

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(notes, "_said", set())


def read(path, records=None, **options):
    """The samples of a file, written first where there are records."""
    if records is not None:
        write_jsonl(path, records)
    return load_samples("s", DataConfig(path=str(path), **options))


def canonical(path, records, **options):
    """What samples are made of, row by row."""
    data = DataConfig(path=str(write_jsonl(path, records)), **options)
    found = canonical_records(read_records(data), path.name, names_of(data), data.format)
    return [record.fields for record in found]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_the_same_conversations_in_every_format_give_the_same_samples(write, tmp_path):
    samples = load_samples("s", DataConfig(**write(tmp_path)))
    assert [s.id for s in samples] == [f"s/{n}" for n in range(1, 11)]
    for sample, pairs in zip(samples, exchanges(), strict=True):
        found = [(m.role, m.content) for m in (*sample.prompt.turns, *sample.completion.turns)]
        assert found == [(t["role"], t["content"]) for t in turns(pairs)]
        assert len(sample.completion.turns) == 1


def test_the_plain_form_is_read_without_a_word_and_any_other_is_said_once(tmp_path, capsys):
    read(tmp_path / "plain.jsonl", rows())
    read(tmp_path / "chat.jsonl", [{"messages": CHAT, "id": "a", "topic": "x"}])
    assert capsys.readouterr().err == ""
    path = write_jsonl(tmp_path / "a.jsonl", [{"instruction": "q", "input": "", "output": "a"}])
    load_first_samples("s", DataConfig(path=str(path)))
    read(path)
    assert capsys.readouterr().err == f"ilp: {path}: read as alpaca (instruction, input, output)\n"


def test_columns_that_a_mapping_leaves_out_are_told(tmp_path, capsys):
    row = {"id": 1, "question": "q", "response": "a", "system_prompt": "s", "topic": "t"}
    read(tmp_path / "a.jsonl", [row], fields={"prompt": "question", "completion": "response"})
    assert capsys.readouterr().err.endswith("; not read: system_prompt, topic\n")
    read(tmp_path / "b.jsonl", [{**rows()[0], "context": "c", "topic": "t"}])
    assert capsys.readouterr().err.endswith("; not read: context\n")


def test_notes_are_left_out_where_the_user_wants_silence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ILP_QUIET", "1")
    read(tmp_path / "a.jsonl", [{"instruction": "q", "output": "a"}])
    assert capsys.readouterr().err == ""


def test_messages_beside_a_prompt_are_read_and_it_is_said(tmp_path, capsys):
    (sample,) = read(tmp_path / "a.jsonl", [{"messages": CHAT, "prompt": "q", "prompt_id": "7"}])
    assert sample.answer == "a"
    assert sample.metadata["prompt_id"] == "7"
    err = capsys.readouterr().err
    assert "read as trl (messages); not read: prompt" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "beside",
    [
        {"prompt": "another"},
        {"completion": "another"},
        {"prompt": CHAT[:1], "completion": CHAT[:1]},
    ],
)
def test_messages_that_a_prompt_or_completion_contradicts_are_refused(tmp_path, beside):
    agreeing = {"messages": CHAT, "prompt": "q", "completion": " a\n"}
    with pytest.raises(DatasetError, match=r"line 2: messages and .* disagree"):
        read(tmp_path / "a.jsonl", [agreeing, {"messages": CHAT, **beside}])
    # whoever says which column it is has decided
    both = [{"messages": CHAT, "prompt": "p", "completion": "c"}]
    (chat,) = read(tmp_path / "a.jsonl", both, fields={"messages": "messages"})
    (text,) = read(tmp_path / "a.jsonl", both, fields="prompt=prompt,completion=completion")
    assert chat.answer == "a"
    assert (text.prompt, text.answer) == ("p", "c")


def test_a_format_that_is_given_is_not_guessed(tmp_path, capsys):
    both = [{"prompt": "p", "completion": "c", "instruction": "i", "output": "o"}]
    assert read(tmp_path / "a.jsonl", both)[0].answer == "c"
    assert read(tmp_path / "a.jsonl", format="alpaca")[0].answer == "o"
    assert "read as alpaca (instruction, output); not read: prompt, completion" in (
        capsys.readouterr().err
    )
    with pytest.raises(DatasetError, match="needs conversations or messages; columns are prompt"):
        read(tmp_path / "a.jsonl", format="sharegpt")


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_of_another_format_than_the_first_is_named(tmp_path, name):
    by_format = {
        "trl": {"prompt": "p", "completion": "c"},
        "alpaca": {"instruction": "i", "output": "o"},
        "alpaca_prompt": {"instruction": "i", "output": "o"},
        "sharegpt": {
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
        },
        "openai": {"messages": CHAT},
        "text": {"text": "t"},
    }
    other = "alpaca" if name == "trl" else "trl"
    folder = tmp_path / "shards"
    folder.mkdir()
    write_jsonl(folder / "0.jsonl", [by_format[name]] * 2)
    write_jsonl(folder / "1.jsonl", [by_format[other]])
    data = DataConfig(path=str(folder), format=name)
    with pytest.raises(DatasetError, match=r"1\.jsonl line 1: has .* is read as"):
        list(canonical_records(read_records(data), "rows", names_of(data), name))


def test_a_text_among_prompts_is_refused_and_so_is_a_prompt_among_texts(tmp_path):
    pair, text = {"prompt": "p", "completion": "c"}, {"text": "t"}
    with pytest.raises(DatasetError, match="line 2: has text, but"):
        read(tmp_path / "a.jsonl", [pair, text])
    with pytest.raises(DatasetError, match="line 2: has prompt, completion, but"):
        canonical(tmp_path / "a.jsonl", [text, pair], format="text")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("question", "answer"), "--fields prompt=question,completion=answer"),
        (("Question", "Answer"), "--fields prompt=Question,completion=Answer"),
        (("prompt", "response"), "--fields prompt=prompt,completion=response"),
        (("query", "response"), "--fields prompt=query,completion=response"),
        (("input", "output"), "--fields prompt=input,completion=output"),
        (("instruction", "response", "context"), "--fields output=response,input=context"),
        (("uno", "due"), "--fields prompt=COLUMN,completion=COLUMN"),
    ],
)
def test_what_is_not_recognised_is_told_with_what_would_be(tmp_path, columns, expected):
    record = dict.fromkeys(columns, "x")
    with pytest.raises(DatasetError) as error:
        read(tmp_path / "a.jsonl", [record])
    message = str(error.value)
    assert expected in message
    for told in (*columns, *FORMATS):
        assert told in message
    assert "\n" not in message
    # what is suggested is what works
    if "COLUMN" not in expected:
        (sample,) = read(tmp_path / "a.jsonl", fields=expected.removeprefix("--fields "))
        assert sample.answer == "x"


def test_a_column_of_turns_is_suggested_as_messages(tmp_path):
    for record in ({"conversation": CHAT, "lang": "en"}, {"prompt": "p", "dialogue": CHAT}):
        column = next(name for name, value in record.items() if value is CHAT)
        with pytest.raises(DatasetError, match=f"--fields messages={column}$"):
            read(tmp_path / "a.jsonl", [record])
        assert read(tmp_path / "a.jsonl", fields={"messages": column})[0].answer == "a"


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path):
    with pytest.raises(
        DatasetError, match=r"no column 'reply' to be read as completion; columns are q, a$"
    ):
        read(tmp_path / "a.jsonl", [{"q": "x", "a": "y"}], fields="prompt=q,completion=reply")
    with pytest.raises(DatasetError, match="line 2: a is empty or missing"):
        read(
            tmp_path / "a.jsonl", [{"q": "x", "a": "y"}, {"q": "x"}], fields="prompt=q,completion=a"
        )


def test_columns_may_be_read_as_any_field(tmp_path):
    record = {"q": "x", "a": "y", "key": 7, "wrong": ["z"], "prompt": "a template", "n": 1}
    fields = "prompt=q,completion=a,id=key,options=wrong"
    (sample,) = read(tmp_path / "a.jsonl", [record], fields=fields)
    assert (sample.id, sample.prompt, sample.answer, sample.options) == ("7", "x", "y", ("z",))
    assert sample.metadata == {"n": 1}


def test_rows_with_and_without_tools_are_one_data_set(tmp_path):
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with_tools = {"messages": CHAT, "tools": [tool], "chat_template_kwargs": {"thinking": False}}
    as_json = {"messages": CHAT, "tools": json.dumps([tool])}
    none = [
        {"messages": CHAT},
        {"messages": CHAT, "tools": None},
        {"messages": CHAT, "tools": "[]"},
    ]
    found = canonical(tmp_path / "a.jsonl", [with_tools, as_json, *none])
    assert [row.get("tools") for row in found] == [[tool], [tool], None, None, None]
    assert found[0]["chat_template_kwargs"] == {"thinking": False}


def test_a_text_is_read_whole(tmp_path, capsys):
    found = canonical(tmp_path / "a.jsonl", [{"text": "t", "source": "s"}])
    assert found == [{"text": "t", "source": "s"}]
    assert "read as text (text), every token of which is trained" in capsys.readouterr().err
    (mapped,) = canonical(tmp_path / "a.jsonl", [{"body": "u", "prompt": "p"}], fields="text=body")
    assert mapped == {"text": "u"}


def test_only_so_many_rows_are_looked_at(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "p", "completion": "c"}\nno JSON\n')
    assert len(read(path, limit=1)) == 1
    with pytest.raises(DatasetError, match="line 2: not valid JSON"):
        read(path)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": CHAT, "images": ["a.png"]}, "images is not empty"),
        ({"prompt": "p", "completion": "c", "image": "a.png"}, "image is not empty"),
        ({"instruction": "i", "output": "o", "audios": [1]}, "audios is not empty"),
        ({"prompt": "p", "completion": "c", "tools": "{"}, "tools is not valid JSON"),
        ({"prompt": "p", "completion": "c", "tools": "{}", "x": 1}, None),
        ({"prompt": "p", "completion": "c", "tools": '{"a": 1}'}, "tools must be a list"),
        ({"messages": CHAT, "tools": [{"n": float("nan")}]}, "tools holds NaN"),
        ({"messages": CHAT, "score": float("nan")}, None),
        ({"messages": CHAT, "images": []}, None),
        ({"messages": CHAT, "chat_template_kwargs": [1]}, "chat_template_kwargs must be an object"),
    ],
)
def test_what_is_no_text_is_refused_with_its_row_and_field(tmp_path, record, expected):
    path = write_jsonl(tmp_path / "a.jsonl", [record])
    if expected is None:
        assert read(path)
        return
    with pytest.raises(DatasetError, match=f"line 1: {expected}"):
        read(path)


def test_a_field_that_no_row_has_is_no_field():
    for fields, expected in (
        ({"promt": "q"}, "did you mean 'prompt'"),
        ("question=prompt", "a field comes first, then its column: prompt=question"),
        ("prompt", "write FIELD=COLUMN"),
        ("prompt=a,prompt=b", "given twice"),
    ):
        with pytest.raises(ValueError, match=expected):
            DataConfig(path="a.jsonl", fields=fields)


@pytest.mark.parametrize("column", ["weight", "train"])
def test_a_weight_of_a_whole_row_is_told_to_be_unread(tmp_path, capsys, column):
    rows = [{"prompt": "q", "completion": "a", column: 0}]
    read(tmp_path / "a.jsonl", rows)
    assert f"read as trl (prompt, completion); not read: {column}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "fields"),
    [
        (("Prompt", "Completion"), "prompt=Prompt,completion=Completion"),
        (("Instruction", "Response"), "instruction=Instruction,output=Response"),
        (("Instruction", "Output"), "instruction=Instruction,output=Output"),
        (("instruction", "response"), "output=response"),
    ],
)
def test_columns_in_capitals_are_suggested_and_the_suggestion_works(tmp_path, columns, fields):
    path = tmp_path / "a.jsonl"
    row = dict(zip(columns, ("q", "a"), strict=True))
    with pytest.raises(DatasetError, match=f"--fields {fields}$"):
        read(path, [row])
    given = dict(pair.split("=") for pair in fields.split(","))
    assert len(read(path, [row], fields=given)) == 1
