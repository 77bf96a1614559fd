"""The model has what the sample needs, and was not trained enough on how to put it together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, NamedTuple

from pydantic import Field

from ilp_mlflow.core.interfaces import (
    MIN_TAUGHT_SHARE,
    Belief,
    Context,
    Diagnostic,
    SlickClass,
)
from ilp_mlflow.core.values import Details, Evidence, Exposure, Sample, Score, Subject, to_rows
from ilp_mlflow.data.matching import answer_key, prompt_text


class OptimizationDetails(Details):
    """How much training signal a sample got, and how far it came."""

    cause: ClassVar[str] = "insufficient_optimization"
    rarest_word: str = ""
    """The rarest word of its prompt that other rows have, too; "" where no word is to blame."""
    rarest_word_rows: int = 0
    """Rows with that word."""
    answer_rows: int = 0
    """Rows with its answer."""
    loss_fell: float | None = None
    """Share by which its loss fell from its last batch but one to the last; None: not known."""
    tokens_right: float = 0.0
    """Share 0..1 of its tokens that are the model's first choice; 0 for short answers."""
    knowledge: SlickClass | None = None
    """What the base knows of its answer, in the field's words, see `Belief.knowledge`."""


class LossCourse(NamedTuple):
    """How a loss went at last, nats per token."""

    before: float
    """In the last batch but one."""
    now: float
    """In the last batch."""

    @property
    def fell(self) -> float | None:
        """Share by which it fell; None where there was nothing to fall."""
        return 1 - self.now / self.before if self.before > 0 else None


@dataclass(frozen=True)
class Signals:
    """What all rows, training and the last scores show."""

    rows: int
    """Number of all rows."""
    word_rows: Counter[str]
    """Rows whose prompt has a word, by word in lower case."""
    answer_rows: Counter[str]
    """Rows with an answer, by its `answer_key`."""
    usual_answer_rows: float
    """Median over all rows of the number of rows that have their answer."""
    batches: Mapping[str, int]
    """How often a sample was in a batch, by id; empty without a ledger of training."""
    losses: Mapping[str, LossCourse]
    """By id, of the samples that were in two batches at least; empty without training signals."""
    scores: Mapping[str, Score]
    """Of the unlearned samples under the last checkpoint, by id."""


@dataclass(frozen=True)
class Observed:
    """What is known of one sample."""

    belief: Belief | None
    """What the base says, where such samples are learned more often if the base knows them."""
    details: OptimizationDetails
    """The facts that evidence keeps."""
    tokens: int
    """Tokens of its answer, end token included."""
    is_scarce: bool
    """Few rows have its answer, but more than one."""
    falls: bool
    """Its loss still fell."""


class Claim(NamedTuple):
    """What a rule says of a sample that it applies to."""

    strength: float
    """How sure it is, 0..1."""
    reasons: list[str]
    """Why, the most important first."""


