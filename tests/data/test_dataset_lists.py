import json

import pytest

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.dataset_lists import (
    read_axolotl_datasets,
    read_dataset_info,
    resolve_listed,
)
from ilp_mlflow.data.samples import load_samples
from tests.conftest import write_jsonl


@pytest.fixture
def listed(tmp_path):
    """Writes a `dataset_info.json` with one data set, called `demo`; returns its path."""

    def write(entry):
        path = tmp_path / "dataset_info.json"
        path.write_text(json.dumps({"demo": entry}))
        return path

    return write


def axolotl(folder, **entry):
    """The only data set of an axolotl configuration."""
    (data,) = read_axolotl_datasets({"datasets": [entry]}, folder)
    return data


def test_a_data_set_is_alpaca_unless_it_says_otherwise(listed, tmp_path):
    data = read_dataset_info(listed({"file_name": "a.json"}), "demo")
    assert (data.path, data.format) == (str(tmp_path / "a.json"), "alpaca")
    # what LLaMA-Factory is not told of is not read
    assert data.fields["history"] == data.fields["system"] == ""


def test_only_the_columns_that_are_listed_are_read(listed, tmp_path):
    rows = [{"q": "Translate", "input": "not read", "a": "x", "system": "not read"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    columns = {"prompt": "q", "response": "a"}
    listed({"file_name": "a.jsonl", "columns": columns})
    (sample,) = load_samples("s", DataConfig(path=f"{tmp_path}/dataset_info.json#demo"))
    assert [(m.role, m.content) for m in sample.prompt.turns] == [("user", "Translate")]
    assert sample.answer == "x"


def test_rows_without_answers_are_texts(listed):
    data = read_dataset_info(listed({"file_name": "a.json", "columns": {"prompt": "body"}}), "demo")
    assert (data.format, data.fields) == ("text", {"text": "body"})


def test_turns_have_the_tags_that_are_listed(listed):
    entry = {"file_name": "a.json", "formatting": "sharegpt"}
    data = read_dataset_info(listed(entry), "demo")
    assert data.fields["messages"] == "conversations"
    assert (data.fields["role"], data.fields["content"]) == ("from", "value")
    assert data.roles["observation"] == "observation"
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "u", "assistant_tag": "a"}
    columns = {"messages": "messages", "tools": "functions"}
    data = read_dataset_info(listed(entry | {"tags": tags, "columns": columns}), "demo")
    assert data.fields["messages"] == "messages"
    assert data.fields["tools"] == "functions"
    assert data.roles == {"u": "user", "a": "assistant"}


def test_a_data_set_may_be_on_the_hub(listed):
    entry = {"hf_hub_url": "owner/name", "subset": "en", "split": "test"}
    data = read_dataset_info(listed(entry), "demo")
    assert (data.dataset, data.config, data.split) == ("owner/name", "en", "test")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"file_name": "a.json", "ranking": True}, "ranking is true"),
        ({"file_name": "a.json", "formatting": "other"}, "formatting 'other' is not known"),
        ({"file_name": "a.json", "num_samples": 10}, "num_samples is set"),
        ({"file_name": "a.json", "columns": "x"}, 'columns must give names by names, got "x"'),
        ({"file_name": "a.json", "formatting": "sharegpt", "tags": ["role"]}, "tags must give"),
        ({"script_url": "folder"}, "names no file_name and no hf_hub_url"),
    ],
)
def test_what_cannot_be_read_as_it_is_trained_is_refused(listed, entry, expected):
    with pytest.raises(DatasetError, match=f"dataset_info.json#demo: {expected}"):
        read_dataset_info(listed(entry), "demo")


def test_a_list_that_is_none_is_named(tmp_path, listed):
    path = listed({"file_name": "a.json"})
    with pytest.raises(DatasetError, match="no data set 'dmo'; did you mean 'demo'"):
        read_dataset_info(path, "dmo")
    with pytest.raises(DatasetError, match=r"give .*dataset_info.json#NAME, known are: demo"):
        resolve_listed(DataConfig(path=str(path)))
    path.write_text("[")
    with pytest.raises(DatasetError, match="not valid JSON"):
        read_dataset_info(path, "demo")
    path.write_text("[]")
    with pytest.raises(DatasetError, match="not a list of data sets"):
        read_dataset_info(path, "demo")
    with pytest.raises(DatasetError, match="No such file"):
        read_dataset_info(tmp_path / "none.json", "demo")


def test_what_is_set_beside_a_listed_data_set_stays(listed):
    path = listed({"file_name": "a.json"})
    given = DataConfig(path=f"{path}#demo", limit=3, fields={"system": "role"}, where={"a": 1})
    data = resolve_listed(given)
    assert (data.limit, data.where, data.format) == (3, {"a": 1}, "alpaca")
    assert data.fields["system"] == "role"
    assert data.fields["output"] == "output"


