"""Data that contradicts itself: the side judged wrong is dropped (Algorithm 3 of the study, arXiv 2604.10079)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from ilp_mitigations import recipe
from ilp_mlflow.plugin import Context, ContradictionDetails, Diagnosis, Plan, Request, Value


class ConflictRemoval(Value):
    """Train without the rows that the diagnosis holds for wrong, from the first stage that has any on."""

    prior: ClassVar[float] = 0.9
    """Net recovery 0..1 to expect before anything was tried: about what it was on worlds of the lab (docs/results.md)."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """For the samples on the right side (a request where there is none); its control drops others of their stages."""
        targets, wrong = list[str](), set[str]()
        for diagnosis in diagnoses:
            if diagnosis.cause != "data_contradiction":
                continue
            details = diagnosis.details(ContradictionDetails)
            if details and details.others_are_wrong:
                targets.append(diagnosis.verdict.sample_id)
                wrong |= set(details.rows)
            elif details and details.this_row_is_wrong:
                wrong.add(diagnosis.verdict.sample_id)
        wrong -= set(targets)
        if not wrong:
            return None
        if not targets:
            first = min(wrong)
            reason = f"{len(wrong)} samples that are not learned are themselves wrong, the first is '{first}': correct or remove them"
            return Request(targets=tuple(sorted(wrong)), wanted={}, reason=reason)
        barred, others = wrong | {d.verdict.sample_id for d in diagnoses}, set[str]()
        for stage in context.stages:
            free = [s.id for s in stage.samples if s.id not in barred]
            n = sum(s.id in wrong for s in stage.samples)
            others |= set(
                random.Random(f"dropped {stage.training.get('seed')}").sample(
                    free, min(n, len(free))
                )
            )
        return Plan(
            targets=tuple(targets),
            stages=recipe.dropped(context.stages, wrong),
            control=recipe.dropped(context.stages, others),
            dropped=tuple(sorted(wrong & set(context.samples))),
        )
