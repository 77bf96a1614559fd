"""Asks checkpoints through their models: what diagnostics and distractors see of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import GenerationConfig

from ilp_mlflow import batches, encoding, scoring
from ilp_mlflow.models import Loaded
from ilp_mlflow.types import Sample, Text


class ModelProbe:
    """Asks checkpoints through their models; holds one model at a time."""

    def __init__(self, load: Callable[[str], Loaded], batch_tokens: int = 2048, seed: int = 0) -> None:
        self._load, self._batch_tokens, self._seed = load, batch_tokens, seed
        self._held: tuple[str, Loaded] | None = None

    def logprobs(self, checkpoint: str, exchanges: Sequence[tuple[str, str]]) -> list[float]:
        """Summed log-probability of each completion after its prompt, nats; nan where it does not fit the model."""
        samples = [
            Sample(id=f"{i:09}", stage="probe", prompt=prompt, completion=completion)
            for i, (prompt, completion) in enumerate(exchanges)
        ]
        loaded = self._model(checkpoint)
        found = scoring.score(batches.plan(samples, {}, loaded, self._batch_tokens), loaded, checkpoint)
        return [float("nan") if s.logprob is None else s.logprob for s in found]

    def generate(self, checkpoint: str, prompts: Sequence[Text], n: int, max_new_tokens: int = 64) -> list[list[str]]:
        """`n` continuations of each prompt of up to `max_new_tokens` tokens, sampled at temperature 1; none if they do not fit."""
        loaded = self._model(checkpoint)
        torch.manual_seed(self._seed)
        pad = loaded.tokenizer.pad_token_id
        settings = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=n,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(loaded.ends),
            pad_token_id=min(loaded.ends) if pad is None else pad,
        )
        answers = list[list[str]]()
        # what a call leaves open is taken from the model's settings, which may cut the distribution or punish repetition
        models = [m for m in loaded.model.modules() if hasattr(m, "generation_config")]  # with an adapter, two
        own = [m.generation_config for m in models]
        try:
            for model in models:
                model.generation_config = settings
            for prompt in prompts:
                ids = encoding.begin(loaded.tokenizer, prompt)
                if not ids or (loaded.max_length is not None and len(ids) + max_new_tokens > loaded.max_length):
                    answers.append([])
                    continue
                row = torch.tensor([ids], device=loaded.model.device)
                out = loaded.model.generate(input_ids=row, attention_mask=torch.ones_like(row), generation_config=settings)
                answers.append(loaded.tokenizer.batch_decode(out[:, len(ids) :], skip_special_tokens=True))
        finally:
            for model, kept in zip(models, own, strict=True):
                model.generation_config = kept
        return answers

    def _model(self, checkpoint: str) -> Loaded:
        if self._held is None or self._held[0] != checkpoint:
            self._held = None
            self._held = (checkpoint, self._load(checkpoint))
        return self._held[1]
