"""The values that flow through the package: frozen, typed, with a line of meaning per field."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import types
import typing
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_serializer, field_validator

from ilp_mlflow.core.texts import Exchange, Text, last_turn
from ilp_mlflow.core.training_log import LossCourse
from ilp_mlflow.core.value import Value

if TYPE_CHECKING:
    import pyarrow as pa

R = typing.TypeVar("R", bound=BaseModel)
D = typing.TypeVar("D", bound="Details")
Status = Literal["learned", "unlearned", "uncertain", "unscored"]
"""What became of a sample under one checkpoint."""

DEFAULT_EPOCHS = 3
"""Passes over a stage's samples where its options give none, as in `transformers`."""
DEFAULT_BATCH_SIZE = 8
"""Samples per device and batch where a stage's options give none, as in `transformers`."""


# What is trained


class Sample(Value):
    """One training example."""

    id: str
    """Stable name: given in the data, else `stage/row` (row counted from 1 in the file)."""
    stage: str
    """Name of the stage that trains it."""
    prompt: Text
    """What the model is given."""
    completion: Text
    """What it is trained to answer (text, or the last assistant turn)."""
    options: tuple[str, ...] | None = None
    """Answers to choose from, given with the data, or None; the right one may be among them."""
    probes: tuple[Exchange, ...] = ()
    """What a model must know to be able to learn this sample."""
    paraphrases: tuple[str, ...] = ()
    """Other ways to ask the same (in a conversation: its last turn), never trained.

    A model that learned the fact and not just the row answers them, too."""
    source: str | None = None
    """Where the row comes from."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """All other fields of the row, untouched."""
    completion_turns: int = 1
    """Turns at the end that the row gives as its completion; the last one is what is scored."""
    place: str = ""
    """Where the row was read, such as `facts.jsonl line 3`; "" where that is not known."""

    @property
    def name(self) -> str:
        """The sample as a message names it: its place, where that is known, and its id."""
        return f"{self.place} (sample '{self.id}')" if self.place else f"sample '{self.id}'"

    @property
    def answer(self) -> str:
        """The completion as text."""
        return last_turn(self.completion)

    @property
    def left_out(self) -> bool:
        """Whether the row keeps its answer out of the loss: its last turn has `weight: 0`."""
        if isinstance(self.completion, str):
            return False
        return self.completion.turns[-1].weight == 0

    @property
    def leaves_earlier_turns_out(self) -> bool:
        """Whether the row keeps turns of the assistant before its answer out of the loss."""
        if isinstance(self.prompt, str):
            return False
        return any(turn.role == "assistant" and turn.weight == 0 for turn in self.prompt.turns)


class Stage(Value):
    """One round of supervised fine-tuning: data, how to train on it, in which order."""

    name: str
    """Unique within the experiment."""
    samples: tuple[Sample, ...]
    """The training data, in file order."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Passed through to `trl.SFTConfig`."""
    peft: dict[str, Any] | None = None
    """Passed through to `peft.LoraConfig`; None trains all weights."""
    adapter: Literal["continue", "new"] = "continue"
    """With `peft`: go on with the parent's adapter, or merge it and start a new one."""
    schedule: Literal["shuffled", "sequential"] | Value = "shuffled"
    """Order of the samples within the stage: a name, or a `interfaces.Schedule` of one's own."""
    score_every: int | None = None
    """Also keep and score a checkpoint every so many optimizer steps."""
    validation: tuple[Sample, ...] = ()
    """Samples that are never trained, for a schedule to measure."""

    @property
    def steps_per_pass(self) -> int:
        """Optimizer steps of one pass over its samples."""
        return max(1, math.ceil(len(self.samples) / self.per_step))

    @property
    def steps(self) -> int:
        """Optimizer steps: `max_steps` of its options, else those of its epochs."""
        if self._max_steps > 0:
            return self._max_steps
        return math.ceil(self._epochs * self.steps_per_pass)

    @property
    def visits(self) -> float:
        """How often it sees each of its samples, on average."""
        if self._max_steps > 0:
            return self._max_steps * self.per_step / len(self.samples)
        return self._epochs

    @property
    def per_step(self) -> int:
        """Samples of one optimizer step, at most."""
        batch_size = self.training.get("per_device_train_batch_size", DEFAULT_BATCH_SIZE)
        return int(batch_size * self.training.get("gradient_accumulation_steps", 1))

    @property
    def _max_steps(self) -> int:
        # as in transformers, -1 leaves the number of steps to the epochs
        return int(self.training.get("max_steps", -1))

    @property
    def _epochs(self) -> float:
        return float(self.training.get("num_train_epochs", DEFAULT_EPOCHS))

    @field_serializer("schedule")
    def _schedule(self, schedule: Any) -> Any:
        if isinstance(schedule, str):
            return schedule
        cls = type(schedule)
        serialized = {"schedule": f"{cls.__module__}:{cls.__qualname__}"}
        # its code is part of it: after a change, a stage that was trained with it is another one
        try:
            code = inspect.getsource(cls)
        except (OSError, TypeError):
            # a class made on the spot, such as in a notebook, has no source
            code = None
        if code is not None:
            serialized["code"] = hashlib.sha256(code.encode()).hexdigest()[:12]
        return serialized | schedule.model_dump()


