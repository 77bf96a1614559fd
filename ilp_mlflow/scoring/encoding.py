"""What a model sees of a sample: token ids, where the completion starts, whether it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.core.values import Message, Sample, Text

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
    end_token_ids: frozenset[int],
    begun: Sequence[int] | None = None,
) -> Encoded:
    """Encode as `trl.SFTTrainer` does for training: the chat template for messages, text + end token otherwise.

    What a template adds behind the first end token of the completion is left out: a model that stops there never
    says it. `end_token_ids` are the ids that end a generation; `begun` is what `begin` says of the prompt, where that is known.
    """
    if isinstance(prompt, str):
        assert isinstance(completion, str)
        eos = tokenizer.eos_token or ""
        text = completion if eos and completion.endswith(eos) else completion + eos
        ids = tokenizer(prompt + text)["input_ids"]
    else:
        assert not isinstance(completion, str)
        ids = tokenizer.apply_chat_template(_turns(prompt + completion), return_dict=True)[
            "input_ids"
        ]
    before = encode_prompt(tokenizer, prompt) if begun is None else begun
    start = next(
        (i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b),
        min(len(before), len(ids)),
    )
    stop = next((i + 1 for i in range(start, len(ids)) if ids[i] in end_token_ids), None)
    return Encoded(list(ids[:stop]), start, stop is not None)


def check_encodable(tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample]) -> None:
    """Raise ModelError when the tokenizer cannot encode the form (text or messages) of the first of `samples`."""
    first = samples[0]
    if isinstance(first.prompt, str):
        if tokenizer.eos_token is None:
            raise ModelError("the model's tokenizer has no end token; set tokenizer.eos_token")
        return
    if tokenizer.chat_template is None:
        raise ModelError(
            f"sample '{first.id}' is a conversation, but the model has no chat template; set tokenizer.chat_template"
        )
    try:
        encode(tokenizer, first.prompt, first.completion, frozenset())
    except (ValueError, TypeError, TemplateError) as error:
        raise ModelError(
            f"sample '{first.id}': the chat template refuses it ({first_line(error)})"
        ) from None


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> list[int]:
    """Token ids of `prompt` up to where a completion begins."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    return list(
        tokenizer.apply_chat_template(_turns(prompt), add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
    )


def _turns(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [message.model_dump() for message in messages]
