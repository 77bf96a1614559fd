"""From text to token ids: tokenizers with the options of an experiment, and samples encoded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ilp_mlflow.core.config import TokenizerConfig
from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.core.lfs_pointers import FAULT, is_lfs_pointer
from ilp_mlflow.core.texts import Conversation, Text, asks_nothing
from ilp_mlflow.core.values import Sample

VARIABLES_END = "{{ '' if 'end of chat_template_kwargs' }}"
"""Separates the variables set in front of a chat template from the template itself.

Prints nothing and keeps the white space that follows.
"""

VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
"""Files that make a folder one with a tokenizer; `tokenizer_config.json` alone has no tokens."""
STEP_FOLDER = re.compile(r"checkpoint-\d+|merged")
"""Folders in a trainer's output folder, which may have the tokenizer of all of them."""


@dataclass(frozen=True)
class Tokenization:
    """How a model reads text and ends it; known without loading its weights."""

    tokenizer: PreTrainedTokenizerBase
    """The tokenizer, with the options of the experiment applied."""
    end_token_ids: frozenset[int]
    """Ids of the tokens that end a generation."""
    max_length: int | None
    """Longest sequence in tokens the model has positions for; None where it has no limit."""


@dataclass(frozen=True)
class Encoded:
    """One prompt with one completion as token ids."""

    ids: list[int]
    """Prompt, completion and its end token."""
    start: int
    """Index of the completion's first token."""
    ended: bool
    """Whether the last id is an end token."""
    tail: tuple[int, ...] = ()
    """What a chat template adds behind it: trained as a rule, never said by a model that stops."""


def load_tokenizer(
    parts: Sequence[str], config: TokenizerConfig | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of the last part that has one, with the options of `config` applied.

    Raises ModelError when no part has a usable tokenizer or an option does not fit it.
    """
    source = tokenizer_folder(parts[0]) or parts[0]
    # an adapter may bring a tokenizer of its own, with another chat template or more tokens
    for part in parts:
        source = tokenizer_folder(part) or source
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **gguf_option(source))
    # a damaged file of a tokenizer raises whatever its values break
    except Exception as error:
        if not has_tokenizer(source):
            raise ModelError(
                f"{source}: no tokenizer beside the weights; save it there, or give the model that "
                "this one was trained from as the base"
            ) from None
        for name in VOCABULARIES:
            if is_lfs_pointer(Path(source) / name):
                raise ModelError(f"{source}/{name}: {FAULT}") from None
        raise ModelError(
            f"{source}: no usable tokenizer ({first_line(error)}); copy or download its files again"
        ) from None
    if not has_tokenizer(parts[-1]):
        _apply_lone_settings(tokenizer, Path(parts[-1]))
    _apply_options(tokenizer, config or TokenizerConfig(), source)
    return tokenizer


def _apply_lone_settings(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Give `tokenizer` the chat template and end token that a folder has without a vocabulary."""
    settings: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").exists():
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    template, end_token = settings.get("chat_template"), settings.get("eos_token")
    if (folder / "chat_template.jinja").exists():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if template:
        tokenizer.chat_template = template
    if isinstance(end_token, str) and end_token in tokenizer.get_vocab():
        tokenizer.eos_token = end_token


def has_tokenizer(part: str) -> bool:
    """Whether a model has a tokenizer of its own; one of the Hub or a GGUF file always has."""
    return not Path(part).is_dir() or bool(tokenizer_folder(part) or gguf_option(part))


def tokenizer_folder(part: str) -> str | None:
    """Where the tokenizer of a model folder is, None for nowhere.

    It is in the folder, in that of a training of which this is a step, or where MLflow puts it.
    """
    folder = Path(part)
    places = [folder, folder.parent / "components" / "tokenizer"]
    if STEP_FOLDER.fullmatch(folder.name):
        places.append(folder.parent)
    for place in places:
        if any((place / name).exists() for name in VOCABULARIES):
            return str(place)
    return None


def gguf_option(location: str) -> dict[str, str]:
    """The option of `from_pretrained` for a folder whose weights are one GGUF file, else {}.

    Raises ModelError when the folder has several.
    """
    folder = Path(location)
    if not folder.is_dir() or list(folder.glob("*.safetensors")):
        return {}
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        raise ModelError(
            f"{location}: {len(files)} GGUF files ({files[0].name}, ...); "
            "keep one of them in the folder"
        )
    return {"gguf_file": files[0].name} if files else {}


def encode_sample(
    sample: Sample, tokenization: Tokenization, chat_template: str | None = None
) -> Encoded:
    """Encode a sample as `trl.SFTTrainer` does for training; see `encode`.

    Of plain text all is to be said but the first token, which nothing precedes, and an end token
    inside is a part of the text. `chat_template` stands in for the tokenizer's own.
    """
    tokenizer, end_token_ids = tokenization.tokenizer, tokenization.end_token_ids
    if not asks_nothing(sample.prompt):
        prompt_ids = encode_prompt(tokenizer, sample.prompt, chat_template)
        return encode(
            tokenizer, sample.prompt, sample.completion, end_token_ids, prompt_ids, chat_template
        )
    ids = _encode_whole(tokenizer, sample.prompt, sample.completion)
    return Encoded(ids, 1, ids[-1] in end_token_ids)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Text,
    completion: Text,
    end_token_ids: frozenset[int],
    prompt_ids: Sequence[int] | None = None,
    chat_template: str | None = None,
) -> Encoded:
    """Encode a prompt and its completion as `trl.SFTTrainer` does for training.

    Messages go through the chat template; text gets the tokenizer's end token. What a template
    adds after the first of `end_token_ids` in the completion is left out, since a model that stops
    there never says it. `prompt_ids` is `encode_prompt` of the prompt, where that is known already;
    `chat_template` stands in for the tokenizer's own.
    """
    ids = _encode_whole(tokenizer, prompt, completion, chat_template)
    if prompt_ids is None:
        prompt_ids = encode_prompt(tokenizer, prompt, chat_template)
    # a tokenizer may merge the last letters of the prompt with the first of the completion; a
    # token with letters of both is the completion's
    start = shared_length(prompt_ids, ids)
    # from the completion on: a template ends the turns of the prompt with such tokens, too
    for place in range(start, len(ids)):
        if ids[place] in end_token_ids:
            return Encoded(ids[: place + 1], start, True, tuple(ids[place + 1 :]))
    return Encoded(ids, start, False)