class Checkpoint(Value):
    """A model at one point of the experiment."""

    name: str
    """`base`, then stage names; `stage@step` for one inside a stage."""
    model_uri: str
    """MLflow URI, local folder or Hub id."""
    run_id: str | None = None
    """MLflow run that made it."""
    step: int | None = None
    """Optimizer step within its stage."""


# What is measured: in training, and under every checkpoint


class Exposure(Value):
    """What training really did with one sample."""

    sample_id: str
    """The sample."""
    stage: str
    """The stage that trained it."""
    exposures: int
    """How often it was in a batch."""
    supervised_tokens: int
    """Tokens that contributed to the loss, each time it was seen."""
    truncated_tokens: int
    """Tokens cut away by `max_length`."""
    end_supervised: bool | None = None
    """Whether the token that ends its answer contributed; None where that is not known."""


class Signal(Value):
    """One sample in one training batch, before the step that the batch is part of."""

    sample_id: str
    """The sample."""
    stage: str
    """The stage that trains it."""
    step: int
    """Optimizer step, from 1."""
    loss: float
    """Mean negative log-probability of its supervised tokens, nats per token."""
    token_accuracy: float
    """Share 0..1 of them that are the model's first choice."""


class Score(Value):
    """One sample under one checkpoint."""

    sample_id: str
    """The sample."""
    checkpoint: str
    """The checkpoint."""
    logprob: float | None = None
    """Log-probability of the completion with its end token, summed, nats; -100 for a token that the
    model does not have, and for each one behind it."""
    tokens: int = 0
    """Tokens of the completion, end token included."""
    greedy: bool | None = None
    """Every token, the end token included, is the model's first choice."""
    token_accuracy: float | None = None
    """Share 0..1 of tokens that are the model's first choice."""
    first_wrong: int | None = None
    """Position in the row, from 0, of the first token of the completion that is not the model's
    first choice; None where all are."""
    gap: float | None = None
    """Logit of the right token minus that of the best other one, nats, at the token where this is
    least, among those that must be right."""
    stops: bool | None = None
    """The end token is the model's first choice after the completion; None when the completion has
    no end token."""
    end_logprob: float | None = None
    """Log-probability of the end token after the completion, nats; None where it has none."""
    option_logprobs: tuple[float, ...] | None = None
    """Summed log-probability of each option, the right one first, nats."""
    option_tokens: tuple[int, ...] | None = None
    """Tokens of each option, end token included."""
    option_priors: tuple[float, ...] | None = None
    """The same sums with the prompt blanked, nats: how probable an option is whatever is asked."""
    p_correct: float | None = None
    """Probability 0..1 of the right option among all: the pass rate of sampled runs."""
    p_wrong: float | None = None
    """Probability 0..1 of the best wrong option."""
    wrong: str | None = None
    """The best wrong option."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision it was computed in; the lower one widens the undecided zone of its verdict."""
    unscored: str | None = None
    """Why there is no score, else None."""


