"""The whole plugin interface: pure functions of what is known about an experiment.

Only the core trains, scores and logs.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.value import Value
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
    Verdict,
    to_rows,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

# Schedules: what a mitigation may say about the order of samples within a stage

Batch = Sequence[str]
"""Ids of the samples of one batch."""


class SampleResult(NamedTuple):
    """How well a model does on one sample of its stage."""

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
    """By sample id: in its last batch of this round, before the step that the batch is part of."""
    measured: Mapping[str, SampleResult]
    """By sample id: what the schedule measured when it planned this round."""


@dataclass(frozen=True)
class History:
    """All that a schedule may know when it plans the next round.

    The same history must give the same round, so that a training can be repeated.
    """

    sample_ids: Sequence[str]
    """The stage's samples that can be trained, in file order."""
    subsets: Mapping[str, str]
    """Name of the stage each sample first belonged to, by id; validation samples included."""
    batch_size: int
    """Samples per batch, at most."""
    seed: int
    """The stage's seed."""
    rounds: Sequence[Round] = ()
    """Rounds already trained."""
    steps_left: int = 1
    """Optimizer steps until the stage's `num_train_epochs` or `max_steps` are used up, which ends
    the training at the latest."""
    accumulation: int = 1
    """Batches per optimizer step; a round must be of whole steps."""
    validation: Sequence[str] = ()
    """Ids of the stage's validation samples, which are never trained."""
    measure: Callable[[Sequence[str]], Mapping[str, SampleResult]] = lambda ids: {}
    """How well the model, as it is now, does on samples, by id; a sample that cannot be trained is
    left out."""
    keep: Callable[[], None] = lambda: None
    """Keep the model as it is now, in place of the one kept before: where the schedule stops, the
    stage ends with it."""


class Schedule(Value):
    """Base of schedules: which batches a stage trains next, and when it ends; fields are options.

    A stage's `schedule` is the name of one that the core has, or such a value.
    """

    @abstractmethod
    def next_round(self, history: History) -> Sequence[Batch] | None:
        """The batches of the next round, or None to stop before the steps are used up.

        Where it stops, the stage ends with the model that was last kept, or as it is. It may only
        stop under a constant learning rate: one that falls to 0 makes a plateau of its own.
        """


class GreedyAnswer(NamedTuple):
    """What a checkpoint answers of its own accord."""

    text: str
    """Its first choices, token by token, up to the end of the sentence."""
    logprob: float
    """Summed log-probability of these tokens, nats; nan where the prompt leaves no room."""
    ended: bool = True
    """It came to an end by itself and was not cut off."""


class Probe(Protocol):
    """Asks a checkpoint something the scores do not hold."""

    def logprobs(self, checkpoint: str, exchanges: Sequence[tuple[Text, Text]]) -> Sequence[float]:
        """Summed log-probability of each completion after its prompt, nats, without its end token.

        nan where prompt and completion are longer than the model's context.
        """
        ...

    def answer(
        self, checkpoint: str, prompts: Sequence[Text], max_new_tokens: int = 16
    ) -> Sequence[GreedyAnswer]:
        """What it answers to each prompt, greedily."""
        ...

    def embed(self, checkpoint: str, prompts: Sequence[Text]) -> npt.NDArray[np.float32]:
        """The last hidden states of each prompt, mean over its tokens: (prompts, hidden size).

        nan where a prompt is longer than the model's context.
        """
        ...

    def generate(self, checkpoint: str, prompts: Sequence[Text], n: int) -> Sequence[Sequence[str]]:
        """`n` sampled continuations of each prompt."""
        ...


DEFAULT_FIRM_CONFIDENCE = 0.85
"""Confidence 0..1 from which a belief of the base is firm, where it knows too little to tell."""
UNCOMPARED_NECESSITY = 0.7
"""`Belief.necessity` where too few learned samples could be asked to estimate it."""
UNDERTRAINED_NECESSITY = 0.4
"""The same after an undertrained stage: there more training also teaches what the base lacks."""
MIN_TAUGHT_SHARE = 0.5
"""Share 0..1 of its own rows that a stage must teach; below it, the stage is undertrained."""
MIN_KNOWN_PROBABILITY = 0.5
"""Probability 0..1 from which the base knows an answer: no other answer can be more probable."""
MIN_ODDS_PROBABILITY = 1e-6
"""Probabilities are kept this far from 0 and 1 before they are turned into odds."""


