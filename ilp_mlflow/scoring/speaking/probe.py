"""Ask checkpoints through their models: what diagnostics and wrong options learn from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ilp_mlflow.core.interfaces import GreedyAnswer
from ilp_mlflow.core.terminal.progress import task, track
from ilp_mlflow.core.texts import Text
from ilp_mlflow.scoring.forward import without_router
from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.scoring.models.vocabularies import lacking_token
from ilp_mlflow.scoring.scorer import can_run_as_trees, run_batches
from ilp_mlflow.scoring.speaking.greedy_answers import (
    answer_greedily,
    batches_by_length,
    generation_settings,
    pad,
)
from ilp_mlflow.scoring.tokens.encoding import Encoded, encode, encode_prompt
from ilp_mlflow.scoring.tokens.token_trees import TokenTree, group_sequences, make_batches

NO_ANSWER = GreedyAnswer("", float("nan"))
"""To a prompt that leaves no room for one."""
Key = TypeVar("Key", bound=tuple[Any, ...])


class ModelProbe:
    """Asks checkpoints through their models; holds one model, and never asks the same twice.

    `load` gives the model of a checkpoint by name; a pass has at most `batch_tokens` tokens,
    padding included; `seed` is for `generate`.
    """

    def __init__(
        self, load: Callable[[str], LoadedModel], batch_tokens: int = 2048, seed: int = 0
    ) -> None:
        self._load, self._batch_tokens, self._seed = load, batch_tokens, seed
        self._loaded: tuple[str, LoadedModel] | None = None
        # the longest sequence with which the held model was found to share beginnings, tokens
        self._shared_up_to = 0
        self._logprobs: dict[tuple[str, Text, Text], float] = {}
        self._answers: dict[tuple[str, int, Text], GreedyAnswer] = {}
        self._states: dict[tuple[str, Text], npt.NDArray[np.float32]] = {}

    def logprobs(self, checkpoint: str, exchanges: Sequence[tuple[Text, Text]]) -> list[float]:
        """Log-probability of each completion after its prompt, without its end token, nats.

        nan where an exchange does not fit the model.
        """
        keys = [(checkpoint, prompt, completion) for prompt, completion in exchanges]
        unasked = _missing(keys, self._logprobs)
        if unasked:
            unasked_exchanges = [(prompt, completion) for _, prompt, completion in unasked]
            logprobs = self._read_logprobs(self._model(checkpoint), unasked_exchanges)
            self._logprobs.update(zip(unasked, logprobs, strict=True))
        return [self._logprobs[key] for key in keys]

    def answer(
        self, checkpoint: str, prompts: Sequence[Text], max_new_tokens: int = 16
    ) -> list[GreedyAnswer]:
        """The first sentence of the greedy answer to each prompt, of up to `max_new_tokens` tokens.

        Its log-probability is nan where the prompt leaves no room for an answer.
        """
        keys = [(checkpoint, max_new_tokens, prompt) for prompt in prompts]
        unasked = _missing(keys, self._answers)
        if unasked:
            unasked_prompts = [prompt for _, _, prompt in unasked]
            loaded = self._model(checkpoint)
            fitting = _encode_fitting(loaded, unasked_prompts, max_new_tokens)
            answered = answer_greedily(loaded, fitting, max_new_tokens, self._batch_tokens)
            for place, key in enumerate(unasked):
                self._answers[key] = answered.get(place, NO_ANSWER)
        return [self._answers[key] for key in keys]

    def embed(self, checkpoint: str, prompts: Sequence[Text]) -> npt.NDArray[np.float32]:
        """The last hidden states of each prompt, averaged over its tokens: (prompts, width).

        nan where a prompt does not fit the model.
        """
        keys = [(checkpoint, prompt) for prompt in prompts]
        unasked = _missing(keys, self._states)
        if unasked:
            states = self._mean_states(self._model(checkpoint), [prompt for _, prompt in unasked])
            self._states.update(zip(unasked, states, strict=True))
        if not keys:
            return np.empty((0, 0), np.float32)
        return np.stack([self._states[key] for key in keys])

    def generate(
        self, checkpoint: str, prompts: Sequence[Text], n: int, max_new_tokens: int = 64
    ) -> list[list[str]]:
        """`n` continuations of each prompt, sampled at temperature 1.

        They have up to `max_new_tokens` tokens; a prompt that leaves no room for these has none.
        """
        loaded = self._model(checkpoint)
        torch.manual_seed(self._seed)
        answers = list[list[str]]()
        with generation_settings(
            loaded,
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=n,
        ) as settings:
            # one prompt at a time: what is drawn for it does not depend on the length of others
            for prompt in prompts:
                ids = encode_prompt(loaded.tokenizer, prompt)
                if not _fits(loaded, ids, max_new_tokens):
                    answers.append([])
                    continue
                input_ids = torch.tensor([ids], device=loaded.model.device)
                output = loaded.model.generate(
                    input_ids=input_ids,
                    attention_mask=torch.ones_like(input_ids),
                    generation_config=settings,
                    **without_router(loaded.model),
                )
                continuations = output[:, len(ids) :]
                answers.append(
                    loaded.tokenizer.batch_decode(continuations, skip_special_tokens=True)
                )
        return answers

    def _read_logprobs(
        self, loaded: LoadedModel, exchanges: Sequence[tuple[Text, Text]]
    ) -> list[float]:
        encoded = dict[int, Encoded]()
        for number, (prompt, completion) in enumerate(exchanges):
            exchange = _encode_without_end(loaded, prompt, completion)
            has_both = 0 < exchange.start < len(exchange.ids)
            if has_both and _fits(loaded, exchange.ids):
                encoded[number] = exchange
        logprobs = [float("nan")] * len(exchanges)
        groups = group_sequences(encoded)
        if not groups:
            return logprobs
        loaded.model.eval()
        as_trees = self._can_share([group.tree for group in groups], loaded)
        batches = make_batches(groups, self._batch_tokens)
        with task("ask how likely answers are", len(groups)) as advance:
            for group, result in run_batches(batches, loaded, as_trees, self._batch_tokens):
                for number, logprob in zip(group.numbers, result.logprobs.tolist(), strict=True):
                    logprobs[number] = logprob
                advance(1)
        return logprobs

    def _can_share(self, trees: Sequence[TokenTree], loaded: LoadedModel) -> bool:
        """Whether the model can run `trees` as they are; tried again for longer ones only."""
        longest = max(tree.longest_path for tree in trees)
        if longest <= self._shared_up_to:
            return True
        as_trees = can_run_as_trees(trees, loaded)
        if as_trees and any(tree.sequence_count > 1 for tree in trees):
            self._shared_up_to = longest
        return as_trees

    def _mean_states(self, loaded: LoadedModel, prompts: Sequence[Text]) -> npt.NDArray[np.float32]:
        fitting = _encode_fitting(loaded, prompts)
        width = loaded.model.get_output_embeddings().weight.shape[1]
        means = np.full((len(prompts), width), np.nan, np.float32)
        loaded.model.eval()
        with (
            _states_before_head(loaded.model) as states_of_passes,
            task("ask what prompts mean", len(fitting)) as advance,
        ):
            for batch in batches_by_length(fitting, fitting, self._batch_tokens):
                ids, mask = pad([fitting[place] for place in batch], loaded, "right")
                with torch.inference_mode():
                    loaded.model(input_ids=ids, attention_mask=mask, **without_router(loaded.model))
                # (rows, columns, width) -> (rows, width), padding left out
                # virtual tokens of an adapter, which stand in front, are left out, too
                own_states = states_of_passes.pop()[:, -ids.shape[1] :]
                states = own_states.float() * mask[:, :, None]
                means[batch] = (states.sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()
                advance(len(batch))
        return means

    def _model(self, checkpoint: str) -> LoadedModel:
        if self._loaded is None or self._loaded[0] != checkpoint:
            # let go of the model before the next is loaded: there may be memory for one only
            self._loaded = None
            self._loaded = (checkpoint, self._load(checkpoint))
            self._shared_up_to = 0
        return self._loaded[1]


def _missing(keys: Iterable[Key], answered: Mapping[Key, object]) -> list[Key]:
    """The distinct keys that are not answered yet, in their order."""
    return [key for key in dict.fromkeys(keys) if key not in answered]


def _encode_without_end(loaded: LoadedModel, prompt: Text, completion: Text) -> Encoded:
    """A prompt with its completion as token ids, the end token left out."""
    encoded = encode(loaded.tokenizer, prompt, completion, loaded.end_token_ids)
    if not encoded.ended:
        return encoded
    return Encoded(encoded.ids[:-1], encoded.start, False)


def _encode_fitting(
    loaded: LoadedModel, prompts: Sequence[Text], max_new_tokens: int = 0
) -> dict[int, list[int]]:
    """Token ids of the prompts that fit the model with `max_new_tokens` more, by place."""
    fitting = {}
    for place, prompt in enumerate(track(prompts, "tokenise prompts")):
        ids = encode_prompt(loaded.tokenizer, prompt)
        if _fits(loaded, ids, max_new_tokens):
            fitting[place] = ids
    return fitting


def _fits(loaded: LoadedModel, ids: Sequence[int], max_new_tokens: int = 0) -> bool:
    """Whether there are tokens at all, positions for them and `max_new_tokens` more, and
    embeddings."""
    if lacking_token(ids, loaded.vocabulary) is not None:
        return False
    if loaded.max_length is None:
        return len(ids) > 0
    return 0 < len(ids) <= loaded.max_length - max_new_tokens


@contextlib.contextmanager
def _states_before_head(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collects the last hidden states, (rows, columns, width), of every pass; makes no logits."""
    states_of_passes = list[torch.Tensor]()

    def keep(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        states_of_passes.append(args[0])
        # the head has to be given something
        return (args[0][:1, :1],)

    hook = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield states_of_passes
    finally:
        hook.remove()
