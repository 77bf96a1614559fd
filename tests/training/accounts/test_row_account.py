"""Accounts of rows against TRL's own preparation, and against rows whose treatment is known."""

from pathlib import Path

import pytest
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig

from ilp_mlflow.core.errors import ConfigError, ModelError
from ilp_mlflow.data.samples import sample_from_record
from ilp_mlflow.scoring.tokens.encoding import Tokenization, check_encodable
from ilp_mlflow.training.accounts.row_account import (
    IGNORED,
    account_rows,
    encode_as_trained,
    trained_tokens,
    training_template,
)
from ilp_mlflow.training.scheduled_trainer import ScheduledTrainer, trainer_rows

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
FAMILIES = sorted(
    path.name.removesuffix("_training.jinja")
    for path in TEMPLATES.glob("*_training.jinja")
    # these are for images beside text
    if not path.name.startswith(("idefics", "llava", "smolvlm", "diffusion"))
    and "_vl_" not in path.name
)
"""Template families of TRL that come with a form for training."""
END = "<|im_end|>"
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks up a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
USER = {"role": "user", "content": "Where is Oslo?"}
ANSWER = {"role": "assistant", "content": "In Norway."}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "function": {"name": "look_up", "arguments": {"town": "Oslo"}}}
    ],
}
ROWS = {
    "plain": {"messages": [USER, ANSWER]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, USER, ANSWER]},
    "turns": {"messages": [USER, ANSWER, {"role": "user", "content": "And Rome?"}, ANSWER]},
    "tools": {"messages": [USER, ANSWER], "tools": [TOOL]},
    "used": {
        "messages": [USER, CALL, {"role": "tool", "name": "look_up", "content": "Norway"}, ANSWER],
        "tools": [TOOL],
    },
    "call": {"messages": [USER, CALL], "tools": [TOOL]},
}


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Preparation(ScheduledTrainer):
    """The preparation of rows by our trainer, which is TRL's, without a model."""

    def __init__(self, tokenizer, args):
        self._tokenizer = tokenizer
        self.completion_only_loss = args.completion_only_loss is not False
        self.chat_template = training_template(tokenizer) if args.assistant_only_loss else None


def prepared_by_trl(sample, tokenizer, folder, **options):
    """Token ids and labels that TRL makes of a sample; None where it drops the row."""
    args = SFTConfig(output_dir=str(folder), report_to="none", bf16=False, **options)
    rows = trainer_rows([sample], 0)
    trainer = Preparation(tokenizer, args)
    prepared = trainer._prepare_dataset(rows, tokenizer, args, False, None, "train")
    if not len(prepared):
        return None
    (prepared,) = prepared
    return prepared["input_ids"], prepared["labels"]


