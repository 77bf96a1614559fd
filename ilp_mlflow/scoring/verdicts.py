"""From scores to verdicts: which samples are learned, since when, and when they were lost. Pure functions of columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ilp_mlflow.core.values import Status
from ilp_mlflow.scoring.metrics import (
    SAMPLED_RUNS,
    Floats,
    fail_probability,
    sampled_passes,
    uniform_draws,
)

if TYPE_CHECKING:
    import pyarrow as pa

Preset = Literal["default", "paper"]
BAND = {"float32": (0.1, 0.1), "bfloat16": (1.5, 3.0)}
"""How far a gap and the log-odds of the right option may be off, nats, by the precision they were computed in.

What could fall on either side of the decision within that is `uncertain`. Those of bfloat16 are measured, see docs/results.md.
"""
STATUSES: tuple[Status, ...] = ("unlearned", "learned", "uncertain", "unscored")
COLUMNS = (
    "sample_id",
    "checkpoint",
    "tokens",
    "token_accuracy",
    "gap",
    "stops",
    "option_logprobs",
    "p_correct",
    "wrong",
    "dtype",
    "unscored",
)
"""Of a score table, those that everything here reads."""

Codes = npt.NDArray[np.int8]
"""Indices into STATUSES."""


def verdict_margins(scores: pa.Table, preset: Preset = "default") -> Floats:
    """Signed distance from the decision for every row of `scores`, nats; positive is learned, nan cannot be judged.

    `default`: the weaker of two signals. Reproduction: `gap`, the weakest right token against its best competitor.
    Recognition, where options exist: log-odds of the right option beyond those at which a guess-corrected pass rate
    (p - 1/k) / (1 - 1/k) is one half. `paper`: log-odds that N = 5 sampled runs pass (section 3.1.3), in closed form.
    """
    margin: Floats = _bounds(scores, preset)[1]
    return margin


def judge_scores(
    scores: pa.Table, preset: Preset = "default", seed: int = 0
) -> tuple[Codes, Floats]:
    """Status and margin (nats) of every row of `scores`.

    `default`: the sign of the margin, `uncertain` where BAND could turn it. `paper`: unlearned when the share of N = 5 runs
    sampled with `seed` that pick the right option is below T = 0.2 (section 3.1.3), so the status may be the less likely one.
    """
    low, margin, high = _bounds(scores, preset)
    if preset == "paper":
        status = np.where(_fails(_floats(scores, "p_correct"), _drawn(scores, seed)), 0, 1)
    else:
        status = np.where(low > 0, 1, np.where(high < 0, 0, 2))
    return np.where(np.isnan(margin), 3, status).astype(np.int8), margin


def undecided_samples(
    scores: pa.Table, preset: Preset = "default", seed: int = 0
) -> npt.NDArray[np.bool_]:
    """Whether a row of `scores` is in bfloat16 and could get another status in float32: what is to be scored again.

    `default`: it is uncertain. `paper`: the runs sampled with `seed` fall on different sides of T at the two ends of
    p_correct's log-odds plus and minus their BAND.
    """
    if preset == "paper":
        odds, drawn, band = (
            _logit(_floats(scores, "p_correct")),
            _drawn(scores, seed),
            BAND["bfloat16"][1],
        )
        low, high = (_fails(1 / (1 + np.exp(-odds - shift)), drawn) for shift in (-band, band))
        near: npt.NDArray[np.bool_] = low != high
    else:
        near = judge_scores(scores)[0] == 2
    return near & _low(scores)


def status_timeline(
    scores: pa.Table, checkpoints: Sequence[str], preset: Preset = "default", seed: int = 0
) -> tuple[pa.Array, Codes, Floats]:
    """Sample ids, and their statuses and margins (nats) as matrices (samples, checkpoints); a missing score is `unscored`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = scores["sample_id"].dictionary_encode().combine_chunks()
    column = pc.fill_null(
        pc.index_in(scores["checkpoint"], value_set=pa.array(checkpoints, pa.string())), -1
    ).to_numpy()
    known = column >= 0
    place = encoded.indices.to_numpy()[known], column[known]
    shape = len(encoded.dictionary), len(checkpoints)
    status, margin = np.full(shape, 3, np.int8), np.full(shape, np.nan)
    row_status, row_margin = judge_scores(scores, preset, seed)
    status[place], margin[place] = row_status[known], row_margin[known]
    return encoded.dictionary, status, margin


