"""The sample was learned in its stage or later, and a later stage took it away."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ilp_mlflow import Context, Evidence, Sample, Value


class LeftSideForgetting(Value):
    """Reads a sample's history over the checkpoints."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples that a checkpoint had once their stage had begun, and the last one has not.

        The strength is 1 - exp(-gap) / 2 with the largest `gap` by which it was reproduced, nats.
        """
        names = [c.name for c in context.checkpoints]
        began = {s.name: next((i for i, name in enumerate(names) if name.partition("@")[0] == s.name), 1) for s in context.stages}
        gaps = _gaps(context, {s.id for s in unlearned})
        found = {}
        for sample in unlearned:
            history = context.histories[sample.id]
            had = [i for i in range(max(1, began.get(sample.stage, 1)), len(names)) if history[i] == "learned"]
            if not had:
                continue
            lost = next(i for i in range(had[-1] + 1, len(names)) if history[i] == "unlearned")
            gap = max(gaps[sample.id, names[i]] for i in had)
            found[sample.id] = Evidence(
                cause="left_side_forgetting",
                strength=1 - math.exp(-max(gap, 0.0)) / 2,
                reason=f"'{names[had[-1]]}' had it, '{names[lost]}' does not",
                details={"learned": [names[i] for i in had], "lost": names[lost], "gap": gap},
            )
        return found


def _gaps(context: Context, ids: set[str]) -> dict[tuple[str, str], float]:
    rows = zip(*(context.scores[name].to_pylist() for name in ("sample_id", "checkpoint", "gap")), strict=True)
    return {(id_, checkpoint): gap or 0.0 for id_, checkpoint, gap in rows if id_ in ids}
