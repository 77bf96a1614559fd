"""The study's tables (Xue et al., arXiv 2604.10079) in small: reads finished runs, asks their models, prints Markdown.

Nothing is trained or logged here. From the repository's root, with the data sets in `experiments/real/data`:

    pip install -e '.[paper]'
    python experiments/paper/prepare.py
    for name in popqa popqa_longer counterfact banking77 banking77_removed multitask; do
        [ $name = banking77_removed ] && python experiments/paper/prepare.py removed
        ilp run experiments/paper/$name.yaml  # without the Hub: --model <folder that `make -s smollm2` prints>
    done
    python experiments/paper/tables.py         # all tables whose runs are there
    python experiments/paper/tables.py 4 11    # some

A mitigation that is added to one of the files (`conflict_bucketing`, `dynamic_resampling`) gets a row of its own; so does the same
one with other options in a file of its own, such as `banking77_dynamic.yaml`, see EXPERIMENTS. `control` is always the control of
the mitigation in the next row: as many steps without the remedy.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import mlflow

from ilp_mlflow.core.config import ScoringConfig, TrackingConfig
from ilp_mlflow.core.errors import TrackingError
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Sample, Verdict, to_rows
from ilp_mlflow.plugin import same_answer
from ilp_mlflow.scoring.models import loading
from ilp_mlflow.scoring.speaking.probe import ModelProbe
from ilp_mlflow.scoring.verdicts.judgements import judge, read_judges
from ilp_mlflow.scoring.verdicts.timeline import verdict_table
from ilp_mlflow.tracking import connection, model_registry, runs

HERE = Path(__file__).parent
EXPERIMENTS = {
    4: ("paper_popqa", "paper_popqa_longer"),
    6: ("paper_counterfact",),
    8: ("paper_banking77", "paper_banking77_removed", "paper_banking77_dynamic"),
    11: ("paper_multitask",),
}
"""Experiments by table; those without a run are left out."""
CAUSES = {
    "missing_knowledge": 18.7,
    "knowledge_conflict": 13.2,
    "data_contradiction": 14.1,
    "left_side_forgetting": 17.4,
    "insufficient_optimization": 14.6,
    "not_trained": None,
    "unexplained": 22.0,
}
"""Shares of the study's table 10, %; it leaves 22 % unexplained and does not look for what was never trained."""
SHORT, LONG = 16, 72
"""Tokens of an answer that is generated, at most: a name or a label, or anything in these experiments."""


class Arm(NamedTuple):
    """One model to compare."""

    name: str
    uri: str
    learned: dict[str, bool]
    """By sample id: `learned` under the rule of the diagnosis."""
    wins: dict[str, bool]
    """By sample id: the right option is the most probable one, which is the study's accuracy."""


class Experiment(NamedTuple):
    """A finished run with what was tried on it."""

    name: str
    samples: list[Sample]
    """In the order of the data."""
    arms: list[Arm]
    """Base, SFT, and every mitigation behind its control."""
    causes: Counter[str]
    """Of the unlearned samples."""


def arm(name: str, run_id: str, checkpoint: int, seed: int) -> Arm:
    table = runs.read_table(run_id, "scores.parquet")
    names = list(dict.fromkeys(table["checkpoint"].to_pylist()))[: checkpoint + 1 or None]
    judgements = judge(table, names, read_judges(ScoringConfig()), seed)
    judged = to_rows(verdict_table(judgements, names), Verdict)
    own = [row for row in table.to_pylist() if row["checkpoint"] == names[-1]]
    learned = {v.sample_id: v.status == "learned" for v in judged}
    wins = {
        row["sample_id"]: row["p_correct"] > row["p_wrong"]
        for row in own
        if row["p_correct"] is not None
    }
    return Arm(name, runs.read_checkpoints(run_id)[checkpoint].model_uri, learned, wins)


