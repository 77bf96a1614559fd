"""What a model says beyond its training rows: the same in other words, and what it may lose."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ilp_mlflow.core.config import Experiment
from ilp_mlflow.core.finite_scores import unscore_nonfinite
from ilp_mlflow.core.texts import with_last_turn
from ilp_mlflow.core.values import Guard, Sample
from ilp_mlflow.scoring.checkpoints import score_checkpoints

HELD_SHARE = 0.5
"""Share 0..1 of a sample's other wordings; it is held where more of them are reproduced."""
MAX_FACTS = 2000
"""Facts of the guard set, drawn at random where there are more."""
ANSWERS_SCHEMA = pa.schema([("kind", pa.string()), ("id", pa.string()), ("right", pa.bool_())])
"""Columns of `answers.parquet`; `kind` is `held` or `guard`, `right` null where unscored."""


@dataclass(frozen=True)
class Questions:
    """What every model of an experiment is asked beyond its samples."""

    wordings: Sequence[Sample]
    """Unlearned samples in other words; `metadata["of"]` is the id of the sample."""
    facts: Sequence[Sample]
    """What must be known to learn the samples: the `probes` of the rows."""
    held_out: Sequence[Sample]
    """Rows that no stage trains."""


@dataclass(frozen=True)
class Answers:
    """How a model answers those questions."""

    held: Mapping[str, bool | None] = field(default_factory=dict)
    """Whether most other wordings of a sample are reproduced, by sample id; None where a wording is
    not scored."""
    guard: Mapping[str, bool | None] = field(default_factory=dict)
    """Whether a fact that the base knows, or a held-out row, is reproduced, by question id; None
    where it is not scored."""


def plan_questions(
    unlearned: Sequence[Sample],
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    seed: int,
    write: Callable[[Sample], Sequence[str]] | None = None,
) -> Questions:
    """What to ask, of the unlearned samples, of all samples, and of the held-out rows.

    Unlearned samples are asked in their own paraphrases; those without any as `write` words them.
    """
    wordings: list[Sample] = []
    for sample in unlearned:
        texts = sample.paraphrases
        if not texts and write is not None:
            texts = tuple(write(sample))
        wordings += _reworded(sample, texts)
    # held-out rows may have ids that samples have, too
    renamed = [row.model_copy(update={"id": f"held out {row.id}"}) for row in held_out]
    return Questions(wordings, _draw_facts(samples, seed), renamed)


def _reworded(sample: Sample, texts: Sequence[str]) -> list[Sample]:
    """A sample asked in each of the texts, under ids of their own."""
    wordings = []
    for n, text in enumerate(texts, 1):
        wording = Sample(
            id=f"{sample.id} in words {n}",
            stage=sample.stage,
            prompt=with_last_turn(sample.prompt, text),
            completion=sample.completion,
            metadata={"of": sample.id},
        )
        wordings.append(wording)
    return wordings


