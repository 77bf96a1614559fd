"""The paper's N sampled runs (section 3.1.3): what comes out of them in closed form, and the runs themselves. Pure functions."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

RUNS, THRESHOLD = 5, 0.2
"""The paper's N and T (section 3.1.3)."""

Floats = npt.NDArray[np.float64]


def pass_below(p: Floats, runs: int = RUNS, threshold: float = THRESHOLD) -> Floats:
    """Probability 0..1 that the pass rate of `runs` sampled answers, each right with probability `p`, is below `threshold`.

    Binomial closed form of the paper's pass@N test (section 3.1.3); with its N = 5 and T = 0.2 this is (1 - p)^5.
    """
    below = [k for k in range(runs + 1) if k / runs < threshold]
    total: Floats = sum((_exactly(k, p, runs) for k in below), np.zeros_like(p))
    return total


def best_of(options: pa.ChunkedArray, runs: int = RUNS) -> Floats:
    """Probability 0..1 that the most probable of `runs` sampled options is the right one; nan where there are no options.

    `options` holds lists of log-probabilities (nats), the right option first. Closed form of the paper's Best-of-N (section
    3.1.3): with a the probability of all options not above the right one and b of those below it, a^N - b^N; of options
    exactly as probable as the right one, the one sampled first is kept, which divides this by their number.
    """
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(options), 0).to_numpy()
    found = lengths > 0
    starts, per = (np.cumsum(lengths) - lengths)[found], lengths[found]
    values = pc.list_flatten(options).to_numpy()
    weights = np.exp(values - np.repeat(np.maximum.reduceat(values, starts), per))
    right = np.repeat(values[starts], per)
    total = np.add.reduceat(weights, starts)
    upto = np.add.reduceat(weights * (values <= right), starts) / total
    below = np.add.reduceat(weights * (values < right), starts) / total
    equal = np.add.reduceat(values == right, starts, dtype=float)
    result = np.full(len(lengths), np.nan)
    result[found] = (upto**runs - below**runs) / equal
    return result


def uniform(samples: pa.ChunkedArray, checkpoints: pa.ChunkedArray, seed: int = 0) -> Floats:
    """One random number 0..1 (1 excluded) per row, from its sample id, its checkpoint and `seed`, whatever other rows there are.

    BLAKE2b digests of the two names, mixed by the 64-bit finalizer of SplitMix64 (Steele, Lea and Flood 2014, Fast Splittable
    Pseudorandom Number Generators).
    """
    x = _digests(samples, "sample") ^ _digests(checkpoints, f"checkpoint {seed}")
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sampled(p: Floats, drawn: Floats, runs: int = RUNS) -> npt.NDArray[np.int8]:
    """How many of `runs` sampled answers, each right with probability `p`, are right, from one uniform number `drawn` per row.

    Inverse of the binomial distribution function, so a larger `p` never gets fewer.
    """
    right, upto = np.zeros(p.shape, np.int8), np.zeros_like(p)
    for k in range(runs):
        upto += _exactly(k, p, runs)
        right += drawn >= upto
    return right


def _exactly(k: int, p: Floats, runs: int) -> Floats:
    mass: Floats = math.comb(runs, k) * p**k * (1 - p) ** (runs - k)
    return mass


def _digests(names: pa.ChunkedArray, salt: str) -> npt.NDArray[np.uint64]:
    encoded = names.dictionary_encode().combine_chunks()
    salted = hashlib.blake2b(f"{salt}/".encode(), digest_size=8)
    digests = bytearray()
    for name in encoded.dictionary.to_pylist():
        own = salted.copy()
        own.update(name.encode())
        digests += own.digest()
    rows: npt.NDArray[np.uint64] = np.frombuffer(digests, "<u8")[encoded.indices.to_numpy()]
    return rows
