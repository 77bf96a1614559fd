"""The whole plugin interface: pure functions of what is known; only the core trains, scores and logs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from ilp_mlflow.core.values import (
    Checkpoint,
    Diagnosis,
    Evidence,
    Plan,
    Request,
    Sample,
    Score,
    Stage,
    Status,
    Subject,
    Text,
    Value,
    Verdict,
    to_rows,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

Batch = Sequence[str]
"""Ids of the samples of one batch."""


class SampleResult(NamedTuple):
    """How a model does on one sample of its stage."""

    loss: float
    """Mean negative log-probability of its supervised tokens, nats per token."""
    token_accuracy: float
    """Share 0..1 of them that are the model's first choice."""


@dataclass(frozen=True)
class Round:
    """What was trained between two decisions of a schedule."""

    batches: Sequence[Batch]
    """As they were trained."""
    results: Mapping[str, SampleResult]
    """By sample id: when it was last in a batch of this round, before the step that the batch is part of."""
    measured: Mapping[str, SampleResult]
    """By sample id: what the schedule measured when it planned this round."""


@dataclass(frozen=True)
class History:
    """All that a schedule may know when it plans the next round; the same history must give the same round."""

    sample_ids: Sequence[str]
    """The stage's samples that can be trained, in file order."""
    subsets: Mapping[str, str]
    """Name of the stage each sample first belonged to, by id, those of the validation set included."""
    batch_size: int
    """Samples per batch, at most."""
    seed: int
    """The stage's seed."""
    rounds: Sequence[Round] = ()
    """Rounds already trained."""
    steps_left: int = 1
    """Optimizer steps until the stage's `num_train_epochs` or `max_steps` are used up; training ends there at the latest."""
    accumulation: int = 1
    """Batches per optimizer step; a round must be of whole steps."""
    validation: Sequence[str] = ()
    """Ids of the stage's validation samples, which are never trained."""
    measure: Callable[[Sequence[str]], Mapping[str, SampleResult]] = lambda ids: {}
    """How the model, as it is now, does on samples (ids); one that cannot be trained is left out."""
    keep: Callable[[], None] = lambda: None
    """Keep the model as it is now, in place of the one kept before: where the schedule stops, the stage ends with it."""


class Schedule(Value):
    """Base of schedules: which batches a stage trains next, and when it ends; fields are options.

    A stage's `schedule` is the name of one of the core's, or such a value.
    """

    @abstractmethod
    def next_round(self, history: History) -> Sequence[Batch] | None:
        """The batches of the next round, or None to stop before the steps are used up.

        Then the stage ends with the model that was last kept, or as it is. It may only stop under a
        constant learning rate: one that falls to 0 makes a plateau of its own.
        """


class Said(NamedTuple):
    """What a checkpoint answers of its own accord."""

    text: str
    """Its first choice, token by token, up to the end of the sentence."""
    logprob: float
    """Log-probability of that, nats; nan where the prompt leaves no room for an answer."""
    ended: bool = True
    """It came to an end by itself and was not cut off."""


class Probe(Protocol):
    """Asks a checkpoint something the scores do not hold."""

    def logprobs(self, checkpoint: str, exchanges: Sequence[tuple[Text, Text]]) -> Sequence[float]:
        """Log-probability of each completion after its prompt, without its end token, nats; nan where it does not fit."""
        ...

    def say(
        self, checkpoint: str, prompts: Sequence[Text], max_new_tokens: int = 16
    ) -> Sequence[Said]:
        """What it answers to each prompt, greedily."""
        ...

    def embed(self, checkpoint: str, prompts: Sequence[Text]) -> npt.NDArray[np.float32]:
        """What it makes of each prompt: its last hidden states, token mean, (prompts, width); nan where one does not fit."""
        ...

    def generate(self, checkpoint: str, prompts: Sequence[Text], n: int) -> Sequence[Sequence[str]]:
        """`n` sampled continuations of each prompt."""
        ...


FIRM = 0.85
"""How sure of an answer a base model is that counts as firm, where too little is known that it could be compared with."""
UNCOMPARED = 0.7
"""How far not to be known is taken to explain not to be learned where that cannot be read."""
BARELY = 0.4
"""The same after a stage that taught fewer than TAUGHT of its rows: there more training teaches what the base lacks, too."""
TAUGHT = 0.5
"""Share 0..1 of its own rows below which a stage has not taught them."""
KNOWN = 0.5
"""Probability 0..1 of a right answer from which it is known: no other can be more probable."""


