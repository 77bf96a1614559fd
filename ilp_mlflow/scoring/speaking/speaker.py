"""Checkpoints that speak for rules of verdicts: one model at a time, and never the same twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import pyarrow as pa

from ilp_mlflow.core import cache
from ilp_mlflow.core.values import Sample
from ilp_mlflow.core.verdict_rules import Completion
from ilp_mlflow.scoring.models.loading import LoadedModel
from ilp_mlflow.scoring.models.vocabularies import lacking_token
from ilp_mlflow.scoring.speaking.completions import Request, complete
from ilp_mlflow.scoring.tokens.encoding import Tokenization, encode_prompt

MIN_ROOM = 16
"""Tokens that a prompt must leave for a completion, unless less is wanted."""


class Speaker:
    """Lets checkpoints speak.

    `load` gives the model of a checkpoint, `key` all that its completions depend on beside the
    prompts, both by its name. With `cached`, what was asked before is not asked again.
    """

    def __init__(
        self,
        load: Callable[[str], LoadedModel],
        key: Callable[[str], list[str]],
        tokenization: Tokenization,
        batch_tokens: int,
        seed: int,
        cached: bool = True,
    ) -> None:
        self._load, self._key, self._tokenization = load, key, tokenization
        self._batch_tokens, self._seed, self._cached = batch_tokens, seed, cached
        self._loaded: tuple[str, LoadedModel] | None = None

    def generate(
        self,
        checkpoint: str,
        samples: Sequence[Sample],
        max_new_tokens: Sequence[int],
        draws: int = 0,
    ) -> list[list[Completion]]:
        """What a checkpoint says to the prompt of each sample; see `Generate`."""
        requests = []
        for sample, limit in zip(samples, max_new_tokens, strict=True):
            ids = encode_prompt(self._tokenization.tokenizer, sample.prompt)
            requests.append(Request(ids, limit))
        asked = json.dumps([requests, draws, self._seed if draws else 0])
        digest = hashlib.sha256(asked.encode()).hexdigest()
        key = ["completions", digest, *self._key(checkpoint)]
        table = cache.read(key) if self._cached else None
        if table is None:
            table = self._ask(checkpoint, requests, draws)
            if self._cached:
                cache.write(key, table)
        return [[Completion(**one) for one in row] for row in table["completions"].to_pylist()]

    def _ask(self, checkpoint: str, requests: Sequence[Request], draws: int) -> pa.Table:
        """Completions of every request: one column of lists."""
        loaded = self._model(checkpoint)
        fitted = [_fitted(loaded, request) for request in requests]
        fitting = [n for n, request in enumerate(fitted) if request.max_new_tokens > 0]
        chosen = [fitted[n] for n in fitting]
        said = complete(loaded, chosen, draws, self._batch_tokens, self._seed)
        completions: list[list[dict[str, object]]] = [[] for _ in requests]
        for n, of_request in zip(fitting, said, strict=True):
            completions[n] = [one._asdict() for one in of_request]
        kind = pa.list_(pa.struct([("text", pa.string()), ("ended", pa.bool_())]))
        return pa.table({"completions": pa.array(completions, kind)})

    def _model(self, checkpoint: str) -> LoadedModel:
        if self._loaded is None or self._loaded[0] != checkpoint:
            # let go of the model before the next is loaded: there may be memory for one only
            self._loaded = None
            self._loaded = (checkpoint, self._load(checkpoint))
        return self._loaded[1]


def _fitted(loaded: LoadedModel, request: Request) -> Request:
    """A request with as many new tokens as the model has positions for; 0 where it has none."""
    if not request.ids or lacking_token(request.ids, loaded.vocabulary) is not None:
        return request._replace(max_new_tokens=0)
    if loaded.max_length is None:
        return request
    room = loaded.max_length - len(request.ids)
    # of an answer that hardly began nobody knows how it would have ended
    fits = room >= min(request.max_new_tokens, MIN_ROOM)
    return request._replace(max_new_tokens=min(request.max_new_tokens, room) if fits else 0)