def _encode_whole(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Text,
    completion: Text,
    chat_template: str | None = None,
) -> list[int]:
    """Token ids of a prompt with its completion."""
    if isinstance(prompt, str):
        assert isinstance(completion, str)
        return list(tokenizer(prompt + _with_end_token(completion, tokenizer))["input_ids"])
    assert not isinstance(completion, str)
    turns = prompt.as_dicts() + completion.as_dicts()
    options = {"chat_template": chat_template, **prompt.template_options}
    encoded = tokenizer.apply_chat_template(turns, return_dict=True, **options)
    return list(encoded["input_ids"])


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, chat_template: str | None = None
) -> list[int]:
    """Token ids of `prompt` up to where a completion begins."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    encoded = tokenizer.apply_chat_template(
        prompt.as_dicts(),
        add_generation_prompt=True,
        return_dict=True,
        chat_template=chat_template,
        **prompt.template_options,
    )
    return list(encoded["input_ids"])


def shared_length(ids: Sequence[int], other_ids: Sequence[int]) -> int:
    """Number of tokens with which both sequences begin: 2 for [5, 6, 7] and [5, 6, 9, 8]."""
    for place, (token, other) in enumerate(zip(ids, other_ids, strict=False)):
        if token != other:
            return place
    return min(len(ids), len(other_ids))


def check_encodable(tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample]) -> None:
    """Raise ModelError when the tokenizer cannot encode one of `samples`.

    Text needs an end token; messages need a chat template that takes their roles and fields.
    """
    for sample in samples:
        if not isinstance(sample.prompt, str):
            assert not isinstance(sample.completion, str)
            _check_renders(tokenizer, sample, sample.prompt, sample.completion)
        elif tokenizer.eos_token is None:
            raise ModelError("the model's tokenizer has no end token; set tokenizer.eos_token")


def _check_renders(
    tokenizer: PreTrainedTokenizerBase,
    sample: Sample,
    prompt: Conversation,
    completion: Conversation,
) -> None:
    """Raise ModelError when the chat template refuses the conversation of a sample."""
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{sample.name}: is a conversation, but the model has no chat template; "
            "set tokenizer.chat_template (--chat-template)"
        )
    options = prompt.template_options
    try:
        # the prompt alone, too: a template may refuse what is to be answered
        tokenizer.apply_chat_template(
            prompt.as_dicts(), add_generation_prompt=True, tokenize=False, **options
        )
        turns = prompt.as_dicts() + completion.as_dicts()
        tokenizer.apply_chat_template(turns, tokenize=False, **options)
    # a template can do to a row whatever an expression can: add, index, call
    except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ModelError(
            f"{sample.name}: the chat template refuses it ({first_line(error)}); change the row, "
            "or set tokenizer.chat_template (--chat-template)"
        ) from None


def _apply_options(
    tokenizer: PreTrainedTokenizerBase, config: TokenizerConfig, source: str
) -> None:
    """Give `tokenizer` the chat template, template variables and end token that `config` sets.

    Raises ModelError when the template is not a readable text file, or when the end token is not in
    the vocabulary of `source`, the model folder or Hub id that the tokenizer comes from.
    """
    # the template first: variables are set in whichever template the tokenizer has by then
    if config.chat_template:
        tokenizer.chat_template = _read_chat_template(config.chat_template)
    if config.chat_template_kwargs and tokenizer.chat_template:
        tokenizer.chat_template = _with_variables(
            tokenizer.chat_template, config.chat_template_kwargs
        )
    if config.eos_token:
        if config.eos_token not in tokenizer.get_vocab():
            raise ModelError(
                f"tokenizer.eos_token: '{config.eos_token}' is not in the vocabulary of {source}"
            )
        tokenizer.eos_token = config.eos_token


def _read_chat_template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ModelError(f"tokenizer.chat_template: {path} is not a readable text file") from None


def _with_variables(template: str, variables: Mapping[str, Any]) -> str:
    """The chat template with `variables` set in front of it, in place of any set earlier.

    Set inside the template, they hold for training, for scoring and for everyone who loads the
    saved tokenizer.
    """
    assignments = []
    for name, value in variables.items():
        # a row that sets the variable itself (`chat_template_kwargs`) has the last word
        assignments.append(
            f"{{% if {name} is not defined %}}{{% set {name} = {_as_jinja(value)} %}}{{% endif %}}"
        )
    template_alone = template.rpartition(VARIABLES_END)[2]
    return "".join(assignments) + VARIABLES_END + template_alone


def _as_jinja(value: Any) -> str:
    return "none" if value is None else json.dumps(value)


def _with_end_token(completion: str, tokenizer: PreTrainedTokenizerBase) -> str:
    end_token = tokenizer.eos_token or ""
    if end_token and completion.endswith(end_token):
        return completion
    return completion + end_token
