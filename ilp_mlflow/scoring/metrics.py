"""Formulas on scores: sampled runs, recognition among options, backward transfer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ilp_mlflow.core.finite_scores import lists_are_finite

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLED_RUNS = 5
"""The paper's N (section 3.1.3)."""
PASS_THRESHOLD = 0.2
"""The paper's T (section 3.1.3): a sample fails when its pass rate is below."""
MEASURES = ("sum", "mean", "corrected", "blank", "chance")
"""Ways to decide which option wins, see `recognition_shares`."""

Floats = npt.NDArray[np.float64]


def fail_probability(
    p_correct: Floats, runs: int = SAMPLED_RUNS, threshold: float = PASS_THRESHOLD
) -> Floats:
    """Probability 0..1 that fewer than the share `threshold` of `runs` sampled answers are right.

    Each answer is right with probability `p_correct`. Closed form of the paper's pass@N test
    (section 3.1.3); with its N = 5 and T = 0.2 it is (1 - p)^5.
    """
    # P(fail) = sum of C(N, k) p^k (1 - p)^(N - k) over all k with k / N < T
    total = np.zeros_like(p_correct)
    for right in range(runs + 1):
        if right / runs < threshold:
            total += _binomial(right, p_correct, runs)
    return total


def best_of_n(options: pa.ChunkedArray, runs: int = SAMPLED_RUNS) -> Floats:
    """Probability 0..1 that the most probable of `runs` sampled options is the right one.

    `options` holds lists of log-probabilities (nats), the right option first; the result is nan
    where a list is empty or null. Closed form of the paper's Best-of-N (section 3.1.3): with a the
    probability of all options not above the right one and b of those below it, (a^N - b^N) / ties.
    Of options exactly as probable as the right one the first one sampled is kept, so the
    probability is shared among these ties.
    """
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(options), 0).to_numpy()
    has_options = lengths > 0
    starts = _starts(lengths)[has_options]
    counts = lengths[has_options]

    # (options,): the options of all rows, one row after the other
    logprobs = pc.list_flatten(options).to_numpy()
    right = np.repeat(logprobs[starts], counts)
    highest = np.repeat(np.maximum.reduceat(logprobs, starts), counts)
    weights = np.exp(logprobs - highest)

    # (rows with options,): sums over the options of each row
    total = np.add.reduceat(weights, starts)
    not_above = np.add.reduceat(weights * (logprobs <= right), starts) / total
    below = np.add.reduceat(weights * (logprobs < right), starts) / total
    ties = np.add.reduceat(logprobs == right, starts, dtype=float)

    probability = np.full(len(lengths), np.nan)
    probability[has_options] = (not_above**runs - below**runs) / ties
    return probability


def uniform_draws(samples: pa.ChunkedArray, checkpoints: pa.ChunkedArray, seed: int = 0) -> Floats:
    """One random number in [0, 1) per row, from its sample id, its checkpoint and `seed` alone.

    It is the same whatever other rows there are: BLAKE2b digests of both names, mixed by the 64-bit
    finalizer of SplitMix64 (Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number
    Generators).
    """
    bits = _name_digests(samples, "sample") ^ _name_digests(checkpoints, f"checkpoint {seed}")
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    # the upper 53 bits fill the mantissa of a float64
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sampled_passes(
    p_correct: Floats, draws: Floats, runs: int = SAMPLED_RUNS
) -> npt.NDArray[np.int8]:
    """How many of `runs` sampled answers are right, each with probability `p_correct`.

    `draws` has one uniform number per row. Inverse of the binomial distribution function, so a
    larger probability never gets fewer right answers.
    """
    # the number of k for which a draw is at least P(at most k right)
    passes = np.zeros(p_correct.shape, np.int8)
    at_most = np.zeros_like(p_correct)
    for right in range(runs):
        at_most += _binomial(right, p_correct, runs)
        passes += draws >= at_most
    return passes


def recognition_margin(p_correct: Floats, options: Floats) -> Floats:
    """Log-odds of the right option beyond those at which it counts as recognised, nats.

    `options` is the number k of options in each row; nan where there are none. The pass rate
    corrected for guessing, (p - 1/k) / (1 - 1/k), is one half at p = (1 + 1/k) / 2.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return logit(p_correct) - logit((1 + 1 / options) / 2)


def recognition_shares(scores: pa.Table, checkpoints: Sequence[str]) -> dict[str, dict[str, float]]:
    """Share 0..1 of the samples with options whose right option wins, by measure, then checkpoint.

    `sum`: by summed log-probability. `mean`: per token, which does not favour short options.
    `corrected`: less the sum behind a blank prompt, which favours neither short nor common ones
    (domain-conditional PMI, Holtzman et al. 2021, eq. 3). `blank`: by that sum alone, so how often
    the options give the answer away. `chance`: of a blind guess. Ties are not won. Checkpoints
    without options are left out, and rows without finite numbers: see `recognition_unscored`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    shares: dict[str, dict[str, float]] = {measure: {} for measure in MEASURES}
    for checkpoint in checkpoints:
        rows = scores.filter(pc.equal(scores["checkpoint"], checkpoint))
        rows = rows.filter(pa.array(_has_recognition(rows)))
        if rows.num_rows:
            for measure, share in _shares_won(rows).items():
                shares[measure][checkpoint] = share
    return shares


