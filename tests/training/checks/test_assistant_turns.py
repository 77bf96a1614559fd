"""A loss on the assistant's turns, where it is known which they are and where not."""

import types

import pytest
from transformers import AutoTokenizer

from ilp_mlflow.data.training_configs.setup import TrainingSetup
from ilp_mlflow.training.checks.assistant_turns import check_assistant_turns, countable
from tests.training.checks.accounts import chat_row, kinds, row

MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = [chat_row(1, "Who?", "I", "You?", "No").sample]


@pytest.fixture
def tokenization(tiny_model):
    return types.SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(tiny_model))


def setup(trainer="TRL", loss_on="assistant turns"):
    return TrainingSetup(trainer=trainer, loss_on=loss_on)


def test_marked_turns_are_counted(tokenization):
    tokenization.tokenizer.chat_template = MARKED
    assert check_assistant_turns(CHAT, setup(), tokenization) == []
    assert countable(setup(), CHAT, tokenization).loss_on == "assistant turns"


def test_trl_refuses_a_template_without_markers(tokenization):
    found = check_assistant_turns(CHAT, setup(), tokenization)
    assert kinds(found) == [("no_generation_markers", "error", 0)]
    assert countable(setup(), CHAT, tokenization).loss_on == "answer"


def test_trl_refuses_text(tokenization):
    found = check_assistant_turns([row(1).sample], setup(), tokenization)
    assert kinds(found) == [("no_conversations", "error", 0)]


def test_others_need_no_markers_and_say_what_is_not_counted(tokenization):
    found = check_assistant_turns(CHAT, setup("axolotl"), tokenization)
    assert kinds(found) == [("not_read", "note", 0)]
    alone = [chat_row(1, "Who?", "I").sample]
    assert check_assistant_turns(alone, setup("axolotl"), tokenization) == []
    assert check_assistant_turns([row(1).sample], setup("axolotl"), tokenization) == []


def test_any_other_loss_needs_no_markers(tokenization):
    assert check_assistant_turns(CHAT, setup(loss_on="answer"), tokenization) == []
    assert countable(setup(loss_on="everything"), CHAT, tokenization).loss_on == "everything"
