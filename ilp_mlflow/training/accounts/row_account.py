"""An account of every row: what the model saw of it, and which of that was in the loss."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.texts import Conversation, asks_nothing
from ilp_mlflow.core.value import Value
from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring.tokens.encoding import (
    Encoded,
    Tokenization,
    encode_prompt,
    encode_sample,
    shared_length,
)
from ilp_mlflow.training.accounts.template_changes import (
    find_added,
    find_dropped,
    find_unread_variables,
)

IGNORED = -100
"""The label of a token that does not contribute to the loss."""

Kind = Literal["prompt", "supervised", "masked", "cut"]
"""What a token was in training: context, in the loss, an answer kept out of it, or cut away."""


class Segment(Value):
    """Tokens of a row in a run that were treated alike."""

    text: str
    """What they say, special tokens included."""
    kind: Kind
    """How they were treated."""


class RowAccount(Value):
    """What training makes of one row."""

    sample_id: str
    """The sample."""
    segments: tuple[Segment, ...]
    """The row as the model sees it, in order, with what `max_length` cuts away."""
    prompt_tokens: int
    """Tokens in front of the answer."""
    answer_tokens: int
    """Tokens of the answer (of a conversation: its last turn), its end token included."""
    supervised_tokens: int
    """Tokens of the whole row that are in the loss."""
    supervised_answer_tokens: int
    """Of these, those of the answer."""
    cut_tokens: int
    """Tokens that `max_length` cuts away."""
    dropped: tuple[str, ...] = ()
    """What of the row the chat template leaves out, such as
    `messages[1].reasoning_content: 'Paris is ...'`."""
    added: tuple[str, ...] = ()
    """Texts that the chat template puts in and the row does not have: a default system prompt, an
    empty think block."""
    end_token: str | None = None
    """The special token that ends the answer; None where there is none."""
    end_supervised: bool = False
    """Whether that token is in the loss."""
    end_stops: bool = False
    """Whether it is an end token of the model, at which generation stops."""
    weight_zero: bool = False
    """Whether the row itself keeps its answer out of the loss (`weight: 0`), and it was."""
    assumed: bool = False
    """Whether nobody followed the training, so that this is what it does if it does as the row
    says: it may have cut the row, and not have read its weight."""


@dataclass(frozen=True)
class TrainedTokens:
    """The tokens of a row as a trainer has them."""

    ids: Sequence[int]
    """Those that are left of the row."""
    labels: Sequence[int]
    """What each of them is to be said for; IGNORED where it is not in the loss."""
    cut_before: Sequence[int] = ()
    """Token ids that were cut away in front."""
    cut_behind: Sequence[int] = ()
    """Token ids that were cut away at the end."""


def account_rows(
    samples: Sequence[Sample],
    tokenization: Tokenization,
    training: Mapping[str, Any],
    whole_completion: bool = False,
) -> list[RowAccount]:
    """The accounts of samples under these options of `trl.SFTConfig`, before any training.

    `max_length`, `truncation_mode`, `completion_only_loss` and `assistant_only_loss` count. Of a
    completion of several turns TRL trains all, which `whole_completion` asks for, and we the last
    one. Raises
    ValueError under `assistant_only_loss` when the chat template does not mark what it generates
    and TRL knows no other form of it.
    """
    accounts = []
    for sample in samples:
        encoded = encode_as_trained(sample, tokenization, training)
        tokens = trained_tokens(sample, encoded, tokenization.tokenizer, training, whole_completion)
        accounts.append(account_row(sample, encoded, tokens, tokenization))
    return accounts


def encode_as_trained(
    sample: Sample, tokenization: Tokenization, training: Mapping[str, Any]
) -> Encoded:
    """A sample with the chat template that TRL takes under these options."""
    template = None
    if training.get("assistant_only_loss") and not isinstance(sample.prompt, str):
        template = training_template(tokenization.tokenizer)
    return encode_sample(sample, tokenization, template)


def trained_tokens(
    sample: Sample,
    encoded: Encoded,
    tokenizer: PreTrainedTokenizerBase,
    training: Mapping[str, Any],
    whole_completion: bool = False,
) -> TrainedTokens:
    """The tokens that `trl.SFTTrainer` makes of a sample, with their labels.

    `encoded` is the sample as `encode_as_trained` gives it. A row with `weight: 0` on its answer
    has no label there, which is ours: TRL does not read weights. `whole_completion` as for
    `account_rows`.
    """
    ids = [*encoded.ids, *encoded.tail]
    # plain text has no prompt: there, even the first token has a label
    answer_start = 0 if asks_nothing(sample.prompt) else encoded.start
    first_supervised = answer_start
    if whole_completion and sample.completion_turns > 1:
        first_supervised = _completion_start(sample, ids, tokenizer, training)
    if training.get("completion_only_loss") is False:
        first_supervised = 0
    may_count = [True] * len(ids)
    if training.get("assistant_only_loss") and not isinstance(sample.prompt, str):
        may_count = _assistant_mask(sample, tokenizer)
    elif first_supervised < answer_start and sample.leaves_earlier_turns_out:
        may_count = _mask_of_weights(sample, tokenizer)
    labels = []
    for place, (id_, counts) in enumerate(zip(ids, may_count, strict=True)):
        is_left_out = sample.left_out and place >= answer_start
        is_supervised = counts and place >= first_supervised and not is_left_out
        labels.append(id_ if is_supervised else IGNORED)
    return _cut(ids, labels, training)


def _completion_start(
    sample: Sample,
    ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    training: Mapping[str, Any],
) -> int:
    """Index of the first token of a completion of several turns."""
    assert isinstance(sample.prompt, Conversation)
    template = training_template(tokenizer) if training.get("assistant_only_loss") else None
    asked = sample.prompt.turns[: len(sample.prompt.turns) + 1 - sample.completion_turns]
    prompt_ids = encode_prompt(tokenizer, sample.prompt.with_turns(asked), template)
    return shared_length(prompt_ids, ids)


def _assistant_mask(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> list[bool]:
    """Which tokens of a conversation the template marks as said by the assistant.

    Without those of turns whose `weight` is 0.
    """
    mask = _rendered_mask(sample, tokenizer)
    return _without_turns(mask, sample) if sample.leaves_earlier_turns_out else mask


def _rendered_mask(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> list[bool]:
    """Which tokens of a conversation the template marks as said by the assistant."""
    assert isinstance(sample.prompt, Conversation)
    assert isinstance(sample.completion, Conversation)
    encoded = tokenizer.apply_chat_template(
        sample.prompt.as_dicts() + sample.completion.as_dicts(),
        return_dict=True,
        return_assistant_tokens_mask=True,
        chat_template=training_template(tokenizer),
        **sample.prompt.template_options,
    )
    return [bool(bit) for bit in encoded["assistant_masks"]]


def _mask_of_weights(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> list[bool]:
    """Which tokens of a conversation that is trained whole are in no turn of weight 0.

    Raises ConfigError where the template does not mark what the assistant says.
    """
    from trl.chat_template_utils import has_generation_markers

    if not has_generation_markers(tokenizer.chat_template):
        raise ConfigError(
            f"{sample.name}: has turns of weight 0, and the chat template does not mark turns, so "
            "it is not known which tokens these are; remove the weights or completion_only_loss"
        )
    said = _rendered_mask(sample, tokenizer)
    kept = _without_turns(said, sample)
    return [is_kept or not is_said for is_kept, is_said in zip(kept, said, strict=True)]


def _without_turns(mask: Sequence[bool], sample: Sample) -> list[bool]:
    """The mask of what the assistant says without turns of weight 0.

    Raises ConfigError where the runs of the mask are not the turns, one after the other.
    """
    assert isinstance(sample.prompt, Conversation)
    assert isinstance(sample.completion, Conversation)
    turns = (*sample.prompt.turns, *sample.completion.turns)
    weights = [turn.weight for turn in turns if turn.role == "assistant"]
    runs = [(counts, len(list(run))) for counts, run in itertools.groupby(mask)]
    if sum(counts for counts, _ in runs) != len(weights):
        raise ConfigError(
            f"{sample.name}: has turns of weight 0, and the chat template does not mark every turn "
            "of the assistant, so it is not known which tokens these are; remove the weights or "
            "assistant_only_loss"
        )
    left = iter(weights)
    kept = list[bool]()
    for counts, length in runs:
        kept += [counts and next(left) != 0] * length
    return kept


def training_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template that TRL takes under `assistant_only_loss`; None: the tokenizer's own."""
    # TRL takes seconds to import, and only some trainings ask for this
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(tokenizer.chat_template):
        return None
    template: str = get_training_chat_template(tokenizer)
    return template


