"""From judgements to histories: which samples are learned, since when, and when they were lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ilp_mlflow.core.errors import DatasetError
from ilp_mlflow.core.values import Status
from ilp_mlflow.scoring.metrics import Floats
from ilp_mlflow.scoring.verdicts.columns import floats, pick
from ilp_mlflow.scoring.verdicts.statuses import LEARNED, STATUSES, UNLEARNED, UNSCORED, Codes

if TYPE_CHECKING:
    import pyarrow as pa


class Timeline(NamedTuple):
    """The statuses of all samples under all checkpoints."""

    sample_ids: pa.Array
    """(samples,)"""
    statuses: Codes
    """(samples, checkpoints)"""
    margins: Floats
    """(samples, checkpoints): nan where there is none."""


def status_timeline(judgements: pa.Table, checkpoints: Sequence[str]) -> Timeline:
    """Status and margin of every sample under every checkpoint; a missing one is `unscored`.

    `judgements` has the columns of `Judgement`. Raises DatasetError for a sample that is twice
    under a checkpoint.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    samples = judgements["sample_id"].dictionary_encode().combine_chunks()
    names = pa.array(checkpoints, pa.string())
    given = judgements["checkpoint"].cast(pa.string())
    columns = pc.fill_null(pc.index_in(given, value_set=names), -1).to_numpy()
    # (rows,): those of checkpoints that are not asked for are left out
    asked_for = columns >= 0
    cells = samples.indices.to_numpy()[asked_for], columns[asked_for]
    shape = len(samples.dictionary), len(checkpoints)
    _refuse_repeated(cells, samples.dictionary, checkpoints)

    statuses, margins = np.full(shape, UNSCORED, np.int8), np.full(shape, np.nan)
    known = pa.array(STATUSES, pa.string())
    named = judgements["status"].cast(pa.string())
    codes = pc.index_in(named, value_set=known).to_numpy().astype(np.int8)
    statuses[cells] = codes[asked_for]
    margins[cells] = floats(judgements, "margin")[asked_for]
    return Timeline(samples.dictionary, statuses, margins)


def verdict_table(judgements: pa.Table, checkpoints: Sequence[str]) -> pa.Table:
    """One row per sample with the columns of `Verdict`: status under the last checkpoint, history.

    An uncertain or unscored checkpoint neither learns nor loses a sample.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    sample_ids, statuses, margins = status_timeline(judgements, checkpoints)
    final = judgements.filter(pc.equal(judgements["checkpoint"], checkpoints[-1]))
    places = pc.index_in(sample_ids, value_set=final["sample_id"])
    last = {}
    for name in ("reason", "rule", "grade"):
        last[name] = final[name].cast(pa.string()).take(places)
    solved = (statuses[:, 0] == LEARNED) & (statuses[:, -1] == LEARNED)
    return pa.table(
        {
            "sample_id": sample_ids,
            "status": pick(STATUSES, statuses[:, -1]),
            "margin": pa.array(margins[:, -1], pa.float64(), from_pandas=True),
            "first_learned": pick(checkpoints, _first_learned(statuses)),
            "last_lost": pick(checkpoints, _last_lost(statuses)),
            "reason": pc.fill_null(last["reason"], "not scored"),
            "rule": pc.fill_null(last["rule"], ""),
            "grade": last["grade"],
            "already_solved": pa.array(solved & (len(checkpoints) > 1)),
        }
    )


def status_histories(
    judgements: pa.Table, checkpoints: Sequence[str]
) -> dict[str, tuple[Status, ...]]:
    """Status under every checkpoint, in their order, by sample id."""
    sample_ids, statuses, _ = status_timeline(judgements, checkpoints)
    histories = {}
    for sample_id, codes in zip(sample_ids.to_pylist(), statuses.tolist(), strict=True):
        histories[sample_id] = tuple(STATUSES[code] for code in codes)
    return histories


def retention_by_stage(
    judgements: pa.Table, stage_of: Mapping[str, str], checkpoints: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Share 0..1 of each stage's scored samples that are learned, by stage, then checkpoint.

    None where none of them is scored. `stage_of` has the stage of every sample, by id.
    """
    retention: dict[str, dict[str, float | None]] = {}
    for stage, statuses in _statuses_by_stage(judgements, stage_of, checkpoints).items():
        learned = (statuses == LEARNED).sum(0).tolist()
        scored = (statuses != UNSCORED).sum(0).tolist()
        retention[stage] = {}
        for name, n_learned, n_scored in zip(checkpoints, learned, scored, strict=True):
            retention[stage][name] = n_learned / n_scored if n_scored else None
    return retention