# What is concluded


class Judgement(Value):
    """What a rule says of one sample under one checkpoint."""

    sample_id: str
    """The sample."""
    checkpoint: str
    """The checkpoint."""
    status: Status
    """What became of the sample."""
    margin: float | None = None
    """Distance from the decision, in the rule's unit (nats for most); positive is learned."""
    reason: str = ""
    """One sentence a user understands."""
    rule: str = ""
    """Name of the rule; "" where the sample is unscored whatever the rule."""
    grade: str | None = None
    """How far it was learned, in the rule's own words, such as `reached`; None without such."""


class Verdict(Value):
    """What became of one sample."""

    sample_id: str
    """The sample."""
    status: Status
    """Under the last checkpoint."""
    margin: float | None = None
    """Distance from the decision, in the rule's unit (nats for most); positive is learned."""
    first_learned: str | None = None
    """First checkpoint that had it."""
    last_lost: str | None = None
    """Last checkpoint at which a learned sample stopped being learned."""
    reason: str = ""
    """One sentence a user understands."""
    rule: str = ""
    """Name of the rule that says so."""
    grade: str | None = None
    """How far it was learned, in the rule's own words, such as `reached`; None without such."""
    already_solved: bool = False
    """Learned, and by the same rule under the base, before any training."""


def unlearned_share(statuses: Sequence[Status]) -> float | None:
    """Share 0..1 of the scored samples that are unlearned; None where none is scored."""
    scored = len(statuses) - statuses.count("unscored")
    return statuses.count("unlearned") / scored if scored else None


class Unscored(Value):
    """Samples without a score, for one reason."""

    samples: int
    """How many they are."""
    reason: str
    """Why; of reasons that differ in numbers alone, the first."""
    example: str
    """Id of the first of them."""


class Details(Value):
    """Base of the facts that evidence was read from; every cause has a class of its own.

    Each field has a default: evidence may know a part of them only, and what is not set is not
    stored.
    """

    cause: ClassVar[str]
    """The cause that evidence with such details speaks for."""


class Subject(Value):
    """What evidence is about where that is more than one sample."""

    kind: Literal["stage", "checkpoint", "run"]
    """A stage and all its samples, a checkpoint, or the run as a whole."""
    name: str = ""
    """Name of the stage or checkpoint; "" for the run."""


class Evidence(Value):
    """What one diagnostic found for one sample, or for a `Subject`."""

    cause: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """The cause it speaks for: letters, digits, `_`, `-`, `.`, since a metric is named by it."""
    strength: float = Field(ge=0, le=1)
    """How sure, 0..1: of the causes of the labs, how probable they are there with such evidence."""
    reason: str
    """One sentence a user understands."""
    signal: float | None = Field(default=None, ge=0, le=1)
    """How strong it was on the diagnostic's own scale, 0..1; filled in where `strength` was read
    off the labs."""
    change: str = ""
    """What mends it, as one would be told to do it; "" where that is not known."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What it was read from, as JSON values; of a `Details` value, the fields that are set."""
    subject: Subject | None = None
    """What it is about, where that is not the sample alone whose evidence it is."""

    @field_validator("details", mode="before")
    @classmethod
    def _as_json_values(cls, details: Any) -> Any:
        if isinstance(details, Details):
            return details.model_dump(mode="json", exclude_unset=True)
        return details


class Finding(Value):
    """What is true of a whole stage, checkpoint or run, said once."""

    subject: Subject
    """What it is about."""
    kind: str = ""
    """Short name of the fault, for programs; "" for what a diagnostic found."""
    evidence: Evidence
    """The evidence for its cause."""
    samples: int
    """Number of unlearned samples it speaks for: those without evidence of their own."""
    stops: bool = False
    """Whether nothing else was looked for in these samples."""