def verdict_table(
    scores: pa.Table, checkpoints: Sequence[str], preset: Preset = "default", seed: int = 0
) -> pa.Table:
    """One row per sample with the columns of `Verdict`: its status under the last checkpoint and its history.

    An uncertain or unscored checkpoint neither learns nor loses a sample.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    ids, status, margin = status_timeline(scores, checkpoints, preset, seed)
    learned = status == 1
    first = np.where(learned.any(1), learned.argmax(1), -1)
    held, lost = np.zeros(len(ids), bool), np.full(len(ids), -1)
    for column in range(len(checkpoints)):
        lost[held & (status[:, column] == 0)] = column
        held = np.where(status[:, column] < 2, status[:, column] == 1, held)
    final = scores.filter(pc.equal(scores["checkpoint"], checkpoints[-1]))
    reason = _reasons(final, preset, seed).take(pc.index_in(ids, value_set=final["sample_id"]))
    return pa.table(
        {
            "sample_id": ids,
            "status": _pick(STATUSES, status[:, -1]),
            "margin": pa.array(margin[:, -1], pa.float64(), from_pandas=True),
            "first_learned": _pick(checkpoints, first),
            "last_lost": _pick(checkpoints, lost),
            "reason": pc.fill_null(reason, "not scored"),
        }
    )


def status_histories(
    scores: pa.Table, checkpoints: Sequence[str], preset: Preset = "default", seed: int = 0
) -> dict[str, tuple[Status, ...]]:
    """Status under every checkpoint, by sample id."""
    ids, status, _ = status_timeline(scores, checkpoints, preset, seed)
    return {
        id_: tuple(STATUSES[s] for s in row)
        for id_, row in zip(ids.to_pylist(), status.tolist(), strict=True)
    }


def retention_by_stage(
    scores: pa.Table,
    stage_of: Mapping[str, str],
    checkpoints: Sequence[str],
    preset: Preset = "default",
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Share 0..1 of each stage's samples that are learned, by stage, then checkpoint."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids, status, _ = status_timeline(scores, checkpoints, preset, seed)
    stages = pa.array(list(stage_of.values()), pa.string()).dictionary_encode()
    stage = stages.indices.take(
        pc.index_in(ids, value_set=pa.array(list(stage_of), pa.string()))
    ).to_numpy()
    return {
        name: dict(zip(checkpoints, (status[stage == code] == 1).mean(0).tolist(), strict=True))
        for code, name in enumerate(stages.dictionary.to_pylist())
    }


def forgetting_by_stage(shares: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What was lost of every stage since it was trained, share -1..1: learned right after it, less learned at the end.

    `shares` is as `retention` returns it; stages that are no checkpoint are left out. Avalanche's forgetting of an experience.
    """
    return {
        stage: row[stage] - list(row.values())[-1] for stage, row in shares.items() if stage in row
    }


def backward_transfer(shares: Mapping[str, Mapping[str, float]]) -> float | None:
    """Mean change of every stage but the last since it was trained, share -1..1 (Lopez-Paz and Ranzato 2017, eq. 3).

    None where there is no other.
    """
    lost = list(forgetting_by_stage(shares).values())[:-1]
    return -sum(lost) / len(lost) if lost else None


def _bounds(scores: pa.Table, preset: Preset) -> Floats:
    """Margins less their BAND, margins, and margins plus it: (3, rows), nats."""
    import pyarrow as pa

    # in blocks whose intermediate columns stay in the processor's cache: four times as fast as whole columns
    blocks = (pa.Table.from_batches([batch]) for batch in scores.to_batches(max_chunksize=2**16))
    return np.concatenate([np.empty((3, 0)), *(_block(block, preset) for block in blocks)], axis=1)