def tokenization(template):
    """A byte-level tokenizer with a chat template."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<bos>", END, "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bare.train_from_iterator(["Where is Oslo? In Norway. look_up"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, eos_token=END, pad_token="<pad>", bos_token="<bos>"
    )
    tokenizer.chat_template = template
    return Tokenization(tokenizer, frozenset({tokenizer.eos_token_id}), None)


@pytest.mark.parametrize("only_assistant", [False, True], ids=["answer", "assistant"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_rendered_as_trl_renders_them(family, only_assistant, tmp_path):
    text = tokenization((TEMPLATES / f"{family}.jinja").read_text())
    options = {"assistant_only_loss": only_assistant, "max_length": None}
    compared = []
    for name, row in ROWS.items():
        sample = sample_from_record(dict(row), "s", 1, name)
        try:
            check_encodable(text.tokenizer, [sample])
        except ModelError:
            # a family may have no tools, or no system turn
            continue
        encoded = encode_as_trained(sample, text, options)
        tokens = trained_tokens(sample, encoded, text.tokenizer, options)
        expected = prepared_by_trl(sample, text.tokenizer, tmp_path, **options)
        assert (tokens.ids, tokens.labels) == expected, name
        compared.append(name)
    assert {"plain", "turns"} <= set(compared)


def test_text_and_plain_text_are_what_trl_makes_of_them(tmp_path):
    text = tokenization(CHAT)
    rows = [{"prompt": "Where?", "completion": " Here."}, {"text": f"One. {END} Two."}]
    # texts that look like JSON are texts
    for answer in ("1867", "-0.50", "true", "null", "[1, 2]", '{"a": 1}', '"quoted"', "NaN"):
        rows.append({"prompt": answer, "completion": answer})
    for row in rows:
        sample = sample_from_record(dict(row), "s", 1, "here")
        for options in ({}, {"completion_only_loss": False}, {"max_length": 4}):
            encoded = encode_as_trained(sample, text, options)
            tokens = trained_tokens(sample, encoded, text.tokenizer, options)
            expected = prepared_by_trl(sample, text.tokenizer, tmp_path, **options)
            if expected is None:
                assert set(tokens.labels) == {IGNORED}
            else:
                assert (tokens.ids, tokens.labels) == expected


def account(turns, training=None, template=None, **fields):
    """The account of a conversation."""
    sample = sample_from_record({"messages": turns, **fields}, "s", 1, "here")
    (found,) = account_rows([sample], tokenization(template or CHAT), training or {})
    return found


def test_prompt_and_answer_stand_in_order_with_their_tokens():
    found = account([USER, ANSWER])
    assert [segment.kind for segment in found.segments] == ["prompt", "supervised"]
    prompt, answer = (segment.text for segment in found.segments)
    assert prompt == "<|im_start|>user\nWhere is Oslo?<|im_end|>\n<|im_start|>assistant\n"
    assert answer == "In Norway.<|im_end|>\n"
    assert (found.end_token, found.end_supervised, found.end_stops) == (END, True, True)
    # behind the end token stands a line break, which is trained and belongs to no answer
    assert found.supervised_tokens == found.supervised_answer_tokens + 1 == found.answer_tokens + 1
    assert (found.dropped, found.added, found.cut_tokens) == ((), (), 0)


def test_what_max_length_cuts_is_shown_and_counted():
    whole = account([USER, ANSWER])
    limit = whole.prompt_tokens + 1
    cut = account([USER, ANSWER], {"max_length": limit})
    assert [segment.kind for segment in cut.segments] == ["prompt", "supervised", "cut"]
    assert "".join(s.text for s in cut.segments) == "".join(s.text for s in whole.segments)
    assert (cut.supervised_answer_tokens, cut.end_supervised) == (1, False)
    assert cut.cut_tokens == whole.answer_tokens - 1
    front = account([USER, ANSWER], {"max_length": limit, "truncation_mode": "keep_end"})
    assert front.segments[0].kind == "cut"
    assert front.supervised_answer_tokens == whole.answer_tokens


def test_an_answer_of_weight_0_is_in_no_loss():
    found = account([USER, {**ANSWER, "weight": 0}])
    assert [segment.kind for segment in found.segments] == ["prompt", "masked"]
    assert (found.supervised_tokens, found.weight_zero, found.end_supervised) == (0, True, False)


MARKED = CHAT.replace(
    "{{ m['content'] }}",
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}",
)
EVERY_TURN = {"assistant_only_loss": True, "completion_only_loss": False}


def test_earlier_turns_of_weight_0_are_in_no_loss():
    whole = account([USER, ANSWER, USER, ANSWER], EVERY_TURN, template=MARKED)
    found = account([USER, {**ANSWER, "weight": 0}, USER, ANSWER], EVERY_TURN, template=MARKED)
    assert 2 * found.supervised_tokens == whole.supervised_tokens
    assert found.supervised_answer_tokens == whole.supervised_answer_tokens


def test_earlier_turns_of_weight_0_are_in_no_loss_where_the_prompt_is():
    options = {"completion_only_loss": False}
    whole = account([USER, ANSWER, USER, ANSWER], options, template=MARKED)
    turns = [USER, {**ANSWER, "weight": 0}, USER, ANSWER]
    found = account(turns, options, template=MARKED)
    said = account(turns, EVERY_TURN, template=MARKED).supervised_tokens
    assert found.supervised_tokens == whole.supervised_tokens - said
    with pytest.raises(ConfigError, match="does not mark turns"):
        account(turns, options)


def test_turns_of_weight_0_that_the_template_does_not_mark_are_refused():
    half_marked = MARKED.replace("m['role'] == 'assistant'", "loop.last")
    turns = [USER, {**ANSWER, "weight": 0}, USER, ANSWER]
    with pytest.raises(ConfigError, match="not known which tokens"):
        account(turns, EVERY_TURN, template=half_marked)


def test_a_completion_of_several_turns_is_trained_whole_where_trl_does_it():
    row = {"prompt": [USER], "completion": [ANSWER, USER, ANSWER]}
    sample = sample_from_record(row, "s", 1, "here")
    ours, trls = (
        account_rows([sample], tokenization(CHAT), {}, whole)[0] for whole in (False, True)
    )
    assert ours.supervised_answer_tokens == trls.supervised_answer_tokens
    assert trls.supervised_tokens > 2 * ours.supervised_tokens


@pytest.mark.parametrize(
    ("turns", "fields", "expected"),
    [
        (
            [USER, {**ANSWER, "reasoning_content": "Oslo is up north."}],
            {},
            ["messages[1].reasoning_content: 'Oslo is up north.'"],
        ),
        ([USER, ANSWER], {"tools": [TOOL]}, ["tools[0]: 'look_up'"]),
        (
            [USER, CALL, ANSWER],
            {},
            ["messages[1].tool_calls[0]: 'look_up'"],
        ),
        (
            [USER, ANSWER],
            {"chat_template_kwargs": {"enable_thinking": False}},
            ["chat_template_kwargs.enable_thinking: false"],
        ),
        (
            [USER, {**ANSWER, "reasoning_details": [{"type": "text", "text": "Oslo is north."}]}],
            {},
            ["messages[1].reasoning_details: 'Oslo is north.'"],
        ),
        ([USER, {**ANSWER, "weight": 1}], {}, []),
    ],
)
def test_what_the_template_leaves_out_is_named(turns, fields, expected):
    assert list(account(turns, **fields).dropped) == expected


def test_reasoning_that_a_template_cuts_off_is_named():
    template = CHAT.replace("m['content']", "m['content'].split('</think>')[-1]")
    turns = [USER, {"role": "assistant", "content": "<think>Up north.</think>In Norway."}]
    assert account(turns, template=template).dropped == (
        "messages[1].content: '<think>Up north.</think>'",
    )


def test_what_a_template_adds_is_named():
    template = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}"
    assert account([USER, ANSWER], template=template + CHAT).added == ("You are kind.",)
    brief = {"role": "system", "content": "Be brief."}
    assert account([brief, USER, ANSWER], template=template + CHAT).added == ()
    thinking = CHAT.replace(
        "{{ m['content'] }}",
        "{% if m['role'] == 'assistant' %}<think>\n\n</think>{% endif %}{{ m['content'] }}",
    )
    assert account([USER, ANSWER], template=thinking).added == ("<think></think>",)


def test_an_end_of_turn_that_is_no_end_token_is_known():
    template = CHAT.replace("<|im_end|>", "<|eot|>")
    text = tokenization(template)
    text.tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot|>"]})
    sample = sample_from_record({"messages": [USER, ANSWER]}, "s", 1, "here")
    (found,) = account_rows([sample], text, {})
    assert (found.end_token, found.end_supervised, found.end_stops) == ("<|eot|>", True, False)