class Confirmation(Value):
    """What small trainings, each without one cause, showed of one sample."""

    verdict: Literal["confirmed", "corrected", "undecided"]
    """Whether they bear the evidence out, override it, or say nothing."""
    by_evidence: str | None = None
    """The cause by the evidence alone; None: unexplained."""
    tried: tuple[str, ...] = ()
    """What was removed, by the cause it stands for, in trainings that worked."""
    learned_without: tuple[str, ...] = ()
    """Of these, the ones without which the sample is learned."""
    reason: str = ""
    """One sentence a user understands."""

    @property
    def sentence(self) -> str:
        """What they showed, with the cause by the evidence where they override it."""
        if self.verdict == "undecided":
            return f"undecided, so the cause is by the evidence alone: {self.reason}"
        if self.verdict == "corrected":
            return f"{self.reason} (by the evidence alone: {self.by_evidence or 'unexplained'})"
        return self.reason


class Diagnosis(Value):
    """Verdict and cause of one sample."""

    verdict: Verdict
    """The verdict that is explained."""
    cause: str | None = None
    """The first cause with evidence that is not weak, or None: unexplained."""
    strength: float | None = None
    """How sure of the cause, 0..1: the strength of its evidence, see there."""
    reason: str = ""
    """The evidence for it in one sentence a user understands."""
    change: str = ""
    """What mends it; "" where that is not known."""
    runner_up: str | None = None
    """The next one."""
    evidence: dict[str, Evidence] = Field(default_factory=dict)
    """By name of the diagnostic; what it found for a subject of the sample stands here, too."""
    confirmation: Confirmation | None = None
    """What small trainings showed; None where there were none for this sample."""

    def details(self, kind: type[D]) -> D | None:
        """The facts behind the evidence for the cause of `kind`, whichever diagnostic has it.

        None without such evidence. Where several diagnostics have some, what the last of them says
        of a field counts; fields that `kind` does not know are left out. Raises
        pydantic.ValidationError for a field of another type.
        """
        speaking = [e for e in self.evidence.values() if e.cause == kind.cause]
        if not speaking:
            return None
        facts: dict[str, Any] = {}
        for evidence in speaking:
            facts.update(evidence.details)
        return kind.model_validate({k: v for k, v in facts.items() if k in kind.model_fields})


# What is tried


class Plan(Value):
    """What a mitigation wants trained."""

    targets: tuple[str, ...]
    """Ids of the samples it should recover."""
    stages: tuple[Stage, ...]
    """The whole recipe from the base on, in order; stages at its start that are as they were are
    not trained again."""
    control: tuple[Stage, ...] | None = None
    """What to train for comparison: as many steps on as much data, without the remedy; left out,
    the experiment's own stages."""
    dropped: tuple[str, ...] = ()
    """Ids of samples that it leaves out because they are wrong; that they are then not learned is
    not held against it."""


class Request(Value):
    """What a mitigation needs and cannot make: it has no source of data."""

    targets: tuple[str, ...]
    """Ids of the samples it would be for."""
    wanted: dict[str, int]
    """How many more samples or documents, by what they should be about."""
    reason: str
    """One sentence a user understands: what to provide, and where."""


class Tally(Value):
    """What became of the unlearned samples of one cause."""

    unlearned: int
    """Unlearned before, and scored under the mitigation and its control."""
    recovered: int
    """Of these, learned under the mitigation."""
    by_control: int
    """Of these, learned under its control."""
    paraphrased: int = 0
    """Of the unlearned, those that could be asked in other words."""
    held: int = 0
    """Of these, reproduced in most other words under the mitigation."""
    held_by_control: int = 0
    """Of these, reproduced in most other words under its control."""
    unscored: int = 0
    """Unlearned before, and not scored under the mitigation or its control; in no other number."""

    @property
    def net(self) -> float | None:
        """Share -1..1 of the unlearned recovered, minus the same share under the control.

        None where none of them is scored.
        """
        if not self.unlearned:
            return None
        return (self.recovered - self.by_control) / self.unlearned


