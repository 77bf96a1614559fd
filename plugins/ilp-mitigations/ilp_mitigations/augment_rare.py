"""Too little signal: more distinct samples of the pattern, which teach the rule and not only the rows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from ilp_mitigations import recipe
from ilp_mitigations.sources import kinds
from ilp_mlflow.plugin import (
    Context,
    Diagnosis,
    OptimizationDetails,
    Plan,
    Request,
    Sample,
    Stage,
    Value,
    prompt_text,
)


class AugmentRare(Value):
    """Train other samples with the same rare word along with those that got too little signal."""

    prior: ClassVar[float] = 0.9
    """Net recovery 0..1 to expect before anything was tried: about what it was on worlds of the lab (docs/results.md)."""

    source: kinds.Samples | None = None
    """Rows to spare, a model that writes, or from Python a source of your own; left out, the request for them is all there is."""
    more: int = Field(default=200, ge=1)
    """Distinct samples per rare word."""
    repeated: float = Field(default=0.1, ge=0, le=1)
    """Some are trained along with later stages, too, which undo what they do not repeat; share 0..1 of a stage's own rows."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """For the samples with a rare word, from their first stage on; the control sees as many other rows once more."""
        stages = {s.name: s for s in context.stages}
        words = dict[str, dict[str, list[str]]]()
        for diagnosis in diagnoses:
            details = diagnosis.details(OptimizationDetails)
            if diagnosis.cause == OptimizationDetails.cause and details and details.rarest_word:
                word = details.rarest_word
                stage = context.samples[diagnosis.verdict.sample_id].stage
                words.setdefault(stage, {}).setdefault(word, []).append(diagnosis.verdict.sample_id)
        if not words:
            return None
        targets = tuple(i for own in words.values() for ids in own.values() for i in ids)
        rows = {name: self._rows(own, stages[name], context) for name, own in words.items()}
        if not any(rows.values()):
            patterns = sorted({word for own in words.values() for word in own})
            where = (
                f"none from {self.source!r}"
                if self.source
                else f"set 'source' of augment_rare to {kinds.SAMPLES}"
            )
            reason = f"{self.more} more distinct samples wanted of each of {len(patterns)} patterns ({', '.join(patterns)}); {where}"
            return Request(
                targets=targets, wanted=dict.fromkeys(patterns, self.more), reason=reason
            )
        # rows with the words would teach the control what the remedy is to teach
        rare = {word for own in words.values() for word in own}
        barred = {d.verdict.sample_id for d in diagnoses}
        barred |= {
            s.id
            for s in context.samples.values()
            if rare & set(prompt_text(s.prompt).casefold().split())
        }
        instead = {
            name: recipe.drawn(
                stages[name], len(found), functools.partial(context.fits, stages[name]), barred
            )
            for name, found in rows.items()
        }
        remedy, control = (
            recipe.added(context.stages, self._again(more, context)) for more in (rows, instead)
        )
        return Plan(targets=targets, stages=remedy, control=control)

    def _again(
        self, more: Mapping[str, Sequence[Sample]], context: Context
    ) -> dict[str, list[Sample]]:
        """`more` samples by stage, and some of those of the stages before it for each stage behind."""
        found, before = dict[str, list[Sample]](), list[Sample]()
        for stage in context.stages:
            n = round(self.repeated * len(stage.samples))
            again = recipe.sampled(
                before, n, f"again {stage.name}", functools.partial(context.fits, stage)
            )
            own = list(more.get(stage.name, ()))
            found[stage.name] = own + [
                s.model_copy(update={"id": f"{s.id}@{stage.name}"}) for s in again
            ]
            before += own
        return found

    def _rows(
        self, words: Mapping[str, Sequence[str]], stage: Stage, context: Context
    ) -> list[Sample]:
        """Distinct samples for a stage, at most `more` for each word, none of which is asked anywhere else."""
        if not self.source:
            return []
        found = kinds.more(
            self.source, words, context.samples, stage.name, self.more, context.held_out
        )
        rows = dict[str, Sample]()
        for word in words:
            rows |= {
                s.id: s
                for s in recipe.sampled(
                    found[word], self.more, word, functools.partial(context.fits, stage)
                )
            }
        return [s.model_copy(update={"id": f"more/{s.id}"}) for s in rows.values()]