def _block(scores: pa.Table, preset: Preset) -> Floats:
    import pyarrow.compute as pc

    p = _floats(scores, "p_correct")
    if preset == "paper":
        return np.tile(-_logit(fail_probability(p)), (3, 1))
    counts = pc.list_value_length(scores["option_logprobs"]).to_numpy().astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        recognised = _logit(p) - _logit((1 + 1 / counts) / 2)
    gap, low = _floats(scores, "gap"), _low(scores)
    gap_off, odds_off = (
        np.where(low, *bands) for bands in zip(BAND["bfloat16"], BAND["float32"], strict=True)
    )
    return np.stack([np.fmin(gap + k * gap_off, recognised + k * odds_off) for k in (-1, 0, 1)])


def _reasons(rows: pa.Table, preset: Preset, seed: int) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    status, _ = judge_scores(rows, preset, seed)
    p = _pick(
        [f"{i / 100:.2f}" for i in range(101)],
        np.nan_to_num(np.rint(100 * _floats(rows, "p_correct")), nan=-1).astype(int),
    )
    if preset == "paper":
        right = sampled_passes(_floats(rows, "p_correct"), _drawn(rows, seed))
        judged = _text(
            right, f" of {SAMPLED_RUNS} sampled runs pick the right option (probability ", p, ")"
        )
    else:
        judged = _why(rows, status, p)
    missing = pc.fill_null(
        rows["unscored"], "no options to choose from" if preset == "paper" else "not scored"
    )
    return pc.choose(
        pa.array(np.maximum(status - 1, 0)), judged, "too close to call", missing.combine_chunks()
    )


def _why(rows: pa.Table, status: Codes, p: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    tokens = _floats(rows, "tokens")
    missed = np.nan_to_num(np.rint(tokens * (1 - _floats(rows, "token_accuracy")))).astype(int)
    right = status == 1
    reproduced = ~right & (_floats(rows, "gap") > -BAND["float32"][0])
    endless = (missed == 1) & pc.fill_null(pc.invert(rows["stops"]), False).to_numpy()
    share = _text(missed, " of ", tokens.astype(int), " tokens")
    wrong = pc.replace_substring_regex(rows["wrong"], r"\s+", " ")
    return pc.case_when(
        pc.make_struct(
            *(pa.array(mask) for mask in (right & (missed == 0), right, reproduced, endless))
        ),
        "reproduced",
        _text("reproduced but for ", share),
        _text(
            "reproduced, but gives the right option only probability ", p, " (next: '", wrong, "')"
        ),
        "right, but does not stop after it",
        _text(share, " are not the model's first choice"),
    )


def _text(*parts: Any) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(
        *(pa.array(x).cast("string") if isinstance(x, np.ndarray) else x for x in parts), ""
    )


def _pick(names: Sequence[str], index: npt.NDArray[Any]) -> pa.Array:
    import pyarrow as pa

    return pa.array(names, pa.string()).take(pa.array(index, mask=index < 0))


def _drawn(scores: pa.Table, seed: int) -> Floats:
    return uniform_draws(scores["sample_id"], scores["checkpoint"], seed)


def _fails(p: Floats, drawn: Floats) -> npt.NDArray[np.bool_]:
    # what `sampled` comes to, without counting: its runs are few enough just where the draw is below this
    return drawn < fail_probability(p)


def _low(scores: pa.Table) -> npt.NDArray[np.bool_]:
    import pyarrow.compute as pc

    low: npt.NDArray[np.bool_] = pc.fill_null(
        pc.equal(scores["dtype"], "bfloat16"), False
    ).to_numpy()
    return low


def _logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    odds: Floats = np.log(p) - np.log1p(-p)
    return odds


def _floats(table: pa.Table, name: str) -> Floats:
    column: Floats = table[name].to_numpy().astype(np.float64, copy=False)
    return column