def unscored_by_stage(
    judgements: pa.Table, stage_of: Mapping[str, str], checkpoints: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Number of each stage's samples that are not scored, by stage, then checkpoint.

    These are what the shares of `retention_by_stage` leave out, samples of `stage_of` without any
    judgement included.
    """
    unscored = {}
    for stage, statuses in _statuses_by_stage(judgements, stage_of, checkpoints).items():
        counts = (statuses == UNSCORED).sum(0).tolist()
        unscored[stage] = dict(zip(checkpoints, counts, strict=True))
    return unscored


def forgetting_by_stage(
    judgements: pa.Table, stage_of: Mapping[str, str], checkpoints: Sequence[str]
) -> dict[str, float | None]:
    """Share -1..1 of each stage's samples that was lost since the stage was trained.

    Learned right after the stage less learned at the end, Avalanche's forgetting of an experience,
    over the samples that are scored under both; None where none is. Stages that are no checkpoint
    are left out.
    """
    forgetting: dict[str, float | None] = {}
    for stage, statuses in _statuses_by_stage(judgements, stage_of, checkpoints).items():
        if stage in checkpoints:
            after, at_the_end = statuses[:, checkpoints.index(stage)], statuses[:, -1]
            in_both = (after != UNSCORED) & (at_the_end != UNSCORED)
            lost = (after == LEARNED).astype(int) - (at_the_end == LEARNED)
            forgetting[stage] = float(lost[in_both].mean()) if in_both.any() else None
    return forgetting


def _statuses_by_stage(
    judgements: pa.Table, stage_of: Mapping[str, str], checkpoints: Sequence[str]
) -> dict[str, Codes]:
    """Statuses of the samples of each stage: (samples of the stage, checkpoints)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sample_ids, statuses, _ = status_timeline(judgements, checkpoints)
    places = pc.index_in(pa.array(list(stage_of), pa.string()), value_set=sample_ids)
    is_judged = places.is_valid().to_numpy(False)
    # (samples of `stage_of`, checkpoints)
    all_statuses = np.full((len(stage_of), len(checkpoints)), UNSCORED, np.int8)
    all_statuses[is_judged] = statuses[places.drop_null().to_numpy()]
    stages = pa.array(list(stage_of.values()), pa.string()).dictionary_encode()
    codes = stages.indices.to_numpy()
    by_stage = {}
    for code, stage in enumerate(stages.dictionary.to_pylist()):
        by_stage[stage] = all_statuses[codes == code]
    return by_stage


def _refuse_repeated(
    cells: tuple[npt.NDArray[Any], npt.NDArray[Any]], ids: pa.Array, checkpoints: Sequence[str]
) -> None:
    """Raise DatasetError where two rows are of one cell: of one sample under one checkpoint."""
    counts = np.bincount(cells[0] * len(checkpoints) + cells[1])
    if counts.max(initial=0) > 1:
        sample, checkpoint = divmod(int(counts.argmax()), len(checkpoints))
        raise DatasetError(
            f"scores have sample '{ids[sample]}' under checkpoint '{checkpoints[checkpoint]}' "
            "twice; score the samples again, each id once"
        )


def _first_learned(statuses: Codes) -> npt.NDArray[np.int64]:
    """(samples,): the first checkpoint under which each is learned, -1 for never."""
    learned = statuses == LEARNED
    return np.where(learned.any(1), learned.argmax(1), -1)


def _last_lost(statuses: Codes) -> npt.NDArray[np.int64]:
    """(samples,): the last checkpoint that turned learned into unlearned, -1 for none."""
    known, lost_at = np.zeros(len(statuses), bool), np.full(len(statuses), -1)
    for checkpoint, column in enumerate(statuses.T):
        lost_at[known & (column == UNLEARNED)] = checkpoint
        # an uncertain or unscored checkpoint leaves a sample what it was
        decided = (column == UNLEARNED) | (column == LEARNED)
        known = np.where(decided, column == LEARNED, known)
    return lost_at
