"""More distinct samples of a rare pattern, which teach the rule and not only the rows."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from ilp_mitigations import recipe
from ilp_mitigations.sources import kinds
from ilp_mlflow.plugin import (
    Context,
    Diagnosis,
    Mitigation,
    OptimizationDetails,
    Plan,
    Request,
    Sample,
    Stage,
    prompt_text,
)


class AugmentRare(Mitigation):
    """Train other samples with the same rare word along with those that got too little signal."""

    prior: ClassVar[float] = 0.9
    """Net recovery 0..1 expected before any trial, from worlds of the lab (docs/results.md)."""

    source: kinds.Samples | None = None
    """Spare rows, a model that writes, or from Python a source of your own; left out, the rows are
    only requested."""
    more: int = Field(default=200, ge=1)
    """Distinct samples per rare word."""
    repeated: float = Field(default=0.1, ge=0, le=1)
    """New rows that are trained in each later stage as well, which would otherwise undo them; share
    0..1 of its own rows."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """For the samples with a rare word, from their first stage on.

        Its control sees as many rows without those words once more. A request without a source.
        """
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

        targets: list[str] = []
        rare: set[str] = set()
        more: dict[str, list[Sample]] = {}
        for name, ids_by_word in words.items():
            for word, ids in ids_by_word.items():
                targets += ids
                rare.add(word)
            more[name] = self._find_more(ids_by_word, stages[name], context)
        if not any(more.values()):
            return self._request_samples(targets, sorted(rare))

        # rows with the words would teach the control what the plan is to teach
        barred = recipe.unlearned_ids(diagnoses) | _rows_with_a_word(rare, context)
        instead = {}
        for name, rows in more.items():
            fits = functools.partial(context.fits, stages[name])
            instead[name] = recipe.draw_rows(stages[name], len(rows), fits, barred)
        return Plan(
            targets=tuple(targets),
            stages=recipe.add_rows(context.stages, self._repeat_later(more, context)),
            control=recipe.add_rows(context.stages, self._repeat_later(instead, context)),
        )

    def _find_more(
        self, words: Mapping[str, Sequence[str]], stage: Stage, context: Context
    ) -> list[Sample]:
        """Distinct new samples for a stage, at most `more` for each word."""
        if not self.source:
            return []
        offered = kinds.find_samples(
            self.source, words, context.samples, stage.name, self.more, context.held_out
        )
        fits = functools.partial(context.fits, stage)
        rows: dict[str, Sample] = {}
        for word in words:
            chosen = recipe.sample_rows(offered[word], self.more, word, fits)
            # by id: a row with two of the words is trained once
            rows |= {row.id: row for row in chosen}
        return [recipe.with_id(row, f"more/{row.id}") for row in rows.values()]

    def _repeat_later(
        self, more: Mapping[str, Sequence[Sample]], context: Context
    ) -> dict[str, list[Sample]]:
        """The added rows by stage, with some of those of the stages before in each later one."""
        repeated: dict[str, list[Sample]] = {}
        added_before: list[Sample] = []
        for stage in context.stages:
            n = round(self.repeated * len(stage.samples))
            fits = functools.partial(context.fits, stage)
            again = recipe.sample_rows(added_before, n, f"again {stage.name}", fits)
            rows = list(more.get(stage.name, ()))
            added_before += rows
            repeated[stage.name] = rows
            for row in again:
                repeated[stage.name].append(recipe.with_id(row, f"{row.id}@{stage.name}"))
        return repeated

    def _request_samples(self, targets: Sequence[str], patterns: Sequence[str]) -> Request:
        """Asks for more samples of the patterns (rare words) of the targets (ids)."""
        if self.source:
            where = f"none from {self.source!r}"
        else:
            where = f"set 'source' of augment_rare to {kinds.SAMPLES}"
        reason = (
            f"{self.more} more distinct samples wanted of each of {len(patterns)} patterns "
            f"({', '.join(patterns)}); {where}"
        )
        wanted = dict.fromkeys(patterns, self.more)
        return Request(targets=tuple(targets), wanted=wanted, reason=reason)


def _rows_with_a_word(words: Collection[str], context: Context) -> set[str]:
    """Ids of the samples whose prompt has any of the words."""
    ids = set()
    for sample in context.samples.values():
        if not set(words).isdisjoint(prompt_text(sample.prompt).casefold().split()):
            ids.add(sample.id)
    return ids
