"""Asks checkpoints through their models: what diagnostics and distractors see of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from ilp_mlflow.core.interfaces import Said
from ilp_mlflow.core.progress import task, track
from ilp_mlflow.core.values import Text
from ilp_mlflow.scoring import encoding, scorer, token_trees
from ilp_mlflow.scoring.encoding import Encoded
from ilp_mlflow.scoring.forward import without_router
from ilp_mlflow.scoring.loading import LoadedModel

# an initial (John F.) or a short title (St., Mr.) ends none
SENTENCE_END = re.compile(
    r"\s*((?<!\b[A-Z])(?<!\b[A-Z][a-z])\.(?=\s|$)|[!?](?=\s|$)|[\u3002\uff01\uff1f]|\n)"
)


class ModelProbe:
    """Asks checkpoints through their models; holds one model at a time, and never asks the same twice."""

    def __init__(
        self, load: Callable[[str], LoadedModel], batch_tokens: int = 2048, seed: int = 0
    ) -> None:
        self._load, self._batch_tokens, self._seed = load, batch_tokens, seed
        self._held: tuple[str, LoadedModel] | None = None
        self._logprobs: dict[tuple[str, Text, Text], float] = {}
        self._answers: dict[tuple[str, int, Text], Said] = {}
        self._states: dict[tuple[str, Text], npt.NDArray[np.float32]] = {}

    def logprobs(self, checkpoint: str, exchanges: Sequence[tuple[Text, Text]]) -> list[float]:
        """Log-probability of each completion after its prompt, without its end token, nats; nan where it does not fit."""
        keys = [(checkpoint, prompt, completion) for prompt, completion in exchanges]
        fresh = [key for key in dict.fromkeys(keys) if key not in self._logprobs]
        if fresh:
            found = self._read(
                self._model(checkpoint), [(prompt, completion) for _, prompt, completion in fresh]
            )
            self._logprobs.update(zip(fresh, found, strict=True))
        return [self._logprobs[key] for key in keys]

    def say(self, checkpoint: str, prompts: Sequence[Text], max_new_tokens: int = 16) -> list[Said]:
        """What it answers to each prompt of its own accord: up to `max_new_tokens` tokens, to the end of the sentence."""
        keys = [(checkpoint, max_new_tokens, prompt) for prompt in prompts]
        fresh = [key for key in dict.fromkeys(keys) if key not in self._answers]
        if fresh:
            found = self._greedy(
                self._model(checkpoint), [prompt for *_, prompt in fresh], max_new_tokens
            )
            self._answers.update(zip(fresh, found, strict=True))
        return [self._answers[key] for key in keys]

    def embed(self, checkpoint: str, prompts: Sequence[Text]) -> npt.NDArray[np.float32]:
        """What it makes of each prompt: its last hidden states, token mean, (prompts, width); nan where one does not fit."""
        keys = [(checkpoint, prompt) for prompt in prompts]
        fresh = [key for key in dict.fromkeys(keys) if key not in self._states]
        if fresh:
            found = self._mean_states(self._model(checkpoint), [prompt for _, prompt in fresh])
            self._states.update(zip(fresh, found, strict=True))
        return (
            np.stack([self._states[key] for key in keys]) if keys else np.empty((0, 0), np.float32)
        )

    def generate(
        self, checkpoint: str, prompts: Sequence[Text], n: int, max_new_tokens: int = 64
    ) -> list[list[str]]:
        """`n` continuations of each prompt of up to `max_new_tokens` tokens, sampled at temperature 1; none if they do not fit."""
        loaded = self._model(checkpoint)
        torch.manual_seed(self._seed)
        answers = list[list[str]]()
        sampling = {
            "do_sample": True,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "num_return_sequences": n,
        }
        with _settings(loaded, max_new_tokens=max_new_tokens, **sampling) as settings:
            for prompt in prompts:
                ids = encoding.encode_prompt(loaded.tokenizer, prompt)
                if not _fits(loaded, ids, max_new_tokens):
                    answers.append([])
                    continue
                row = torch.tensor([ids], device=loaded.model.device)
                options = {"generation_config": settings, **without_router(loaded.model)}
                out = loaded.model.generate(
                    input_ids=row, attention_mask=torch.ones_like(row), **options
                )
                answers.append(
                    loaded.tokenizer.batch_decode(out[:, len(ids) :], skip_special_tokens=True)
                )
        return answers

    def _read(self, loaded: LoadedModel, exchanges: Sequence[tuple[Text, Text]]) -> list[float]:
        encoded = dict[int, Encoded]()
        for i, (prompt, completion) in enumerate(exchanges):
            whole = encoding.encode(loaded.tokenizer, prompt, completion, loaded.end_token_ids)
            one = Encoded(whole.ids[: len(whole.ids) - whole.ended], whole.start, False)
            if 0 < one.start < len(one.ids) and _fits(loaded, one.ids):
                encoded[i] = one
        trees = token_trees.grouped(encoded)
        found = [float("nan")] * len(exchanges)
        if trees:
            loaded.model.eval()
            shared = scorer.branches([entry.tree for entry in trees], loaded)
            read_trees = scorer.reads(
                token_trees.batched(trees, self._batch_tokens), loaded, shared, self._batch_tokens
            )
            with task("ask how likely answers are", len(trees)) as advance:
                for entry, read in read_trees:
                    for i, logprob in zip(entry.numbers, read.sums.tolist(), strict=True):
                        found[i] = logprob
                    advance(1)
        return found

    def _mean_states(self, loaded: LoadedModel, prompts: Sequence[Text]) -> npt.NDArray[np.float32]:
        begun = _begun(loaded, prompts)
        usable = {i: ids for i, ids in begun.items() if _fits(loaded, ids)}
        head = loaded.model.get_output_embeddings()
        found = np.full((len(prompts), head.weight.shape[1]), np.nan, np.float32)
        read = list[torch.Tensor]()

        def keep(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            read.append(args[0])
            return (args[0][:1, :1],)  # no logits are wanted

        hook = head.register_forward_pre_hook(keep)
        try:
            with task("ask what prompts mean", len(usable)) as advance:
                for batch in self._batches(usable):
                    ids, mask = _padded([usable[i] for i in batch], loaded, "right")
                    with torch.inference_mode():
                        loaded.model.eval()(
                            input_ids=ids, attention_mask=mask, **without_router(loaded.model)
                        )
                    states = (read.pop().float() * mask[:, :, None]).sum(1) / mask.sum(
                        1, keepdim=True
                    )
                    found[batch] = states.cpu().numpy()
                    advance(len(batch))
        finally:
            hook.remove()
        return found

    def _greedy(
        self, loaded: LoadedModel, prompts: Sequence[Text], max_new_tokens: int
    ) -> list[Said]:
        found = [Said("", float("nan"))] * len(prompts)
        begun = _begun(loaded, prompts)
        usable = {i: ids for i, ids in begun.items() if _fits(loaded, ids, max_new_tokens)}
        wanted = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        telling = task("ask for answers", len(usable))
        with (
            telling as advance,
            _settings(loaded, max_new_tokens=max_new_tokens, **wanted) as settings,
        ):
            for batch in self._batches(usable):
                ids, mask = _padded([usable[i] for i in batch], loaded, "left")
                stop = StoppingCriteriaList([_Sentence(loaded, ids.shape[1])])
                out = loaded.model.eval().generate(
                    input_ids=ids,
                    attention_mask=mask,
                    generation_config=settings,
                    stopping_criteria=stop,
                    **without_router(loaded.model),
                )
                chosen = out.sequences[:, ids.shape[1] :]
                logprobs = (
                    torch.stack(out.logits, 1)
                    .float()
                    .log_softmax(-1)
                    .gather(2, chosen[:, :, None])[:, :, 0]
                )
                for i, tokens, own in zip(batch, chosen.tolist(), logprobs.tolist(), strict=True):
                    found[i] = _first_sentence(loaded, tokens, own)
                advance(len(batch))
        return found

    def _batches(self, rows: dict[int, list[int]]) -> Iterator[list[int]]:
        """Keys of `rows`, the longest first, so many at a time that a pass stays within the token budget."""
        left = sorted(rows, key=lambda i: -len(rows[i]))
        while left:
            n = max(1, self._batch_tokens // len(rows[left[0]]))
            yield left[:n]
            left = left[n:]

    def _model(self, checkpoint: str) -> LoadedModel:
        if self._held is None or self._held[0] != checkpoint:
            self._held = None
            self._held = (checkpoint, self._load(checkpoint))
        return self._held[1]


@contextlib.contextmanager
def _settings(loaded: LoadedModel, **wanted: object) -> Iterator[GenerationConfig]:
    """Generation settings that hold whatever the model's own are: those may cut the distribution or punish repetition."""
    pad = loaded.tokenizer.pad_token_id
    settings = GenerationConfig(
        eos_token_id=sorted(loaded.end_token_ids),
        pad_token_id=min(loaded.end_token_ids) if pad is None else pad,
        **wanted,
    )
    models = [
        m for m in loaded.model.modules() if hasattr(m, "generation_config")
    ]  # with an adapter, two
    own = [m.generation_config for m in models]
    try:
        for model in models:
            model.generation_config = settings
        yield settings
    finally:
        for model, kept in zip(models, own, strict=True):
            model.generation_config = kept


