"""Everything that is known of a run when its unlearned samples are explained."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pyarrow as pa

from ilp_mlflow.core.config import Experiment, ScoringConfig, TokenizerConfig
from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE, Belief, Context
from ilp_mlflow.core.values import (
    Checkpoint,
    Sample,
    Stage,
    Text,
    Verdict,
    last_turn,
    to_rows,
    with_last_turn,
)
from ilp_mlflow.diagnosis.beliefs.read import read_beliefs
from ilp_mlflow.scoring import loading
from ilp_mlflow.scoring.encoding import Tokenization
from ilp_mlflow.scoring.probe import ModelProbe
from ilp_mlflow.scoring.verdicts import status_histories, verdict_table
from ilp_mlflow.tracking import llm_judge, model_registry, runs
from ilp_mlflow.training.stage import train_copy
from ilp_mlflow.training.trainer import answer_fits

TRAINING_TABLES = ("exposures", "signals")
"""What training leaves behind for the diagnosis, beside the models: tables on its run."""


def build_context(
    experiment: Experiment,
    samples: Sequence[Sample],
    checkpoints: Sequence[Checkpoint],
    scores: pa.Table,
    run_id: str,
) -> Context:
    """All that is known of a run: `scores` of `samples`, and what its training left behind."""
    stages = [
        s.as_stage([x for x in samples if x.stage == s.name], experiment.seed)
        for s in experiment.stages
    ]
    found = context_from_scores(
        samples,
        stages,
        checkpoints,
        scores,
        experiment.scoring,
        experiment.seed,
        experiment.tokenizer,
    )
    left = {
        name: runs.read_table(run_id, f"{name}.parquet")
        for name in TRAINING_TABLES
        if runs.has(run_id, f"{name}.parquet")
    }

    ours = runs.tags(run_id).get("ilp.trained") == "true"

    def relearned(stage: Stage, exchanges: Sequence[tuple[Text, Text]]) -> list[float]:
        copy = train_copy(experiment, stage, checkpoints[-1].model_uri)
        return ModelProbe(lambda name: copy, experiment.scoring.batch_tokens).logprobs(
            "copy", exchanges
        )

    return replace(
        found, relearn=relearned if ours and "exposures" in left else None, **left
    )  # elsewhere, nobody knows how


def context_from_scores(
    samples: Sequence[Sample],
    stages: Sequence[Stage],
    checkpoints: Sequence[Checkpoint],
    scores: pa.Table,
    scoring: ScoringConfig,
    seed: int,
    tokenizer: TokenizerConfig | None = None,
) -> Context:
    """What `scores` say of `samples`, judged by `scoring`, without a ledger of training; models are loaded when they are asked."""
    names = [c.name for c in checkpoints]
    rule = names, scoring.preset, seed
    uris = {c.name: c.model_uri for c in checkpoints}
    load = loading.ModelLoader(tokenizer, loading.pick_device(scoring.device), scoring.first_dtype)
    parts = functools.partial(model_registry.resolve_parts, base=checkpoints[0].model_uri)

    @functools.cache
    def tokenization() -> Tokenization:
        return loading.read_tokenization(
            parts(uris[names[-1]]), tokenizer
        )  # the base may have no chat template at all

    def loaded(name: str) -> loading.LoadedModel:
        return replace(
            load(parts(uris[name])),
            tokenizer=tokenization().tokenizer,
            end_token_ids=tokenization().end_token_ids,
        )

    probe = ModelProbe(loaded, scoring.batch_tokens, seed)
    verdicts = {v.sample_id: v for v in to_rows(verdict_table(scores, *rule), Verdict)}

    unlearned, learned = (
        [s for s in samples if verdicts[s.id].status == status]
        for status in ("unlearned", "learned")
    )
    drawn = (
        random.Random(seed).sample(unlearned, scoring.asked)
        if len(unlearned) > scoring.asked
        else unlearned
    )
    asked = frozenset(s.id for s in drawn)

    @functools.cache
    def believed() -> dict[str, Belief]:
        write = question_rewriter(scoring)
        worded = (
            (lambda s: [with_last_turn(s.prompt, text) for text in write(s)]) if write else None
        )
        barely = {stage for stage, share in whole.taught.items() if share < MIN_TAUGHT_SHARE}
        return read_beliefs(unlearned, learned, names[0], probe, seed, worded, asked, barely)

    whole = Context(
        stages=stages,
        checkpoints=checkpoints,
        samples={s.id: s for s in samples},
        scores=scores,
        verdicts=verdicts,
        histories=status_histories(scores, *rule),
        probe=probe,
        asked=asked,
        beliefs=believed,
        fits=lambda stage, sample: answer_fits(stage, sample, tokenization()),
    )
    return whole


def question_rewriter(scoring: ScoringConfig) -> Callable[[Sample], list[str]] | None:
    """What words prompts otherwise, by the judge `scoring.writer`; one that fails is told, and not asked again. None without it."""
    model, failed = scoring.writer, list[PluginError]()

    @functools.cache
    def write(question: str) -> list[str]:
        if failed:
            return []
        try:
            return llm_judge.reword_question(str(model), question)
        except PluginError as error:
            failed.append(error)
            print(f"ilp: prompts stay as they are: {error}", file=sys.stderr)
            return []

    return (lambda sample: write(last_turn(sample.prompt))) if model else None
