"""The sample was learned in its stage or later, and what was trained after that took it away."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from pydantic import Field

from ilp_mlflow.plugin import Context, Evidence, Sample, Stage, Value


class LeftSideForgetting(Value):
    """Reads a sample's history over the checkpoints, and tries whether a few steps on other rows bring it back."""

    steps: int = Field(default=6, ge=0)
    """Steps of training, on other rows of the sample's stage, after which it may be back; 0 does not try."""
    back: float = Field(default=0.5, ge=0, le=1)
    """Share 0..1 of the lost log-probability that must be regained to be back."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples that a checkpoint had once their stage had begun, and the last one has not.

        The strength is 1 - exp(-gap) / 2 with the largest `gap` by which it was reproduced, nats. `spurious` in the details: other
        rows bring it back, so it was covered up and not overwritten (arXiv 2501.13453).
        """
        names = [c.name for c in context.checkpoints]
        began = {
            s.name: next((i for i, name in enumerate(names) if name.partition("@")[0] == s.name), 1)
            for s in context.stages
        }
        gaps = _gaps(context, {s.id for s in unlearned})
        held = dict[str, str]()
        found = dict[str, Evidence]()
        for sample in unlearned:
            history = context.histories[sample.id]
            had = [
                i
                for i in range(max(1, began.get(sample.stage, 1)), len(names))
                if history[i] == "learned"
            ]
            if not had:
                continue
            lost = next(i for i in range(had[-1] + 1, len(names)) if history[i] == "unlearned")
            gap = max(gaps[sample.id, names[i]] for i in had)
            held[sample.id] = names[had[-1]]
            found[sample.id] = Evidence(
                cause="left_side_forgetting",
                strength=1 - math.exp(-max(gap, 0.0)) / 2,
                reason=f"'{names[had[-1]]}' had it, '{names[lost]}' does not",
                details={"learned": [names[i] for i in had], "lost": names[lost], "gap": gap},
            )
        try:
            regained_by = self._regained(
                {id_: name for id_, name in held.items() if id_ in context.asked}, context
            )
        except Exception as error:  # training may fail in any way; what the histories show stays
            failed = {"not_tried": f"{type(error).__name__}: {error}"[:200]}
            return {
                id_: e.model_copy(update={"details": e.details | failed})
                for id_, e in found.items()
            }
        for id_, regained in regained_by.items():
            spurious = regained >= self.back
            outcome = f"{self.steps} steps on other rows of its stage {'bring' if spurious else 'do not bring'} it back"
            details = found[id_].details | {"regained": regained, "spurious": spurious}
            found[id_] = found[id_].model_copy(
                update={"reason": f"{found[id_].reason}; {outcome}", "details": details}
            )
        return found

    def _regained(self, held: Mapping[str, str], context: Context) -> dict[str, float]:
        """Share of its lost log-probability that each forgotten sample regains; `held` is the checkpoint that had it last, by id.

        One half of a stage's forgotten samples is read while the other half and the rest of its rows may be trained.
        """
        if not self.steps or context.relearn is None:
            return {}
        exchanges = {
            id_: (context.samples[id_].prompt, context.samples[id_].completion) for id_ in held
        }
        then = dict(
            zip(
                held,
                context.probe.logprobs(context.checkpoints[-1].name, list(exchanges.values())),
                strict=True,
            )
        )
        before = dict[str, float]()
        for checkpoint in sorted(set(held.values())):
            own = [id_ for id_, name in held.items() if name == checkpoint]
            before |= zip(
                own,
                context.probe.logprobs(checkpoint, [exchanges[id_] for id_ in own]),
                strict=True,
            )
        now = dict[str, float]()
        for stage in context.stages:
            forgotten = [s.id for s in stage.samples if s.id in held]
            for tested in (forgotten[::2], forgotten[1::2]):
                hidden = {exchanges[id_] for id_ in tested}
                others = [s for s in stage.samples if (s.prompt, s.completion) not in hidden]
                if tested and others:
                    after = context.relearn(
                        self._few(stage, others), [exchanges[id_] for id_ in tested]
                    )
                    now |= zip(tested, after, strict=True)
        back = {
            id_: (now[id_] - then[id_]) / (before[id_] - then[id_])
            for id_ in now
            if before[id_] > then[id_]
        }
        return {id_: share for id_, share in back.items() if math.isfinite(share)}

    def _few(self, stage: Stage, others: Sequence[Sample]) -> Stage:
        """The stage with as many of `others` as its steps need, at its own learning rate."""
        sizes = (
            stage.training.get("per_device_train_batch_size", 8),
            stage.training.get("gradient_accumulation_steps", 1),
        )
        n = min(len(others), self.steps * math.prod(int(size) for size in sizes))
        chosen = tuple(random.Random(stage.name).sample(list(others), n))
        training = {
            **stage.training,
            "max_steps": self.steps,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
        }
        return stage.model_copy(
            update={
                "samples": chosen,
                "training": training,
                "schedule": "shuffled",
                "score_every": None,
            }
        )


def _gaps(context: Context, ids: set[str]) -> dict[tuple[str, str], float]:
    rows = zip(
        *(context.scores[name].to_pylist() for name in ("sample_id", "checkpoint", "gap")),
        strict=True,
    )
    return {(id_, checkpoint): gap or 0.0 for id_, checkpoint, gap in rows if id_ in ids}
