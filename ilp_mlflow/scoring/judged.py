"""Samples scored under checkpoints and judged: what every way in asks for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ilp_mlflow.core.config import ScoringConfig, TokenizerConfig
from ilp_mlflow.core.terminal.progress import task
from ilp_mlflow.core.values import Sample, Verdict, to_rows
from ilp_mlflow.core.verdict_rules import Completion, Generate
from ilp_mlflow.data.held_out import never_trained
from ilp_mlflow.scoring.checkpoints import CheckedScores, checkpoint_speaker, score_and_check
from ilp_mlflow.scoring.speaking.speaker import Speaker
from ilp_mlflow.scoring.verdicts.judgements import Evidence, Judges, judge, read_judges
from ilp_mlflow.scoring.verdicts.timeline import verdict_table


@dataclass(frozen=True)
class JudgedSamples:
    """Samples with their scores and judgements."""

    scored: CheckedScores
    """Their scores, those of their tokens, and how they were checked."""
    judgements: pa.Table
    """Columns of `Judgement`."""
    checkpoints: tuple[str, ...]
    """Names of the checkpoints, the base first."""

    @property
    def scores(self) -> pa.Table:
        """Columns of `Score`."""
        return self.scored.table

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdict of every sample."""
        return list(to_rows(verdict_table(self.judgements, self.checkpoints), Verdict))


def score_and_judge(
    samples: Sequence[Sample],
    wrong: Mapping[str, Sequence[str]],
    locations: Mapping[str, str],
    options: ScoringConfig,
    seed: int,
    tokenizer: TokenizerConfig | None = None,
    cached: bool = True,
    controls: Sequence[Sample] = (),
    has_base: bool = True,
) -> JudgedSamples:
    """Score all samples under all checkpoints and judge them.

    `wrong` are wrong options by sample id, `locations` the checkpoints (name -> location, the base
    first unless not `has_base`), `controls` rows that no stage trains; those that are among the
    samples all the same are left out. Raises ModelError, see `score_and_check`, and PluginError,
    see `judge`.
    """
    judges = read_judges(options)
    scored = score_and_check(samples, wrong, locations, options, seed, tokenizer, cached)
    control_tokens = None
    controls = never_trained(controls, samples)
    if controls and _need_controls(judges, scored, samples):
        # no wrong options: what counts is how probable their own answers are
        others = {control.id: () for control in controls}
        control_tokens = score_and_check(
            controls, others, locations, options, seed, tokenizer, cached
        ).tokens

    @functools.cache
    def speaker() -> Speaker:
        # most rules ask nobody, and then no model is looked for again
        return checkpoint_speaker(samples, locations, options, seed, tokenizer, cached)

    evidence = Evidence(
        samples=samples,
        tokens=scored.tokens,
        controls=controls,
        control_tokens=control_tokens,
        speaker=lambda name: _asking(speaker, name),
        has_base=has_base,
    )
    names = tuple(locations)
    with task("judge"):
        judgements = judge(scored.table, names, judges, seed, evidence)
    return JudgedSamples(scored, judgements, names)


def _asking(speaker: Callable[[], Speaker], checkpoint: str) -> Generate:
    """What lets a checkpoint speak, which is looked for at the first question."""

    def generate(
        samples: Sequence[Sample], max_new_tokens: Sequence[int], draws: int = 0
    ) -> Sequence[Sequence[Completion]]:
        return speaker().generate(checkpoint, samples, max_new_tokens, draws)

    return generate


def _need_controls(judges: Judges, scored: CheckedScores, samples: Sequence[Sample]) -> bool:
    """Whether any sample is judged by a rule that compares with rows that were never trained."""
    keys = judges.keys(scored.table, {sample.id: sample for sample in samples})
    return any(judges.rules[key].needs_controls for key in dict.fromkeys(keys.tolist()))
