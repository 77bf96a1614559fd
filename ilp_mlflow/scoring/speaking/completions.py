"""Let a model speak: greedily, or in several samples of a prompt that it reads once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from transformers import DynamicCache, GenerationConfig

from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.verdict_rules import Completion
from ilp_mlflow.scoring.forward import without_router
from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.scoring.speaking.greedy_answers import (
    generation_settings,
    has_virtual_tokens,
    pad,
    whole,
)

TOKENS_BETWEEN = 16
"""New tokens after which rows that are done are let go."""
ROOM = 8
"""How many times the tokens of a scoring pass are held at once: no logits are kept for them."""


class Request(NamedTuple):
    """A prompt and how long its completion may be."""

    ids: list[int]
    """Token ids of the prompt."""
    max_new_tokens: int
    """Tokens of the completion, at most."""


def complete(
    loaded: LoadedModel, requests: Sequence[Request], draws: int, batch_tokens: int, seed: int
) -> list[list[Completion]]:
    """What the model says to each request: greedily, or `draws` samples at temperature 1.

    A pass has at most ROOM times `batch_tokens` tokens, padding and completions included. What is
    drawn depends on `seed`, and on the requests of the same call.
    """
    loaded.model.eval()
    completions: list[list[Completion]] = [[] for _ in requests]
    copies = max(1, draws)
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if draws else {}
    torch.manual_seed(seed)
    with (
        task("let the model speak", len(requests)) as advance,
        generation_settings(loaded, **{"do_sample": False, **options}) as settings,
    ):
        for batch in _batches(requests, ROOM * batch_tokens, copies, loaded.max_length):
            for some in _copies_at_once(requests[batch[0]], ROOM * batch_tokens, copies):
                spoken = _speak(loaded, [requests[number] for number in batch], some, settings)
                for place, number in enumerate(batch):
                    rows = spoken[place * some : (place + 1) * some]
                    completions[number] += [_completion(loaded, tokens) for tokens in rows]
            advance(len(batch))
    return completions


def _batches(
    requests: Sequence[Request], tokens: int, copies: int, positions: int | None
) -> Iterator[list[int]]:
    """Numbers of requests, those of one length together, so many at a time as fit.

    All columns of a batch, the longest prompt with the longest completion, are within `positions`.
    """
    waiting = sorted(range(len(requests)), key=lambda n: -_length(requests[n]))
    while waiting:
        size = max(1, tokens // (_length(requests[waiting[0]]) * copies))
        batch: list[int] = []
        prompt, limit = 0, 0
        for number in waiting[:size]:
            prompt = max(prompt, len(requests[number].ids))
            limit = max(limit, requests[number].max_new_tokens)
            if batch and positions is not None and prompt + limit > positions:
                break
            batch.append(number)
        yield batch
        waiting = waiting[len(batch) :]


def _copies_at_once(request: Request, tokens: int, copies: int) -> Iterator[int]:
    """How many copies of the longest request of a batch are sampled at a time."""
    at_once = max(1, tokens // _length(request))
    while copies > 0:
        yield min(at_once, copies)
        copies -= at_once


def _length(request: Request) -> int:
    return len(request.ids) + request.max_new_tokens


def _speak(
    loaded: LoadedModel, requests: Sequence[Request], copies: int, settings: GenerationConfig
) -> list[list[int]]:
    """New tokens of every copy of every request; those that are done are let go on the way."""
    ids, mask = pad([request.ids for request in requests], loaded, "left")
    cache = _read_prompts(loaded, ids, mask) if copies > 1 else None
    if cache is not None:
        cache.batch_repeat_interleave(copies)
    ids, mask = ids.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
    limits = [request.max_new_tokens for request in requests for _ in range(copies)]
    said: list[list[int]] = [[] for _ in limits]
    waiting = [number for number, limit in enumerate(limits) if limit > 0]
    if len(waiting) < len(limits):
        ids, mask, cache = _keep_rows(waiting, ids, mask, cache)
    while waiting:
        left = max(limits[number] - len(said[number]) for number in waiting)
        positions = loaded.max_length
        if positions is not None and ids.shape[1] + min(left, TOKENS_BETWEEN) > positions:
            # near the model's end no row may go beyond its own limit
            left = min(limits[number] - len(said[number]) for number in waiting)
        settings_now = copy.copy(settings)
        settings_now.max_new_tokens = min(left, TOKENS_BETWEEN)
        settings_now.return_dict_in_generate = True
        kept = {"past_key_values": cache} if cache is not None else {}
        output = loaded.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings_now,
            **kept,
            **without_router(loaded.model),
        )
        new_tokens = output.sequences[:, ids.shape[1] :]
        for place, tokens in enumerate(new_tokens.tolist()):
            said[waiting[place]] += tokens
        going_on = []
        for place, number in enumerate(waiting):
            has_room = len(said[number]) < limits[number]
            if has_room and loaded.end_token_ids.isdisjoint(said[number]):
                going_on.append(place)
        mask = torch.cat([mask, torch.ones_like(new_tokens)], 1)
        # without a cache, what was read is read again
        cache = whole(output.past_key_values, loaded)
        ids, mask, cache = _keep_rows(going_on, output.sequences, mask, cache)
        waiting = [waiting[place] for place in going_on]
    return [tokens[:limit] for tokens, limit in zip(said, limits, strict=True)]


def _keep_rows(
    places: Sequence[int], ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache | None
) -> tuple[torch.Tensor, torch.Tensor, DynamicCache | None]:
    """Some rows alone."""
    if cache is not None and len(places) < len(ids):
        cache.batch_select_indices(torch.tensor(places, device=ids.device, dtype=torch.long))
    return ids[list(places)], mask[list(places)], cache


@torch.inference_mode()
def _read_prompts(
    loaded: LoadedModel, ids: torch.Tensor, mask: torch.Tensor
) -> DynamicCache | None:
    """What the model keeps of prompts but for their last token; None where it does not keep all."""
    if has_virtual_tokens(loaded) or ids.shape[1] < 2:
        return None
    before = mask[:, :-1]
    output = loaded.model(
        input_ids=ids[:, :-1],
        attention_mask=before,
        position_ids=(before.cumsum(1) - 1).clamp(min=0),
        past_key_values=DynamicCache(config=loaded.model.config),
        use_cache=True,
        **without_router(loaded.model),
    )
    return whole(output.past_key_values, loaded)


def _completion(loaded: LoadedModel, tokens: list[int]) -> Completion:
    """New tokens as text, up to the first that ends a generation."""
    for place, token in enumerate(tokens):
        if token in loaded.end_token_ids:
            text = loaded.tokenizer.decode(tokens[:place], skip_special_tokens=True)
            return Completion(text, True)
    return Completion(loaded.tokenizer.decode(tokens, skip_special_tokens=True), False)
