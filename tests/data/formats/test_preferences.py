import csv

import pytest

from ilp_mlflow.core.config import DataConfig
from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.samples import load_samples
from tests.conftest import write_jsonl

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def read(path, records, **options):
    return load_samples("s", DataConfig(path=str(write_jsonl(path, records)), **options))


@pytest.mark.parametrize(
    ("record", "hint"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "completion=chosen"),
        ({"chosen": CHAT, "rejected": CHAT}, "messages=chosen"),
        ({"prompt": "q", "chosen": CHAT, "rejected": CHAT}, "messages=chosen"),
        ({"chosen": "Human: q Assistant: a", "rejected": "r"}, "text=chosen"),
        ({"instruction": "i", "input": "n", "chosen": "c", "rejected": "r"}, "output=chosen"),
        ({"chosen_messages": CHAT, "rejected_messages": CHAT}, "messages=chosen_messages"),
        ({"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]}, "completion=chosen"),
        (
            {"prompt": "q", "chosen": CHAT, "rejected": CHAT, "messages": CHAT},
            "messages=messages",
        ),
    ],
)
def test_preference_rows_are_refused_unless_the_answer_is_named(tmp_path, record, hint):
    with pytest.raises(DatasetError, match=r"preference rows \(chosen\w*, rejected\w*\); SFT") as e:
        read(tmp_path / "a.jsonl", [record])
    assert str(e.value).endswith(f"--fields {hint}")
    assert read(tmp_path / "a.jsonl", [record], fields=hint)


def test_preference_rows_of_openai_and_llama_factory_are_refused(tmp_path):
    openai = {"input": {"messages": CHAT[:1]}, "preferred_output": CHAT[1:]}
    with pytest.raises(DatasetError, match=r"preference rows \(preferred_output"):
        read(tmp_path / "a.jsonl", [openai | {"non_preferred_output": CHAT[1:]}])
    factory = {"conversations": [{"from": "human", "value": "q"}]}
    answers = {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}
    with pytest.raises(DatasetError, match=r"preference rows \(chosen"):
        read(tmp_path / "a.jsonl", [factory | answers])


@pytest.mark.parametrize("form", [{"prompt": "p", "completion": "c"}, {"messages": CHAT}])
def test_an_answer_that_is_not_wanted_is_never_gold(tmp_path, form):
    good, bad = {**form, "label": True}, {**form, "label": False}
    with pytest.raises(DatasetError, match=r"line 2: label is false \(in 3 rows\)"):
        read(tmp_path / "a.jsonl", [good, bad, good, bad, bad])
    assert len(read(tmp_path / "a.jsonl", [good, good])) == 2
    assert len(read(tmp_path / "a.jsonl", [good, bad], where={"label": True})) == 1
    with pytest.raises(DatasetError, match=r"line 1: liked is false \(in 1 row\)"):
        read(tmp_path / "a.jsonl", [{**form, "liked": False}], fields={"label": "liked"})


def labelled(*labels, **more):
    """Rows of different prompts with these labels."""
    return [
        {"prompt": f"p{n}", "completion": f"c{n}", "label": label, **more}
        for n, label in enumerate(labels)
    ]


@pytest.mark.parametrize("unwanted", [0, 0.0, "0", " 0 "])
def test_a_label_of_0_is_a_verdict_where_one_prompt_has_both(tmp_path, unwanted):
    good, bad = [{**row, "prompt": "p"} for row in labelled(1, unwanted)]
    for records in ([good, bad], [*labelled(1, 1), good, bad]):
        with pytest.raises(
            DatasetError, match=r"label is 0 \(in 1 row\).*where: \{label: 1(\.0)?\}"
        ):
            read(tmp_path / "a.jsonl", records)
    chats = [
        {"messages": [CHAT[0], {"role": "assistant", "content": answer}], "label": label}
        for answer, label in (("a", 1), ("b", unwanted))
    ]
    with pytest.raises(DatasetError, match=r"line 2: label is 0"):
        read(tmp_path / "a.jsonl", chats)


@pytest.mark.parametrize("unwanted", [0, 0.0, "0"])
def test_a_label_of_0_that_may_be_a_class_is_told_and_trained(tmp_path, capsys, unwanted):
    path = tmp_path / "a.jsonl"
    assert len(read(path, labelled(1, unwanted, 1, unwanted))) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ilp: {path} line 2: label is 0, read as a note")
    with pytest.raises(DatasetError, match=r"line 2: label is 0 \(in 2 rows\)"):
        read(path, labelled(1, unwanted, 1, unwanted), fields={"label": "label"})
    assert len(read(path, labelled(1, unwanted), fields={"label": ""})) == 2
    assert "label is 0" not in capsys.readouterr().err


def test_labels_that_are_missing_say_nothing(tmp_path, capsys):
    nan = float("nan")
    assert len(read(tmp_path / "a.jsonl", labelled(nan, 1.0, 0.0, None))) == 4
    assert "line 3: label is 0, read as a note" in capsys.readouterr().err
    contrast = [{**row, "prompt": "p"} for row in labelled(nan, 1.0, 0.0)]
    with pytest.raises(DatasetError, match=r"line 3: label is 0"):
        read(tmp_path / "a.jsonl", contrast)


def test_classes_are_no_verdicts(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    assert len(read(path, labelled(0, 1, 2))) == 3
    same_prompt = [{**row, "prompt": "p"} for row in labelled(0, 1, 2)]
    assert len(read(path, same_prompt)) == 3
    assert len(read(path, labelled(1, 1, 1))) == 3
    assert capsys.readouterr().err == ""


def test_a_tag_of_llama_factory_is_a_verdict(tmp_path):
    for tag in (False, 0, "false"):
        row = {"prompt": "p", "completion": "c", "kto_tag": tag}
        with pytest.raises(DatasetError, match=r"kto_tag is (0|false) .*rename the column"):
            read(tmp_path / "a.jsonl", [row])


def test_a_label_that_is_no_verdict_is_metadata(tmp_path):
    for label in ("positive", 0, 1, None):
        (sample,) = read(tmp_path / "a.jsonl", [{"prompt": "p", "completion": "c", "label": label}])
        assert sample.metadata.get("label") == label


def test_in_csv_a_verdict_is_a_word(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion", "label"], ["p", "c", "False"]])
    with pytest.raises(DatasetError, match="row 1: label is false"):
        load_samples("s", DataConfig(path=str(tmp_path / "a.csv")))