def _fits(loaded: LoadedModel, ids: Sequence[int], more: int = 0) -> bool:
    return len(ids) > 0 and (loaded.max_length is None or len(ids) + more <= loaded.max_length)


def _begun(loaded: LoadedModel, prompts: Sequence[Text]) -> dict[int, list[int]]:
    """Token ids of each prompt, by its place."""
    return {
        i: encoding.encode_prompt(loaded.tokenizer, prompt)
        for i, prompt in enumerate(track(prompts, "tokenise prompts"))
    }


def _padded(
    rows: Sequence[list[int]], loaded: LoadedModel, side: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of `rows`, padded on one side."""
    parts = [torch.tensor(row) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(
        parts, batch_first=True, padding_value=min(loaded.end_token_ids), padding_side=side
    )
    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones_like(part) for part in parts], batch_first=True, padding_side=side
    )
    return ids.to(loaded.model.device), mask.to(loaded.model.device)


class _Sentence(StoppingCriteria):
    """A row is done when something stands behind its first sentence."""

    def __init__(self, loaded: LoadedModel, start: int) -> None:
        self._tokenizer, self._start = loaded.tokenizer, start

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        texts = self._tokenizer.batch_decode(input_ids[:, self._start :], skip_special_tokens=True)
        return torch.tensor(
            [_end(text) < len(text.rstrip(".!?")) for text in texts], device=input_ids.device
        )


def _end(text: str) -> int:
    """Where the first sentence of `text` ends."""
    return next(
        (m.start() for m in SENTENCE_END.finditer(text) if text[: m.start()].strip()), len(text)
    )


def _first_sentence(loaded: LoadedModel, tokens: list[int], logprobs: list[float]) -> Said:
    stop = next((n for n, token in enumerate(tokens) if token in loaded.end_token_ids), len(tokens))
    text = loaded.tokenizer.decode(tokens[:stop], skip_special_tokens=True)
    end = _end(text)
    said = text[:end].strip()
    used = next(
        (n for n in range(stop) if len(loaded.tokenizer.decode(tokens[:n]).strip()) >= len(said)),
        stop,
    )
    return Said(said, sum(logprobs[:used]), stop < len(tokens) or end < len(text))