def _cut(ids: list[int], labels: list[int], training: Mapping[str, Any]) -> TrainedTokens:
    """A row cut to `max_length` at the side that `truncation_mode` names."""
    limit = training["max_length"] if "max_length" in training else _default_length()
    if not limit or len(ids) <= limit:
        return TrainedTokens(ids, labels)
    if training.get("truncation_mode") == "keep_end":
        return TrainedTokens(ids[-limit:], labels[-limit:], cut_before=ids[:-limit])
    return TrainedTokens(ids[:limit], labels[:limit], cut_behind=ids[limit:])


def _default_length() -> int | None:
    """The cut-off of `trl.SFTConfig` in tokens; None where nothing is cut."""
    from trl import SFTConfig

    return SFTConfig.max_length


def account_row(
    sample: Sample, encoded: Encoded, tokens: TrainedTokens, tokenization: Tokenization
) -> RowAccount:
    """The account of a sample that is scored as `encoded` and trained as `tokens`."""
    tokenizer = tokenization.tokenizer
    kinds = _kinds(encoded.start, tokens)
    all_ids = [*tokens.cut_before, *tokens.ids, *tokens.cut_behind]
    answer_kinds = kinds[encoded.start : len(encoded.ids)]
    end = _end_place(encoded, all_ids, tokenizer)
    dropped, added = _template_changes(sample, tokenizer)
    return RowAccount(
        sample_id=sample.id,
        segments=tuple(_segments(all_ids, kinds, tokenizer)),
        prompt_tokens=encoded.start,
        answer_tokens=len(encoded.ids) - encoded.start,
        supervised_tokens=kinds.count("supervised"),
        supervised_answer_tokens=answer_kinds.count("supervised"),
        cut_tokens=kinds[: len(encoded.ids)].count("cut"),
        dropped=tuple(dropped),
        added=tuple(added),
        end_token=None if end is None else tokenizer.convert_ids_to_tokens(all_ids[end]),
        end_supervised=end is not None and kinds[end] == "supervised",
        end_stops=end is not None and all_ids[end] in tokenization.end_token_ids,
        # another trainer may not read it
        weight_zero=sample.left_out and "supervised" not in answer_kinds,
    )


