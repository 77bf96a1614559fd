"""The sample never reached the model as it stands in the file: mechanics, to be ruled out before anything else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ilp_mlflow.plugin import Context, Evidence, Exposure, Sample, Score, Value, to_rows

SELDOM, TOO_OFTEN = 0.7, 0.4
"""Strength where a sample was seen much less often than others; and more often, which does not keep it from being learned."""


class NotTrained(Value):
    """Reads the ledger of what training did with each sample, and whether its stage changed the model at all."""

    rarely: float = Field(default=0.5, ge=0, le=1)
    """Seen less often than this share 0..1 of what is usual in its stage, a sample was left out; as far above, repeated."""
    still: float = Field(default=1e-4, ge=0)
    """A stage moved nothing when none of its samples' log-probabilities changed by more, nats."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples that were in no batch, or of whose answer a part was in no loss.

        The strength is the share of the tokens the model gets wrong that training may have left out; where that is one token and
        the model stops, how likely a wrong one is the one left out.
        """
        found = {
            s.id: Evidence(cause="not_trained", strength=1, reason=reason)
            for s, reason in self._unmoved(unlearned, context)
        }
        if context.exposures is None:
            return found
        exposures = {e.sample_id: e for e in to_rows(context.exposures, Exposure)}
        seen: dict[str, list[int]] = {e.stage: [] for e in exposures.values()}
        for entry in exposures.values():
            if entry.exposures:
                seen[entry.stage].append(entry.exposures)
        usual = {stage: median(counts or [0]) for stage, counts in seen.items()}
        last = context.scores.filter(
            pc.equal(context.scores["checkpoint"], context.checkpoints[-1].name)
        )
        wanted = last.filter(
            pc.is_in(last["sample_id"], pa.array([s.id for s in unlearned], pa.string()))
        )
        scores = {score.sample_id: score for score in to_rows(wanted, Score)}
        for sample in unlearned:
            exposure = exposures.get(sample.id)
            if exposure is not None and sample.id not in found:
                strength, reason = self._read(exposure, scores[sample.id], usual[exposure.stage])
                if strength:
                    found[sample.id] = Evidence(
                        cause="not_trained",
                        strength=strength,
                        reason=reason,
                        details=exposure.model_dump(exclude={"sample_id"}),
                    )
        return found

    def _read(self, exposure: Exposure, score: Score, usual: float) -> tuple[float, str]:
        if exposure.exposures == 0:
            return 1.0, f"it was in no batch of stage '{exposure.stage}'"
        missing = score.tokens - exposure.supervised_tokens
        if missing > 0:
            cut = (
                f"; max_length cut {exposure.truncated_tokens} off"
                if exposure.truncated_tokens
                else ""
            )
            wrong = max(1, round(score.tokens * (1 - (score.token_accuracy or 0.0))))
            share = missing / wrong
            if (
                missing == 1 and score.stops
            ):  # it may be the end token, which the model has, or any of the others
                share = wrong / max(1, score.tokens - 1)
            return min(1.0, share), (
                f"only {exposure.supervised_tokens} of the {score.tokens} tokens of its answer, end included, were in the loss{cut}"
            )
        times = f"it was seen {exposure.exposures} times, others of stage '{exposure.stage}' {usual:g} times"
        if exposure.exposures < self.rarely * usual:
            return SELDOM, times
        return (TOO_OFTEN, times) if usual < self.rarely * exposure.exposures else (0.0, "")

    def _unmoved(
        self, unlearned: Sequence[Sample], context: Context
    ) -> Iterator[tuple[Sample, str]]:
        """Samples of stages that left all their samples' log-probabilities where they were."""
        names = [c.name for c in context.checkpoints if "@" not in c.name]
        stage_of = {id_: s.stage for id_, s in context.samples.items()}
        for before, after in itertools.pairwise(names):
            if after not in {s.stage for s in unlearned}:
                continue
            first, second = (_logprobs(context, name) for name in (before, after))
            ids = [
                i for i, stage in stage_of.items() if stage == after and i in first and i in second
            ]
            if ids and np.nanmax([abs(first[i] - second[i]) for i in ids]) <= self.still:
                yield from (
                    (s, f"stage '{after}' changed nothing for any of its samples")
                    for s in unlearned
                    if s.stage == after
                )


def _logprobs(context: Context, checkpoint: str) -> dict[str, float]:
    rows = context.scores.filter(pc.equal(context.scores["checkpoint"], checkpoint))
    pairs = zip(rows["sample_id"].to_pylist(), rows["logprob"].to_pylist(), strict=True)
    return {id_: logprob for id_, logprob in pairs if logprob is not None}