MIN_WEAKLY_KNOWN = 0.02
"""Probability 0..1 from which an answer would be among some samples; see `Belief.knowledge`."""
SlickClass = Literal["HighlyKnown", "MaybeKnown", "WeaklyKnown", "Unknown"]
"""SliCK's classes of what a model knows (Gekhman et al., EMNLP 2024, section 3)."""


class Firmness(NamedTuple):
    """How confidence tells a belief from a guess, for one kind of question."""

    confidence: float
    """Confidence 0..1 at which both are as likely."""
    slope: float = 1.0
    """How much the odds of a belief grow with those of the confidence: an exponent."""

    def of(self, confidence: float) -> float:
        """Probability 0..1 that an answer of this confidence is believed and not guessed."""
        return 1 / (1 + math.exp(-self.slope * (log_odds(confidence) - log_odds(self.confidence))))


DEFAULT_FIRMNESS = Firmness(DEFAULT_FIRM_CONFIDENCE)
"""Where the base knows too little to tell."""


class UnlearnedRisk(NamedTuple):
    """How often samples of a stage stay unlearned, by whether the base knows their answer."""

    if_known: float
    """P(unlearned | the base knows the answer), 0..1."""
    if_unknown: float
    """P(unlearned | the base does not know the answer), 0..1."""


@dataclass(frozen=True)
class Belief:
    """What the base model believes the answer to one sample's question is."""

    p_correct: float
    """Probability 0..1 of the right answer. Of several probes that ask different things, in the
    least known; of mined questions, in the one to which the base gives it most readily."""
    wrong: str
    """Its answer to most phrasings, where that is not the right one; "" where it is, or there is
    none."""
    confidence: float
    """Mean probability 0..1 of its answer over the phrasings."""
    phrasings: tuple[Text, ...]
    """The prompts it was asked with."""
    agrees: bool = False
    """Its answer to most phrasings is the right one."""
    right_share: float = 0.0
    """Share 0..1 of the phrasings that are answered rightly."""
    firm: Firmness = DEFAULT_FIRMNESS
    """From which confidence a belief of this kind is firm."""
    entity: str = ""
    """The words of the prompt that name what the sample asks about; "" where there are none."""
    phrasings_format: str = "in {} ways"
    """How a sentence names several phrasings; {} stands for their number."""
    unlearned_risk: UnlearnedRisk | None = None
    """Of the sample's stage; None where too few learned samples could be asked to estimate it."""
    stage_undertrained: bool = False
    """Its stage taught less than MIN_TAUGHT_SHARE of its rows."""

    @property
    def phrasings_text(self) -> str:
        """How the base was asked, for a sentence: `in 3 ways`."""
        if len(self.phrasings) < 2:
            return "in 1 way"
        return self.phrasings_format.format(len(self.phrasings))

    @property
    def necessity(self) -> float:
        """How far the base not knowing the answer explains that it was not learned, 0..1.

        The probability of necessity (Tian and Pearl 2000), 1 - P(unlearned | known) /
        P(unlearned | not known): the share of samples, neither known nor learned, that would have
        been learned had they been known, if nothing else tells the two kinds apart.
        """
        if self.unlearned_risk is None:
            return UNDERTRAINED_NECESSITY if self.stage_undertrained else UNCOMPARED_NECESSITY
        if not self.unlearned_risk.if_unknown:
            return 0.0
        return max(0.0, 1 - self.unlearned_risk.if_known / self.unlearned_risk.if_unknown)

    @property
    def necessity_text(self) -> str:
        """What `necessity` was computed from, for a sentence."""
        if self.unlearned_risk is not None:
            return (
                f"of such samples {self.unlearned_risk.if_unknown:.0%} are not learned, "
                f"of those the base knows {self.unlearned_risk.if_known:.0%}"
            )
        text = "whether that matters is not known: too few learned samples could be asked"
        if self.stage_undertrained:
            text += ", and its stage taught fewer than half of its rows"
        return text

    @property
    def known(self) -> bool:
        """The base knows the right answer: gives it to most phrasings, or finds it likeliest."""
        return self.agrees or self.p_correct >= MIN_KNOWN_PROBABILITY

    @property
    def conflict(self) -> float:
        """How firmly the base believes a wrong answer, 0..1; one half at `firm.confidence`.

        0 where it has no wrong answer or was asked in one way only.
        """
        if not self.wrong or len(self.phrasings) < 2:
            return 0.0
        return self.firm.of(self.confidence)

    @property
    def knowledge(self) -> SlickClass:
        """What the base knows of the right answer, as one of SliCK's four classes.

        Gekhman et al. (EMNLP 2024) ask behind ten sets of examples, greedily and with 16 samples
        each; here it is the phrasings asked, greedily, and for samples the probability of the
        answer (docs/method.md sets the two side by side).
        """
        if self.right_share == 1:
            return "HighlyKnown"
        if self.right_share > 0:
            return "MaybeKnown"
        if self.p_correct >= MIN_WEAKLY_KNOWN:
            return "WeaklyKnown"
        return "Unknown"