def _kinds(answer_start: int, tokens: TrainedTokens) -> list[Kind]:
    """How every token of a row is treated, those that are cut away included."""
    kinds: list[Kind] = ["cut"] * len(tokens.cut_before)
    for place, label in enumerate(tokens.labels):
        # nothing precedes the first token of a row that it could be predicted from
        if label != IGNORED and place > 0:
            kinds.append("supervised")
        else:
            kinds.append("prompt" if len(kinds) < answer_start else "masked")
    return kinds + ["cut"] * len(tokens.cut_behind)


def _segments(
    ids: Sequence[int], kinds: Sequence[Kind], tokenizer: PreTrainedTokenizerBase
) -> list[Segment]:
    """Tokens in runs of one kind, as text."""
    segments = []
    pairs = zip(kinds, ids, strict=True)
    for kind, run in itertools.groupby(pairs, key=lambda pair: pair[0]):
        text = tokenizer.decode([id_ for _, id_ in run], clean_up_tokenization_spaces=False)
        segments.append(Segment(text=text, kind=kind))
    return segments


def _end_place(
    encoded: Encoded, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> int | None:
    """Where the token stands that ends the answer: an end token, or what the template has there."""
    if encoded.ended:
        return len(encoded.ids) - 1
    special_ids = tokenizer.added_tokens_decoder
    for place in range(len(ids) - 1, encoded.start - 1, -1):
        if ids[place] in special_ids:
            return place
        # behind the end of a turn, templates put white space alone
        if tokenizer.decode([ids[place]]).strip():
            return None
    return None


def _template_changes(
    sample: Sample, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], list[str]]:
    """What the chat template drops of a sample and what it adds; plain text stays as it is."""
    prompt = sample.prompt
    if isinstance(prompt, str):
        return [], []
    assert isinstance(sample.completion, Conversation)
    turns = (*prompt.turns, *sample.completion.turns)
    rendered = tokenizer.apply_chat_template(
        [turn.as_dict() for turn in turns], tokenize=False, **prompt.template_options
    )
    dropped = find_dropped(turns, prompt, rendered)
    dropped += find_unread_variables(prompt, str(tokenizer.chat_template))
    return dropped, find_added(turns, prompt, rendered, tokenizer)
