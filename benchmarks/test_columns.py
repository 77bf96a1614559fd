"""Verdicts of one million samples under ten checkpoints, from Parquet, in a fresh process: seconds and peak memory.

Also, on one sample in a hundred, how much faster the columns are than row objects judged one by one.
"""

import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilp_mlflow.core.config import ScoringConfig
from ilp_mlflow.core.values import Score, schema, to_rows
from ilp_mlflow.scoring.metrics import fail_probability
from ilp_mlflow.scoring.verdicts.judgements import COLUMNS, judge, read_judges
from ilp_mlflow.scoring.verdicts.statuses import STATUSES
from ilp_mlflow.scoring.verdicts.timeline import retention_by_stage, verdict_table

SAMPLES = int(os.environ.get("ILP_BENCHMARK_SAMPLES", 1_000_000))
CHECKPOINTS = ["base", *(f"stage{i}" for i in range(1, 10))]
SECONDS, GIGABYTES = 60, 4


def sample_ids(n):
    return [f"stage{1 + i % 3}/{i:06}" for i in range(n)]


def write_scores(path, n, seed=0):
    """A score table with planted statuses, one row group per 100,000 rows, samples in another order under every checkpoint.

    Returns the planted statuses (samples, checkpoints) as indices into STATUSES, and the probabilities of the right option.
    """
    rng = np.random.default_rng(seed)
    planted = rng.choice(4, (n, len(CHECKPOINTS)), p=[0.35, 0.5, 0.1, 0.05]).astype(np.int8)
    probability = np.empty(planted.shape)
    ids, columns = pa.array(sample_ids(n)), schema(Score)
    with pq.ParquetWriter(path, columns) as writer:
        for column, name in enumerate(CHECKPOINTS):
            order = rng.permutation(n)
            for rows in np.array_split(order, max(1, n // 100_000)):
                status = planted[rows, column]
                table, probability[rows, column] = scores(
                    rng, ids.take(pa.array(rows)), name, status, columns
                )
                writer.write_table(table)
    return planted, probability


def scores(rng, ids, checkpoint, status, columns):
    n = len(ids)
    picks = (
        rng.random(n) < 0.5
    )  # of the unlearned ones, those that fail on the options and not on the gap
    gap = np.select(
        [status == 2, (status == 0) & ~picks],
        [rng.uniform(-0.09, 0.09, n), rng.uniform(-9, -0.2, n)],
        rng.uniform(0.2, 9, n),
    )
    options = rng.normal(-20, 3, (n, 4))
    options[:, 0] = options[:, 1:].max(1) + np.where(
        (status == 0) & picks, rng.uniform(-4, -1, n), rng.uniform(3, 6, n)
    )
    weights = np.exp(options - options.max(1, keepdims=True))
    p = weights[:, 0] / weights.sum(1)
    none = status == 3
    lists = pa.ListArray.from_arrays(
        pa.array(np.arange(0, 4 * n + 1, 4, dtype=np.int32)),
        pa.array(options.ravel()),
        mask=pa.array(none),
    )
    given = {
        "sample_id": ids,
        "checkpoint": pa.array([checkpoint]).take(pa.array(np.zeros(n, int))),
        "tokens": pa.array(rng.integers(2, 40, n)),
        "token_accuracy": pa.array(rng.choice([0.5, 0.75, 1.0], n), mask=none),
        "gap": pa.array(gap, mask=none),
        "stops": pa.array(rng.random(n) < 0.9, mask=none),
        "option_logprobs": lists,
        "p_correct": pa.array(p, mask=none),
        "wrong": pa.array([f"wrong answer {i}" for i in range(1000)]).take(
            pa.array(rng.integers(0, 1000, n))
        ),
        "dtype": pa.array(["float32"]).take(pa.array(np.zeros(n, int))),
        "unscored": pa.array(["longer than the model's context"]).take(
            pa.array(np.zeros(n, int), mask=~none)
        ),
    }
    table = pa.table(
        {f.name: given.get(f.name, pa.nulls(n, f.type)) for f in columns}, schema=columns
    )
    return table, np.where(none, np.nan, p)


def columnar(path, stage_of, preset="default"):
    table = pq.read_table(
        path, columns=list(COLUMNS), pre_buffer=False
    )  # else the whole file is held in memory as well
    judgements = judge(table, CHECKPOINTS, read_judges(ScoringConfig(preset=preset)))
    del table
    return verdict_table(judgements, CHECKPOINTS), retention_by_stage(
        judgements, stage_of, CHECKPOINTS
    )


def naive(path):
    """The status of every sample and when it was first learned, by row objects."""
    last, first = {}, {}
    for row in to_rows(pq.read_table(path), Score):
        status = judged(row)
        if row.checkpoint == CHECKPOINTS[-1]:
            last[row.sample_id] = status
        if status == "learned":
            at = CHECKPOINTS.index(row.checkpoint)
            first[row.sample_id] = min(at, first.get(row.sample_id, at))
    return {
        i: (status, CHECKPOINTS[first[i]] if i in first else None) for i, status in last.items()
    }


def judged(row):
    if row.unscored:
        return "unscored"
    bar = (1 + 1 / len(row.option_logprobs)) / 2
    margin = min(row.gap, math.log(row.p_correct / (1 - row.p_correct)) - math.log(bar / (1 - bar)))
    return "uncertain" if abs(margin) <= 0.1 else "learned" if margin > 0 else "unlearned"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("columns") / "scores.parquet"
    return path, *write_scores(path, SAMPLES)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_million_samples_under_ten_checkpoints(benchmark, capsys, table, preset):
    path, planted, p = table
    child = [sys.executable, __file__, str(path), preset]
    done = benchmark.pedantic(
        subprocess.run, (child,), {"check": True, "capture_output": True, "text": True}, rounds=1
    )
    measured = json.loads(done.stdout)
    found = pq.read_table(path.with_suffix(".verdicts")).sort_by("sample_id")
    order = np.argsort(sample_ids(SAMPLES))
    status = np.array(found["status"].to_numpy())
    last = planted[order, -1]
    if preset == "default":
        assert (status == np.array(STATUSES)[last]).all()
        first = np.where(
            (planted == 1).any(1), np.array(CHECKPOINTS, object)[(planted == 1).argmax(1)], None
        )[order]
        assert (found["first_learned"].to_numpy() == first).all()
        # of the samples that are scored
        shares = [
            (planted[stage::3] == 1).sum(0) / (planted[stage::3] != 3).sum(0) for stage in range(3)
        ]
        assert np.allclose(
            [list(measured["retention"][f"stage{s + 1}"].values()) for s in range(3)], shares
        )
    else:
        assert ((status == "unscored") == (last == 3)).all()
        below = fail_probability(p[order, -1][last != 3])
        assert (status == "unlearned").sum() == pytest.approx(
            below.sum(), abs=4 * np.sqrt((below * (1 - below)).sum())
        )
    with capsys.disabled():
        rows, size = planted.size, path.stat().st_size / 2**30
        print(
            f"\n{preset}: {rows:,} rows ({size:.2f} GiB) in {measured['seconds']:.1f} s, peak {measured['gigabytes']:.2f} GB"
        )
    benchmark.extra_info |= {k: measured[k] for k in ("seconds", "gigabytes")}
    assert measured["seconds"] < SECONDS
    assert measured["gigabytes"] < GIGABYTES


def test_columns_against_row_objects(benchmark, capsys, tmp_path):
    n = max(100, SAMPLES // 100)
    path = tmp_path / "slice.parquet"
    write_scores(path, n)
    stage_of = {i: i.split("/")[0] for i in sample_ids(n)}
    seconds = {"columns": [], "rows": []}
    for _ in range(3):  # in turn, so that a busy machine slows both
        started = time.perf_counter()
        table, _ = columnar(path, stage_of)
        between = time.perf_counter()
        by_row = naive(path)
        seconds["columns"].append(between - started)
        seconds["rows"].append(time.perf_counter() - between)
    assert {r["sample_id"]: (r["status"], r["first_learned"]) for r in table.to_pylist()} == by_row
    fast, slow = (min(seconds[side]) / (n * len(CHECKPOINTS)) for side in ("columns", "rows"))
    benchmark.pedantic(columnar, (path, stage_of), rounds=3)
    with capsys.disabled():
        print(
            f"\ncolumns {fast * 1e6:.2f} us per row, row objects {slow * 1e6:.2f}: {slow / fast:.0f} times as fast"
        )
    assert fast < slow


if __name__ == "__main__":
    given, rule = Path(sys.argv[1]), sys.argv[2]
    stages = {i: i.split("/")[0] for i in sample_ids(SAMPLES)}
    start = time.perf_counter()
    judgements, kept = columnar(given, stages, rule)
    elapsed = time.perf_counter() - start
    # KiB on Linux; includes what the parent held when it started this process, so it may say too much, never too little
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    pq.write_table(judgements, given.with_suffix(".verdicts"))
    print(json.dumps({"seconds": elapsed, "gigabytes": peak, "retention": kept}))
