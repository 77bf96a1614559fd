"""Ask checkpoints through their models: what diagnostics and wrong options learn from them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from ilp_mlflow.core.interfaces import GreedyAnswer
from ilp_mlflow.core.terminal.progress import task, track
from ilp_mlflow.core.texts import Text
from ilp_mlflow.scoring.encoding import Encoded, encode, encode_prompt
from ilp_mlflow.scoring.forward import without_router
from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.scoring.models.vocabularies import lacking_token
from ilp_mlflow.scoring.scorer import can_run_as_trees, run_batches
from ilp_mlflow.scoring.token_trees import group_sequences, make_batches

# the full stop of an initial (John F.) or a short title (St., Mr.) ends no sentence
SENTENCE_END = re.compile(
    r"\s*((?<!\b[A-Z])(?<!\b[A-Z][a-z])\.(?=\s|$)|[!?](?=\s|$)|[\u3002\uff01\uff1f]|\n)"
)

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
            answers = self._answer_greedily(
                self._model(checkpoint), unasked_prompts, max_new_tokens
            )
            self._answers.update(zip(unasked, answers, strict=True))
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
        with _generation_settings(
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
        as_trees = can_run_as_trees([group.tree for group in groups], loaded)
        batches = make_batches(groups, self._batch_tokens)
        with task("ask how likely answers are", len(groups)) as advance:
            for group, result in run_batches(batches, loaded, as_trees, self._batch_tokens):
                for number, logprob in zip(group.numbers, result.logprobs.tolist(), strict=True):
                    logprobs[number] = logprob
                advance(1)
        return logprobs

    def _mean_states(self, loaded: LoadedModel, prompts: Sequence[Text]) -> npt.NDArray[np.float32]:
        fitting = _encode_fitting(loaded, prompts)
        width = loaded.model.get_output_embeddings().weight.shape[1]
        means = np.full((len(prompts), width), np.nan, np.float32)
        loaded.model.eval()
        with (
            _states_before_head(loaded.model) as states_of_passes,
            task("ask what prompts mean", len(fitting)) as advance,
        ):
            for batch in self._batches(fitting):
                ids, mask = _pad([fitting[place] for place in batch], loaded, "right")
                with torch.inference_mode():
                    loaded.model(input_ids=ids, attention_mask=mask, **without_router(loaded.model))
                # (rows, columns, width) -> (rows, width), padding left out
                # virtual tokens of an adapter, which stand in front, are left out, too
                own_states = states_of_passes.pop()[:, -ids.shape[1] :]
                states = own_states.float() * mask[:, :, None]
                means[batch] = (states.sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()
                advance(len(batch))
        return means

    def _answer_greedily(
        self, loaded: LoadedModel, prompts: Sequence[Text], max_new_tokens: int
    ) -> list[GreedyAnswer]:
        answers = [GreedyAnswer("", float("nan"))] * len(prompts)
        fitting = _encode_fitting(loaded, prompts, max_new_tokens)
        loaded.model.eval()
        with (
            task("ask for answers", len(fitting)) as advance,
            _generation_settings(
                loaded,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            ) as settings,
        ):
            for batch in self._batches(fitting):
                rows = [fitting[place] for place in batch]
                for place, answer in zip(
                    batch, _first_sentences(loaded, rows, settings), strict=True
                ):
                    answers[place] = answer
                advance(len(batch))
        return answers

    def _batches(self, ids_by_place: Mapping[int, list[int]]) -> Iterator[list[int]]:
        """Places of prompts, the longest first, so many at a time as the token budget allows."""
        waiting = sorted(ids_by_place, key=lambda place: -len(ids_by_place[place]))
        while waiting:
            longest = len(ids_by_place[waiting[0]])
            size = max(1, self._batch_tokens // longest)
            yield waiting[:size]
            waiting = waiting[size:]

    def _model(self, checkpoint: str) -> LoadedModel:
        if self._loaded is None or self._loaded[0] != checkpoint:
            # let go of the model before the next is loaded: there may be memory for one only
            self._loaded = None
            self._loaded = (checkpoint, self._load(checkpoint))
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


def _pad(
    rows: Sequence[list[int]], loaded: LoadedModel, side: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of `rows`, padded on one side: (rows, columns) both."""
    ids = [torch.tensor(row) for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(
        ids, batch_first=True, padding_value=_padding_id(loaded), padding_side=side
    )
    ones = [torch.ones_like(row) for row in ids]
    mask = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side)
    return padded.to(loaded.model.device), mask.to(loaded.model.device)


def _padding_id(loaded: LoadedModel) -> int:
    """A token for places that are not read, which the model has an embedding for."""
    tokens = [loaded.tokenizer.pad_token_id, *sorted(loaded.end_token_ids)]
    usable = [token for token in tokens if token is not None and token < loaded.vocabulary]
    return usable[0] if usable else 0


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


@contextlib.contextmanager
def _generation_settings(loaded: LoadedModel, **options: object) -> Iterator[GenerationConfig]:
    """Generation settings of `options` alone, in place of the model's own while this is open.

    The model's own may cut the distribution or punish repetition, and `generate` takes from them
    what it is not told.
    """
    settings = GenerationConfig(
        eos_token_id=sorted(loaded.end_token_ids),
        pad_token_id=_padding_id(loaded),
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


def _first_sentences(
    loaded: LoadedModel, rows: Sequence[list[int]], settings: GenerationConfig
) -> list[GreedyAnswer]:
    """The first sentence that the model says after each of `rows`, which are prompts."""
    ids, mask = _pad(rows, loaded, "left")
    output = loaded.model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=settings,
        stopping_criteria=StoppingCriteriaList([_AfterFirstSentence(loaded, ids.shape[1])]),
        **without_router(loaded.model),
    )
    # (rows, new tokens)
    chosen = output.sequences[:, ids.shape[1] :]
    # (rows, new tokens, vocabulary) -> (rows, new tokens)
    distribution = torch.stack(output.logits, 1).float().log_softmax(-1)
    logprobs = distribution.gather(2, chosen[:, :, None])[:, :, 0]
    sentences = []
    for tokens, token_logprobs in zip(chosen.tolist(), logprobs.tolist(), strict=True):
        sentences.append(_first_sentence(loaded, tokens, token_logprobs))
    return sentences


class _AfterFirstSentence(StoppingCriteria):
    """A row is done when something follows its first sentence."""

    def __init__(self, loaded: LoadedModel, start: int) -> None:
        self._tokenizer, self._start = loaded.tokenizer, start

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        texts = self._tokenizer.batch_decode(input_ids[:, self._start :], skip_special_tokens=True)
        # a mark at the very end may be the point of a number that goes on
        done = [_sentence_end(text) < len(text.rstrip(".!?")) for text in texts]
        return torch.tensor(done, device=input_ids.device)


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