def read(name: str) -> Experiment | None:
    """The newest run of an experiment with its finished mitigations, the newest of each name, the first tried first."""
    try:
        run_id = runs.find_experiment_run(name, None)
    except TrackingError:
        return None
    run = mlflow.get_run(run_id)
    seed = int(run.data.params["ilp.seed"])
    query = f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`ilp.kind` = 'mitigation' and attributes.status = 'FINISHED'"
    tried = mlflow.search_runs(
        [run.info.experiment_id], query, order_by=["start_time ASC"], output_format="list"
    )
    arms = [arm("base", run_id, 0, seed), arm("SFT", run_id, -1, seed)]
    for child in {
        t.info.run_name: t.info.run_id for t in tried if runs.has(t.info.run_id, "outcome.json")
    }.values():
        outcome = json.loads(runs.read(child, "outcome.json"))
        if outcome["control_run_id"]:
            arms.append(arm("control", outcome["control_run_id"], -1, seed))
        arms.append(arm(f"`{outcome['mitigation']}`", child, -1, seed))
    found = json.loads(runs.read(run_id, "diagnoses.json"))
    return Experiment(
        name, runs.read_samples(run_id), arms, Counter(d["cause"] or "unexplained" for d in found)
    )


def asked(experiment: Experiment, uri: str) -> ModelProbe:
    """Asks one model of an experiment, in float32."""
    base = experiment.arms[0].uri
    return ModelProbe(lambda _: loading.load_model(model_registry.resolve_parts(uri, base=base)))


def say(
    experiment: Experiment, uri: str, prompts: Sequence[Text], tokens: int = SHORT
) -> list[str]:
    """What a model answers greedily, up to the end of the sentence."""
    return [said.text for said in asked(experiment, uri).answer(uri, prompts, tokens)]


def share(hits: Iterable[bool]) -> str:
    hits = list(hits)
    return f"{sum(hits) / len(hits):.2f}" if hits else "-"


def show(title: str, rows: list[list[str]]) -> None:
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    print(f"\n{title}\n")
    print("\n".join("| " + " | ".join(row) + " |" for row in rows), flush=True)


def table4(short: Experiment, longer: Experiment | None = None) -> None:
    """Missing knowledge: more epochs, or reading first."""
    rows = [["", "learned", "right option wins", "answered when asked otherwise"]]
    more = [longer.arms[1]._replace(name="SFT, 10 epochs")] if longer else []
    for one in [*short.arms[:2], *more, *short.arms[2:]]:
        said = say(short, one.uri, [s.metadata["otherwise"] for s in short.samples])
        right = share(
            same_answer(text, s.answer) for text, s in zip(said, short.samples, strict=True)
        )
        rows.append([one.name, share(one.learned.values()), share(one.wins.values()), right])
    title = "Table 4, n = {}; SFT is 2 epochs (theirs, accuracy: 10 epochs +1.0 to +1.4 points, reading first +7.9 to +8.7)"
    show(title.format(len(short.samples)), rows)


def conflicts(experiment: Experiment, uri: str, prompts: Sequence[str]) -> list[bool]:
    """Whether the true answer is more probable than the row's, by sample."""
    probe, pairs = asked(experiment, uri), list(zip(prompts, experiment.samples, strict=True))
    true = probe.logprobs(uri, [(p, s.metadata["true_completion"]) for p, s in pairs])
    own = probe.logprobs(uri, [(p, s.answer) for p, s in pairs])
    return [t > o for t, o in zip(true, own, strict=True)]


def table6(experiment: Experiment) -> None:
    """Conflict: the true answer is still preferred to the row's; of all rows, and of those whose the base preferred."""
    samples = experiment.samples
    ways = {
        "as trained": [s.prompt for s in samples],
        "otherwise": [s.metadata["otherwise"] for s in samples],
    }
    by_arm = {
        n: [conflicts(experiment, a.uri, p) for p in ways.values()]
        for n, a in enumerate(experiment.arms)
    }
    counts = [sum(way) for way in by_arm[0]]
    header = [
        f"{what}, asked {way}"
        for way, n in zip(ways, counts, strict=True)
        for what in ("all rows", f"the base's {n}")
    ]
    rows = [["conflict rate", "learned", *header]]
    for n, one in enumerate(experiment.arms):
        cells = [
            share(now for now, was in zip(after, before, strict=True) if was or not only)
            for after, before in zip(by_arm[n], by_arm[0], strict=True)
            for only in (False, True)
        ]
        rows.append([one.name, share(one.learned.values()), *cells])
    show(
        f"Table 6, n = {len(samples)} (theirs: correction takes 2.7 to 4.0 points off the conflict rate)",
        rows,
    )


