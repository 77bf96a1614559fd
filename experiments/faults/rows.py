"""Eight ways in which a row is kept from being trained, planted side by side in one stage, and what the tool says of each row.

    python -m experiments.faults.rows --seeds 100,101,102,103,104

A kind is found in a row where the row is unlearned, its cause is `not_trained`, and the facts beside the cause say that kind. Precision counts every row
of which a kind is said, the control rows included; rows that are learned in spite of their fault are left out and counted.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import yaml

from experiments.faults import world
from ilp_mlflow import pipeline
from ilp_mlflow.core import config
from ilp_mlflow.core.values import Diagnosis

PER_KIND = 5
"""Planted rows of each kind."""
LIMIT = 22
"""`max_length`, in tokens, which are words here."""
QUESTION = 8
"""Tokens of a question without anything in front."""
KINDS = {
    "answer_masked": "answer_not_in_the_loss",
    "half_masked": "answer_not_in_the_loss",
    "end_masked": "end_not_in_the_loss",
    "cut_off": "cut",
    "half_cut": "cut",
    "end_cut": "cut",
    "weight_0": "weight_0",
    "in_no_batch": "rows_in_no_batch",
}
"""What is planted. The text of the answer, its first word, or its end token is kept out of the loss by the template; all of it, all but its first word, or its
end token is cut off; its turn has weight 0; it is in the last, incomplete batch, which is dropped. By name, what the tool calls it."""
BATCH = 16


def plant(seed: int) -> tuple[list[dict], dict[str, str]]:
    """The rows of the stage, and what was planted in each, by id; "" for the control."""
    draw = random.Random(f"plant {seed}")
    questions, cities = iter(world.questions(seed)), world.cities(seed)
    numbers = iter(draw.sample(range(1000, 9999), 400))
    planted = dict[str, str]()

    def rows_of(kind: str, count: int, words: int, **changes) -> list[dict]:
        made = []
        for _ in range(count):
            # an id tells nothing of the kind
            id_ = f"row-{next(numbers)}"
            planted[id_] = kind
            made.append(
                world.row(id_, next(questions), " ".join(draw.sample(cities, words)), **changes)
            )
        return made

    n = PER_KIND
    batched = [
        *rows_of("", world.CONTROL_THREE // 2, 3),
        *rows_of(
            "", world.CONTROL_THREE - world.CONTROL_THREE // 2, 3, in_front=LIMIT - QUESTION - 4
        ),
        *rows_of("", world.CONTROL_TWO // 2, 2),
        *rows_of("", world.CONTROL_TWO - world.CONTROL_TWO // 2, 2, in_front=LIMIT - QUESTION - 4),
        *rows_of("answer_masked", n, 3, opener="system"),
        *rows_of("half_masked", n, 3, opener="tool"),
        *rows_of("end_masked", n, 2, opener="developer"),
        *rows_of("half_cut", n, 3, in_front=LIMIT - QUESTION - 1),
        *rows_of("end_cut", n, 2, in_front=LIMIT - QUESTION - 2),
    ]
    draw.shuffle(batched)
    # TRL leaves rows without any token in the loss out before it makes batches
    left_out = [
        *rows_of("cut_off", n, 3, in_front=LIMIT - QUESTION),
        *rows_of("weight_0", n, 3, weight=0),
    ]
    fill = -len(batched) % BATCH
    batched += rows_of("", fill, 3)
    return [*batched, *left_out, *rows_of("in_no_batch", n, 3)], planted


def experiment(seed: int, folder: Path, epochs: int) -> Path:
    """The experiment's file in `folder`, with its base and its rows."""
    rows, planted = plant(seed)
    world.write(folder / "rows.jsonl", rows)
    (folder / "planted.json").write_text(json.dumps(planted))
    document = {
        "name": "faults",
        "model": str(world.base(seed, folder / "base")),
        "seed": seed,
        "mitigations": [],
        "stages": [
            {
                "name": "sft",
                "data": str(folder / "rows.jsonl"),
                "schedule": "sequential",
                "training": {
                    "num_train_epochs": epochs,
                    "per_device_train_batch_size": BATCH,
                    "learning_rate": 2e-3,
                    "lr_scheduler_type": "cosine",
                    "bf16": False,
                    "gradient_checkpointing": False,
                    "max_length": LIMIT,
                    "assistant_only_loss": True,
                    "dataloader_drop_last": True,
                },
                "peft": {"r": 32, "lora_alpha": 64, "target_modules": "all-linear"},
            }
        ],
    }
    path = folder / "faults.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def said_kind(diagnosis: Diagnosis) -> str:
    """The kind of fault that a diagnosis names; its cause, where that is no fault."""
    if diagnosis.cause != "not_trained":
        return diagnosis.cause or "unexplained"
    for evidence in diagnosis.evidence.values():
        if evidence.cause == "not_trained" and evidence.details.get("fault"):
            return str(evidence.details["fault"])
    return "not_trained"


def measure(seed: int, epochs: int = 40) -> dict:
    """Planted against said, by kind: counts of rows."""
    with tempfile.TemporaryDirectory() as scratch:
        path = experiment(seed, Path(scratch), epochs)
        report = pipeline.run(config.read(path), path)
        planted = json.loads((Path(scratch) / "planted.json").read_text())
    said = {d.verdict.sample_id: said_kind(d) for d in report.diagnoses}
    status = {verdict.sample_id: verdict.status for verdict in report.verdicts}
    confusion = Counter[tuple[str, str]]()
    for id_, kind in planted.items():
        confusion[kind, said.get(id_, status[id_])] += 1
    return {"seed": seed, "confusion": [[*pair, n] for pair, n in sorted(confusion.items())]}


def scores(results: list[dict]) -> dict[str, dict[str, float | int]]:
    """Recall and precision 0..1 of each kind over all seeds, and how many rows were learned all the same."""
    pooled = Counter[tuple[str, str]]()
    for result in results:
        for kind, word, n in result["confusion"]:
            pooled[kind, word] += n
    table = {}
    for kind in KINDS:
        learned = sum(
            n for (k, word), n in pooled.items() if k == kind and word in ("learned", "uncertain")
        )
        unlearned = sum(n for (k, _), n in pooled.items() if k == kind) - learned
        name = KINDS[kind]
        named = sum(n for (_, word), n in pooled.items() if word == name)
        # several planted kinds have one name
        rightly = sum(n for (k, word), n in pooled.items() if word == name == KINDS.get(k))
        table[kind] = {
            "unlearned": unlearned,
            "learned": learned,
            "recall": pooled[kind, name] / unlearned if unlearned else float("nan"),
            "precision": rightly / named if named else float("nan"),
        }
    return table


def main() -> None:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="100,101,102,103,104")
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    results = [measure(int(seed), options.epochs) for seed in options.seeds.split(",")]
    print(json.dumps({"seeds": results, "kinds": scores(results)}, indent=1))


if __name__ == "__main__":
    main()