class Guard(Value):
    """What became of things that were right and are never trained.

    These are facts the base knows (from `probes`), and held-out rows.
    """

    right: int
    """Right before the mitigation; those that are not scored are taken for right."""
    lost: int
    """Of these, wrong after it, or not scored."""
    lost_by_control: int
    """Of these, wrong after its control; not those that are not scored there."""
    unscored: int = 0
    """Questions without a score before the mitigation, after it or after its control."""


class Outcome(Value):
    """What a mitigation did to every sample."""

    mitigation: str
    """Its plugin name."""
    run_id: str
    """Its MLflow child run."""
    targets: tuple[str, ...]
    """Ids it was meant for."""
    recovered: tuple[str, ...]
    """Unlearned before, learned now (any sample)."""
    still: tuple[str, ...]
    """Unlearned before, and scored but not learned now (any sample)."""
    regressed: tuple[str, ...]
    """Learned before, unlearned now (any sample), and not left out on purpose."""
    left_out: tuple[str, ...] = ()
    """Learned before, unlearned now, and left out of the plan on purpose, since they are wrong."""
    control_run_id: str | None = None
    """The MLflow child run of its control; None for the control itself."""
    unscored: tuple[str, ...] = ()
    """What became of them is not known (any sample): scored before and not now, or not scored
    before and worse now than under the control."""
    unscored_by_control: tuple[str, ...] = ()
    """Scored before, and not under its control (any sample)."""
    unscored_before: tuple[str, ...] = ()
    """Not scored before, and unlearned now (any sample)."""
    unscored_reasons: tuple[Unscored, ...] = ()
    """Why samples are not scored under it, those that were not scored before included."""
    causes: dict[str, Tally] = Field(default_factory=dict)
    """What became of the unlearned samples, by diagnosed cause (`unexplained` for none)."""
    net_recovery: float | None = None
    """Share -1..1 of targets recovered, minus the same share under the control; of the targets that
    are scored under both."""
    net_interval: tuple[float, float] | None = None
    """95 % bootstrap interval of `net_recovery`."""
    p_value: float | None = None
    """Exact paired test (McNemar) of mitigation against control over the targets, in which every
    sample in `unscored` and `unscored_by_control` counts as recovered by the control alone."""
    regressed_by_control: int | None = None
    """Learned before, unlearned under the control (any sample)."""
    guard: Guard | None = None
    """What it broke beyond the samples; None where there is nothing to ask."""
    combines: tuple[str, ...] = ()
    """The mitigations it is composed of, where it is not one alone."""
    model_uri: str = ""
    """The model it leads to."""
    unlearned_rate: float | None = None
    """Share 0..1 of the samples scored under it that are unlearned, without those in `left_out`;
    None where none is scored."""
    tokens: int = 0
    """Tokens trained on."""
    control_tokens: int | None = None
    """Tokens its control is trained on; None without one."""
    seconds: float = 0.0
    """Training time."""
    accelerator_hours: float | None = None
    """Training time on an accelerator, hours; None on a CPU."""


# What is reported


class StageVerdicts(Value):
    """How the verdicts of one stage's samples came about."""

    rules: dict[str, int] = Field(default_factory=dict)
    """Samples by rule."""
    grades: dict[str, int] = Field(default_factory=dict)
    """Samples by how far they were learned, in their rule's words."""
    already_solved: int = 0
    """Learned samples that the base answered before any training."""


