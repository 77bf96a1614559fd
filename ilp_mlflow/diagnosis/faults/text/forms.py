"""Other forms in which a row may have been trained than the one it is asked in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ilp_mlflow.core.texts import Conversation, Message, Text, last_turn
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.formats.alpaca_prompt import WITHOUT_INPUT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
LLAMA_3 = (
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"
MISTRAL = "[INST] {} [/INST]"
LEADS = {" ": "a space", "\n": "a new line", "\n\n": "an empty line"}
"""What stands between a question and its answer in plain text."""
PROMPTS = {
    "in Alpaca's prompt": WITHOUT_INPUT.replace("{instruction}", "{}"),
    "as '### Instruction: ... ### Response:'": "### Instruction:\n{}\n\n### Response:\n",
    "as 'Q: ... A:'": "Q: {}\nA:",
    "as 'Question: ... Answer:'": "Question: {}\nAnswer:",
    "as 'User: ... Assistant:'": "User: {}\nAssistant:",
    "as '### Human: ... ### Assistant:'": "### Human: {}\n### Assistant:",
}
"""Prompts of plain text around a question."""
CHAT_PROMPTS = {
    "in ChatML": (CHATML, "<|im_start|>"),
    "in the chat format of Llama 3": (LLAMA_3, "<|start_header_id|>"),
    "in the chat format of Gemma": (GEMMA, "<start_of_turn>"),
    "in the chat format of Mistral": (MISTRAL, "[INST]"),
}
"""Prompts with control tokens, and one that a tokenizer must have for them."""


class Form(NamedTuple):
    """A row in another form."""

    name: str
    """The form, as one would say how a row is asked: `as plain text`."""
    prompt: Text
    """What the model is asked."""
    completion: Text
    """What it is to say."""


def other_forms(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> list[Form]:
    """A row in the forms in which others are trained, without its own.

    Of a conversation it is the last question and its answer that are put into other prompts; one
    with answers before is asked in other variants of its own template alone.
    """
    forms = [*_with_begin(sample, tokenizer)]
    if isinstance(sample.prompt, Conversation):
        forms += _of_conversation(sample, sample.prompt, tokenizer)
        has_answers = any(turn.role == "assistant" for turn in sample.prompt.turns)
        if has_answers:
            return forms
    elif tokenizer.chat_template and sample.prompt:
        turns = [Message(role="user", content=sample.prompt.strip())]
        answer = [Message(role="assistant", content=last_turn(sample.completion).strip())]
        forms.append(
            Form(
                "in the model's chat template",
                Conversation(turns=tuple(turns)),
                Conversation(turns=tuple(answer)),
            )
        )
    forms += _of_question(sample, tokenizer)
    own = sample.prompt, sample.completion
    return [form for form in forms if (form.prompt, form.completion) != own]


def _with_begin(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> Iterator[Form]:
    """Plain text with the token in front that begins texts, where the tokenizer puts none there."""
    begin = tokenizer.bos_token
    if not begin or not isinstance(sample.prompt, str):
        return
    if tokenizer(sample.prompt)["input_ids"][:1] != [tokenizer.bos_token_id]:
        yield Form(f"with {begin} in front", begin + sample.prompt, sample.completion)


def _of_conversation(
    sample: Sample, prompt: Conversation, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Form]:
    """A conversation in variants of its own template: without a system prompt, or with thinking."""
    without_system = tuple(turn for turn in prompt.turns if turn.role != "system")
    if without_system and len(without_system) < len(prompt.turns):
        yield Form(
            "without their system turn", prompt.with_turns(without_system), sample.completion
        )
    else:
        system = Message(role="system", content="")
        turns = (system, *prompt.turns)
        yield Form("with an empty system turn", prompt.with_turns(turns), sample.completion)
    if "enable_thinking" in str(tokenizer.chat_template):
        for value in (True, False):
            options = {**prompt.template_kwargs, "enable_thinking": value}
            yield Form(
                f"with enable_thinking {str(value).lower()}",
                prompt.model_copy(update={"template_kwargs": options}),
                sample.completion,
            )


def _of_question(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> Iterator[Form]:
    """The last question with its answer as plain text, and in prompts that are in use."""
    question, answer = last_turn(sample.prompt).strip(), last_turn(sample.completion).strip()
    for lead, name in LEADS.items():
        yield Form(f"as plain text with {name} before the answer", question, lead + answer)
    for name, prompt in PROMPTS.items():
        lead = "" if prompt.endswith("\n") else " "
        yield Form(name, prompt.replace("{}", question), lead + answer)
    vocabulary = tokenizer.get_vocab()
    for name, (prompt, needed) in CHAT_PROMPTS.items():
        if needed in vocabulary:
            lead = " " if prompt.endswith("]") else ""
            yield Form(name, prompt.replace("{}", question), lead + answer)
