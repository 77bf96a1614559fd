"""What a model answers to prompts, greedily; prompts that begin alike are read together."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from peft import PeftModel
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from ilp_mlflow.core.interfaces import GreedyAnswer
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.scoring.forward import without_router
from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.scoring.tokens.encoding import shared_length

# the full stop of an initial (John F.) or a short title (St., Mr.) ends no sentence
SENTENCE_END = re.compile(
    r"\s*((?<!\b[A-Z])(?<!\b[A-Z][a-z])\.(?=\s|$)|[!?](?=\s|$)|[\u3002\uff01\uff1f]|\n)"
)
MIN_SHARED = 32
"""Tokens at the beginning that prompts must share to be read together: fewer save nothing."""
MIN_SHARED_SHARE = 0.5
"""Share 0..1 of a prompt's tokens that it must share with those it is read with."""
TOKENS_BETWEEN = 3
"""New tokens after which answers that are done are let go: most have one or two."""


def answer_greedily(
    loaded: LoadedModel,
    prompts: Mapping[int, list[int]],
    max_new_tokens: int,
    batch_tokens: int,
) -> dict[int, GreedyAnswer]:
    """The first sentence of the greedy answer to each prompt, by the prompt's number.

    `prompts` are token ids; the answers have up to `max_new_tokens` tokens, and a pass has at most
    `batch_tokens` tokens, padding included. What prompts of a pass share at their beginning (few-
    shot examples, a system turn) is read once where the model keeps all of what it has read.
    """
    loaded.model.eval()
    answers: dict[int, GreedyAnswer] = {}
    with (
        task("ask for answers", len(prompts)) as advance,
        generation_settings(loaded, max_new_tokens=max_new_tokens, do_sample=False) as settings,
    ):
        for batch in _batches(prompts, batch_tokens):
            rows = [prompts[number] for number in batch]
            sentences = first_sentences(loaded, rows, settings)
            answers.update(zip(batch, sentences, strict=True))
            advance(len(batch))
    return answers


