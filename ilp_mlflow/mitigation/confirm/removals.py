"""The small trainings of a stage: one as it was, and one for each cause that is removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ilp_mlflow.core.values import Sample, Stage
from ilp_mlflow.data.matching import prompt_text, with_answer
from ilp_mlflow.mitigation.confirm.bench import Bench, usual_rows
from ilp_mlflow.mitigation.confirm.verdict import KNOWLEDGE

CONTROL = "control"
"""Name of the training in which nothing is removed."""
READ_PASSES = 20
"""Passes over the statements that are read before a stage."""
MAX_TIMES = 20
"""How often a row is trained in each pass, at most, to be as frequent as others."""
REPAIRED = {"max_length": None, "assistant_only_loss": False}
"""Options under which every row reaches the model whole."""
OPTIONS_OF_ROWS = (
    *("max_length", "truncation_mode", "assistant_only_loss", "completion_only_loss"),
    *("warmup_steps", "max_steps"),
)
"""Options that are about the rows of a stage, so not taken over for statements."""


@dataclass(frozen=True)
class Arm:
    """One small training."""

    name: str
    """The cause that is removed, or CONTROL."""
    bench: Bench
    """What it is a training of."""
    stages: tuple[Stage, ...]
    """What is trained, in order, from the bench's parent."""
    removed_for: frozenset[str]
    """Ids of the tested samples of which something is removed."""
    left_out: frozenset[str] = frozenset()
    """Ids of the tested samples that are trained with another answer, since they contradict
    others."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return sum(stage.steps for stage in self.stages)


def plan_arms(bench: Bench) -> list[Arm]:
    """The control, and a training for each removal that changes something for a tested sample.

    All have the same rows and options but for what is removed.
    """
    trained_ids = {row.id for row in bench.stage.samples} - bench.unseen
    as_it_was = _with_rows(bench.stage, [r for r in bench.stage.samples if r.id in trained_ids])
    arms = [Arm(CONTROL, bench, (as_it_was,), frozenset())]
    for plan in (_repair, _agreeing, _rehearsing, _frequent, _informed):
        arm = plan(bench, as_it_was)
        if arm is not None:
            arms.append(arm)
    return arms


def _repair(bench: Bench, as_it_was: Stage) -> Arm | None:
    """All rows, under options that keep none from the model."""
    if not bench.mechanical:
        return None
    changes = {"samples": bench.stage.samples, "training": bench.stage.training | REPAIRED}
    stage = as_it_was.model_copy(update=changes)
    return Arm("not_trained", bench, (stage,), bench.mechanical)


def _agreeing(bench: Bench, as_it_was: Stage) -> Arm | None:
    """With the rows that contradict a tested sample answering as it does.

    They stay, since what is taught by one row alone may not be learned for that: all else is equal.
    """
    answers = _choose_side(bench)
    if not answers:
        return None
    rows = []
    for row in as_it_was.samples:
        if row.id in answers:
            completion = with_answer(row.completion, answers[row.id])
            row = row.model_copy(update={"completion": completion})
        rows.append(row)
    tested = {sample.id for sample in bench.tested}
    removed_for = set()
    for id_, rivals in bench.rivals.items():
        if id_ not in answers and set(rivals) <= set(answers):
            removed_for.add(id_)
    return Arm(
        "data_contradiction",
        bench,
        (_with_rows(as_it_was, rows),),
        frozenset(removed_for),
        frozenset(set(answers) & tested),
    )


def _choose_side(bench: Bench) -> dict[str, str]:
    """The rows that are to agree with a tested sample, by id, and what they are to answer.

    Of tested samples that contradict each other these are the outvoting.
    """
    answer_of = {sample.id: sample.answer for sample in bench.tested}
    stays: set[str] = set()
    answers: dict[str, str] = {}
    for id_ in sorted(bench.rivals, key=lambda i: (-len(bench.rivals[i]), i)):
        if id_ not in answers:
            stays.add(id_)
            for rival in bench.rivals[id_]:
                if rival not in stays:
                    answers.setdefault(rival, answer_of[id_])
    return answers


def _rehearsing(bench: Bench, as_it_was: Stage) -> Arm | None:
    """With rows of the stages before it, the overwritten ones among them."""
    rehearsed = bench.overwritten & {row.id for row in bench.rehearsed}
    if not rehearsed:
        return None
    stage = _with_rows(as_it_was, [*bench.rehearsed, *as_it_was.samples])
    return Arm("left_side_forgetting", bench, (stage,), rehearsed)


def _frequent(bench: Bench, as_it_was: Stage) -> Arm | None:
    """With rows of rare kinds as often as others, and in as many passes as other stages.

    A tested sample itself is not trained more often, unless all rows of its stage are: that would
    teach it by rote, whatever its cause.
    """
    repeated = _times_by_row(bench)
    own = {sample.id for sample in bench.tested} - bench.overwritten
    rows = []
    for row in as_it_was.samples:
        times = 1 if row.id in own else repeated.get(row.id, 1)
        rows += _copies(row, times)
    is_longer = bench.passes_lacking > 1
    removed_for = own if is_longer else own & set(bench.kin)
    if not removed_for:
        return None
    stage = _with_rows(as_it_was, rows)
    if is_longer:
        passes = stage.training["num_train_epochs"] * bench.passes_lacking
        training = stage.training | {"num_train_epochs": passes}
        stage = stage.model_copy(update={"training": training})
    return Arm("insufficient_optimization", bench, (stage,), frozenset(removed_for))


def _times_by_row(bench: Bench) -> dict[str, int]:
    """How often each row that shares something rare is trained in a pass, by id."""
    usual = usual_rows(bench.original)
    times: dict[str, int] = {}
    for ids in bench.kin.values():
        for id_ in ids:
            enough = min(MAX_TIMES, max(2, round(usual / len(ids))))
            times[id_] = max(enough, times.get(id_, 1))
    return times


def _informed(bench: Bench, as_it_was: Stage) -> Arm | None:
    """Behind a stage in which statements of the tested samples' answers are read."""
    own = [sample for sample in bench.tested if sample.id not in bench.overwritten]
    if not own:
        return None
    texts: dict[str, None] = {}
    for sample in own:
        texts |= dict.fromkeys(_statements(sample))
    rows = []
    for n, text in enumerate(texts):
        rows.append(Sample(id=f"text/{n}", stage="reading", prompt="", completion=text))
    training = dict(as_it_was.training)
    for option in OPTIONS_OF_ROWS:
        training.pop(option, None)
    training["num_train_epochs"] = READ_PASSES
    changes = {
        "name": "reading",
        "samples": tuple(rows),
        "training": training,
        "schedule": "shuffled",
    }
    reading = as_it_was.model_copy(update=changes)
    removed_for = frozenset(sample.id for sample in own)
    return Arm(KNOWLEDGE, bench, (reading, as_it_was), removed_for)


def _statements(sample: Sample) -> list[str]:
    """What tells the answer of a sample: its probes with theirs, or its own prompt with its own."""
    if sample.probes:
        return [f"{probe.prompt}{probe.completion}" for probe in sample.probes]
    return [f"{prompt_text(sample.prompt).rstrip()} {sample.answer.strip()}"]


def _with_rows(stage: Stage, rows: Sequence[Sample]) -> Stage:
    return stage.model_copy(update={"samples": tuple(rows)})


def _copies(row: Sample, times: int) -> list[Sample]:
    """A row and copies of it under other ids, `times` in all."""
    copies = [row]
    for k in range(1, times):
        copies.append(row.model_copy(update={"id": f"{row.id}~{k}"}))
    return copies