def table8(*experiments: Experiment) -> None:
    """Contradictions: the true intent is said, of clean rows, of flipped ones, and of rows that were not trained."""
    held = [
        json.loads(line)
        for line in (HERE / "data" / "banking77_held.jsonl").read_text("utf-8").splitlines()
    ]
    flipped = [s for s in experiments[0].samples if s.metadata["is_flipped"]]
    groups = {
        "clean": [
            (s.prompt, s.answer) for s in experiments[0].samples if not s.metadata["is_flipped"]
        ],
        "flipped": [(s.prompt, s.metadata["true_completion"]) for s in flipped],
        "not trained": [(row["prompt"], row["true_completion"]) for row in held],
    }
    rows = [
        [
            "",
            *(f"{group} ({len(own)})" for group, own in groups.items()),
            "flipped: the row's label",
        ]
    ]
    for e in experiments:
        variant = e.name.removeprefix(experiments[0].name).replace("_", ", ")
        for one in e.arms[1:] if variant else e.arms:
            said = say(e, one.uri, [prompt for own in groups.values() for prompt, _ in own])
            texts = iter(said)
            right = [
                share(same_answer(next(texts), answer) for _, answer in own)
                for own in groups.values()
            ]
            wrong = share(
                same_answer(text, s.answer)
                for text, s in zip(said[len(groups["clean"]) :], flipped, strict=False)
            )
            rows.append([f"{one.name}{variant}", *right, wrong])
    show(
        "Table 8, the true intent is said (theirs, accuracy: deletion +1.5 points, grouping +2.2, dynamic +2.8)",
        rows,
    )


def table10(*experiments: Experiment) -> None:
    """Causes among the unlearned samples."""
    theirs = [
        "15.3 % of all",
        *("-" if percent is None else f"{percent:.1f}" for percent in CAUSES.values()),
    ]
    rows = [["%", "unlearned", *CAUSES], ["the study", *theirs]]
    for e in experiments:
        n = e.causes.total()
        rows.append(
            [
                e.name,
                f"{n} of {len(e.samples)}",
                *(f"{100 * e.causes[cause] / n:.0f}" if n else "-" for cause in CAUSES),
            ]
        )
    show("Table 10, causes among the unlearned samples", rows)


def table11(experiment: Experiment) -> None:
    """Left-side forgetting: ROUGE-L of the first, middle and last tenth of the data in the order of the stages."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer, samples = RougeScorer(["rougeL"]), experiment.samples
    tenth = len(samples) // 10
    middle = (len(samples) - tenth) // 2
    parts = {
        "first 10 %": samples[:tenth],
        "middle 10 %": samples[middle : middle + tenth],
        "last 10 %": samples[-tenth:],
    }
    parts |= {
        stage: [s for s in samples if s.stage == stage]
        for stage in dict.fromkeys(s.stage for s in samples)
    }
    rows = [["ROUGE-L", *(f"{part} ({len(own)})" for part, own in parts.items())]]
    rest = ["-"] * (len(parts) - 3)
    rows += [
        ["theirs, in sequence", "0.41", "-", "-", *rest],
        ["theirs, shuffled", "0.53 (+29 %)", "+3.5 %", "-1.6 %", *rest],
    ]
    for one in experiment.arms:
        said = say(experiment, one.uri, [s.prompt for s in samples], LONG)
        found = {
            s.id: scorer.score(s.answer, text)["rougeL"].fmeasure
            for s, text in zip(samples, said, strict=True)
        }
        rows.append(
            [
                one.name,
                *(f"{sum(found[s.id] for s in own) / len(own):.2f}" for own in parts.values()),
            ]
        )
    show(f"Table 11, n = {len(samples)}", rows)


def main(*wanted: str) -> None:
    connection.use_store(TrackingConfig())
    found = {
        name: experiment
        for names in EXPERIMENTS.values()
        for name in names
        if (experiment := read(name))
    }
    tables: dict[int, Callable[..., None]] = {4: table4, 6: table6, 8: table8, 11: table11}
    for number, names in EXPERIMENTS.items():
        own = [found[name] for name in names if name in found]
        if names[0] in found and (not wanted or str(number) in wanted):
            tables[number](*own)
    if found and (not wanted or "10" in wanted):
        table10(*(found[names[0]] for names in EXPERIMENTS.values() if names[0] in found))


if __name__ == "__main__":
    main(*sys.argv[1:])
