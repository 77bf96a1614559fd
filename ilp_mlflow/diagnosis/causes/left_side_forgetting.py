"""The sample was learned in its stage or later, and what was trained after that took it away."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from ilp_mlflow.core.interfaces import Context, Diagnostic
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Details, Evidence, Sample, Stage

MAX_ERROR_CHARS = 200
"""Characters of an error that the details keep."""
Exchanged = tuple[Text, Text]
"""A prompt and its completion."""
Relearn = Callable[[Stage, Sequence[Exchanged]], Sequence[float]]
"""See `Context.relearn`."""


class ForgettingDetails(Details):
    """When a sample was learned and lost, and whether it is easily brought back."""

    cause: ClassVar[str] = "left_side_forgetting"
    learned: tuple[str, ...] = ()
    """The checkpoints that had it, from its own stage on."""
    lost: str = ""
    """The first checkpoint behind them that did not."""
    gap: float = 0.0
    """The largest gap by which one of them reproduced it, nats; see `Score`."""
    regained: float | None = None
    """Share of the lost log-probability that training on other rows regained; unset if untried."""
    spurious: bool | None = None
    """Training on other rows brings it back: it was covered up and not overwritten."""
    not_tried: str = ""
    """Why that could not be tried."""


class LeftSideForgetting(Diagnostic):
    """Reads a sample's history, and tries whether a few steps on other rows bring it back."""

    order: ClassVar[int] = 30
    meaning: ClassVar[str] = "it was learned once, and training on other data took it away"
    colour: ClassVar[str] = "#8f6fd6"
    plant: ClassVar[str] = "the stage `early`"

    steps: int = Field(default=6, ge=0)
    """Training steps on other rows of its stage after which a sample may be back; 0: not tried."""
    back: float = Field(default=0.5, ge=0, le=1)
    """Share 0..1 of the lost log-probability that must be regained to be back."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples that were learned once their stage had begun, and are not any more.

        The strength is 1 - exp(-gap) / 2 with the largest `gap` by which it was reproduced, nats.
        `spurious` in the details: other rows bring it back, so it was covered up and not
        overwritten (arXiv 2501.13453).
        """
        forgotten = _forgotten(unlearned, context)
        regained: dict[str, float] = {}
        not_tried = ""
        try:
            regained = self._regained(forgotten, context)
        except Exception as error:  # training may fail in any way; what the histories show stays
            not_tried = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
        evidence = {}
        for id_, details in forgotten.items():
            reason = f"'{details.learned[-1]}' had it, '{details.lost}' does not"
            outcome: dict[str, Any] = {}
            if not_tried:
                outcome["not_tried"] = not_tried
            if id_ in regained:
                spurious = regained[id_] >= self.back
                outcome["regained"] = regained[id_]
                outcome["spurious"] = spurious
                verb = "bring" if spurious else "do not bring"
                reason += f"; {self.steps} steps on other rows of its stage {verb} it back"
            evidence[id_] = Evidence(
                cause=details.cause,
                # One half where it was reproduced by no gap at all: it was on the line.
                strength=1 - math.exp(-max(details.gap, 0.0)) / 2,
                reason=reason,
                details=details.model_copy(update=outcome),
            )
        return evidence

    def _regained(
        self, forgotten: Mapping[str, ForgettingDetails], context: Context
    ) -> dict[str, float]:
        """Share of its lost log-probability that each forgotten sample regains, by id.

        One half of a stage's forgotten samples is read while the other half and the rest of its
        rows may be trained. A sample that may not or cannot be asked about, or is as probable as it
        was, is left out.
        """
        relearn = context.relearn
        if not self.steps or relearn is None:
            return {}
        # By id the checkpoint that had the sample last.
        held_by = {}
        for id_, details in forgotten.items():
            if id_ in context.asked:
                held_by[id_] = details.learned[-1]
        exchanges = {id_: _exchange(context.samples[id_]) for id_ in held_by}
        lost = _logprobs(context, context.checkpoints[-1].name, exchanges)
        held: dict[str, float] = {}
        # A probe holds one model at a time: what a checkpoint held is asked in one go.
        for checkpoint in sorted(set(held_by.values())):
            held_here = {i: exchanges[i] for i, name in held_by.items() if name == checkpoint}
            held.update(_logprobs(context, checkpoint, held_here))
        relearned = self._relearned(exchanges, context.stages, relearn)
        shares = {}
        for id_, logprob in relearned.items():
            if held[id_] > lost[id_]:
                share = (logprob - lost[id_]) / (held[id_] - lost[id_])
                if math.isfinite(share):
                    shares[id_] = share
        return shares

    def _relearned(
        self, exchanges: Mapping[str, Exchanged], stages: Sequence[Stage], relearn: Relearn
    ) -> dict[str, float]:
        """Log-probability of each exchange after training on rows that do not hold it, by id."""
        logprobs: dict[str, float] = {}
        for stage in stages:
            forgotten_ids = [s.id for s in stage.samples if s.id in exchanges]
            # Two copies: each half is read under the one that may have been trained on the other.
            for tested_ids in (forgotten_ids[::2], forgotten_ids[1::2]):
                tested = [exchanges[id_] for id_ in tested_ids]
                # Another row with the same text would teach the very answer that is read.
                hidden = set(tested)
                others = [s for s in stage.samples if _exchange(s) not in hidden]
                if tested and others:
                    after = relearn(self._short_stage(stage, others), tested)
                    logprobs.update(zip(tested_ids, after, strict=True))
        return logprobs

    def _short_stage(self, stage: Stage, rows: Sequence[Sample]) -> Stage:
        """The stage with as many of `rows` as its `steps` need, at its own learning rate."""
        n = min(len(rows), self.steps * stage.per_step)
        chosen = random.Random(stage.name).sample(list(rows), n)
        training = {
            **stage.training,
            "max_steps": self.steps,
            # So few steps must not be spent on warming up and cooling down.
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
        }
        return stage.model_copy(
            update={
                "samples": tuple(chosen),
                "training": training,
                "schedule": "shuffled",
                "score_every": None,
            }
        )


