"""`ilp check`: rows, a model and a configuration, before anything is trained."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from ilp_mlflow.cli.check import _steps
from ilp_mlflow.cli.lab import OWN_EXPERIMENT
from ilp_mlflow.data.training_configs.setup import TrainingSetup
from tests.cli.commands import document, ilp
from tests.conftest import rows, write_jsonl

CHATS = [
    {
        "messages": [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"].strip()},
        ]
    }
    for row in rows()
]


MARKED = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}{% else %}"
    "{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TWO_TURNS = [{"messages": chat["messages"] * 2} for chat in CHATS]
SPLIT = [{"prompt": chat["messages"][:1], "completion": chat["messages"][1:]} for chat in CHATS]
TEXTS = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows()]
LONG_COMPLETIONS = [
    {"prompt": chat["messages"][:1], "completion": [chat["messages"][1], *chat["messages"]]}
    for chat in CHATS
]
WEIGHTED = [
    {"messages": [chat["messages"][0], {**chat["messages"][1], "weight": 0}]} for chat in CHATS
]
GIVEN = {
    "messages": TWO_TURNS,
    "split": SPLIT,
    "text": TEXTS,
    "several turns": LONG_COMPLETIONS,
    "weights": WEIGHTED,
}


@pytest.fixture
def data(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", rows())


def kinds(*arguments):
    return {finding["kind"] for finding in document("check", *arguments)["findings"]}


def config(folder, text, name="train.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_and_a_plain_model_are_checked_without_the_libraries_that_take_seconds(
    tmp_path, tiny_model
):
    rows_file = write_jsonl(tmp_path / "rows.jsonl", TEXTS)
    code = (
        "import sys\nfrom ilp_mlflow.cli import main\n"
        f"try: main(['check', '--data', {str(rows_file)!r}, '--model', {str(tiny_model)!r}])\n"
        "finally: print([m for m in ('peft', 'trl', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_rows_in_order_are_a_table_and_nothing_but_notes(tiny_model, data):
    code, text, err = ilp("check", "--data", data, "--model", tiny_model, "--strict")
    assert code == 0, err
    assert "8 rows" in text
    assert "tokens per row" in text
    assert "error" not in text
    assert "warning" not in text


def test_json_says_the_same(tiny_model, data):
    checked = document("check", "--data", data, "--model", tiny_model)
    assert checked["format"] == "ilp-check/1"
    assert checked["rows"] == 8
    in_loss = checked["tokens"]["in the loss"]
    assert 0 < in_loss["minimum"] <= in_loss["median"] <= in_loss["maximum"]
    assert [finding["kind"] for finding in checked["findings"]] == ["padding_is_the_end"]


def test_no_run_is_made(tiny_model, data, no_store):
    code, _, err = ilp("check", "--data", data, "--model", tiny_model)
    assert code == 0, err
    assert not no_store.exists()


def test_strict_is_exit_code_1_for_what_is_no_note(tiny_model, tmp_path):
    data = write_jsonl(tmp_path / "rows.jsonl", [{**row, "id": None} for row in rows() * 2])
    assert ilp("check", "--data", data, "--model", tiny_model)[0] == 0
    code, text, _ = ilp("check", "--data", data, "--model", tiny_model, "--strict")
    assert code == 1
    assert "8 of 16 rows (50 %): exact copies of an earlier row" in " ".join(text.split())


def test_a_configuration_names_model_and_rows(tiny_model, data, tmp_path):
    path = config(
        tmp_path, f"model_name_or_path: {tiny_model}\nmax_length: 3\ndataset_name: rows.jsonl\n"
    )
    checked = document("check", "--training", path)
    assert checked["rows"] == 8
    assert "a configuration of TRL, by max_length, dataset_name" in checked["setup"]["read_as"]
    assert "cut" in {finding["kind"] for finding in checked["findings"]}
    # the command line goes before it
    assert document("check", "--training", path, "--data", data, "--limit", 3)["rows"] == 3


def test_the_length_of_the_training_is_told_unless_rows_are_packed(tiny_model, data, tmp_path):
    text = "num_train_epochs: 2\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 2\n"
    path = config(tmp_path, f"model_name_or_path: {tiny_model}\n{text}")
    _, told, _ = ilp("check", "--data", data, "--training", path)
    assert "2 epochs of 2 steps, 4 rows a step, on one device" in told
    path = config(tmp_path, f"model_name_or_path: {tiny_model}\nmax_steps: 30\n{text}")
    _, told, _ = ilp("check", "--data", data, "--training", path)
    assert "30 steps, 4 rows a step, on one device: 15 epochs" in told
    path = config(tmp_path, f"model_name_or_path: {tiny_model}\npacking: true\n")
    _, told, _ = ilp("check", "--data", data, "--training", path)
    assert "packed: several rows share a sequence" in told


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        (8, {"epochs": 1.0}, "1 epoch of 1 step, 8 rows a step"),
        (491, {}, "3 epochs of 62 steps, 8 rows a step"),
        (20_000, {"epochs": 2.0}, "2 epochs of 2,500 steps, 8 rows a step"),
        # a step is never halved, so half an epoch of one step is a whole one
        (8, {"epochs": 0.5}, "1 epoch of 1 step, 8 rows a step"),
        (3, {"epochs": 0.01}, "1 epoch of 1 step, 3 rows a step"),
        (1, {"batch_size": 1, "epochs": 1.0}, "1 epoch of 1 step, 1 row a step"),
        (24, {"epochs": 0.5}, "2 steps, 8 rows a step, on one device: 0.667 epochs"),
        (24, {"epochs": 2.5}, "8 steps, 8 rows a step, on one device: 2.67 epochs"),
        (16, {"max_steps": 1}, "1 step, 8 rows a step, on one device: 0.5 epochs"),
        (16, {"epochs": 0.0}, "0 epochs of 2 steps, 8 rows a step"),
        (16, {"packing": True, "max_steps": 5}, "packed: several rows share a sequence"),
    ],
)
def test_the_steps_told_are_those_that_are_planned(rows, options, told):
    (line,) = _steps(TrainingSetup(**options), rows)
    assert line.startswith(told)


def test_an_experiment_file_is_a_configuration(experiment_file):
    first = document("check", "--training", experiment_file)
    second = document("check", "--training", f"{experiment_file}#second")
    assert first["rows"] == second["rows"] == 8
    assert "stage 'second'" in second["setup"]["read_as"]


def test_a_row_that_the_template_refuses_is_counted_with_its_words(tiny_model, tmp_path):
    template = config(
        tmp_path,
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "chat.jinja",
    )
    refused = {"messages": [{"role": "system", "content": "x"}, *CHATS[0]["messages"]]}
    data = write_jsonl(tmp_path / "chats.jsonl", [*CHATS, refused])
    options = ("--data", data, "--model", tiny_model, "--chat-template", template)
    (finding,) = (
        f for f in document("check", *options)["findings"] if f["kind"] == "template_refuses"
    )
    assert (finding["severity"], finding["rows"]) == ("error", 1)
    assert "chats.jsonl line 9 (sample 'data/9')" in finding["example"]
    assert "System role not supported" in finding["example"]


def test_trl_trains_all_of_a_conversation_unless_told_otherwise(tiny_model, tmp_path):
    data = write_jsonl(tmp_path / "chats.jsonl", CHATS)
    path = config(tmp_path, f"model_name_or_path: {tiny_model}\nmax_length: 90\n")
    assert "prompt_in_the_loss" in kinds("--data", data, "--training", path)
    assert "prompt_in_the_loss" not in kinds("--data", data, "--model", tiny_model)


def test_the_model_may_be_an_adapter_whose_new_tokens_were_not_trained(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapter = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    adapter.save_pretrained(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["<sql>"])
    tokenizer.save_pretrained(tmp_path / "adapter")
    told = [{**row, "completion": f" <sql>{row['completion']}"} for row in rows()]
    data = write_jsonl(tmp_path / "rows.jsonl", told)
    assert "untrained_tokens" in kinds("--data", data, "--model", tmp_path / "adapter")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--data: missing"),
        (["--data", "rows.jsonl"], "--model: missing"),
        (["--data", "none.jsonl", "--model", "x"], "none.jsonl: no such file"),
        (["--data", "rows.jsonl", "--model", "./none"], "./none"),
        (["--data", "rows.jsonl", "--model", "."], "no config.json; give a folder"),
        (["--training", OWN_EXPERIMENT], "the lab makes its model and rows when it runs"),
        (["--training", "none.yaml"], "none.yaml: No such file"),
        (["--data", "rows.jsonl", "--model", "x", "--fields", "quest=a"], "'quest' is no field"),
        (["--data", "rows.jsonl", "--model", "x", "--limit", "0"], "limit: input should be"),
        (["--data", "rows.jsonl", "--model", "x", "--chat-template", "no.jinja"], "no.jinja"),
    ],
)
def test_what_cannot_be_read_is_one_line(arguments, expected, data, monkeypatch):
    monkeypatch.chdir(data.parent)
    code, out, err = ilp("check", *arguments)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["eos_token", "pad_token"])
def test_a_token_that_the_model_does_not_have_is_refused(tiny_model, data, tmp_path, name):
    path = config(tmp_path, f"{name}: <none>\n")
    code, _, err = ilp("check", "--data", data, "--model", tiny_model, "--training", path)
    assert code == 2
    assert f"{name}: '<none>' is not in the vocabulary of " in err


def test_an_id_given_twice_is_refused_with_its_place(tiny_model, tmp_path):
    data = write_jsonl(tmp_path / "rows.jsonl", [rows()[0], rows()[0]])
    code, _, err = ilp("check", "--data", data, "--model", tiny_model)
    assert code == 2
    assert "line 2: id 'France' was given in" in err


@pytest.mark.slow
def test_a_plain_folder_is_checked_without_mlflow(tiny_model, data, tmp_path):
    code = (
        "import sys; from ilp_mlflow.cli import main\n"
        f"try: main(['check', '--data', {str(data)!r}, '--model', {str(tiny_model)!r}])\n"
        "except SystemExit: pass\n"
        "print('mlflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_data_sets_of_llama_factory_and_axolotl_are_found(tiny_model, data, tmp_path, monkeypatch):
    listed = {
        "facts": {
            "file_name": "rows.jsonl",
            "columns": {"prompt": "prompt", "response": "completion"},
        }
    }
    (tmp_path / "data").mkdir()
    shutil.copy(data, tmp_path / "data")
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(listed))
    monkeypatch.chdir(tmp_path)
    path = config(tmp_path, f"model_name_or_path: {tiny_model}\ndataset: facts\ntemplate: qwen\n")
    checked = document("check", "--training", path)
    assert "LLaMA-Factory" in checked["setup"]["read_as"]
    assert checked["rows"] == 8


SHAREGPT = [
    {
        "conversations": [
            {"from": "human", "value": row["prompt"]},
            {"from": "gpt", "value": row["completion"].strip()},
        ]
    }
    for row in rows()
]


def test_an_axolotl_file_with_its_own_rows_and_template(tiny_model, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "chats.jsonl", SHAREGPT)
    monkeypatch.chdir(tmp_path)
    text = (
        f"base_model: {tiny_model}\nsequence_len: 20\nchat_template: chatml\n"
        "datasets:\n- path: chats.jsonl\n  type: chat_template\n"
        "  field_messages: conversations\n"
        "  message_property_mappings: {role: from, content: value}\n"
        "adapter: lora\nlora_target_linear: true\n"
        "tokens: ['<|im_start|>']\nspecial_tokens: {eos_token: <|im_end|>}\n"
    )
    checked = document("check", "--training", config(tmp_path, text))
    found = {finding["kind"]: finding for finding in checked["findings"]}
    assert checked["rows"] == 8
    # ChatML was put in: its tokens are new, and the adapter trains none of them
    assert found["untrained_tokens"]["rows"] == 8
    assert "<|im_end|>, <|im_start|>" in found["untrained_tokens"]["sentence"]
    assert found["left_out"]["rows"] > 0
    # the end token of the configuration is one of the model, once it is trained
    assert "end_does_not_stop" not in found


def test_rows_that_are_given_stand_in_for_those_that_cannot_be_read(tiny_model, data, tmp_path):
    text = f"base_model: {tiny_model}\ndatasets:\n- {{path: none, type: alpaca_chat.load_qa}}\n"
    path = config(tmp_path, text)
    assert ilp("check", "--training", path)[0] == 2
    assert document("check", "--training", path, "--data", data)["rows"] == 8


def test_fields_that_the_template_leaves_out_are_named(tiny_model, tmp_path):
    reasoned = [
        {
            "messages": [
                chat["messages"][0],
                {**chat["messages"][1], "reasoning_content": "It is well known."},
            ]
        }
        for chat in CHATS
    ]
    data = write_jsonl(tmp_path / "chats.jsonl", reasoned)
    checked = document("check", "--data", data, "--model", tiny_model)
    (dropped,) = (f for f in checked["findings"] if f["kind"] == "template_drops")
    assert dropped["rows"] == 8
    assert "messages.reasoning_content is nowhere" in dropped["sentence"]
    assert "line 1 " in dropped["example"]


def test_earlier_turns_are_counted_where_the_template_marks_them(tiny_model, tmp_path):
    marked = config(tmp_path, MARKED, "chat.jinja")
    data = write_jsonl(tmp_path / "chats.jsonl", TWO_TURNS)
    given = ("check", "--data", data, "--model", tiny_model, "--chat-template", marked)
    last_turn = document(*given)
    path = config(tmp_path, "assistant_only_loss: true\n")
    all_turns = document(*given, "--training", path)
    medians = [checked["tokens"]["in the loss"]["median"] for checked in (last_turn, all_turns)]
    assert medians[1] == 2 * medians[0]


def test_llama_factory_cuts_conversations_turn_by_turn(tiny_model, tmp_path):
    long_first = [
        {"messages": [{**chat["messages"][0], "content": "one " * 40}, *chat["messages"][1:]]}
        for chat in TWO_TURNS
    ]
    data = write_jsonl(tmp_path / "chats.jsonl", long_first)
    sentences = []
    for options in ("", "mask_history: true\n"):
        path = config(tmp_path, f"stage: sft\ncutoff_len: 40\n{options}")
        checked = document("check", "--data", data, "--model", tiny_model, "--training", path)
        (cut,) = (f for f in checked["findings"] if f["kind"] == "cut")
        sentences.append(cut["sentence"])
    assert "8 lose the whole last answer" in sentences[0]
    assert "0 lose the whole last answer" in sentences[1]


def test_a_loss_on_completions_does_nothing_for_messages(tiny_model, tmp_path):
    data = write_jsonl(tmp_path / "chats.jsonl", TWO_TURNS)
    path = config(tmp_path, "completion_only_loss: true\n")
    checked = document("check", "--data", data, "--model", tiny_model, "--training", path)
    assert checked["tokens"]["share in the loss"]["minimum"] > 0.9
    (finding,) = (f for f in checked["findings"] if f["kind"] == "no_effect")
    assert "TRL trains every token" in finding["sentence"]


def test_rows_that_trl_does_not_read_are_an_error(tiny_model, tmp_path):
    data = write_jsonl(tmp_path / "a.jsonl", [{"instruction": "q", "output": "a"}])
    given = ("--data", data, "--model", tiny_model)
    assert "form_not_read" not in kinds(*given)
    path = config(tmp_path, "max_length: 64\n")
    assert "form_not_read" in kinds(*given, "--training", path)


def test_text_is_read_from_the_column_that_trl_is_told(tiny_model, tmp_path):
    records = [{"text": "one", "content": "one two three four five six seven"}]
    data = write_jsonl(tmp_path / "texts.jsonl", records)
    counts = []
    for text in ("max_length: 64\n", "dataset_text_field: content\n"):
        path = config(tmp_path, text)
        checked = document("check", "--data", data, "--model", tiny_model, "--training", path)
        counts.append(checked["tokens"]["row"]["median"])
    assert counts[1] > counts[0]


def test_a_template_that_renders_nothing_is_an_error_and_no_fault_of_ours(tiny_model, tmp_path):
    data = write_jsonl(tmp_path / "chats.jsonl", CHATS)
    empty = config(tmp_path, "", "empty.jinja")
    checked = document("check", "--data", data, "--model", tiny_model, "--chat-template", empty)
    (finding,) = (f for f in checked["findings"] if f["kind"] == "no_token_in_the_loss")
    assert "its answer has no token" in finding["example"]
    assert "chat template" in finding["change"]
    assert "cut-off" not in finding["change"]


def test_weights_of_0_are_a_note(tiny_model, tmp_path):
    unweighted = [
        {"messages": [chat["messages"][0], {**chat["messages"][1], "weight": 0}]} for chat in CHATS
    ]
    data = write_jsonl(tmp_path / "chats.jsonl", [*CHATS, *unweighted])
    assert "weight_0" in kinds("--data", data, "--model", tiny_model)


def test_plain_text_is_trained_whole(tiny_model, tmp_path):
    data = write_jsonl(tmp_path / "texts.jsonl", [{"text": r["prompt"]} for r in rows()])
    tokens = document("check", "--data", data, "--model", tiny_model)["tokens"]
    assert tokens["share in the loss"]["minimum"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"assistant_only_loss": True},
        {"completion_only_loss": False},
        {"completion_only_loss": True},
        {"assistant_only_loss": True, "completion_only_loss": False},
        {"max_length": 12},
        {"max_length": 12, "truncation_mode": "keep_end"},
    ],
    ids=lambda options: ",".join(options) or "defaults",
)
@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_as_many_tokens_are_in_the_loss_as_trl_has_of_the_same_file(
    tiny_model, tmp_path, given, options
):
    import datasets
    import yaml
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    if options.get("assistant_only_loss") and given is TEXTS:
        pytest.skip("TRL refuses it, and so do we")
    template = config(tmp_path, MARKED, "chat.jinja")
    data = write_jsonl(tmp_path / "rows.jsonl", given)
    path = config(tmp_path, yaml.safe_dump({"max_length": 90, **options}))
    checked = document(
        *("check", "--data", data, "--model", tiny_model, "--training", path),
        *("--chat-template", template),
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = MARKED
    args = SFTConfig(
        output_dir=str(tmp_path / "out"),
        report_to="none",
        bf16=False,
        **{"max_length": 90, **options},
    )
    trainer = SFTTrainer(
        model=str(tiny_model),
        args=args,
        train_dataset=datasets.Dataset.from_list(given),
        processing_class=tokenizer,
    )
    counts = []
    for row in trainer.train_dataset:
        # the first token of a row is predicted from nothing
        counts.append(sum(label != -100 for label in row["labels"][1:]))
    in_loss = checked["tokens"]["in the loss"]
    # rows without a token in the loss are dropped by TRL
    if len(counts) == len(given):
        assert in_loss["minimum"] == min(counts)
    assert in_loss["maximum"] == max(counts)


def test_rows_that_are_held_out_and_trained_are_told(tiny_model, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", TEXTS)
    new = {"prompt": "The capital of Spain is", "completion": " Madrid"}
    write_jsonl(tmp_path / "held.jsonl", [*TEXTS[:2], new])
    alpaca = [{"instruction": r["prompt"], "output": r["completion"]} for r in [*TEXTS, new]]
    write_jsonl(tmp_path / "train-alpaca.jsonl", alpaca[:-1])
    write_jsonl(tmp_path / "held-alpaca.jsonl", [*alpaca[:2], alpaca[-1]])
    ours = config(
        tmp_path,
        f"name: x\nmodel: {tiny_model}\nheld_out: held.jsonl\n"
        "stages: [{name: s, data: train.jsonl}]\n",
        "ours.yaml",
    )
    (tmp_path / "dataset_info.json").write_text(
        json.dumps(
            {
                name: {
                    "file_name": f"{name}.jsonl",
                    "columns": {"prompt": "prompt", "response": "completion"},
                }
                for name in ("train", "held")
            }
        )
    )
    factory = config(
        tmp_path,
        f"model_name_or_path: {tiny_model}\nstage: sft\ndataset: train\neval_dataset: held\n"
        f"dataset_dir: {tmp_path}\ncutoff_len: 64\nfinetuning_type: full\ntemplate: default\n",
        "factory.yaml",
    )
    axolotl = config(
        tmp_path,
        f"base_model: {tiny_model}\nsequence_len: 64\n"
        "datasets: [{path: train-alpaca.jsonl, type: alpaca}]\n"
        "test_datasets: [{path: held-alpaca.jsonl, type: alpaca}]\n",
        "axolotl.yaml",
    )
    for path in (ours, factory, axolotl):
        findings = document("check", "--training", path)["findings"]
        (found,) = [f for f in findings if f["kind"] == "held_out_trained"]
        assert found["sentence"].startswith("2 of 3 held-out rows are also trained"), path
    write_jsonl(tmp_path / "held.jsonl", [new])
    write_jsonl(tmp_path / "held-alpaca.jsonl", alpaca[-1:])
    for path in (ours, factory, axolotl):
        assert "held_out_trained" not in kinds("--training", path)
