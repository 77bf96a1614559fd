"""Does going on teach what a stage has not taught? `python longer.py ROWS MODEL RATE`: 8 epochs, a checkpoint after each.

For every epoch from the second on: what is unlearned, whether the rule for training that stopped too early speaks (`*`: fewer than
half taught, and the summed loss of the unlearned rows fell by a tenth from their last batch but one to the last), and how many of
them are learned after twice as many epochs and after all. ROWS are such as `../paper/prepare.py` makes.
"""

import sys
from pathlib import Path

from ilp_mlflow import pipeline
from ilp_mlflow.core.config import Experiment
from ilp_mlflow.plugin import MIN_TAUGHT_SHARE
from ilp_mlflow.scoring.judged import score_and_judge
from ilp_mlflow.scoring.verdicts.timeline import status_histories
from ilp_mlflow.tracking import runs

EPOCHS, BATCH, FALLING = 8, 8, 0.1
HOW = {
    "num_train_epochs": EPOCHS,
    "per_device_train_batch_size": BATCH,
    "lr_scheduler_type": "constant",
    "bf16": False,
}
HOW |= {
    "gradient_checkpointing": False,
    "model_init_kwargs": {"dtype": "bfloat16", "attn_implementation": "eager"},
}
PEFT = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


def main(rows, model, rate):
    path = Path(rows).resolve()
    steps = -(-len(path.read_text(encoding="utf-8").splitlines()) // BATCH)
    stage = {"name": "stage", "data": str(path), "score_every": steps, "peft": PEFT}
    stage["training"] = {**HOW, "learning_rate": float(rate), "logging_steps": steps}
    name = f"longer-{path.stem}-{rate}"
    experiment = Experiment.model_validate(
        {"name": name, "model": model, "stages": [stage], "scoring": {"dtype": "mixed"}}
    )
    run_id = pipeline.train(experiment, Path(__file__))
    samples, checkpoints = runs.read_samples(run_id), runs.read_checkpoints(run_id)
    locations = {c.name: c.model_uri for c in checkpoints}
    judged = score_and_judge(
        samples, {s.id: () for s in samples}, locations, experiment.scoring, experiment.seed
    )
    histories = status_histories(judged.judgements, list(locations))
    losses = {s.id: [] for s in samples}
    for row in runs.read_table(run_id, "signals.parquet").sort_by("step").to_pylist():
        losses[row["sample_id"]].append(row["loss"])  # one an epoch

    def learned(ids, epoch):
        return sum(histories[i][epoch] == "learned" for i in ids)

    print(
        f"{name}: {len(samples)} rows, learned after 1 to {EPOCHS} epochs:",
        [learned(histories, e + 1) for e in range(EPOCHS)],
    )
    for epoch in range(2, EPOCHS):
        unlearned = [i for i, history in histories.items() if history[epoch] == "unlearned"]
        before, now = (sum(losses[i][visit] for i in unlearned) for visit in (epoch - 2, epoch - 1))
        taught, fell = learned(histories, epoch) / len(samples), 1 - now / before if before else 0.0
        sign = "*" if taught < MIN_TAUGHT_SHARE and fell >= FALLING else " "
        twice = min(2 * epoch, EPOCHS)
        later = f"{learned(unlearned, twice)} after {twice}, {learned(unlearned, EPOCHS)} after {EPOCHS}"
        print(
            f"{sign} {epoch}: taught {taught:.2f}, loss fell {fell:+.2f}; of {len(unlearned)} unlearned are learned {later}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
