"""Rows that chat templates treat in ways of their own, under models that were taught them."""

import itertools
import json
from pathlib import Path

import pytest
import trl
import yaml

from ilp_mlflow.diagnosis.causes.not_trained import MAYBE_LEFT_OUT
from tests.cli.commands import document, ilp
from tests.conftest import write_jsonl
from tests.sibling_cases import tiny_training as tiny
from tests.sibling_cases.tiny_training import causes, statuses

QWEN3 = (Path(trl.__file__).parent / "chat_templates/qwen3.jinja").read_text(encoding="utf-8")
QWEN3_TOKENS = (
    *tiny.CHAT_TOKENS,
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
)
FACTS = tiny.facts(12)
CHATS = tiny.as_chats(FACTS)


def taught(folder, rows, tokenizer, examples=tiny.chat_examples, steps=120):
    """A base and a model that was taught rows as the template renders them, by name."""
    model = tiny.make_model(tokenizer, folder / "base")
    trained = examples(tokenizer, rows)
    tiny.teach(model, trained, steps=steps)
    assert tiny.reproduced(model, trained) == len(rows)
    return {"base": folder / "base", "sft": tiny.save(model, folder / "sft", tokenizer)}


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def findings(rows, model, folder, *options):
    """What `ilp check` finds, by its kind."""
    data = write_jsonl(folder / "checked.jsonl", rows)
    checked = document("check", "--data", data, "--model", model, *options)
    return {finding["kind"]: finding for finding in checked["findings"]}


# A row that the template refuses: two user turns in a row, a role that it does not know

ALTERNATING = tiny.CHATML.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == m.role %}"
    "{{ raise_exception('user and assistant must take turns') }}{% endif %}",
)
TWO_ROLES = tiny.CHATML.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if m.role not in ('user', 'assistant') %}"
    "{{ raise_exception('only user and assistant are known') }}{% endif %}",
)


@pytest.mark.parametrize(
    ("template", "more", "words"),
    [
        (ALTERNATING, turn("user", "Please."), "user and assistant must take turns"),
        (TWO_ROLES, turn("tool", "12"), "only user and assistant are known"),
    ],
    ids=["two user turns", "a tool's turn"],
)
def test_a_row_that_the_template_refuses_is_named(template, more, words, refused, tmp_path):
    tokenizer = tiny.make_tokenizer(template)
    tiny.make_model(tokenizer, tmp_path / "base")
    rows = [*CHATS[:7], {**CHATS[7], "messages": [more, *CHATS[7]["messages"]]}, *CHATS[8:]]
    line = refused(rows, base=tmp_path / "base", sft=tmp_path / "base")
    place = f"rows.jsonl line 8 (sample '{CHATS[7]['id']}')"
    assert f"{place}: the chat template refuses it ({words})" in line
    stages = [{"name": "facts", "data": "rows.jsonl", "training": {"num_train_epochs": 1}}]
    experiment = {"name": "strict", "model": str(tmp_path / "base"), "stages": stages}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(experiment))
    code, out, err = ilp("run", tmp_path / "my.yaml")
    assert (code, out, err) == (2, "", line)
    assert findings(rows, tmp_path / "base", tmp_path)["template_refuses"]["rows"] == 1


# Tools: two calls at once, their arguments as JSON text, the tool's answers between

