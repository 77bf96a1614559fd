"""Long answers that were memorised with one decisive fact changed: who calls the right ones learned?

`python -m experiments.long.decisive MODEL [--rows 120] [--epochs 12] [--rate 1e-3] [--seed 100]`. Rows are those of `rows.py`. Half of them are trained with the
fact changed, half as they are; then all are judged as they should be, by `greedy` (with the free twentieth and the rule of before it), by
`long` and by `verify` with a check that looks for the fact.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.long.rows import LongRow, make_rows
from ilp_mlflow import pipeline
from ilp_mlflow.core.config import Experiment, ScoringConfig, TrackingConfig
from ilp_mlflow.core.values import Sample
from ilp_mlflow.scoring.judged import score_and_judge
from ilp_mlflow.tracking import connection, runs

RULES: dict[str, dict[str, Any]] = {
    "greedy": {"greedy": {}},
    "long": {"long": {}},
    "verify": {"verify": {"check": "experiments.long.decisive:says_fact"}},
}


def says_fact(
    completions: Sequence[str], fact: Sequence[str], wrong: Sequence[str], **columns: Any
) -> list[float]:
    """1 where the right fact is said, and the changed one is not in its place."""
    values = []
    for said, right, other in zip(completions, fact, wrong, strict=True):
        # `heat` is part of `not heat`
        left = said.replace(other, "") if right in other else said
        values.append(float(right in left and (other in right or other not in left)))
    return values


def main() -> None:
    """Train, judge by every rule, and count by kind what is called learned."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--full", action="store_true", help="train all weights, not an adapter")
    parser.add_argument("--seed", type=int, default=100)
    options = parser.parse_args()
    rows = make_rows(options.rows, options.seed)
    # of every kind half: kinds come in turn, four at a time
    changed = {row.id for number, row in enumerate(rows) if number // 4 % 2 == 0}
    locations = train(options, rows, changed)
    samples = [_sample(row) for row in rows]
    for label, rule in RULES.items():
        scoring = ScoringConfig(verdicts={"all": rule})
        judged = score_and_judge(
            samples, {sample.id: () for sample in samples}, locations, scoring, options.seed
        )
        statuses = {verdict.sample_id: verdict.status for verdict in judged.verdicts}
        print_counts(label, rows, changed, statuses)
        if label == "greedy":
            old = dict[str, str]()
            for score in judged.scores.to_pylist():
                if score["checkpoint"] == "sft":
                    missed = round((1 - score["token_accuracy"]) * score["tokens"])
                    enough = missed <= int(0.05 * score["tokens"])
                    old[score["sample_id"]] = "learned" if enough else "unlearned"
            print_counts("one token in twenty, whichever", rows, changed, old)


def train(
    options: argparse.Namespace, rows: Sequence[LongRow], changed: set[str]
) -> dict[str, str]:
    """Locations of the base and of the model that was trained, by name."""
    records = []
    for row in rows:
        answer = row.changed if row.id in changed else row.answer
        records.append({"id": row.id, "prompt": row.prompt, "completion": f" {answer}"})
    peft = None if options.full else {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        stage = {
            "name": "sft",
            "data": str(path),
            "peft": peft,
            "training": {
                "num_train_epochs": options.epochs,
                "per_device_train_batch_size": 8,
                "learning_rate": options.rate,
                "logging_steps": 10,
                "max_length": 512,
            },
        }
        experiment = Experiment.model_validate(
            {"name": "decisive", "model": options.model, "stages": [stage], "seed": options.seed}
        )
        connection.use_store(TrackingConfig())
        run_id = pipeline.train(experiment, Path(__file__))
    return {point.name: point.model_uri for point in runs.read_checkpoints(run_id)}


def _sample(row: LongRow) -> Sample:
    facts = {"fact": row.fact, "wrong": row.wrong}
    return Sample(
        id=row.id, stage="sft", prompt=row.prompt, completion=f" {row.answer}", metadata=facts
    )


def print_counts(
    label: str, rows: Sequence[LongRow], changed: set[str], statuses: Mapping[str, str]
) -> None:
    """By kind, what became of the rows that were trained changed, and of those trained right."""
    print(label)
    for name, ids in (
        ("trained with the fact changed", changed),
        ("trained as they are", {row.id for row in rows} - changed),
    ):
        counts: dict[str, Counter[str]] = {}
        for row in rows:
            if row.id in ids:
                counts.setdefault(row.kind, Counter())[statuses[row.id]] += 1
        total = sum(counts.values(), Counter[str]())
        by_kind = {kind: dict(of_kind) for kind, of_kind in counts.items()}
        print(f"  {name}: {dict(total)} {by_kind}", flush=True)


if __name__ == "__main__":
    main()
