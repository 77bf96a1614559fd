"""Scores of samples under checkpoints, wherever those are: options, one plan for all, precision, and the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import peft
import pyarrow as pa
import pyarrow.compute as pc
import torch
import transformers

from ilp_mlflow.core import cache
from ilp_mlflow.core.config import ScoringConfig, TokenizerConfig
from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.core.progress import task
from ilp_mlflow.core.values import Sample, Score, to_table
from ilp_mlflow.data.distractors import choose_distractors
from ilp_mlflow.data.samples import samples_digest
from ilp_mlflow.scoring import encoding, loading, scorer, token_trees
from ilp_mlflow.scoring.probe import ModelProbe
from ilp_mlflow.scoring.token_trees import ScoringPlan
from ilp_mlflow.scoring.verdicts import undecided_samples
from ilp_mlflow.tracking import model_registry
from ilp_mlflow.tracking.model_digest import model_digest

ASKED, ANSWER_TOKENS = 6, 32
"""Answers a model is asked for when wrong ones are wanted, and their length in tokens."""
VERSIONS = [str(scorer.VERSION), torch.__version__, transformers.__version__, peft.__version__]


def choose_wrong_options(
    samples: Sequence[Sample],
    locations: Mapping[str, str],
    options: ScoringConfig,
    seed: int,
    tokenizer: TokenizerConfig | None = None,
    cached: bool = True,
) -> Mapping[str, tuple[str, ...]]:
    """Wrong options by sample id; where the data has too few, the first and the last checkpoint are asked for answers.

    `locations` are the checkpoints (name -> location, the base first). With `cached`, models that were asked the same
    before are not loaded. Raises ModelError, see `score`.
    """

    def ask(lacking: Sequence[Sample]) -> Mapping[str, list[str]]:
        parts = _parts(locations)
        text, device, dtype = (
            _text(parts, samples, tokenizer),
            loading.pick_device(options.device),
            options.first_dtype,
        )
        ends = {name: parts[name] for name in (next(iter(parts)), list(parts)[-1])}
        asked = [
            samples_digest(lacking),
            text.tokenizer.chat_template or "",
            str((seed, ASKED, ANSWER_TOKENS)),
        ]
        key = ["answers", *asked, *_digests(ends).values(), device, dtype, *VERSIONS]
        table = cache.read(key) if cached else None
        if table is None:
            loader = loading.ModelLoader(tokenizer, device, dtype)
            # all are asked in the form that is scored
            form = {"tokenizer": text.tokenizer, "ends": text.ends}
            probe = ModelProbe(
                lambda name: replace(loader(ends[name]), **form), options.batch_tokens, seed
            )
            said: dict[str, list[str]] = {sample.id: [] for sample in lacking}
            for name in ends:
                with task(f"ask {name} for wrong answers", len(lacking)) as advance:
                    for sample in lacking:
                        (answers,) = probe.generate(name, [sample.prompt], ASKED, ANSWER_TOKENS)
                        said[sample.id] += [answer for answer in answers if _finished(answer, text)]
                        advance(1)
            table = pa.table(
                {
                    "sample_id": list(said),
                    "answers": pa.array(list(said.values()), pa.list_(pa.string())),
                }
            )
            if cached:
                cache.write(key, table)
        return {row["sample_id"]: row["answers"] for row in table.to_pylist()}

    with task("choose wrong options"):
        return choose_distractors(samples, options.options, seed, ask)


def score_checkpoints(
    samples: Sequence[Sample],
    wrong: Mapping[str, Sequence[str]],
    locations: Mapping[str, str],
    options: ScoringConfig,
    seed: int,
    tokenizer: TokenizerConfig | None = None,
    cached: bool = True,
) -> pa.Table:
    """Scores of all samples under all checkpoints (name -> location, the base first), in the columns of `Score`.

    All checkpoints share one plan of batches, so differences are differences of weights. With `cached`, a checkpoint
    whose weights were scored on this plan before is not loaded. Raises ModelError when one is not found or readable.
    """
    parts = _parts(locations)
    text = _text(parts, samples, tokenizer)
    plan = token_trees.plan_batches(samples, wrong, text, options.batch_tokens)
    device = loading.pick_device(options.device)
    digests = _digests(parts)

    def scored(
        plans: Mapping[str, ScoringPlan], dtype: Literal["float32", "bfloat16"]
    ) -> dict[str, pa.Table]:
        loader = loading.ModelLoader(tokenizer, device, dtype)
        tables = {}
        for name, few in plans.items():
            key = [few.digest, *(digests[part] for part in parts[name]), device, dtype, *VERSIONS]
            table = cache.read(key) if cached else None
            if table is None:
                table = _table(name, few, parts[name], text, loader)
                if cached:
                    cache.write(key, table)
            tables[name] = table.set_column(
                1, "checkpoint", pa.array([name] * table.num_rows, pa.string())
            )
        return tables

    screened = scored(dict.fromkeys(parts, plan), options.first_dtype)
    if options.dtype != "mixed":
        return pa.concat_tables(screened.values())
    close = {
        name: pa.array(undecided_samples(table, options.preset, seed))
        for name, table in screened.items()
    }
    again = {
        name: plan.only(frozenset(table.filter(close[name])["sample_id"].to_pylist()))
        for name, table in screened.items()
    }
    decided = scored({name: few for name, few in again.items() if few.samples}, "float32")
    kept = [
        table.filter(pc.invert(close[name])) if name in decided else table
        for name, table in screened.items()
    ]
    return pa.concat_tables([*kept, *decided.values()])


def _table(
    name: str,
    plan: ScoringPlan,
    parts: list[str],
    text: loading.Tokenization,
    loader: loading.ModelLoader,
) -> pa.Table:
    with task(f"load {name}"):
        loaded = loader(parts)
    if loaded.tokenizer.get_vocab() != text.tokenizer.get_vocab():
        raise ModelError(
            f"checkpoint '{name}' has another vocabulary than the last one; score them in separate calls"
        )
    return to_table(scorer.score_samples(plan, loaded, name), Score)


def _text(
    parts: Mapping[str, list[str]], samples: Sequence[Sample], tokenizer: TokenizerConfig | None
) -> loading.Tokenization:
    """How the last checkpoint reads text: it knows the form it was trained in, the base may have no chat template at all."""
    text = loading.read_tokenization(list(parts.values())[-1], tokenizer)
    encoding.check_encodable(text.tokenizer, samples)
    return text


def _finished(answer: str, text: loading.Tokenization) -> bool:
    """The answer, or its first line, was not cut off, and is text."""
    whole = "\n" in answer.strip() or len(text.tokenizer(answer)["input_ids"]) < ANSWER_TOKENS
    return whole and "\ufffd" not in answer and not answer.lstrip().startswith("<")


def _parts(locations: Mapping[str, str]) -> dict[str, list[str]]:
    base = next(iter(locations.values()))
    return {
        name: model_registry.resolve_parts(location, base) for name, location in locations.items()
    }


def _digests(parts: Mapping[str, list[str]]) -> dict[str, str]:
    return {
        part: model_digest(part)
        for part in dict.fromkeys(part for chain in parts.values() for part in chain)
    }