def recognition_unscored(scores: pa.Table, checkpoints: Sequence[str]) -> dict[str, int]:
    """Number of samples with options that `recognition_shares` leaves out, by checkpoint.

    These are the samples that are counted under another of the checkpoints and not under this one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    counted = scores.filter(pa.array(_has_recognition(scores)))
    ids_by_checkpoint = {}
    for checkpoint in checkpoints:
        of_checkpoint = counted.filter(pc.equal(counted["checkpoint"], checkpoint))
        ids_by_checkpoint[checkpoint] = of_checkpoint["sample_id"]
    chunks = [ids.combine_chunks() for ids in ids_by_checkpoint.values()]
    total = pc.count_distinct(pa.chunked_array(chunks, pa.string())).as_py()
    return {name: total - pc.count_distinct(ids).as_py() for name, ids in ids_by_checkpoint.items()}


def backward_transfer(forgetting: Mapping[str, float | None]) -> float | None:
    """Mean change, share -1..1, of every stage but the last since it was trained.

    Lopez-Paz and Ranzato 2017, eq. 3. `forgetting` is as `verdicts.forgetting_by_stage` returns it.
    None where there is no other stage with scores.
    """
    changes = [-lost for lost in list(forgetting.values())[:-1] if lost is not None]
    return sum(changes) / len(changes) if changes else None


def logit(p: Floats) -> Floats:
    """Log-odds of probabilities, nats; finite for 0 and 1, too."""
    p = np.clip(p, 1e-12, 1 - 1e-12)
    log_odds: Floats = np.log(p) - np.log1p(-p)
    return log_odds


def sigmoid(log_odds: Floats) -> Floats:
    """Probabilities from log-odds: the inverse of `logit`."""
    p: Floats = 1 / (1 + np.exp(-log_odds))
    return p


def _has_recognition(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """(rows,): whether a row is scored and has finite numbers for the same options throughout."""
    import pyarrow.compute as pc

    has: npt.NDArray[np.bool_] = rows["unscored"].is_null().to_numpy().copy()
    counts = pc.list_value_length(rows["option_logprobs"])
    has &= pc.fill_null(pc.greater(counts, 0), False).to_numpy()
    for name in ("option_logprobs", "option_tokens", "option_priors"):
        same_options = pc.equal(pc.list_value_length(rows[name]), counts)
        has &= pc.fill_null(same_options, False).to_numpy() & lists_are_finite(rows[name])
    return has


def _shares_won(rows: pa.Table) -> dict[str, float]:
    """Share 0..1 of `rows` whose right option wins, by measure."""
    import pyarrow.compute as pc

    counts = pc.list_value_length(rows["option_logprobs"]).to_numpy()
    starts = _starts(counts)
    # (options,): the options of all rows, one row after the other
    logprobs = pc.list_flatten(rows["option_logprobs"]).to_numpy()
    tokens = pc.list_flatten(rows["option_tokens"]).to_numpy()
    priors = pc.list_flatten(rows["option_priors"]).to_numpy()
    return {
        "sum": _share_won(logprobs, starts),
        "mean": _share_won(logprobs / tokens, starts),
        "corrected": _share_won(logprobs - priors, starts),
        "blank": _share_won(priors, starts),
        "chance": float((1 / counts).mean()),
    }


def _share_won(values: Floats, starts: npt.NDArray[np.int64]) -> float:
    """Share of rows whose first option has a higher value than all others."""
    others = values.copy()
    others[starts] = -np.inf
    return float((values[starts] > np.maximum.reduceat(others, starts)).mean())


def _starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each list begins when lists of these `lengths` stand one behind the other."""
    return np.cumsum(lengths) - lengths


def _binomial(right: int, p_correct: Floats, runs: int) -> Floats:
    """Probability that exactly `right` of `runs` answers are right: C(N, k) p^k (1 - p)^(N - k)."""
    wrong = runs - right
    mass: Floats = math.comb(runs, right) * p_correct**right * (1 - p_correct) ** wrong
    return mass


def _name_digests(names: pa.ChunkedArray, salt: str) -> npt.NDArray[np.uint64]:
    """A 64-bit digest of the name in each row; every distinct name is hashed once."""
    encoded = names.dictionary_encode().combine_chunks()
    salted = hashlib.blake2b(f"{salt}/".encode(), digest_size=8)
    digests = bytearray()
    for name in encoded.dictionary.to_pylist():
        digest = salted.copy()
        digest.update(name.encode())
        digests += digest.digest()
    # little-endian on every machine, so that draws are the same everywhere
    by_name = np.frombuffer(digests, "<u8")
    by_row: npt.NDArray[np.uint64] = by_name[encoded.indices.to_numpy()]
    return by_row
