"""Too little signal: more distinct samples of the pattern, which teach the rule and not only the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ilp_mitigations import recipe
from ilp_mitigations.sources import kinds
from ilp_mlflow import Context, Diagnosis, Plan, Request, Sample, Value


class AugmentRare(Value):
    """Train other samples with the same rare word along with those that got too little signal."""

    prior: ClassVar[float] = 0.8

    source: kinds.Samples | None = None
    """Rows to spare, a model that writes, or from Python a source of your own; left out, the request for them is all there is."""
    more: int = Field(default=100, ge=1)
    """Distinct samples per rare word."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """For the samples with a rare word, from their first stage on; the control sees as many other rows once more."""
        words = dict[str, list[str]]()
        for diagnosis in diagnoses:
            if diagnosis.cause == "insufficient_optimization":
                word = diagnosis.evidence["insufficient_optimization"].details.get("rarest_word")
                if word:
                    words.setdefault(word, []).append(diagnosis.verdict.sample_id)
        if not words:
            return None
        targets = tuple(i for ids in words.values() for i in ids)
        stage = {s.name: s for s in context.stages}[context.samples[targets[0]].stage]
        found = kinds.more(self.source, words, context.samples, stage.name, self.more) if self.source else {}
        rows = dict[str, Sample]()
        for word in words:
            fit = [s for s in found.get(word, ()) if type(s.prompt) is recipe.form(stage)]
            rows |= {s.id: s for s in recipe.sampled(fit, self.more, word)}
        if not rows:
            where = f"none from {self.source!r}" if self.source else f"set 'source' of augment_rare to {kinds.SAMPLES}"
            reason = (
                f"{self.more} more distinct samples wanted of each of {len(words)} patterns ({', '.join(sorted(words))}); {where}"
            )
            return Request(targets=targets, wanted=dict.fromkeys(sorted(words), self.more), reason=reason)
        instead = recipe.drawn(stage, len(rows), {d.verdict.sample_id for d in diagnoses})
        return Plan(
            targets=targets,
            stages=recipe.added(context.stages, {stage.name: list(rows.values())}),
            control=recipe.added(context.stages, {stage.name: instead}),
        )
