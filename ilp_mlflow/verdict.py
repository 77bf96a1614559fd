"""From scores to verdicts: which samples are learned, since when, and when they were lost. Pure functions of columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ilp_mlflow.types import Status

if TYPE_CHECKING:
    import pyarrow as pa

Preset = Literal["default", "paper"]
BAND = 0.1
"""Half-width of the undecided zone, nats: closer to the decision than this is `uncertain`."""
RUNS, THRESHOLD = 5, 0.2
"""The paper's N and T (section 3.1.3)."""
STATUSES: tuple[Status, ...] = ("unlearned", "learned", "uncertain", "unscored")

Floats = npt.NDArray[np.float64]


def pass_below(p: Floats, runs: int = RUNS, threshold: float = THRESHOLD) -> Floats:
    """Probability 0..1 that the pass rate of `runs` sampled answers, each right with probability `p`, is below `threshold`.

    Binomial closed form of the paper's pass@N test (section 3.1.3); with its N = 5 and T = 0.2 this is (1 - p)^5.
    """
    below = [k for k in range(runs + 1) if k / runs < threshold]
    total: Floats = sum((math.comb(runs, k) * p**k * (1 - p) ** (runs - k) for k in below), np.zeros_like(p))
    return total


def margins(scores: pa.Table, preset: Preset = "default") -> Floats:
    """Signed distance from the decision for every row of `scores`, nats; positive is learned, nan cannot be judged.

    `default`: the weaker of two signals. Reproduction: `gap`, the weakest right token against its best competitor.
    Recognition, where options exist: log-odds of the right option beyond those at which a guess-corrected pass rate
    (p - 1/k) / (1 - 1/k) is one half. `paper`: log-odds that the pass@5 test is passed (its more likely outcome).
    """
    p = _floats(scores, "p_correct")
    if preset == "paper":
        return -_logit(pass_below(p))
    counts = scores["option_logprobs"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        recognised = _logit(p) - _logit((1 + 1 / counts) / 2)
    return np.fmin(_floats(scores, "gap"), recognised)


def statuses(margin: Floats, band: float = BAND) -> npt.NDArray[np.int8]:
    """Index into STATUSES for every margin."""
    status = np.where(margin > 0, 1, 0)
    status[np.abs(margin) <= band] = 2
    status[np.isnan(margin)] = 3
    return status.astype(np.int8)


def timeline(scores: pa.Table, checkpoints: Sequence[str], preset: Preset) -> tuple[pa.Array, npt.NDArray[np.int8], Floats]:
    """Sample ids, and their statuses and margins as matrices (samples, checkpoints); a missing score is `unscored`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = scores["sample_id"].combine_chunks().dictionary_encode()
    column = pc.index_in(scores["checkpoint"], value_set=pa.array(checkpoints, pa.string()))
    known = column.is_valid().to_numpy()
    rows = encoded.indices.to_numpy()[known]
    columns = column.drop_null().to_numpy()
    margin = np.full((len(encoded.dictionary), len(checkpoints)), np.nan)
    margin[rows, columns] = margins(scores, preset)[known]
    return encoded.dictionary, statuses(margin), margin


def verdicts(scores: pa.Table, checkpoints: Sequence[str], preset: Preset = "default") -> pa.Table:
    """One row per sample with the columns of `Verdict`: its status under the last checkpoint and its history.

    An uncertain or unscored checkpoint neither learns nor loses a sample.
    """
    import pyarrow as pa

    ids, status, margin = timeline(scores, checkpoints, preset)
    names = np.array(checkpoints, dtype=object)
    learned = status == 1
    first = np.where(learned.any(1), names[learned.argmax(1)], None)
    held = np.zeros(len(ids), bool)
    lost = np.full(len(ids), None, dtype=object)
    for column, name in enumerate(checkpoints):
        lost[held & (status[:, column] == 0)] = name
        held = np.where(status[:, column] < 2, status[:, column] == 1, held)
    final = status[:, -1]
    return pa.table(
        {
            "sample_id": ids,
            "status": pa.array(np.array(STATUSES, dtype=object)[final], pa.string()),
            "margin": pa.array(margin[:, -1], pa.float64(), mask=np.isnan(margin[:, -1])),
            "first_learned": pa.array(first, pa.string()),
            "last_lost": pa.array(lost, pa.string()),
            "reason": pa.array(_reasons(scores, checkpoints[-1], ids, final, preset), pa.string()),
        }
    )


def histories(scores: pa.Table, checkpoints: Sequence[str], preset: Preset = "default") -> dict[str, tuple[Status, ...]]:
    """Status under every checkpoint, by sample id."""
    ids, status, _ = timeline(scores, checkpoints, preset)
    return {id_: tuple(STATUSES[s] for s in row) for id_, row in zip(ids.to_pylist(), status.tolist(), strict=True)}


def retention(
    scores: pa.Table, stage_of: Mapping[str, str], checkpoints: Sequence[str], preset: Preset = "default"
) -> dict[str, dict[str, float]]:
    """Share 0..1 of each stage's samples that are learned, by stage, then checkpoint."""
    ids, status, _ = timeline(scores, checkpoints, preset)
    stages = np.array([stage_of[i] for i in ids.to_pylist()], dtype=object)
    return {
        stage: dict(zip(checkpoints, (status[stages == stage] == 1).mean(0).tolist(), strict=True))
        for stage in dict.fromkeys(stage_of.values())
    }


def forgetting(row: Mapping[str, float]) -> float:
    """How far a stage fell below its best earlier checkpoint, share -1..1 (forgetting, Chaudhry et al. 2018, eq. 3)."""
    *earlier, last = row.values()
    return max(earlier) - last if earlier else 0.0


def _reasons(scores: pa.Table, last: str, ids: pa.Array, final: npt.NDArray[np.int8], preset: Preset) -> list[str]:
    import pyarrow.compute as pc

    rows = {
        row["sample_id"]: row
        for row in scores.filter(pc.equal(scores["checkpoint"], last))
        .select(["sample_id", "tokens", "token_accuracy", "gap", "stops", "p_correct", "wrong", "unscored"])
        .to_pylist()
    }
    return [_reason(rows.get(i, {}), STATUSES[s], preset) for i, s in zip(ids.to_pylist(), final, strict=True)]


def _reason(row: Mapping[str, Any], status: Status, preset: Preset) -> str:
    if status == "unscored":
        return str(row.get("unscored") or ("no options to choose from" if preset == "paper" and row else "not scored"))
    if status == "uncertain":
        return "too close to call"
    p, tokens, gap = row["p_correct"], int(row["tokens"]), row["gap"]
    if preset == "paper":
        return f"picks the right option with probability {p:.2f}"
    missed = round(tokens * (1 - row["token_accuracy"]))
    if status == "learned":
        return "reproduced" if not missed else f"reproduced but for {missed} of {tokens} tokens"
    if gap > -BAND:
        return f"reproduced, but gives the right option only probability {p:.2f} (next: {row['wrong']!r})"
    if missed == 1 and row["stops"] is False:
        return "right, but does not stop after it"
    return f"{missed} of {tokens} tokens are not the model's first choice"


def _logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    odds: Floats = np.log(p) - np.log1p(-p)
    return odds


def _floats(table: pa.Table, name: str) -> Floats:
    column: Floats = table[name].combine_chunks().cast("float64").to_numpy(zero_copy_only=False)
    return column
