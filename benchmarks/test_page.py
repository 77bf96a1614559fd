"""The HTML report of 100,000 samples, in a fresh process: seconds, peak memory and size."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ilp_mlflow.core.values import (
    Checkpoint,
    Diagnosis,
    Evidence,
    Outcome,
    Report,
    Sample,
    Tally,
    Verdict,
)
from ilp_mlflow.report.html import render_html

SAMPLES = int(os.environ.get("ILP_BENCHMARK_SAMPLES", 100_000))
CAUSES = [
    "not_trained",
    "data_contradiction",
    "left_side_forgetting",
    "insufficient_optimization",
    "missing_knowledge",
]
STAGES = ["one", "two", "three"]
SECONDS, GIGABYTES, MEGABYTES = 30, 2, 15
WORDS = [
    "river",
    "city",
    "number",
    "small",
    "house",
    "world",
    "between",
    "never",
    "last",
    "great",
    "little",
    "own",
    "other",
]


def made(n, seed=0):
    """A report on `n` samples, three in ten of them unlearned, with three findings each that name other rows, and the samples."""
    rng = np.random.default_rng(seed)
    checkpoints = ("base", *(f"{stage}@{step}" for stage in STAGES for step in (100, 200)), *STAGES)
    ids = [f"{STAGES[i % 3]}/{i:06}" for i in range(n)]
    texts = [" ".join(rng.choice(WORDS, 30)) for _ in range(1000)]
    samples = {
        id_: Sample(
            id=id_,
            stage=STAGES[i % 3],
            prompt=f"{i} {texts[i % 1000]}",
            completion=texts[i % 997][:60],
        )
        for i, id_ in enumerate(ids)
    }
    status = rng.choice(
        ["learned", "unlearned", "uncertain"], (n, len(checkpoints)), p=[0.65, 0.3, 0.05]
    )
    verdicts = tuple(
        Verdict(sample_id=id_, status=str(status[i, -1]), margin=-1.0) for i, id_ in enumerate(ids)
    )
    diagnoses = tuple(
        Diagnosis(
            verdict=v,
            cause=CAUSES[i % 5],
            strength=0.8,
            reason=texts[i % 1000],
            evidence=evidence(i, ids, texts),
        )
        for i, v in enumerate(verdicts)
        if v.status == "unlearned"
    )
    open_ = tuple(d.verdict.sample_id for d in diagnoses)
    tallies = {
        cause: Tally(unlearned=len(open_) // 5, recovered=100, by_control=40) for cause in CAUSES
    }
    outcomes = tuple(
        Outcome(
            mitigation=f"m{i}",
            run_id="r",
            targets=open_,
            recovered=(),
            still=open_,
            regressed=(),
            control_run_id="c",
            causes=tallies,
        )
        for i in range(12)
    )
    shares = {stage: dict.fromkeys(checkpoints, 0.5) for stage in STAGES}
    found = Report(
        name="large",
        run_id="r",
        preset="default",
        checkpoints=tuple(Checkpoint(name=c, model_uri="u") for c in checkpoints),
        retention=shares,
        recognition={
            m: dict.fromkeys(checkpoints, 0.5)
            for m in ("sum", "mean", "corrected", "blank", "chance")
        },
        verdicts=verdicts,
        histories={id_: tuple(row) for id_, row in zip(ids, status.tolist(), strict=True)},
        diagnoses=diagnoses,
        outcomes=outcomes,
        asked=n,
    )
    return found, samples


def evidence(i, ids, texts):
    rows = [ids[(i * 7 + k) % len(ids)] for k in range(5)]
    causes = [CAUSES[(i + k) % 5] for k in range(3)]
    return {
        cause: Evidence(
            cause=cause, strength=0.8 - k / 10, reason=texts[i % 1000], details={"rows": rows}
        )
        for k, cause in enumerate(causes)
    }


def test_the_page_of_a_hundred_thousand_samples(benchmark, capsys, tmp_path):
    path = tmp_path / "report.html"
    child = [sys.executable, __file__, str(path)]
    done = benchmark.pedantic(
        subprocess.run, (child,), {"check": True, "capture_output": True, "text": True}, rounds=1
    )
    measured = json.loads(done.stdout) | {"megabytes": path.stat().st_size / 1e6}
    with capsys.disabled():
        print(
            f"\n{SAMPLES:,} samples: "
            + ", ".join(f"{value:.2f} {unit}" for unit, value in measured.items())
        )
    benchmark.extra_info |= measured
    assert measured["seconds"] < SECONDS
    assert measured["gigabytes"] < GIGABYTES
    assert measured["megabytes"] < MEGABYTES


if __name__ == "__main__":
    given = made(SAMPLES)
    start = time.perf_counter()
    text = render_html(*given)
    elapsed = time.perf_counter() - start
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
    # KiB on Linux; includes the report itself, and what the parent held when it started this process: never too little
    print(
        json.dumps(
            {
                "seconds": elapsed,
                "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            }
        )
    )