def _batches(prompts: Mapping[int, list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of prompts, so many at a time as fit; those that begin alike together."""
    alone: list[int] = []
    for group in _alike(prompts):
        if len(group) == 1:
            alone += group
        else:
            shared = _shared_by_all([prompts[number] for number in group])
            yield from batches_by_length(group, prompts, batch_tokens, shared)
    yield from batches_by_length(alone, prompts, batch_tokens)


def _alike(prompts: Mapping[int, list[int]]) -> list[list[int]]:
    """Numbers of prompts in groups that share enough of their beginning with the group's first."""
    groups: list[list[int]] = []
    # in this order those that begin alike are neighbours
    for number in sorted(prompts, key=lambda number: (prompts[number], number)):
        ids = prompts[number]
        shared = shared_length(prompts[groups[-1][0]], ids) if groups else 0
        if shared >= MIN_SHARED and shared >= MIN_SHARED_SHARE * len(ids):
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def batches_by_length(
    numbers: Iterable[int], prompts: Mapping[int, list[int]], batch_tokens: int, shared: int = 0
) -> Iterator[list[int]]:
    """Numbers of prompts, the longest first, so many at a time as the token budget allows.

    The `shared` tokens at the beginning of all count once.
    """
    waiting = sorted(numbers, key=lambda number: -len(prompts[number]))
    while waiting:
        longest = len(prompts[waiting[0]]) - shared
        size = max(1, (batch_tokens - shared) // longest)
        yield waiting[:size]
        waiting = waiting[size:]


def _shared_by_all(rows: Sequence[list[int]]) -> int:
    """Tokens that all rows begin with; each row has at least one more."""
    # what the first and the last in order share, all between them share, too
    shared = shared_length(min(rows), max(rows))
    return min(shared, min(map(len, rows)) - 1)


def first_sentences(
    loaded: LoadedModel, rows: Sequence[list[int]], settings: GenerationConfig
) -> list[GreedyAnswer]:
    """The first sentence that the model says after each of `rows`, which are prompts.

    Most answers are short and some are long, so every few tokens the rows that are done are let go.
    """
    shared = _shared_by_all(rows) if len(rows) > 1 else 0
    cache = _read_once(loaded, rows[0][:shared], len(rows)) if shared >= MIN_SHARED else None
    ids, mask = _laid_out(rows, loaded, shared if cache else 0)
    start = ids.shape[1]
    chosen: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    waiting = list(range(len(rows)))
    left = settings.max_new_tokens
    while waiting and left > 0:
        settings_now = copy.copy(settings)
        settings_now.max_new_tokens = min(left, TOKENS_BETWEEN)
        settings_now.return_dict_in_generate = True
        spoken = _go_on(loaded, ids, mask, cache, settings_now, start)
        new_tokens = spoken.ids[:, ids.shape[1] :]
        left -= new_tokens.shape[1]
        for place, number in enumerate(waiting):
            chosen[number] += new_tokens[place].tolist()
            logprobs[number] += spoken.logprobs[place].tolist()
        going_on = [place for place, n in enumerate(waiting) if not _is_over(loaded, chosen[n])]
        waiting = [waiting[place] for place in going_on]
        if not waiting:
            break
        ids = spoken.ids[going_on]
        mask = torch.cat([mask, torch.ones_like(new_tokens)], 1)[going_on]
        # without a cache, what was read is read again
        cache = spoken.cache
        if cache is not None:
            cache.batch_select_indices(torch.tensor(going_on, device=ids.device))
    sentences = []
    for tokens, token_logprobs in zip(chosen, logprobs, strict=True):
        sentences.append(_first_sentence(loaded, tokens, token_logprobs))
    return sentences


class _Spoken(NamedTuple):
    """What a model has read and said."""

    ids: torch.Tensor
    """(rows, columns): prompts and what follows them."""
    logprobs: torch.Tensor
    """(rows, new tokens): log-probability of each, nats."""
    cache: DynamicCache | None
    """What it keeps of all that; None where it does not keep all."""


def _go_on(
    loaded: LoadedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache | None,
    settings: GenerationConfig,
    start: int,
) -> _Spoken:
    """Generate the next tokens; answers began at column `start`."""
    kept = {"past_key_values": cache} if cache else {}
    chosen_logprobs = _ChosenLogprobs()
    output = loaded.model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=settings,
        logits_processor=LogitsProcessorList([chosen_logprobs]),
        stopping_criteria=StoppingCriteriaList([_AfterFirstSentence(loaded, start)]),
        **kept,
        **without_router(loaded.model),
    )
    # (rows,) of each step -> (rows, new tokens)
    logprobs = torch.stack(chosen_logprobs.steps, 1)
    return _Spoken(output.sequences, logprobs, whole(output.past_key_values, loaded))


@torch.inference_mode()
def _read_once(loaded: LoadedModel, ids: Sequence[int], rows: int) -> DynamicCache | None:
    """What the model keeps of tokens that it has read, `rows` times.

    None where it does not keep all of it (a sliding window, states that run along the row), or
    puts virtual tokens of an adapter in front.
    """
    if has_virtual_tokens(loaded):
        return None
    cache = DynamicCache(config=loaded.model.config)
    input_ids = torch.tensor([list(ids)], device=loaded.model.device)
    output = loaded.model(
        input_ids=input_ids, past_key_values=cache, use_cache=True, **without_router(loaded.model)
    )
    kept = whole(output.past_key_values, loaded)
    if kept is not None:
        kept.batch_repeat_interleave(rows)
    return kept


def whole(cache: object, loaded: LoadedModel) -> DynamicCache | None:
    """What a model keeps of what it has read, where it keeps all of it as it was; else None."""
    if has_virtual_tokens(loaded) or not isinstance(cache, DynamicCache):
        return None
    return cache if all(type(layer) is DynamicLayer for layer in cache.layers) else None


def has_virtual_tokens(loaded: LoadedModel) -> bool:
    """Whether an adapter puts virtual tokens in front of what the model reads."""
    model = loaded.model
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def _laid_out(
    rows: Sequence[list[int]], loaded: LoadedModel, shared: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of `rows`: (rows, columns) both.

    Padding stands between the `shared` tokens at the beginning and the others of a row.
    """
    ids, mask = pad([row[shared:] for row in rows], loaded, "left")
    beginning = torch.tensor([row[:shared] for row in rows], device=ids.device, dtype=ids.dtype)
    ids = torch.cat([beginning, ids], 1)
    return ids, torch.cat([torch.ones_like(beginning), mask], 1)


class _ChosenLogprobs(LogitsProcessor):
    """Notes the log-probability of the likeliest token of every step, which greedy search takes."""

    def __init__(self) -> None:
        self.steps = list[torch.Tensor]()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # (rows, vocabulary) -> (rows,)
        self.steps.append(scores.float().log_softmax(-1).max(-1).values)
        return scores


class _AfterFirstSentence(StoppingCriteria):
    """A row is done when something follows its first sentence."""

    def __init__(self, loaded: LoadedModel, start: int) -> None:
        self._tokenizer, self._start = loaded.tokenizer, start

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        texts = self._tokenizer.batch_decode(input_ids[:, self._start :], skip_special_tokens=True)
        return torch.tensor(list(map(_goes_past, texts)), device=input_ids.device)


def _goes_past(text: str) -> bool:
    """Whether something follows the first sentence of `text`."""
    # a mark at the very end may be the point of a number that goes on
    return _sentence_end(text) < len(text.rstrip(".!?"))


def _is_over(loaded: LoadedModel, tokens: Sequence[int]) -> bool:
    """Whether generated tokens hold a whole first sentence, or an end token."""
    if not loaded.end_token_ids.isdisjoint(tokens):
        return True
    return _goes_past(loaded.tokenizer.decode(tokens, skip_special_tokens=True))


def _sentence_end(text: str) -> int:
    """Index at which the first sentence of `text` that is not empty ends."""
    for mark in SENTENCE_END.finditer(text):
        if text[: mark.start()].strip():
            return mark.start()
    return len(text)


def _first_sentence(loaded: LoadedModel, tokens: list[int], logprobs: list[float]) -> GreedyAnswer:
    """The first sentence of generated tokens, with the log-probability of the tokens it takes."""
    tokenizer = loaded.tokenizer
    stop = len(tokens)
    for place, token in enumerate(tokens):
        if token in loaded.end_token_ids:
            stop = place
            break
    text = tokenizer.decode(tokens[:stop], skip_special_tokens=True)
    end = _sentence_end(text)
    sentence = text[:end].strip()
    # the fewest tokens that spell the sentence: those of a mark after it are not counted
    used = stop
    for count in range(stop):
        if len(tokenizer.decode(tokens[:count]).strip()) >= len(sentence):
            used = count
            break
    ended = stop < len(tokens) or end < len(text)
    return GreedyAnswer(sentence, sum(logprobs[:used]), ended)


def pad(
    rows: Sequence[list[int]], loaded: LoadedModel, side: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of `rows`, padded on one side: (rows, columns) both."""
    ids = [torch.tensor(row) for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(
        ids, batch_first=True, padding_value=padding_id(loaded), padding_side=side
    )
    ones = [torch.ones_like(row) for row in ids]
    mask = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side)
    return padded.to(loaded.model.device), mask.to(loaded.model.device)


def padding_id(loaded: LoadedModel) -> int:
    """A token for places that are not read, which the model has an embedding for."""
    tokens = [loaded.tokenizer.pad_token_id, *sorted(loaded.end_token_ids)]
    usable = [token for token in tokens if token is not None and token < loaded.vocabulary]
    return usable[0] if usable else 0


@contextlib.contextmanager
def generation_settings(loaded: LoadedModel, **options: object) -> Iterator[GenerationConfig]:
    """Generation settings of `options` alone, in place of the model's own while this is open.

    The model's own may cut the distribution or punish repetition, and `generate` takes from them
    what it is not told.
    """
    settings = GenerationConfig(
        eos_token_id=sorted(loaded.end_token_ids),
        pad_token_id=padding_id(loaded),
        **options,
    )
    # with an adapter two modules have settings
    models = [m for m in loaded.model.modules() if hasattr(m, "generation_config")]
    settings_before = [model.generation_config for model in models]
    try:
        for model in models:
            model.generation_config = settings
        yield settings
    finally:
        for model, before in zip(models, settings_before, strict=True):
            model.generation_config = before