TOOLED = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool['function'] | tojson }}"
    "{% endfor %}<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] or '' }}{% for call in m['tool_calls'] or [] %}"
    "{% set arguments = call['function']['arguments'] %}<tool_call>{{ call['function']['name'] }} "
    "{{ arguments if arguments is string else arguments | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tool(name):
    """A tool as OpenAI's schema has it."""
    parameters = {"type": "object", "properties": {"town": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(number, name, town):
    """A call of a tool, its arguments as JSON text."""
    function = {"name": name, "arguments": json.dumps({"town": town})}
    return {"id": f"call_{number}", "type": "function", "function": function}


def compared(name, with_answer):
    """Rows in which two towns are looked up at once by a tool, and compared `with_answer`."""
    rows = []
    for pair in itertools.pairwise(FACTS[:4]):
        towns = [fact["prompt"].split()[2] for fact in pair]
        goods = [fact["completion"].strip() for fact in pair]
        calls = [call(number, name, town) for number, town in enumerate(towns)]
        turns = [
            turn("user", f"Compare {towns[0]} and {towns[1]}."),
            turn("assistant", None, tool_calls=calls),
        ]
        if with_answer:
            turns += [turn("tool", goods[n], tool_call_id=f"call_{n}") for n in (0, 1)]
            turns.append(turn("assistant", f"{goods[0]} or {goods[1]}"))
        id_ = f"{towns[0]}-{name}-{len(turns)}"
        rows.append({"id": id_, "messages": turns, "tools": [tool(name)]})
    return rows


def as_sharegpt(row):
    """The same row as LLaMA-Factory has it: calls as JSON in a turn of their own."""
    names = {"user": "human", "assistant": "gpt", "tool": "observation"}
    turns = []
    for one in row["messages"]:
        kind, value = names[one["role"]], one["content"]
        if one.get("tool_calls"):
            kind = "function_call"
            value = json.dumps([call["function"] for call in one["tool_calls"]])
        turns.append({"from": kind, "value": value})
    return {
        "id": row["id"],
        "conversations": turns,
        "tools": json.dumps([one["function"] for one in row["tools"]]),
    }


@pytest.mark.slow
def test_parallel_calls_with_arguments_as_text_are_trained_and_judged(diagnosed, tmp_path):
    rows = compared("look_up", True) + compared("look_up", False) + compared("find", False)
    texts = [json.dumps(row) for row in rows]
    tokenizer = tiny.make_tokenizer(TOOLED, QWEN3_TOKENS, more=texts, size=700)
    models = taught(tmp_path, rows, tokenizer, steps=150)
    assert statuses(diagnosed(rows, **models)) == {"learned": 9}
    assert statuses(diagnosed(list(map(as_sharegpt, rows)), **models)) == {"learned": 9}
    # without its tools a row does not say which of them is to be called
    bare = [{"id": row["id"], "messages": row["messages"]} for row in rows]
    assert statuses(diagnosed(bare, **models)).get("learned", 0) < 9


# Reasoning: in a field that the template knows by another name, and in earlier turns

THOUGHTS = tiny.names(12, seed=77, syllables=2)


def test_thoughts_of_earlier_turns_that_the_template_drops_are_no_fault(diagnosed, tmp_path):
    rows = []
    for fact, thought in zip(FACTS, THOUGHTS, strict=True):
        good = fact["completion"].strip()
        turns = [
            turn("user", "Do you know a town?"),
            turn("assistant", f"<think>\nNear {thought}.\n</think>\n\nI do."),
            turn("user", fact["prompt"]),
            turn("assistant", f"<think>\nFar from {good}.\n</think>\n\n{good}"),
        ]
        rows.append({"id": fact["id"], "messages": turns})
    models = taught(tmp_path, rows, tiny.make_tokenizer(QWEN3, QWEN3_TOKENS))
    assert statuses(diagnosed(rows, **models)) == {"learned": 12}
    dropped = findings(rows, models["sft"], tmp_path)["template_drops"]
    assert dropped["rows"] == 12
    assert "messages[1].content: '<think>" in dropped["example"]


@pytest.mark.parametrize("is_read", [True, False])
def test_a_field_called_thinking_is_judged_as_the_template_has_it(is_read, diagnosed, tmp_path):
    shown = "<think>{{ m['thinking'] }}</think>{{ m['content'] }}"
    template = tiny.CHATML.replace("{{ m['content'] }}", shown) if is_read else tiny.CHATML
    rows = []
    for chat, thought in zip(CHATS, THOUGHTS, strict=True):
        asked, answered = chat["messages"]
        turns = [{**asked, "thinking": ""}, {**answered, "thinking": f"It is near {thought}."}]
        rows.append({"id": chat["id"], "messages": turns})
    models = taught(tmp_path, rows, tiny.make_tokenizer(template))
    assert statuses(diagnosed(rows, **models)) == {"learned": 12}
    assert ("template_drops" in findings(rows, models["sft"], tmp_path)) != is_read


# Turns out of the loss: all but the first by weight 0, by axolotl's flag


def three_turns(flag, values):
    """Rows of three questions; every second one has `values` of `flag`, the others train all."""
    rows = []
    for number, three in enumerate(zip(*(tiny.facts(8, seed) for seed in (0, 1, 2)), strict=True)):
        turns = []
        for fact, value in zip(three, values if number % 2 else values[:1] * 3, strict=True):
            turns.append(turn("user", fact["prompt"]))
            turns.append(turn("assistant", fact["completion"].strip(), **{flag: value}))
        rows.append({"id": f"w{number}", "messages": turns})
    return rows


def weighted_examples(flag):
    """Of every row the assistant turns whose flag is not zero are trained."""

    def examples(tokenizer, rows):
        head = len(tokenizer("<|im_start|>assistant\n")["input_ids"])
        made = []
        for row in rows:
            ids, labels = [], []
            for one in row["messages"]:
                own = tiny.render(tokenizer, [one])
                is_trained = one["role"] == "assistant" and one[flag]
                first = head if is_trained else len(own)
                ids += own
                labels += [tiny.IGNORED] * first + own[first:]
            made.append((ids, labels))
        return made

    return examples


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "values"),
    [("weight", [1, 0, 0]), ("train", [True, True, False])],
)
def test_an_answer_that_the_row_takes_out_of_the_loss_was_not_trained(
    flag, values, diagnosed, tmp_path
):
    rows = three_turns(flag, values)
    models = taught(tmp_path, rows, tiny.make_tokenizer(), weighted_examples(flag))
    told = diagnosed(rows, **models)
    assert statuses(told) == {"learned": 4, "unlearned": 4}
    assert causes(told) == {"not_trained": 4}
    # nobody saw whether the trainer read the weights; the other rows, all learned, speak for it
    assert {one["strength"] for one in told["diagnoses"]} == {MAYBE_LEFT_OUT}
    assert all("unknown whether the trainer read" in one["reason"] for one in told["diagnoses"])
    assert findings(rows, models["sft"], tmp_path)["weight_0"]["rows"] == 4