def _forgotten(unlearned: Sequence[Sample], context: Context) -> dict[str, ForgettingDetails]:
    """When each forgotten sample was learned and lost, by id."""
    names = [c.name for c in context.checkpoints]
    first_checkpoints = {stage.name: _first_checkpoint(stage, names) for stage in context.stages}
    gaps = _gaps({s.id for s in unlearned}, context)
    details = {}
    for sample in unlearned:
        history = context.histories[sample.id]
        learned = []
        for place in range(first_checkpoints[sample.stage], len(names)):
            if history[place] == "learned":
                learned.append(place)
        if learned:
            lost = history.index("unlearned", learned[-1] + 1)
            details[sample.id] = ForgettingDetails(
                learned=tuple(names[place] for place in learned),
                lost=names[lost],
                gap=max(gaps[sample.id, names[place]] for place in learned),
            )
    return details


def _first_checkpoint(stage: Stage, names: Sequence[str]) -> int:
    """Place of a stage's first checkpoint, which may lie inside it; 1 if it has none."""
    for place, name in enumerate(names):
        if name.partition("@")[0] == stage.name:
            # The first is the base, whatever its name: what it had was not trained.
            return max(1, place)
    return 1


def _gaps(ids: set[str], context: Context) -> dict[tuple[str, str], float]:
    """The gap of each of the samples `ids` under each checkpoint, nats; 0 where there is none."""
    columns = context.scores.select(["sample_id", "checkpoint", "gap"]).to_pydict()
    gaps = {}
    rows = zip(columns["sample_id"], columns["checkpoint"], columns["gap"], strict=True)
    for id_, checkpoint, gap in rows:
        if id_ in ids:
            gaps[id_, checkpoint] = gap or 0.0
    return gaps


def _exchange(sample: Sample) -> Exchanged:
    return sample.prompt, sample.completion


def _logprobs(
    context: Context, checkpoint: str, exchanges: Mapping[str, Exchanged]
) -> dict[str, float]:
    """Log-probabilities of exchanges under a checkpoint, by id, nats."""
    logprobs = context.probe.logprobs(checkpoint, list(exchanges.values()))
    return dict(zip(exchanges, logprobs, strict=True))