class InsufficientOptimization(Diagnostic):
    """Looks for too little training signal in samples that could have been learned."""

    order: ClassVar[int] = 40
    meaning: ClassVar[str] = "the model knows what it needs, but saw too little of it"
    colour: ClassVar[str] = "#2f86d6"
    plant: ClassVar[str] = "invented adjectives, 3 people each, asked twice"

    rare: int = Field(default=20, ge=1)
    """A word, or an answer, in at most so many rows is rare."""
    scarce: float = Field(default=0.25, ge=0, le=1)
    """A rare answer is scarce when at most this share 0..1 of the usual number of rows have it."""
    few: int = Field(default=3, ge=1)
    """A sample in at most so many batches was seen seldom."""
    falling: float = Field(default=0.1, ge=0, le=1)
    """A loss still falls when the last batch's is below the one before by this share 0..1."""
    long: int = Field(default=8, ge=1)
    """Tokens of an answer that can be partly right."""
    unsupported: float = Field(default=0.6, ge=0, le=1)
    """Factor on the strength where the base knows what is needed, and there is no other sign."""
    telling: float = Field(default=0.5, ge=0, le=1)
    """What the base knows counts from this share 0..1 of such samples for which it matters."""
    unknown: float = Field(default=0.7, ge=0, le=1)
    """Strength at most where it cannot be told what the base knows."""

    def examine(
        self, unlearned: Sequence[Sample], context: Context
    ) -> Mapping[str | Subject, Evidence]:
        """Evidence for samples that could have been learned, by the first rule that applies.

        Where it matters what the base knows, that alone decides: see `_known_to_base`. Where the
        base cannot be asked, or it is not known whether what it knows matters, the rules are
        `_scarce_answer` and `_partly_right`. That a stage stopped too early is said of the stage:
        see `_unfinished_stages`.
        """
        beliefs = context.beliefs()
        signals = _read_signals(unlearned, context)
        evidence: dict[str | Subject, Evidence] = {}
        for sample in unlearned:
            observed = self._observe(sample, beliefs.get(sample.id), signals)
            signs = self._signs(sample, observed, signals)
            if observed.belief:
                claim = self._known_to_base(observed.belief, signs)
            else:
                scarce = self._scarce_answer(observed, signs)
                claim = scarce or self._partly_right(observed, signs)
            if claim:
                evidence[sample.id] = Evidence(
                    cause=observed.details.cause,
                    strength=claim.strength,
                    reason="; ".join(claim.reasons),
                    details=observed.details,
                )
        for stage, reason in self._unfinished_stages(unlearned, signals, context).items():
            evidence[Subject(kind="stage", name=stage)] = Evidence(
                cause=OptimizationDetails.cause, strength=self.unknown, reason=reason
            )
        return evidence

    def _known_to_base(self, belief: Belief, signs: list[str]) -> Claim | None:
        """The base knows the answer: as sure as the base is, and less so without another sign."""
        if not belief.known:
            return None
        strength = belief.p_correct
        if belief.agrees:
            strength = max(belief.p_correct, belief.confidence)
        if not signs:
            strength *= self.unsupported
        return Claim(strength, ["the base knows what it needs", *signs])

    def _scarce_answer(self, observed: Observed, signs: list[str]) -> Claim | None:
        """Few rows have its answer, which is among the `signs`."""
        if not observed.is_scarce:
            return None
        return Claim(self.unknown, signs)

    def _partly_right(self, observed: Observed, signs: list[str]) -> Claim | None:
        """Its long answer is partly right, and its loss still fell."""
        share = observed.details.tokens_right
        if not share or not observed.falls:
            return None
        tokens_right = f"{share:.0%} of its {observed.tokens} tokens are right"
        return Claim(self.unknown * share, [tokens_right, *signs])

    def _observe(self, sample: Sample, belief: Belief | None, signals: Signals) -> Observed:
        """What is known of a sample, of which the base says `belief`."""
        words = set(prompt_text(sample.prompt).casefold().split())
        counted_belief = belief if belief and belief.necessity >= self.telling else None
        if counted_belief:
            # What a prompt asks about is rare in any data: the rest of it is the pattern.
            words -= set(counted_belief.entity.casefold().split())
        # Nor is a word a pattern that no other row has.
        shared_words = [word for word in words if signals.word_rows[word] > 1]
        rarest_word = min(shared_words, key=lambda w: (signals.word_rows[w], w), default="")
        answer_rows = signals.answer_rows[answer_key(sample.answer)]
        most_scarce_rows = min(self.rare, self.scarce * signals.usual_answer_rows)
        course = signals.losses.get(sample.id)
        score = signals.scores[sample.id]
        tokens_right = 0.0
        if score.tokens >= self.long:
            tokens_right = score.token_accuracy or 0.0
        details = OptimizationDetails(
            rarest_word=rarest_word,
            rarest_word_rows=signals.word_rows[rarest_word],
            answer_rows=answer_rows,
            loss_fell=course.fell if course else None,
            tokens_right=tokens_right,
            knowledge=belief.knowledge if belief else None,
        )
        return Observed(
            belief=counted_belief,
            details=details,
            tokens=score.tokens,
            is_scarce=1 < answer_rows <= most_scarce_rows,
            falls=self._falls(details.loss_fell),
        )

    def _signs(self, sample: Sample, observed: Observed, signals: Signals) -> list[str]:
        """What speaks for too little signal, in words."""
        details = observed.details
        signs = []
        # Of few rows even a common word is in few: rare is at most one row in `rare`, too.
        most_rows = min(self.rare, signals.rows / self.rare)
        if observed.belief and details.rarest_word and details.rarest_word_rows <= most_rows:
            signs.append(f"'{details.rarest_word}' is in {details.rarest_word_rows} rows")
        if observed.is_scarce:
            signs.append(
                f"its answer is in {details.answer_rows} rows, "
                f"half of the samples have one that is in {signals.usual_answer_rows:g} or more"
            )
        batches = signals.batches.get(sample.id)
        if batches is not None and batches <= self.few:
            signs.append(f"it was in {batches} batch{'' if batches == 1 else 'es'}")
        if observed.falls:
            signs.append(
                f"its loss fell by {details.loss_fell:.0%} from the last batch but one to the last"
            )
        return signs

    def _unfinished_stages(
        self, unlearned: Sequence[Sample], signals: Signals, context: Context
    ) -> dict[str, str]:
        """Stages that taught fewer than half of their rows while the others' loss still fell.

        By name, in words. Of a stage of one pass, whose rows were in one batch each, it is what
        that pass made of their loss.
        """
        unfinished = {}
        for stage, taught in context.taught.items():
            if taught >= MIN_TAUGHT_SHARE:
                continue
            rows = [sample for sample in unlearned if sample.stage == stage]
            courses = [signals.losses[s.id] for s in rows if s.id in signals.losses]
            since = "from their last batch but one to the last"
            if not courses:
                seen_once = [sample for sample in rows if signals.batches.get(sample.id) == 1]
                courses = _courses_over_stage(stage, seen_once, context)
                since = "in the one batch they were in"
            # Of the sums, so that samples whose loss is nearly 0 do not weigh as much as others.
            total = LossCourse(sum(c.before for c in courses), sum(c.now for c in courses))
            if self._falls(total.fell):
                unfinished[stage] = (
                    f"it stopped too early: it taught {taught:.0%} of its rows, and the loss of "
                    f"the others still fell by {total.fell:.0%} {since}"
                )
        return unfinished

    def _falls(self, fell: float | None) -> bool:
        """Whether a loss that `fell` by a share is still falling; not where that is not known."""
        return fell is not None and fell >= self.falling