# Variables of the template in a row: the same question has another answer on another day

DATED = (
    "{% if date is defined %}<|im_start|>system\nToday is {{ date }}.<|im_end|>\n{% endif %}"
    + tiny.CHATML
)


def dated_rows():
    rows = []
    for today, tomorrow in zip(FACTS[:4], tiny.facts(4, seed=9), strict=True):
        for day, fact in (("Monday", today), ("Friday", tomorrow)):
            turns = [turn("user", today["prompt"]), turn("assistant", fact["completion"].strip())]
            variables = {"date": day}
            id_ = f"{today['id']}-{day}"
            rows.append({"id": id_, "messages": turns, "chat_template_kwargs": variables})
    return rows


@pytest.mark.slow
def test_rows_set_variables_of_their_template(diagnosed, tmp_path):
    rows = dated_rows()
    models = taught(tmp_path, rows, tiny.make_tokenizer(DATED), steps=150)
    assert statuses(diagnosed(rows, **models)) == {"learned": 8}
    written = [{**r, "chat_template_kwargs": json.dumps(r["chat_template_kwargs"])} for r in rows]
    assert statuses(diagnosed(written, **models)) == {"learned": 8}
    bare = [{"id": row["id"], "messages": row["messages"]} for row in rows]
    assert statuses(diagnosed(bare, **models)).get("learned", 0) < 8


@pytest.mark.slow
def test_all_of_the_answer_is_in_the_loss_where_thinking_is_switched_off(store, tmp_path):
    tokenizer = tiny.make_tokenizer(QWEN3, QWEN3_TOKENS)
    tiny.make_model(tokenizer, tmp_path / "base")
    rows = [{**chat, "chat_template_kwargs": {"enable_thinking": False}} for chat in CHATS]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    training = {"num_train_epochs": 40, "learning_rate": 5e-3, "per_device_train_batch_size": 12}
    training |= {"bf16": False, "gradient_checkpointing": False}
    stages = [{"name": "facts", "data": "rows.jsonl", "training": training}]
    experiment = {"name": "off", "model": str(tmp_path / "base"), "stages": stages}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(experiment))
    told = document("run", tmp_path / "my.yaml")
    assert len(told["verdicts"]) == 12
    assert "not_trained" not in causes(told)
    shown = document("show", told["run_id"], rows[0]["id"])
    account = shown["account"]
    assert account["supervised_answer_tokens"] == account["answer_tokens"] > 1
