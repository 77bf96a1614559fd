"""Set the newest diagnosis of one of these experiments against what is known of its rows: `python read.py banking77_noisy`.

The diagnosis reads prompts, completions and stages only; the fields compared here (`is_flipped`, `tier`, `s_pop`,
`true_completion`) are in the rows' metadata.
"""

import math
import sys
from collections import Counter

from ilp_mlflow.core.config import TrackingConfig
from ilp_mlflow.core.terminal.text import format_table
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.speaking.probe import ModelProbe
from ilp_mlflow.tracking import connection, model_registry, runs


def share(part, whole):
    return f"{part}/{whole} = {part / whole:.2f}" if whole else "-"


def by_group(rows, groups):
    """A line per group: rows, learned, and the causes of the unlearned ones."""
    causes = sorted({r["cause"] for r in rows if r["status"] == "unlearned"})
    lines = [["", "rows", "learned", "unlearned", *causes]]
    for name, own in groups.items():
        count = Counter(r["cause"] for r in own if r["status"] == "unlearned")
        learned = sum(r["status"] == "learned" for r in own)
        numbers = [len(own), learned, count.total(), *(count[c] for c in causes)]
        lines.append([name, *map(str, numbers)])
    print("\n".join(format_table(lines)))


def thirds(rows, key):
    ordered = sorted(rows, key=key)
    cuts = [ordered[i * len(rows) // 3 : (i + 1) * len(rows) // 3] for i in range(3)]
    return {
        f"{name} ({key(own[0]):g} to {key(own[-1]):g})": own
        for name, own in zip(("low", "middle", "high"), cuts, strict=True)
    }


def banking77_noisy(rows, **_):
    flipped = [r for r in rows if r["is_flipped"]]
    named = [r for r in rows if r["cause"] == "data_contradiction"]
    found = [r for r in named if r["is_flipped"]]
    missed = [r for r in flipped if r["status"] == "unlearned"]
    print(
        f"precision {share(len(found), len(named))}; recall of unlearned flipped rows {share(len(found), len(missed))}, of all "
        f"flipped rows {share(len(found), len(flipped))}"
    )
    by_group(rows, {"flipped": flipped, "clean": [r for r in rows if not r["is_flipped"]]})


def clinc150_rare(rows, **_):
    tiers = {tier: [r for r in rows if r["tier"] == tier] for tier in ("head", "mid", "tail")}
    by_group(rows, tiers)
    cause = [r for r in rows if r["cause"] == "insufficient_optimization"]
    unlearned = [r for r in rows if r["status"] == "unlearned"]
    for name, some in (
        ("all rows", rows),
        ("unlearned", unlearned),
        ("insufficient_optimization", cause),
    ):
        print(f"tail among {name}: {share(sum(r['tier'] == 'tail' for r in some), len(some))}")


def multitask(rows, checkpoints, **_):
    first = checkpoints[1].name
    gone = [
        r for r in rows if r["stage"] == first and r["status"] == "unlearned" and r["first_learned"]
    ]
    called = [r for r in gone if r["cause"] == "left_side_forgetting"]
    print(
        f"rows of '{first}' learned and lost that are called left_side_forgetting: {share(len(called), len(gone))}"
    )
    print("lost by, of these:", dict(Counter(r["last_lost"] for r in called)))
    by_group(rows, {c.name: [r for r in rows if r["stage"] == c.name] for c in checkpoints[1:]})


def popqa(rows, ask, **_):
    right = ask([(r["prompt"], r["completion"]) for r in rows])
    for row, logprob in zip(rows, right, strict=True):
        row["base"] = math.exp(logprob)
    by_group(rows, {"all": rows, **thirds(rows, lambda r: r["s_pop"])})
    for name, own in thirds(rows, lambda r: r["s_pop"]).items():
        print(
            f"{name}: mean probability of the answer in the base {sum(r['base'] for r in own) / len(own):.3f}"
        )


def counterfact(rows, ask, **_):
    said, true = (
        ask([(r["prompt"], r[key]) for r in rows]) for key in ("completion", "true_completion")
    )
    for row, ours, theirs in zip(rows, said, true, strict=True):
        row["prefers"], row["base"] = 1 / (1 + math.exp(min(ours - theirs, 700))), math.exp(theirs)
    print(
        f"base: true ending more probable than 0.1 in {share(sum(r['base'] > 0.1 for r in rows), len(rows))}, 0.5 in "
        f"{share(sum(r['base'] > 0.5 for r in rows), len(rows))}; preferred to the row's in "
        f"{share(sum(r['prefers'] > 0.5 for r in rows), len(rows))}"
    )
    groups = {
        "true preferred, over .9": lambda p: p > 0.9,
        "in between": lambda p: 0.1 <= p <= 0.9,
        "row's preferred, over .9": lambda p: p < 0.1,
    }
    by_group(
        rows,
        {
            "all": rows,
            **{name: [r for r in rows if fits(r["prefers"])] for name, fits in groups.items()},
        },
    )


def main(name):
    connection.use_store(TrackingConfig())
    run_id = runs.find_experiment_run(name, None)
    samples, checkpoints = (
        {s.id: s for s in runs.read_samples(run_id)},
        runs.read_checkpoints(run_id),
    )
    found = runs.read_table(run_id, "diagnosis.parquet").to_pylist()
    rows = [
        {
            **samples[r["sample_id"]].metadata,
            **samples[r["sample_id"]].model_dump(include={"prompt", "completion"}),
            **r,
        }
        for r in found
    ]
    base = checkpoints[0].model_uri
    probe = ModelProbe(
        lambda _: loading.load_model(model_registry.resolve_parts(base, base=base)),
        4096,
    )
    print(
        f"{name}: run {run_id}, {len(rows)} rows, {sum(r['status'] == 'unlearned' for r in rows)} unlearned"
    )
    globals()[name](
        rows, checkpoints=checkpoints, ask=lambda exchanges: probe.logprobs("base", exchanges)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
