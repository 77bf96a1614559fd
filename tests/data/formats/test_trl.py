import pytest
from trl import maybe_convert_to_chatml

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.data.formats.names import Names
from ilp_mlflow.data.formats.trl import convert

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "completion": "c"},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"messages": TURNS, "n": 3},
        {"text": "t"},
        {"messages": [TURNS[0], {**TURNS[1], "weight": 0, "reasoning_content": "r", "name": "n"}]},
    ],
)
def test_what_trl_takes_stays_as_it_is(row):
    assert convert(row, "here", Names()) == row


@pytest.mark.parametrize("name", ["messages", "prompt"])
def test_old_keys_are_renamed_as_trl_does(name):
    row = {name: [{"from": "user", "value": "q", "weight": 1}, {"from": "assistant", "value": "a"}]}
    given = [dict(turn) for turn in row[name]]
    assert convert(row, "here", Names()) == maybe_convert_to_chatml({name: given})


def test_turns_and_roles_may_have_other_names():
    names = Names({"role": "who", "content": "said"}, {"customer": "user", "agent": "assistant"})
    row = {"messages": [{"who": "customer", "said": "q"}, {"who": "agent", "said": "a"}]}
    assert convert(row, "here", names)["messages"] == TURNS


def test_what_is_no_conversation_is_left_to_whoever_makes_samples():
    for value in (3, [1], ["x"], {"a": 1}):
        assert convert({"messages": value}, "here", Names())["messages"] == value


def test_tools_are_objects():
    with pytest.raises(DatasetError, match="here: tools must be a list of objects"):
        convert({"messages": TURNS, "tools": ["f"]}, "here", Names())


@pytest.mark.parametrize("said", [{"weight": 0.5}, {"weight": "0"}, {"loss_weight": 2}])
def test_a_weight_that_is_neither_0_nor_1_is_refused(said):
    row = {"messages": [TURNS[0], {**TURNS[1], **said}]}
    with pytest.raises(DatasetError, match=r"here: messages\[1\]: weight .* neither 0 nor 1"):
        convert(row, "here", Names())


@pytest.mark.parametrize(
    "said",
    [{"loss": False}, {"loss_weight": 0}, {"weight": 0}, {"train": False}, {"training": 0}],
)
def test_what_keeps_a_turn_out_of_the_loss_is_its_weight(said):
    row = {"messages": [TURNS[0], {**TURNS[1], **said}]}
    assert convert(row, "here", Names())["messages"][1] == {**TURNS[1], "weight": 0}


def test_a_word_is_no_answer_to_whether_a_turn_is_trained():
    row = {"messages": [TURNS[0], {**TURNS[1], "training": "warm-up"}]}
    assert convert(row, "here", Names())["messages"] == row["messages"]


def test_parts_of_text_are_one_text():
    for parts in (["a", "b"], [{"type": "text", "value": "a"}, {"type": "text", "text": "b"}]):
        row = {"prompt": [{"role": "user", "content": parts}], "completion": TURNS[1:]}
        assert convert(row, "here", Names())["prompt"] == [{"role": "user", "content": "ab"}]


@pytest.mark.parametrize("flag", ["false", "True"])
def test_a_flag_that_is_text_is_refused(flag):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "train": flag}]
    with pytest.raises(DatasetError, match=rf"messages\[1\]: train is the text .{flag}."):
        convert({"messages": turns}, "here", Names())


@pytest.mark.parametrize(
    "flags",
    [{"weight": None, "train": False}, {"weight": 0, "train": False}, {"train": 0, "loss": 0}],
)
def test_flags_that_agree_or_are_null_are_one_weight(flags):
    turns = [TURNS[0], {**TURNS[1], **flags}]
    found = convert({"messages": turns}, "here", Names())["messages"]
    assert found == [TURNS[0], {**TURNS[1], "weight": 0}]


@pytest.mark.parametrize("flags", [{"weight": 1, "train": False}, {"loss": 0, "training": True}])
def test_flags_that_disagree_are_refused(flags):
    turns = [TURNS[0], {**TURNS[1], **flags}]
    with pytest.raises(DatasetError, match=r"here: messages\[1\]: weight \d and \w+ .*disagree"):
        convert({"messages": turns}, "here", Names())
