"""The study's tables (Xue et al., arXiv 2604.10079) in the lab: reads finished `ilp lab --mitigate all` runs, prints Markdown.

    ilp lab --seed 132 --mitigate all          # and other seeds, in one MLflow store or in several
    python experiments/paper/lab.py            # the store of MLFLOW_TRACKING_URI
    python experiments/paper/lab.py sqlite:///one/mlflow.db sqlite:///two/mlflow.db

Shares 0..1 are pooled over the seeds: of all planted samples of a group, learned or not before; the first row is where each starts.
A row `control of X` has as many steps without the remedy. `held`: most of a sample's other wordings are reproduced.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping

import mlflow
from mlflow import MlflowClient

from ilp_mlflow.lab import data_files
from ilp_mlflow.mitigation.side_effects import answers_from_table
from ilp_mlflow.tracking import runs

TABLES = {
    4: (
        "missing_knowledge",
        ("progressive_epochs", "knowledge_augmentation"),
        "more epochs, or reading first",
    ),
    6: (
        "knowledge_conflict",
        ("progressive_epochs", "belief_correction"),
        "conflict rate: the row's label is not reproduced",
    ),
    8: (
        "data_contradiction",
        ("conflict_removal", "conflict_bucketing"),
        "deletion, dynamic grouping",
    ),
}


def greedy(run_id: str, name: str) -> dict[str, bool]:
    """Whether a checkpoint reproduces each sample, end token included, by id."""
    rows = (
        runs.read_table(run_id, "scores.parquet")
        .select(["sample_id", "checkpoint", "greedy"])
        .to_pylist()
    )
    return {row["sample_id"]: bool(row["greedy"]) for row in rows if row["checkpoint"] == name}


def read() -> list[dict]:
    """Every finished lab of the current store: what each model reproduces, by arm, in the order of the data."""
    client, found = MlflowClient(), []
    ids = [e.experiment_id for e in client.search_experiments()]
    for run in client.search_runs(ids, "tags.`ilp.trained` = 'true' and params.`ilp.name` = 'lab'"):
        run_id, seed = run.info.run_id, int(run.data.params["ilp.seed"])
        if not runs.has(run_id, "outcomes.json"):
            continue
        arms: dict[str, tuple[dict[str, bool], Mapping[str, bool | None]]] = {
            "SFT": (greedy(run_id, runs.read_checkpoints(run_id)[-1].name), {})
        }
        for outcome in json.loads(runs.read(run_id, "outcomes.json")):
            own = {
                outcome["mitigation"]: outcome["run_id"],
                f"control of {outcome['mitigation']}": outcome["control_run_id"],
            }
            for name, child in own.items():
                if child:
                    held = answers_from_table(runs.read_table(child, "answers.parquet")).held
                    arms[name] = (greedy(child, "after"), held)
        said = json.loads(runs.read(run_id, "diagnoses.json"))
        planted = {row.id: row.group for row in data_files.prepare("full", seed).planted.samples}
        order = [s.id for s in runs.read_samples(run_id)]
        found.append(
            {
                "arms": arms,
                "planted": planted,
                "order": order,
                "causes": Counter(d["cause"] for d in said),
            }
        )
    return found


def show(title: str, rows: list[list[str]]) -> None:
    """A Markdown table."""
    print(f"\n{title}\n")
    print(
        "\n".join(
            "| " + " | ".join(row) + " |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])
        )
    )


def share(hits: list[bool]) -> str:
    """Share of hits, with two digits."""
    return f"{sum(hits) / len(hits):.2f}" if hits else "-"


def main(*uris: str) -> None:
    """Print all tables."""
    labs = []
    for uri in uris or [mlflow.get_tracking_uri()]:
        mlflow.set_tracking_uri(uri)
        labs += read()
    arms = list(dict.fromkeys(name for lab in labs for name in lab["arms"]))
    print(f"{len(labs)} labs")
    for number, (group, remedies, title) in TABLES.items():
        rows = [[group, "reproduced", "held, of the unlearned"]]
        for name in ["SFT", *(n for r in remedies for n in (f"control of {r}", r) if n in arms)]:
            own = [(lab["arms"][name], lab) for lab in labs if name in lab["arms"]]
            said = [arm[0][i] for arm, lab in own for i, g in lab["planted"].items() if g == group]
            held = [
                arm[1][i]
                for arm, lab in own
                for i, g in lab["planted"].items()
                if g == group and i in arm[1]
            ]
            rows.append([name, share(said), share(held)])
        show(f"Table {number}: {title}", rows)
    counts = sum((lab["causes"] for lab in labs), Counter())
    n = sum(counts.values())
    cells = {
        str(cause or "unexplained"): f"{100 * k / n:.0f} %" for cause, k in counts.most_common()
    }
    show(
        f"Table 10: causes of {n} unlearned samples of {sum(len(lab['order']) for lab in labs)}",
        [list(cells), list(cells.values())],
    )
    rows = [
        [
            "reproduced (answers are one word: ROUGE-L is 0 or 1)",
            "first 10 %",
            "middle 10 %",
            "last 10 %",
        ]
    ]
    for name in (
        "SFT",
        "control of global_shuffle",
        "global_shuffle",
        "dynamic_resampling",
        "replay",
    ):
        parts = defaultdict[str, list[bool]](list)
        for lab in (x for x in labs if name in x["arms"]):
            said, order = lab["arms"][name][0], lab["order"]
            tenth = len(order) // 10
            middle = (len(order) - tenth) // 2
            for part, ids in (
                ("first", order[:tenth]),
                ("middle", order[middle : middle + tenth]),
                ("last", order[-tenth:]),
            ):
                parts[part] += [said[i] for i in ids]
        rows.append([name, *(share(parts[part]) for part in ("first", "middle", "last"))])
    show("Table 11: the order of the data", rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