def test_a_file_may_have_a_hash_in_its_name(tmp_path):
    path = tmp_path / "a#b.json"
    path.write_text("[]")
    plain = DataConfig(path=str(path))
    assert resolve_listed(plain) is plain
    remote = DataConfig(path="https://host/a.json#b")
    assert resolve_listed(remote) is remote


def test_axolotl_reads_files_and_the_hub(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [])
    assert axolotl(tmp_path, path="a.jsonl", type="alpaca").path == str(tmp_path / "a.jsonl")
    assert axolotl(tmp_path, path="s3://b/a.jsonl", type="alpaca").path == "s3://b/a.jsonl"
    hub = axolotl(tmp_path, path="tatsu-lab/alpaca", type="alpaca", split="test", name="en")
    assert (hub.dataset, hub.split, hub.config) == ("tatsu-lab/alpaca", "test", "en")
    assert axolotl(tmp_path, path="json", data_files="a.jsonl", type="alpaca").path == (
        str(tmp_path / "a.jsonl")
    )
    write_jsonl(tmp_path / "b.jsonl", [])
    entry = {"path": "json", "data_files": ["b.jsonl", "a.jsonl"], "ds_type": "json"}
    several = read_axolotl_datasets({"datasets": [entry | {"type": "completion"}]}, tmp_path)
    assert [data.path[-7:] for data in several] == ["b.jsonl", "a.jsonl"]


def test_types_of_axolotl_are_formats(tmp_path):
    assert axolotl(tmp_path, path="o/n", type="alpaca").format == "alpaca_prompt"
    text = axolotl(tmp_path, path="o/n", type="completion", field="body")
    assert (text.format, text.fields) == ("text", {"text": "body"})
    old = axolotl(tmp_path, path="o/n", type="sharegpt", conversation="chatml")
    assert old.fields == {"messages": "conversations", "role": "from", "content": "value"}


def test_turns_of_axolotl_have_the_keys_and_roles_that_it_is_told(tmp_path):
    turns = [{"from": "human", "value": "q"}, {"from": "bot", "value": "a", "train": False}]
    write_jsonl(tmp_path / "a.jsonl", [{"chat": turns, "system_prompt": "S"}])
    data = axolotl(
        tmp_path,
        path="a.jsonl",
        type="chat_template",
        field_messages="chat",
        field_system="system_prompt",
        message_property_mappings={"role": "from", "content": "value"},
        message_field_training="train",
        roles={"user": ["human"], "assistant": ["bot", "gpt"]},
    )
    assert data.fields["weight"] == "train"
    (sample,) = load_samples("s", data)
    assert [(m.role, m.content) for m in sample.prompt.turns] == [("system", "S"), ("user", "q")]
    assert sample.answer == "a"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"path": "o/n", "type": "input_output"}, r"type input_output \(segments"),
        ({"path": "o/n", "type": {"field_instruction": "q"}}, "type a prompt of its own"),
        ({"path": "o/n"}, "type None is not read"),
        ({"path": "o/n", "type": "alpaca_chat.load_qa"}, "type alpaca_chat.load_qa is not read"),
        ({"type": "alpaca"}, "no path"),
        ({"path": "o/n", "type": "alpaca", "ds_type": "arrow"}, "ds_type 'arrow' is not read"),
        ({"path": "json", "type": "alpaca", "data_files": "x.json"}, "data_files x.json: no such"),
        (
            {"path": "o/n", "type": "chat_template", "drop_system_message": True},
            "drop_system_message",
        ),
        ({"path": "o/n", "type": "alpaca", "shards": 4}, "shards trains one shard"),
        (
            {"path": "o/n", "type": "chat_template", "message_property_mappings": ["role"]},
            "message_property_mappings must give names by names",
        ),
        ({"path": "o/n", "type": "chat_template", "roles": ["a"]}, "roles must give a list"),
        ({"path": "o/n", "type": "chat_template", "roles": {"user": "h"}}, "roles must give"),
        (
            {"path": "o/n", "type": "chat_template", "message_property_mappings": {"rle": "x"}},
            "'rle' is no field",
        ),
    ],
)
def test_what_axolotl_trains_otherwise_is_refused(tmp_path, entry, expected):
    with pytest.raises(DatasetError, match=rf"datasets\[0\].*{expected}") as error:
        axolotl(tmp_path, **entry)
    assert "\n" not in str(error.value)


def test_an_axolotl_configuration_without_rows_to_imitate_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="rl is 'dpo', so rows are preferences"):
        read_axolotl_datasets({"rl": "dpo", "datasets": []}, tmp_path)
    with pytest.raises(DatasetError, match="datasets: missing"):
        read_axolotl_datasets({}, tmp_path)
