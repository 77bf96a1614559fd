"""Of data that contradicts itself, the side judged wrong is dropped.

Algorithm 3 of the study (Xue et al., arXiv 2604.10079).
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import ClassVar

from ilp_mitigations import recipe
from ilp_mlflow.plugin import (
    Context,
    ContradictionDetails,
    Diagnosis,
    Mitigation,
    Plan,
    Request,
    Stage,
)


class ConflictRemoval(Mitigation):
    """Train without the rows that the diagnosis holds for wrong, from their first stage on."""

    prior: ClassVar[float] = 0.9
    """Net recovery 0..1 expected before any trial, from worlds of the lab (docs/results.md)."""

    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """For the samples on the right side; a request to correct the data where there are none.

        Its control drops as many other rows of the same stages.
        """
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
        # a target is not dropped, even where the diagnosis of another sample calls it wrong
        wrong -= set(targets)
        if not wrong:
            return None
        if not targets:
            return _request_correction(wrong)
        barred = wrong | recipe.unlearned_ids(diagnoses)
        others = _draw_others(context.stages, wrong, barred)
        return Plan(
            targets=tuple(targets),
            stages=recipe.drop_rows(context.stages, wrong),
            control=recipe.drop_rows(context.stages, others),
            dropped=tuple(sorted(wrong & set(context.samples))),
        )


def _request_correction(wrong: Collection[str]) -> Request:
    """Asks for the wrong rows (ids) to be corrected by hand: none of them is to be recovered."""
    reason = (
        f"{len(wrong)} samples that are not learned are themselves wrong, "
        f"the first is '{min(wrong)}': correct or remove them"
    )
    return Request(targets=tuple(sorted(wrong)), wanted={}, reason=reason)


def _draw_others(
    stages: Sequence[Stage], wrong: Collection[str], barred: Collection[str]
) -> set[str]:
    """Ids of rows that are not `barred`, as many of each stage as it has `wrong` ones."""
    others: set[str] = set()
    for stage in stages:
        free = [row.id for row in stage.samples if row.id not in barred]
        n = sum(row.id in wrong for row in stage.samples)
        # one seed per stage: what one stage draws does not change what the next one does
        rng = random.Random(f"dropped {stage.training.get('seed')}")
        others |= set(rng.sample(free, min(n, len(free))))
    return others