class Report(Value):
    """Everything one experiment found."""

    name: str
    """Name of the experiment."""
    run_id: str
    """Its MLflow parent run."""
    preset: str
    """The rule that gave the verdicts."""
    checkpoints: tuple[Checkpoint, ...]
    """Base first."""
    retention: dict[str, dict[str, float | None]]
    """Share 0..1 of the scored samples that are learned, by stage, then checkpoint; None where none
    is scored."""
    unscored_by_stage: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Samples that `retention` leaves out since they are not scored, by stage, then checkpoint."""
    verdict_counts: dict[str, StageVerdicts] = Field(default_factory=dict)
    """How the verdicts of each stage's samples came about, by stage."""
    recognition: dict[str, dict[str, float]]
    """Share 0..1 of samples whose right option wins, by measure, then checkpoint; see
    `metrics.recognition_shares`."""
    recognition_unscored: dict[str, int] = Field(default_factory=dict)
    """Samples with options that `recognition` leaves out, by checkpoint."""
    unscored: tuple[Unscored, ...] = ()
    """Why samples are not scored under the last checkpoint, the commonest reason first."""
    verdicts: tuple[Verdict, ...]
    """One per sample."""
    histories: dict[str, tuple[Status, ...]]
    """Status under every checkpoint, by sample id."""
    diagnoses: tuple[Diagnosis, ...]
    """One per unlearned sample."""
    findings: tuple[Finding, ...] = ()
    """What is true of whole stages, checkpoints or the run."""
    loss_courses: dict[str, LossCourse] = Field(default_factory=dict)
    """How the loss went of the stages that taught few of their rows, by name; without those of
    which it is not known."""
    outcomes: tuple[Outcome, ...]
    """One per mitigation."""
    requests: dict[str, Request] = Field(default_factory=dict)
    """What mitigations lack, by plugin name."""
    asked: int
    """Unlearned samples that the models were asked about, at most."""
    repeatable: bool = True
    """Whether it is known how the models were trained, so that mitigations can be tried."""
    unavailable: tuple[Literal["exposures", "signals"], ...] = ()
    """What training did not leave behind for the diagnosis."""
    settings: str = ""
    """The experiment as YAML, defaults and the place of the results left out."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions by package, where the report was made."""

    @property
    def unlearned_rate(self) -> float | None:
        """Share 0..1 of the scored samples that are unlearned after the last stage.

        None where none is scored.
        """
        return unlearned_share([verdict.status for verdict in self.verdicts])


# Values as rows of tables, and as JSON


def schema(row: type[BaseModel]) -> pa.Schema:
    """The pyarrow schema of a table whose rows are values of type `row`.

    Fields must be scalars, literals, values of such, or tuples of one of these.
    """
    import pyarrow as pa

    return pa.schema(
        [(name, _arrow_type(field.annotation)) for name, field in row.model_fields.items()]
    )


def _arrow_type(annotation: Any) -> pa.DataType:
    """The type of the column that holds a field."""
    import pyarrow as pa

    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    # None is no type of a column: all columns may hold nulls
    if origin in (typing.Union, types.UnionType):
        (present,) = [part for part in parts if part is not type(None)]
        return _arrow_type(present)
    if origin is tuple:
        return pa.list_(_arrow_type(parts[0]))
    if origin is Literal:
        return pa.string()
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return pa.struct(list(schema(annotation)))
    scalars: dict[Any, pa.DataType] = {
        str: pa.string(),
        float: pa.float64(),
        int: pa.int64(),
        bool: pa.bool_(),
    }
    return scalars[annotation]


def to_table(rows: Iterable[BaseModel], row: type[BaseModel]) -> pa.Table:
    """A table with one row per value, all of type `row`."""
    import pyarrow as pa

    return pa.Table.from_pylist([value.model_dump() for value in rows], schema=schema(row))


def to_rows(table: pa.Table, row: type[R]) -> Sequence[R]:
    """Values of type `row` from the rows of a table."""
    return [row.model_validate(fields) for fields in table.to_pylist()]


def as_json(rows: Iterable[BaseModel]) -> str:
    """Values as one JSON list."""
    return json.dumps([value.model_dump(mode="json") for value in rows], indent=1)
