"""What a model says beyond the rows in their training form: the same asked in other words, and what is not to be lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.values import Guard, Sample, with_last_turn
from ilp_mlflow.scoring.checkpoints import score_checkpoints

HELD = 0.5
"""Share 0..1 of a sample's other wordings beyond which it is held."""
FACTS = 2000
"""Probes of the guard set, drawn at random where there are more."""


@dataclass(frozen=True)
class Questions:
    """What every model of an experiment is asked beyond its samples."""

    wordings: Sequence[Sample]
    """Unlearned samples in other words; `metadata` has the id of the sample."""
    facts: Sequence[Sample]
    """What the samples need to be known: probes of the rows."""
    held_out: Sequence[Sample]
    """Rows that no stage trains."""


@dataclass(frozen=True)
class Answers:
    """What of that a model says."""

    held: Mapping[str, bool] = field(default_factory=dict)
    """Whether most other wordings of a sample are reproduced, by sample id."""
    guard: Mapping[str, bool] = field(default_factory=dict)
    """Whether it says what the base knows, or reproduces a held-out row, by the question's id."""


def plan_questions(
    unlearned: Sequence[Sample],
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    seed: int,
    write: Callable[[Sample], Sequence[str]] | None = None,
) -> Questions:
    """What to ask: the `unlearned` samples in their own paraphrases, else as `write` words them; the probes of all `samples`."""
    wordings = [
        Sample(
            id=f"{s.id} in words {n}",
            stage=s.stage,
            prompt=with_last_turn(s.prompt, text),
            completion=s.completion,
            metadata={"of": s.id},
        )
        for s in unlearned
        for n, text in enumerate(s.paraphrases or (write(s) if write else ()), 1)
    ]
    probes = list(dict.fromkeys((p.prompt, p.completion) for s in samples for p in s.probes))
    few = random.Random(f"facts {seed}").sample(probes, min(FACTS, len(probes)))
    facts = [
        Sample(id=f"fact {n}", stage="", prompt=prompt, completion=answer)
        for n, (prompt, answer) in enumerate(few, 1)
    ]
    held = [s.model_copy(update={"id": f"held out {s.id}"}) for s in held_out]
    return Questions(wordings, facts, held)


def ask_questions(asked: Questions, base: str, model: str, experiment: Experiment) -> Answers:
    """What the `model` says, of facts those that the `base` says (URIs). Raises ModelError when one is not found or readable."""
    where = {"base": base, "model": model}
    said = _said(asked.facts, where, experiment, ends=False)
    held_out = _said(asked.held_out, where, experiment)["model"]
    facts = {i: right for i, right in said["model"].items() if said["base"][i]}
    worded = _said(asked.wordings, where, experiment)["model"]
    by_sample: dict[str, list[bool]] = {}
    for question in asked.wordings:
        by_sample.setdefault(question.metadata["of"], []).append(worded[question.id])
    return Answers(
        {i: sum(right) > HELD * len(right) for i, right in by_sample.items()}, {**facts, **held_out}
    )


def guard_outcome(before: Answers, after: Answers, control: Answers | None) -> Guard | None:
    """What of the guard set that was right is wrong after, and after the control; None where nothing was right."""
    right = [i for i, said in before.guard.items() if said]
    if not right:
        return None
    lost, by_control = (sum(not a.guard[i] for i in right) if a else 0 for a in (after, control))
    return Guard(right=len(right), lost=lost, lost_by_control=by_control)


def _said(
    asked: Sequence[Sample], where: Mapping[str, str], experiment: Experiment, ends: bool = True
) -> dict[str, dict[str, bool]]:
    """Whether each model's first choice is the answer all the way, by model, then id; `ends`: its end token, too."""
    if not asked:
        return {name: {} for name in where}
    none = {s.id: () for s in asked}
    table = score_checkpoints(
        asked, none, where, experiment.scoring, experiment.seed, experiment.tokenizer
    )
    columns = ("checkpoint", "sample_id", "greedy", "token_accuracy", "tokens", "stops")
    found: dict[str, dict[str, bool]] = {name: {} for name in where}
    for name, id_, greedy, accuracy, tokens, stops in zip(
        *(table[c].to_pylist() for c in columns), strict=True
    ):
        right = bool(greedy) or (
            not ends
            and accuracy is not None
            and round(accuracy * tokens) + (stops is False) >= tokens
        )
        found[name][id_] = right
    return found


def answers_to_table(answers: Answers) -> pa.Table:
    """Answers as columns `kind` (`held`, `guard`), `id`, `right`."""
    kinds = (("held", answers.held), ("guard", answers.guard))
    rows = [
        {"kind": kind, "id": i, "right": right} for kind, said in kinds for i, right in said.items()
    ]
    return pa.Table.from_pylist(
        rows, schema=pa.schema([("kind", pa.string()), ("id", pa.string()), ("right", pa.bool_())])
    )


def answers_from_table(table: pa.Table) -> Answers:
    """The answers that `to_table` wrote."""
    found: dict[str, dict[str, bool]] = {"held": {}, "guard": {}}
    for row in table.to_pylist():
        found[row["kind"]][row["id"]] = row["right"]
    return Answers(**found)