def _read_signals(unlearned: Sequence[Sample], context: Context) -> Signals:
    """What the rows of all stages, the ledger, the training signals and the last scores show."""
    samples = context.samples.values()
    word_rows: Counter[str] = Counter()
    for sample in samples:
        word_rows.update(set(prompt_text(sample.prompt).casefold().split()))
    answer_rows = Counter(answer_key(s.answer) for s in samples)
    batches = {}
    if context.exposures is not None:
        ledger = to_rows(context.exposures, Exposure)
        batches = {entry.sample_id: entry.exposures for entry in ledger}
    return Signals(
        rows=len(samples),
        word_rows=word_rows,
        answer_rows=answer_rows,
        usual_answer_rows=median(answer_rows[answer_key(s.answer)] for s in samples),
        batches=batches,
        losses=_loss_courses(context),
        scores=context.last_scores(unlearned),
    )


def _loss_courses(context: Context) -> dict[str, LossCourse]:
    """How the loss of each sample that was in two batches or more went at last, by id."""
    if context.signals is None:
        return {}
    columns = context.signals.sort_by("step").select(["sample_id", "loss"]).to_pydict()
    losses: dict[str, list[float]] = {}
    for id_, loss in zip(columns["sample_id"], columns["loss"], strict=True):
        losses.setdefault(id_, []).append(loss)
    return {id_: LossCourse(*course[-2:]) for id_, course in losses.items() if len(course) > 1}


def _courses_over_stage(
    stage: str, samples: Sequence[Sample], context: Context
) -> list[LossCourse]:
    """The losses of samples before and after their stage, by the scores of its two checkpoints."""
    names = [checkpoint.name for checkpoint in context.checkpoints]
    place = names.index(stage)
    if place == 0:
        return []
    before = _losses_under(names[place - 1], context)
    after = _losses_under(stage, context)
    courses = []
    for sample in samples:
        if sample.id in before and sample.id in after:
            courses.append(LossCourse(before[sample.id], after[sample.id]))
    return courses


def _losses_under(checkpoint: str, context: Context) -> dict[str, float]:
    """Loss of each scored sample under a checkpoint, nats per token, by id."""
    losses = {}
    columns = context.scores.select(["sample_id", "checkpoint", "logprob", "tokens"]).to_pydict()
    for id_, name, logprob, tokens in zip(*columns.values(), strict=True):
        if name == checkpoint and logprob is not None and tokens:
            losses[id_] = -logprob / tokens
    return losses
