"""The model has what the sample needs, and was not trained enough on how to put it together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, NamedTuple

from pydantic import Field

from ilp_mlflow.core.interfaces import TAUGHT, Belief, Context, Diagnostic
from ilp_mlflow.core.values import Details, Evidence, Exposure, Sample, Score, to_rows
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


class Claim(NamedTuple):
    """What a rule says of a sample that it applies to."""

    strength: float
    """How sure it is, 0..1."""
    reasons: list[str]
    """Why, the most important first."""
    blames_word: bool = True
    """Whether the rarest word of the prompt may be to blame."""


class InsufficientOptimization(Diagnostic):
    """Looks for too little training signal in samples that could have been learned."""

    order: ClassVar[int] = 40
    meaning: ClassVar[str] = "the model knows what it needs, but saw too little of it"
    colour: ClassVar[str] = "#2f86d6"

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

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples that could have been learned, by the first rule that applies.

        Where it matters what the base knows, that alone decides: see `_known_to_base`. Where the
        base cannot be asked, or it is not known whether what it knows matters, the rules are
        `_scarce_answer`, `_unfinished_stage` and `_partly_right`.
        """
        beliefs = context.beliefs()
        signals = _read_signals(unlearned, context)
        unfinished_stages = self._unfinished_stages(unlearned, signals, context)
        evidence = {}
        for sample in unlearned:
            belief = self._belief_that_counts(beliefs.get(sample.id))
            details = self._details(sample, belief, signals)
            signs = self._signs(sample, belief, details, signals)
            if belief:
                claim = self._known_to_base(belief, signs)
            else:
                claim = (
                    self._scarce_answer(details, signs, signals)
                    or self._unfinished_stage(unfinished_stages.get(sample.stage, ""), signs)
                    or self._partly_right(sample, details, signs, signals)
                )
            if claim:
                evidence[sample.id] = _evidence(claim, details)
        return evidence

    def _belief_that_counts(self, belief: Belief | None) -> Belief | None:
        """The belief, unless such samples are as often not learned whatever the base knows."""
        return belief if belief and belief.telling >= self.telling else None

    def _known_to_base(self, belief: Belief, signs: list[str]) -> Claim | None:
        """The base knows the answer: as sure as the base is, and less so without another sign."""
        if not belief.known:
            return None
        strength = belief.right
        if belief.agrees:
            strength = max(belief.right, belief.confidence)
        if not signs:
            strength *= self.unsupported
        return Claim(strength, ["the base knows what it needs", *signs])

    def _scarce_answer(
        self, details: OptimizationDetails, signs: list[str], signals: Signals
    ) -> Claim | None:
        """Few rows have its answer."""
        if not self._is_scarce(details.answer_rows, signals):
            return None
        return Claim(self.unknown, signs)

    def _unfinished_stage(self, unfinished: str, signs: list[str]) -> Claim | None:
        """Its stage stopped too early, which `unfinished` puts in words, or is "" if it did not."""
        if not unfinished:
            return None
        # No word is to blame: there was too little of all words.
        return Claim(self.unknown, [unfinished, *signs], blames_word=False)

    def _partly_right(
        self, sample: Sample, details: OptimizationDetails, signs: list[str], signals: Signals
    ) -> Claim | None:
        """Its long answer is partly right, and its loss still falls."""
        share = details.tokens_right
        if not share or not self._falls(signals.losses.get(sample.id)):
            return None
        tokens_right = f"{share:.0%} of its {signals.scores[sample.id].tokens} tokens are right"
        return Claim(self.unknown * share, [tokens_right, *signs])

    def _details(
        self, sample: Sample, belief: Belief | None, signals: Signals
    ) -> OptimizationDetails:
        """The facts about a sample that signs and rules are read from."""
        words = set(prompt_text(sample.prompt).casefold().split())
        if belief:
            # What a prompt asks about is rare in any data: the rest of it is the pattern.
            words -= set(belief.entity.casefold().split())
        # Nor is a word a pattern that no other row has.
        shared_words = [word for word in words if signals.word_rows[word] > 1]
        rarest = min(shared_words, key=lambda w: (signals.word_rows[w], w), default="")
        course = signals.losses.get(sample.id)
        score = signals.scores[sample.id]
        can_be_partly_right = score.tokens >= self.long
        return OptimizationDetails(
            rarest_word=rarest,
            rarest_word_rows=signals.word_rows[rarest],
            answer_rows=signals.answer_rows[answer_key(sample.answer)],
            loss_fell=course.fell if course else None,
            tokens_right=(score.token_accuracy or 0.0) if can_be_partly_right else 0.0,
        )

    def _signs(
        self, sample: Sample, belief: Belief | None, details: OptimizationDetails, signals: Signals
    ) -> list[str]:
        """What speaks for too little signal, in words."""
        signs = []
        # Of few rows even a common word is in few: rare is at most one row in `rare`, too.
        most_rows = min(self.rare, signals.rows / self.rare)
        if belief and details.rarest_word and details.rarest_word_rows <= most_rows:
            signs.append(f"'{details.rarest_word}' is in {details.rarest_word_rows} rows")
        if self._is_scarce(details.answer_rows, signals):
            signs.append(
                f"its answer is in {details.answer_rows} rows, "
                f"half of the samples have one that is in {signals.usual_answer_rows:g} or more"
            )
        batches = signals.batches.get(sample.id)
        if batches is not None and batches <= self.few:
            signs.append(f"it was in {batches} batch{'' if batches == 1 else 'es'}")
        if self._falls(signals.losses.get(sample.id)):
            signs.append(
                f"its loss fell by {details.loss_fell:.0%} from the last batch but one to the last"
            )
        return signs

    def _unfinished_stages(
        self, unlearned: Sequence[Sample], signals: Signals, context: Context
    ) -> dict[str, str]:
        """Stages that taught fewer than half of their rows while the others' loss still fell.

        By name, in words.
        """
        unfinished = {}
        for stage, taught in context.taught.items():
            ids = [s.id for s in unlearned if s.stage == stage and s.id in signals.losses]
            courses = [signals.losses[id_] for id_ in ids]
            total = LossCourse(sum(c.before for c in courses), sum(c.now for c in courses))
            if taught < TAUGHT and self._falls(total):
                unfinished[stage] = (
                    f"its stage taught {taught:.0%} of its rows, and the loss of the others "
                    f"fell by {total.fell:.0%} from their last batch but one to the last"
                )
        return unfinished

    def _is_scarce(self, answer_rows: int, signals: Signals) -> bool:
        """Whether few rows have an answer, but more than one."""
        return 1 < answer_rows <= min(self.rare, self.scarce * signals.usual_answer_rows)

    def _falls(self, course: LossCourse | None) -> bool:
        """Whether a loss is known to fall still."""
        return course is not None and course.fell is not None and course.fell >= self.falling


def _evidence(claim: Claim, details: OptimizationDetails) -> Evidence:
    if not claim.blames_word:
        details = details.model_copy(update={"rarest_word": "", "rarest_word_rows": 0})
    return Evidence(
        cause=details.cause,
        strength=claim.strength,
        reason="; ".join(claim.reasons),
        details=details,
    )


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
