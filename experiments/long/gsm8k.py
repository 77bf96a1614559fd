"""How verdicts of one pass stand to a check: `python -m experiments.long.gsm8k ROWS MODEL [--rows 200] [--epochs 1 3 6]`.

ROWS are those of GSM8K as records with prompt and completion. The first of them are trained, 60 others serve as rows that were never
trained. After each number of epochs every row is judged by `greedy`, by `long` with and without letting the model speak, and by
`verify: math`, which is the truth here. Controls are judged by `long`, too, each against the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ilp_mlflow import pipeline
from ilp_mlflow.core.config import Experiment, ScoringConfig, TrackingConfig
from ilp_mlflow.core.values import Sample, Verdict
from ilp_mlflow.data.samples import load_samples
from ilp_mlflow.scoring.judged import score_and_judge
from ilp_mlflow.tracking import connection, runs

CONTROLS = 60
BATCH = 8
RULES: dict[str, dict[str, Any]] = {
    "greedy": {"greedy": {}},
    "long": {"long": {}},
    "long, nobody speaks": {"long": {"generate": False}},
    "verify": {"verify": {"check": "math"}},
}


def main() -> None:
    """Train, judge by every rule after each number of epochs, and print how they agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 3, 6])
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--out", help="write every row's verdicts there, as JSON")
    options = parser.parse_args()
    lines = Path(options.data).read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder, "trained.jsonl")
        trained.write_text("\n".join(lines[: options.rows]), encoding="utf-8")
        held_out = Path(folder, "held_out.jsonl")
        end = options.rows + CONTROLS
        held_out.write_text("\n".join(lines[options.rows : end]), encoding="utf-8")
        found = judge_all(options, trained, held_out)
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1), encoding="utf-8")


def judge_all(options: argparse.Namespace, trained: Path, held_out: Path) -> dict[str, Any]:
    """Every row's verdicts by checkpoint, then rule; printed as tables on the way."""
    steps = -(-options.rows // BATCH)
    stage = {
        "name": "sft",
        "data": str(trained),
        "score_every": steps,
        "peft": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "training": {
            "num_train_epochs": max(options.epochs),
            "per_device_train_batch_size": BATCH,
            "learning_rate": options.rate,
            "logging_steps": steps,
            "max_length": 512,
        },
    }
    experiment = Experiment.model_validate(
        {
            "name": "gsm8k",
            "model": options.model,
            "stages": [stage],
            "held_out": str(held_out),
            "seed": options.seed,
        }
    )
    connection.use_store(TrackingConfig())
    run_id = pipeline.train(experiment, Path(__file__))
    points = {point.name: point.model_uri for point in runs.read_checkpoints(run_id)}
    controls = load_samples("held_out", experiment.held_out) if experiment.held_out else []
    samples = runs.read_samples(run_id)
    found = dict[str, Any]()
    for epoch in options.epochs:
        last = epoch == max(options.epochs)
        name = "sft" if last else f"sft@{epoch * steps}"
        locations = {"base": points["base"], name: points[name]}
        by_rule = {}
        for label, rule in RULES.items():
            started = time.perf_counter()
            judged = verdicts(samples, locations, rule, options.seed, controls)
            by_rule[label] = judged
            print(f"epoch {epoch}, {label}: {time.perf_counter() - started:.0f} s", flush=True)
        print_table(epoch, by_rule)
        untrained = untrained_verdicts(controls, locations, options.seed)
        learned = Counter(v.status for v in untrained.values())
        grades = Counter(v.grade or "-" for v in untrained.values())
        print(f"  {len(untrained)} rows never trained: {dict(learned)}, {dict(grades)}", flush=True)
        found[str(epoch)] = {
            label: {i: v.model_dump() for i, v in judged.items()}
            for label, judged in (*by_rule.items(), ("never trained", untrained))
        }
    return found


def verdicts(
    samples: Sequence[Sample],
    locations: Mapping[str, str],
    rule: dict[str, Any],
    seed: int,
    controls: Sequence[Sample],
) -> dict[str, Verdict]:
    """The verdict of every sample by a rule, by id."""
    scoring = ScoringConfig(verdicts={"all": rule})
    no_options: dict[str, tuple[str, ...]] = {sample.id: () for sample in samples}
    judged = score_and_judge(samples, no_options, locations, scoring, seed, controls=controls)
    return {verdict.sample_id: verdict for verdict in judged.verdicts}


def untrained_verdicts(
    controls: Sequence[Sample], locations: Mapping[str, str], seed: int
) -> dict[str, Verdict]:
    """Rows that were never trained, in three parts, each judged by `long` against the other two.

    So no row is its own control.
    """
    found = {}
    for part in range(3):
        asked = list(controls[part::3])
        others = [control for control in controls if control not in asked]
        found.update(verdicts(asked, locations, {"long": {}}, seed, others))
    return found


def print_table(epoch: int, by_rule: Mapping[str, Mapping[str, Verdict]]) -> None:
    """Of each rule's learned and unlearned rows, the share that the check bears out."""
    truth = {i: v.status == "learned" for i, v in by_rule["verify"].items()}
    n_pass = sum(truth.values())
    print(f"after {epoch} epochs {n_pass} of {len(truth)} pass the check")
    for label, judged in by_rule.items():
        learned = [i for i, v in judged.items() if v.status == "learned"]
        unlearned = [i for i, v in judged.items() if v.status == "unlearned"]
        passing = sum(truth[i] for i in learned)
        failing = sum(not truth[i] for i in unlearned)
        decided = (len(learned) + len(unlearned)) / len(judged)
        print(
            f"  {label}: learned {len(learned)}, of these pass {passing}; unlearned "
            f"{len(unlearned)}, of these fail {failing}; decided {decided:.2f}"
        )


if __name__ == "__main__":
    main()
