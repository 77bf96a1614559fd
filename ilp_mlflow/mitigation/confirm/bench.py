"""Which samples are tested by small trainings, and the rows of these. Pure functions."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE, Context
from ilp_mlflow.core.values import Checkpoint, Diagnosis, Exposure, Sample, Stage, to_rows
from ilp_mlflow.data.matching import answer_key, prompt_text
from ilp_mlflow.diagnosis.causes.data_contradiction import ContradictionDetails
from ilp_mlflow.diagnosis.causes.not_trained import NotTrainedDetails
from ilp_mlflow.mitigation.confirm.verdict import KNOWLEDGE_CAUSES, SPECIFIC

TESTED_CAUSES = (*SPECIFIC, *KNOWLEDGE_CAUSES, None)
"""Causes whose samples are tested; None: unexplained."""
VISITS = 1500
"""Visits of rows, passes counted, that a small training is filled up to."""
CHECKS = 40
"""Rows that the stage taught which a small training must teach, too, at most."""
FILL = 4
"""Learned rows for every tested sample, at least."""
RARE = 20
"""What is in at most so many rows is rare."""
SCARCE = 0.25
"""An answer is scarce that at most this share 0..1 of the usual number of rows have."""
CANDIDATE = 0.2
"""Probability 0..1 of the same question from which rows are left out to see what that does."""
MECHANICAL_FAULTS = (
    "cut",
    "no_token_in_the_loss",
    "end_not_in_the_loss",
    "answer_not_in_the_loss",
    "never_in_a_batch",
)
"""Faults of training that its options or its batches are to blame for."""


@dataclass(frozen=True)
class Bench:
    """A stage that is trained again in small, and what is tested in it."""

    stage: Stage
    """The stage with the rows of the small training, in file order, and the options for it."""
    parent: Checkpoint
    """What it starts from."""
    original: Stage
    """The stage as it was trained."""
    tested: tuple[Sample, ...]
    """Unlearned samples of the stage, and those it overwrote."""
    checks: tuple[Sample, ...]
    """Samples that the stage taught: a small training that does not teach them says nothing."""
    rivals: Mapping[str, tuple[str, ...]]
    """Ids of rows of the small training that contradict a tested sample, by its id."""
    kin: Mapping[str, tuple[str, ...]]
    """Ids of other rows of the small training that share what is rare in a tested sample, by its
    id."""
    overwritten: frozenset[str]
    """Ids of the tested samples that the stage overwrote."""
    mechanical: frozenset[str]
    """Ids of the tested samples that options of the stage, or its batches, kept from the model."""
    unseen: frozenset[str]
    """Ids of the tested samples that were in no batch."""
    rehearsed: tuple[Sample, ...]
    """Rows of earlier stages that are rehearsed for those the stage overwrote."""
    passes_lacking: float
    """How many times as many passes other stages have, where the stage taught little; else 1."""


def choose_tested(diagnoses: Sequence[Diagnosis], n: int) -> list[Diagnosis]:
    """At most `n` samples of each cause, the least sure first, equals by id."""
    least_sure_first = sorted(diagnoses, key=lambda d: (d.strength or 0.0, d.verdict.sample_id))
    chosen: dict[str | None, list[Diagnosis]] = {cause: [] for cause in TESTED_CAUSES}
    for diagnosis in least_sure_first:
        of_cause = chosen.get(diagnosis.cause)
        if of_cause is not None and len(of_cause) < n:
            of_cause.append(diagnosis)
    tested = []
    for of_cause in chosen.values():
        tested += of_cause
    return tested


def plan_benches(tested: Sequence[Diagnosis], context: Context) -> list[Bench]:
    """A small training for every stage that taught too little of, or overwrote, tested samples."""
    by_stage: dict[str, list[Diagnosis]] = {}
    for diagnosis in tested:
        sample = context.samples[diagnosis.verdict.sample_id]
        stage = _overwriting_stage(sample, context) or sample.stage
        by_stage.setdefault(stage, []).append(diagnosis)
    order = [stage.name for stage in context.stages]
    return [_bench(name, by_stage[name], context) for name in order if name in by_stage]


def _overwriting_stage(sample: Sample, context: Context) -> str | None:
    """The stage that overwrote a sample which an earlier stage had taught; None without one."""
    places = {checkpoint.name: i for i, checkpoint in enumerate(context.checkpoints)}
    history = context.histories[sample.id]
    names = [stage.name for stage in context.stages]
    overwritten_by = None
    # the last one: between it and the end nothing had the sample
    for before, after in itertools.pairwise(names):
        is_later = names.index(after) > names.index(sample.stage)
        was_learned = history[places[before]] == "learned"
        if is_later and was_learned and history[places[after]] == "unlearned":
            overwritten_by = after
    return overwritten_by


def _bench(name: str, diagnoses: Sequence[Diagnosis], context: Context) -> Bench:
    names = [stage.name for stage in context.stages]
    stage = context.stages[names.index(name)]
    parent_name = names[names.index(name) - 1] if names.index(name) else ""
    checkpoints = {checkpoint.name: checkpoint for checkpoint in context.checkpoints}
    parent = checkpoints[parent_name] if parent_name else context.checkpoints[0]
    tested = tuple(context.samples[d.verdict.sample_id] for d in diagnoses)
    overwritten = frozenset(s.id for s in tested if s.stage != name)

    rivals = _find_rivals(diagnoses, stage)
    kin = _find_kin([s for s in tested if s.stage == name], stage, rivals)
    needed = {s.id for s in tested}
    for ids in (*rivals.values(), *kin.values()):
        needed |= set(ids)
    checks = _choose_checks(stage, parent, needed, context)
    needed |= {s.id for s in checks}
    rows = _fill(stage, needed, len(tested), context)
    return Bench(
        stage=_small(stage, rows),
        parent=parent,
        original=stage,
        tested=tested,
        checks=tuple(checks),
        rivals=rivals,
        kin=kin,
        overwritten=overwritten,
        mechanical=_mechanical(diagnoses),
        unseen=_unseen(tested, context),
        rehearsed=_rehearsed(tested, stage, parent, context) if overwritten else (),
        passes_lacking=_passes_lacking(stage, context),
    )


def _find_rivals(diagnoses: Sequence[Diagnosis], stage: Stage) -> dict[str, tuple[str, ...]]:
    """Rows of the stage that may well contradict a sample, by its id."""
    rows = {row.id for row in stage.samples}
    rivals = {}
    for diagnosis in diagnoses:
        details = diagnosis.details(ContradictionDetails) or ContradictionDetails()
        found = [row for row in details.rows if row in rows]
        if found and (details.same_question or 0.0) >= CANDIDATE:
            rivals[diagnosis.verdict.sample_id] = tuple(found)
    return rivals


def _find_kin(
    tested: Sequence[Sample], stage: Stage, rivals: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Other rows that share the scarce answer, or else the rarest word, of a sample, by its id.

    Rows that contradict it are not among them. Samples of which nothing is rare are left out.
    """
    by_answer: dict[str, list[str]] = {}
    by_word: dict[str, list[str]] = {}
    for row in stage.samples:
        by_answer.setdefault(answer_key(row.answer), []).append(row.id)
        for word in _words(row):
            by_word.setdefault(word, []).append(row.id)
    usual = median(len(by_answer[answer_key(row.answer)]) for row in stage.samples)
    kin = {}
    for sample in tested:
        found = by_answer[answer_key(sample.answer)]
        if not 1 < len(found) <= min(RARE, SCARCE * usual):
            shared = [word for word in _words(sample) if len(by_word[word]) > 1]
            rarest = min(shared, key=lambda word: (len(by_word[word]), word), default="")
            found = by_word.get(rarest, [])
        others = set(found) - {sample.id, *rivals.get(sample.id, ())}
        if others and len(found) <= RARE:
            kin[sample.id] = tuple(sorted(others))
    return kin