def _draw_facts(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The distinct probes of the samples, at most MAX_FACTS."""
    # a dict for its order: a set would make the draw depend on the process
    distinct: dict[tuple[str, str], None] = {}
    for sample in samples:
        for probe in sample.probes:
            distinct[probe.prompt, probe.completion] = None
    drawn = random.Random(f"facts {seed}").sample(list(distinct), min(MAX_FACTS, len(distinct)))
    facts = []
    for n, (prompt, answer) in enumerate(drawn, 1):
        facts.append(Sample(id=f"fact {n}", stage="", prompt=prompt, completion=answer))
    return facts


def ask_questions(questions: Questions, base: str, model: str, experiment: Experiment) -> Answers:
    """How the `model` answers; of the facts those that the `base` knows (both are model URIs).

    Raises ModelError when a model is not found or cannot be read.
    """
    uris = {"base": base, "model": model}
    # whether a model goes on behind a fact was never trained
    facts = _reproduced(questions.facts, uris, experiment, must_stop=False)
    held_out = _reproduced(questions.held_out, uris, experiment)
    wordings = _reproduced(questions.wordings, uris, experiment)

    # what the base does not know cannot be lost; where it has no score, it may know it
    guard = {i: right for i, right in facts["model"].items() if facts["base"][i] is not False}
    guard.update(held_out["model"])
    by_sample: dict[str, list[bool | None]] = {}
    for question in questions.wordings:
        right = wordings["model"][question.id]
        by_sample.setdefault(question.metadata["of"], []).append(right)
    held = {sample_id: _holds(rights) for sample_id, rights in by_sample.items()}
    return Answers(held, guard)


def _holds(rights: Sequence[bool | None]) -> bool | None:
    """Whether most wordings are reproduced; None where one of them is not scored."""
    if None in rights:
        return None
    return sum(map(bool, rights)) > HELD_SHARE * len(rights)


def guard_outcome(before: Answers, after: Answers, control: Answers | None) -> Guard | None:
    """What of the guard set was right before, and is lost after a mitigation and its control.

    Of a question that is not scored the worst is assumed for the mitigation: that it was right
    before, is wrong after it, and right after its control. None where nothing was right.
    """
    right = [i for i, is_right in before.guard.items() if is_right is not False]
    if not right:
        return None
    untreated = control or before
    return Guard(
        right=len(right),
        lost=sum(not after.guard.get(i) for i in right),
        lost_by_control=sum(untreated.guard.get(i) is False for i in right),
        unscored=sum(_has_no_score(i, (before, after, untreated)) for i in right),
    )


def _has_no_score(question_id: str, answers: Sequence[Answers]) -> bool:
    """Whether one of several models has no score for a question of the guard set."""
    return any(of_model.guard.get(question_id) is None for of_model in answers)


def _reproduced(
    questions: Sequence[Sample],
    uris: Mapping[str, str],
    experiment: Experiment,
    must_stop: bool = True,
) -> dict[str, dict[str, bool | None]]:
    """Whether each model reproduces the answer to each question, by model name, then question id.

    Its first choice is the right token all the way and, with `must_stop`, the end token after it.
    None where it is not scored.
    """
    reproduced: dict[str, dict[str, bool | None]] = {}
    for name in uris:
        reproduced[name] = dict.fromkeys(question.id for question in questions)
    if not questions:
        return reproduced
    no_options = {question.id: () for question in questions}
    scores = score_checkpoints(
        questions, no_options, uris, experiment.scoring, experiment.seed, experiment.tokenizer
    )
    columns = ["checkpoint", "sample_id", "greedy", "token_accuracy", "tokens", "stops"]
    for score in unscore_nonfinite(scores).select(columns).to_pylist():
        if score["greedy"] is not None:
            right = _is_reproduced(score, must_stop)
            reproduced[score["checkpoint"]][score["sample_id"]] = right
    return reproduced


def _is_reproduced(score: Mapping[str, Any], must_stop: bool) -> bool:
    """Whether the model's first choice is the answer, by the columns of `Score`."""
    if score["greedy"]:
        return True
    if must_stop:
        return False
    # all tokens but the end token, which is one of them
    right_tokens = round(score["token_accuracy"] * score["tokens"])
    misses_end = score["stops"] is False
    return bool(right_tokens + misses_end >= score["tokens"])


def answers_to_table(answers: Answers) -> pa.Table:
    """Answers as a table with the columns of ANSWERS_SCHEMA."""
    rows: list[dict[str, Any]] = []
    for sample_id, right in answers.held.items():
        rows.append({"kind": "held", "id": sample_id, "right": right})
    for question_id, right in answers.guard.items():
        rows.append({"kind": "guard", "id": question_id, "right": right})
    return pa.Table.from_pylist(rows, schema=ANSWERS_SCHEMA)


def answers_from_table(table: pa.Table) -> Answers:
    """The answers that `answers_to_table` wrote."""
    by_kind: dict[str, dict[str, bool | None]] = {"held": {}, "guard": {}}
    for row in table.to_pylist():
        by_kind[row["kind"]][row["id"]] = row["right"]
    return Answers(held=by_kind["held"], guard=by_kind["guard"])
