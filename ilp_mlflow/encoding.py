"""What a model sees of a sample: token ids, where the completion starts, whether it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from ilp_mlflow.errors import ModelError, first_line
from ilp_mlflow.types import Message, Sample, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """One prompt with one completion as token ids."""

    ids: list[int]
    """Prompt, completion and its end token."""
    start: int
    """Index of the completion's first token."""
    ended: bool
    """The last id is an end token."""


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Text,
    completion: Text,
    ends: frozenset[int],
    begun: Sequence[int] | None = None,
) -> Encoded:
    """Encode as `trl.SFTTrainer` does for training: the chat template for messages, text + end token otherwise.

    What a template adds behind the first end token of the completion is left out: a model that stops there never
    says it. `ends` are the ids that end a generation; `begun` is what `begin` says of the prompt, where that is known.
    """
    if isinstance(prompt, str):
        assert isinstance(completion, str)
        eos = tokenizer.eos_token or ""
        text = completion if eos and completion.endswith(eos) else completion + eos
        ids = tokenizer(prompt + text)["input_ids"]
    else:
        assert not isinstance(completion, str)
        ids = tokenizer.apply_chat_template(_turns(prompt + completion), return_dict=True)["input_ids"]
    before = begin(tokenizer, prompt) if begun is None else begun
    start = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids)))
    stop = next((i + 1 for i in range(start, len(ids)) if ids[i] in ends), None)
    return Encoded(list(ids[:stop]), start, stop is not None)


def check(tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample]) -> None:
    """Raise ModelError when the tokenizer cannot encode the form (text or messages) of the first of `samples`."""
    first = samples[0]
    if isinstance(first.prompt, str):
        if tokenizer.eos_token is None:
            raise ModelError("the model's tokenizer has no end token; set tokenizer.eos_token")
        return
    if tokenizer.chat_template is None:
        raise ModelError(f"sample '{first.id}' is a conversation, but the model has no chat template; set tokenizer.chat_template")
    try:
        encode(tokenizer, first.prompt, first.completion, frozenset())
    except (ValueError, TypeError, TemplateError) as error:
        raise ModelError(f"sample '{first.id}': the chat template refuses it ({first_line(error)})") from None


def last_turn(text: Text) -> str:
    """What a prompt or a completion says last."""
    return text if isinstance(text, str) else text[-1].content


def reworded(text: Text, words: str) -> Text:
    """A prompt or a completion with other words in its last turn."""
    if isinstance(text, str):
        return words
    return (*text[:-1], Message(role=text[-1].role, content=words))


def begin(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> list[int]:
    """Token ids of `prompt` up to where a completion begins."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    return list(tokenizer.apply_chat_template(_turns(prompt), add_generation_prompt=True, return_dict=True)["input_ids"])


def blank(prompt: Text) -> Text:
    """`prompt` with nothing asked: no text, or the same turns with only the system's words left."""
    if isinstance(prompt, str):
        return ""
    return tuple(m if m.role == "system" else Message(role=m.role, content="") for m in prompt)


def _turns(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [message.model_dump() for message in messages]