def _words(sample: Sample) -> set[str]:
    return set(prompt_text(sample.prompt).casefold().split())


def _choose_checks(
    stage: Stage, parent: Checkpoint, barred: set[str], context: Context
) -> list[Sample]:
    """Rows of the stage that it taught, or, where those are few, that it left learned."""
    names = [checkpoint.name for checkpoint in context.checkpoints]
    before, after = names.index(parent.name), names.index(stage.name)
    taught: list[Sample] = []
    kept: list[Sample] = []
    for row in stage.samples:
        history = context.histories[row.id]
        if row.id in barred or history[after] != "learned":
            continue
        (kept if history[before] == "learned" else taught).append(row)
    rng = random.Random(f"checks {stage.name}")
    chosen = rng.sample(taught, min(CHECKS, len(taught)))
    return chosen + rng.sample(kept, min(CHECKS - len(chosen), len(kept)))


def _fill(stage: Stage, needed: set[str], tested: int, context: Context) -> tuple[Sample, ...]:
    """The needed rows of the stage, and learned ones beside them, in file order."""
    place = [checkpoint.name for checkpoint in context.checkpoints].index(stage.name)
    of_stage = [row for row in stage.samples if row.id in needed]
    free = []
    for row in stage.samples:
        if row.id not in needed and context.histories[row.id][place] == "learned":
            free.append(row)
    wanted = max(FILL * tested, round(VISITS / stage.visits) - len(of_stage))
    chosen = random.Random(f"fill {stage.name}").sample(free, min(max(0, wanted), len(free)))
    ids = {row.id for row in (*of_stage, *chosen)}
    return tuple(row for row in stage.samples if row.id in ids)