def log_odds(probability: float) -> float:
    """Logarithm of the odds of `probability`, which is kept off 0 and 1."""
    within = min(max(probability, MIN_ODDS_PROBABILITY), 1 - MIN_ODDS_PROBABILITY)
    return math.log(within / (1 - within))


# What a plugin is told


@dataclass(frozen=True)
class Context:
    """All that is known about an experiment; read only."""

    stages: Sequence[Stage]
    """In the order of training."""
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
    """Asks the checkpoints what the scores do not hold."""
    asked: frozenset[str]
    """Ids of the unlearned samples that models may be asked about: all, or a random draw where
    there are more than `scoring.asked`."""
    beliefs: Callable[[], Mapping[str, Belief]]
    """What the base says about the samples in `asked`, by id, without those it cannot be asked
    about; it is asked at the first call."""
    relearn: Callable[[Stage, Sequence[tuple[Text, Text]]], Sequence[float]] | None = None
    """Log-probabilities, as of `probe.logprobs`, after a copy of the last checkpoint was trained on
    a stage; None for a model that was trained elsewhere."""
    exposures: pa.Table | None = None
    """Columns of `Exposure`; None for a model trained elsewhere without `IlpCallback`."""
    signals: pa.Table | None = None
    """Columns of `Signal`; None for a model trained elsewhere without `IlpCallback`."""
    held_out: Sequence[Sample] = ()
    """Rows that no stage trains; mitigations may measure them."""
    fits: Callable[[Stage, Sample], bool] = lambda stage, sample: True
    """Whether a stage, which cuts rows to its `max_length`, would train a sample's whole answer."""

    @property
    def taught(self) -> dict[str, float]:
        """Share 0..1 of its own scored rows that were learned under the checkpoint of each stage.

        Stages without scored samples or without a checkpoint are left out.
        """
        place_of = {checkpoint.name: i for i, checkpoint in enumerate(self.checkpoints)}
        shares = {}
        for stage in self.stages:
            if stage.name not in place_of:
                continue
            place = place_of[stage.name]
            statuses = [self.histories[sample.id][place] for sample in stage.samples]
            scored = len(statuses) - statuses.count("unscored")
            if scored:
                shares[stage.name] = statuses.count("learned") / scored
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

    The cause usually has the name of the diagnostic's entry point; all that is said of it in
    general stands on the class: `order`, `meaning`, `colour` and `plant`.
    """

    order: ClassVar[int] = 1000
    """Causes are looked for in this order, each in what those before it leave over.

    Causes with the same order go by the strength of their evidence.
    """
    meaning: ClassVar[str] = ""
    """The cause in a few words, for the report."""
    colour: ClassVar[str] = ""
    """CSS colour of the cause in the report; "" takes that of other causes."""
    plant: ClassVar[str] = ""
    """How the lab plants the cause in its rows, in a few words; "" where it does not."""

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