@dataclass(frozen=True)
class Belief:
    """What the base model says about what one sample asks for."""

    right: float
    """Probability 0..1 of the right answer: in the least known of the sample's own probes, or in the mined question it answers."""
    wrong: str
    """Its answer to most phrasings, where that is not the right one; "" where it is, or there is none."""
    confidence: float
    """Mean probability 0..1 of its answer over the phrasings."""
    phrasings: tuple[Text, ...]
    """How it was asked."""
    agrees: bool = False
    """Its answer to most phrasings is the right one."""
    firm: float = FIRM
    """How sure it is of nearly all that it knows, 0..1."""
    entity: str = ""
    """What the sample asks about, where its prompt tells."""
    ways: str = "in {} ways"
    """How it was asked, in words, with {} for the number of phrasings."""
    risks: tuple[float, float] | None = None
    """Share 0..1 that is not learned of the samples whose answer the base knows, and of those whose answer it does not; None where
    too few learned samples could be asked."""
    barely: bool = False
    """Its stage taught fewer than TAUGHT of its rows."""

    @property
    def asked(self) -> str:
        """How it was asked: a few words."""
        return self.ways.format(len(self.phrasings)) if len(self.phrasings) > 1 else "in 1 way"

    @property
    def telling(self) -> float:
        """How far not to be known explains not to be learned, 0..1.

        The share of samples that are neither known nor learned that would be learned had they been known: the probability of
        necessity (Tian and Pearl 2000), if nothing else tells the known from the others.
        """
        if self.risks is None:
            return BARELY if self.barely else UNCOMPARED
        by_known, by_unknown = self.risks
        return max(0.0, 1 - by_known / by_unknown) if by_unknown else 0.0

    @property
    def told(self) -> str:
        """The same in a few words."""
        if self.risks is None:
            why = ", and its stage taught fewer than half of its rows" if self.barely else ""
            return f"whether that matters is not known: too few learned samples could be asked{why}"
        return f"of such samples {self.risks[1]:.0%} are not learned, of those the base knows {self.risks[0]:.0%}"

    @property
    def known(self) -> bool:
        """It knows the right answer: says it to most phrasings, or finds no other more probable."""
        return self.agrees or self.right >= KNOWN

    @property
    def conflict(self) -> float:
        """How much surer it is of a wrong answer than of what it knows: 0..1, one half where it is equally sure.

        The odds of the wrong answer over those of `firm`, as a probability; 0 where it was asked in one way only.
        """
        if not self.wrong or len(self.phrasings) < 2:
            return 0.0
        ours, theirs = (min(max(p, 1e-6), 1 - 1e-6) for p in (self.confidence, self.firm))
        return ours * (1 - theirs) / (ours * (1 - theirs) + theirs * (1 - ours))


@dataclass(frozen=True)
class Context:
    """All that is known about an experiment; read only."""

    stages: Sequence[Stage]
    """In the order in which they were trained."""
    checkpoints: Sequence[Checkpoint]
    """Base first."""
    samples: Mapping[str, Sample]
    """By id."""
    scores: pa.Table
    """Columns of `Score`."""
    verdicts: Mapping[str, Verdict]
    """By sample id."""
    histories: Mapping[str, Sequence[Status]]
    """Status under every checkpoint, by sample id."""
    probe: Probe
    """What asks the checkpoints."""
    asked: frozenset[str]
    """Ids of the unlearned samples that models may be asked about: all, or a draw of very many."""
    beliefs: Callable[[], Mapping[str, Belief]]
    """What the base says about each sample in `asked` of which it could be asked, by id.

    The base is asked at the first call.
    """
    relearn: Callable[[Stage, Sequence[tuple[Text, Text]]], Sequence[float]] | None = None
    """Log-probabilities, as of `probe.logprobs`, after a copy of the last checkpoint is trained.

    It is trained on the stage that is given. None for a model that was trained elsewhere.
    """
    exposures: pa.Table | None = None
    """Columns of `Exposure`; None for a model that was trained elsewhere."""
    signals: pa.Table | None = None
    """Columns of `Signal`; None for a model that was trained elsewhere."""
    held_out: Sequence[Sample] = ()
    """Rows that no stage trains; mitigations may measure them."""
    fits: Callable[[Stage, Sample], bool] = lambda stage, sample: True
    """Whether a stage, which cuts rows to its `max_length`, would train a sample's whole answer."""

    @property
    def taught(self) -> dict[str, float]:
        """Share 0..1 of its own rows that were learned under the checkpoint of each stage.

        Stages without samples or without a checkpoint are left out.
        """
        place_of = {checkpoint.name: i for i, checkpoint in enumerate(self.checkpoints)}
        shares = {}
        for stage in self.stages:
            if stage.name in place_of and stage.samples:
                place = place_of[stage.name]
                learned = sum(self.histories[s.id][place] == "learned" for s in stage.samples)
                shares[stage.name] = learned / len(stage.samples)
        return shares

    def last_scores(self, samples: Sequence[Sample]) -> dict[str, Score]:
        """The scores of `samples` under the last checkpoint, by id."""
        import pyarrow as pa
        import pyarrow.compute as pc

        last = pc.equal(self.scores["checkpoint"], self.checkpoints[-1].name)
        ids = pa.array([s.id for s in samples], pa.string())
        wanted = self.scores.filter(pc.and_(last, pc.is_in(self.scores["sample_id"], ids)))
        return {score.sample_id: score for score in to_rows(wanted, Score)}


class Diagnostic(Value):
    """Base of diagnostics: finds evidence for one cause; fields are options.

    The cause has the name of the diagnostic's entry point, and all that is said of it in general
    stands on the class: `order`, `meaning` and `colour`.
    """

    order: ClassVar[int] = 1000
    """Causes are looked for in this order, each in what those before it leave over.

    Causes with the same order go by the strength of their evidence.
    """
    meaning: ClassVar[str] = ""
    """The cause in a few words, for the report."""
    colour: ClassVar[str] = ""
    """CSS colour of the cause in the report; "" takes that of other causes."""

    @abstractmethod
    def examine(
        self, unlearned: Sequence[Sample], context: Context
    ) -> Mapping[str, Evidence] | Mapping[str | Subject, Evidence]:
        """Evidence by sample id, for some or all of the `unlearned` samples and no other.

        What is true of a whole stage, checkpoint or the run is given once, by its `Subject`. It
        then speaks for each of the subject's unlearned samples that has no evidence of its own
        here: those of the stage, those that are unlearned under the checkpoint, or all.
        """


class Mitigation(Value):
    """Base of mitigations: plans what to train instead; fields are options."""

    @abstractmethod
    def plan(self, diagnoses: Sequence[Diagnosis], context: Context) -> Plan | Request | None:
        """What to train, what it lacks for that, or None when there is nothing to do."""