def _small(stage: Stage, rows: tuple[Sample, ...]) -> Stage:
    """The stage with fewer rows, in as many passes."""
    training = dict(stage.training)
    training["num_train_epochs"] = stage.visits
    # it would take precedence over the passes
    training.pop("max_steps", None)
    # which rows it drops depends on their number; rows that were in no batch are left out instead
    training.pop("dataloader_drop_last", None)
    share = len(rows) / len(stage.samples)
    if training.get("warmup_steps", 0) >= 1:
        training["warmup_steps"] = round(training["warmup_steps"] * share)
    # a schedule of a plugin's own may name rows that are not there
    schedule = stage.schedule if isinstance(stage.schedule, str) else "shuffled"
    return Stage(
        name=stage.name,
        samples=rows,
        training=training,
        peft=stage.peft,
        adapter=stage.adapter,
        schedule=schedule,
    )


def _mechanical(diagnoses: Sequence[Diagnosis]) -> frozenset[str]:
    ids = set()
    for diagnosis in diagnoses:
        details = diagnosis.details(NotTrainedDetails)
        if details and details.fault in MECHANICAL_FAULTS:
            ids.add(diagnosis.verdict.sample_id)
    return frozenset(ids)


def _unseen(tested: Sequence[Sample], context: Context) -> frozenset[str]:
    """Ids of the tested samples that were in no batch."""
    if context.exposures is None:
        return frozenset()
    ledger = to_rows(context.exposures, Exposure)
    unseen = {entry.sample_id for entry in ledger if not entry.exposures}
    return frozenset(sample.id for sample in tested if sample.id in unseen)


def _rehearsed(
    tested: Sequence[Sample], stage: Stage, parent: Checkpoint, context: Context
) -> tuple[Sample, ...]:
    """The overwritten samples, and as many other rows of their stages that the parent has."""
    place = [checkpoint.name for checkpoint in context.checkpoints].index(parent.name)
    # a trainer takes rows of one form only
    is_text = isinstance(stage.samples[0].prompt, str)
    lost = []
    for row in tested:
        if row.stage != stage.name and isinstance(row.prompt, str) == is_text:
            lost.append(row)
    stages = {row.stage for row in lost}
    lost_ids = {row.id for row in lost}
    others = []
    for row in context.samples.values():
        is_had = context.histories[row.id][place] == "learned"
        is_other = row.stage in stages and row.id not in lost_ids
        if is_other and is_had and isinstance(row.prompt, str) == is_text:
            others.append(row)
    rng = random.Random(f"rehearsed {stage.name}")
    return (*lost, *rng.sample(others, min(len(lost), len(others))))


def _passes_lacking(stage: Stage, context: Context) -> float:
    """How many times as many passes the longest stage has, where `stage` taught little; else 1."""
    if context.taught.get(stage.name, 1.0) >= MIN_TAUGHT_SHARE:
        return 1.0
    return max(other.visits for other in context.stages) / stage.visits


def usual_rows(stage: Stage) -> int:
    """Rows that have the answer of a row, half of the rows more and half fewer."""
    counts = Counter(answer_key(row.answer) for row in stage.samples)
    return round(median(counts[answer_key(row.answer)] for row in stage.samples))
