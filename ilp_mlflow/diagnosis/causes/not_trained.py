"""The sample never reached the model as it stands in the file: ruled out before anything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import ClassVar, NamedTuple

from pydantic import Field

from ilp_mlflow.core.interfaces import Context, Diagnostic
from ilp_mlflow.core.values import Details, Evidence, Exposure, Sample, Score, to_rows

SELDOM_SEEN = 0.7
"""Strength where a sample was seen much less often than others of its stage."""
TOO_OFTEN_SEEN = 0.4
"""Strength where it was seen much more often: that does not keep it from being learned."""
LEFT_OUT = "its last turn has weight 0, which kept it out of the loss"
MAYBE_LEFT_OUT = 0.8
"""Strength, at most, where a row has weight 0 and nobody saw whether its trainer reads that."""

CHANGES = {
    "weight_0": "leave the weight out where the answer is to be learned",
    "weight_0_unknown": "see whether your trainer reads weights (TRL and LLaMA-Factory do not), "
    "and leave the weight out where the answer is to be learned",
    "never_in_a_batch": "train all rows: dataloader_drop_last false, and steps for a whole pass",
    "seldom_in_a_batch": "train it as often as the other rows",
    "cut": "raise max_length, or shorten the row",
    "no_token_in_the_loss": "label the answer",
    "end_not_in_the_loss": "label the end token",
    "answer_not_in_the_loss": "label the whole answer",
}
"""What mends each kind of fault."""


class NotTrainedDetails(Details):
    """What the ledger of training says of a sample; see `Exposure`."""

    cause: ClassVar[str] = "not_trained"
    stage: str = ""
    """The stage that trained it."""
    exposures: int | None = None
    """How often it was in a batch."""
    supervised_tokens: int | None = None
    """Tokens that contributed to the loss, each time it was seen."""
    truncated_tokens: int | None = None
    """Tokens cut away by `max_length`."""
    fault: str = ""
    """The kind of what was wrong, for programs."""


class Fault(NamedTuple):
    """What training did wrong with a sample."""

    strength: float
    """How sure it is that this keeps the sample from being learned, 0..1."""
    reason: str
    """What was wrong, in one sentence."""
    kind: str
    """Its short name, as `ilp check` has it where it knows it."""
    change: str
    """What mends it."""


class NotTrained(Diagnostic):
    """Reads the ledger of training."""

    order: ClassVar[int] = 10
    meaning: ClassVar[str] = "training never showed it to the model, or cut its answer off"
    colour: ClassVar[str] = "#78859b"
    plant: ClassVar[str] = (
        "rows of `patch`: answer cut off by `max_length`; answer, or end token, left out of "
        "the loss by the chat template under `assistant_only_loss`; in no batch under "
        "`dataloader_drop_last`"
    )

    rarely: float = Field(default=0.5, ge=0, le=1)
    """A sample that was seen less than this share 0..1 of the usual count was seldom seen.

    One whose stage's usual count is less than this share of its own was seen too often.
    """

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples of which a part was in no loss.

        For a sample that was in no batch the strength is 1. For a sample of which
        a part was in no loss it is the share of the tokens the model gets wrong that training may
        have left out; where one token was left out and the model stops, how likely that one is
        among those it gets wrong. Seen seldom it is SELDOM_SEEN, too often TOO_OFTEN_SEEN. For a
        sample whose row has weight 0 it is 1 where the ledger says that its answer was in no loss.
        Without an entry in the ledger nobody knows whether the trainer read the weight: then it is
        the share of unlearned rows with weight 0 that would be learned, were they learned as often
        as the stage's others, MAYBE_LEFT_OUT at most. Other samples that the ledger does not hold
        have none.
        """
        evidence: dict[str, Evidence] = {}
        ledger: dict[str, Exposure] = {}
        if context.exposures is not None:
            ledger = {entry.sample_id: entry for entry in to_rows(context.exposures, Exposure)}
        usual_exposures = _usual_exposures(ledger.values())
        scores = context.last_scores(unlearned)
        unfollowed = [s for s in context.samples.values() if s.id not in ledger]
        maybe_left_out = _unknown_weights(unfollowed, context)
        for sample in unlearned:
            entry = ledger.get(sample.id)
            fault = None
            if entry is None and sample.left_out:
                fault = maybe_left_out[sample.stage]
            elif entry is not None and sample.left_out and entry.supervised_tokens == 0:
                fault = Fault(1.0, LEFT_OUT, "weight_0", CHANGES["weight_0"])
            elif entry is not None:
                fault = self._fault(entry, scores[sample.id], usual_exposures[entry.stage])
            if fault:
                details = NotTrainedDetails(fault=fault.kind)
                if entry is not None:
                    counts = entry.model_dump(exclude={"sample_id", "end_supervised"})
                    details = NotTrainedDetails(fault=fault.kind, **counts)
                evidence[sample.id] = Evidence(
                    cause=NotTrainedDetails.cause,
                    strength=fault.strength,
                    reason=fault.reason,
                    change=fault.change,
                    details=details,
                )
        return evidence

    def _fault(self, entry: Exposure, score: Score, usual_exposures: float) -> Fault | None:
        """What training did wrong by one entry of the ledger, if anything."""
        if entry.exposures == 0 and entry.truncated_tokens and not entry.supervised_tokens:
            # a trainer leaves out what it has nothing to learn from
            reason = (
                f"max_length cut {entry.truncated_tokens} of its tokens off, its answer among "
                "them, so it was in no batch"
            )
            return Fault(1.0, reason, "cut", CHANGES["cut"])
        if entry.exposures == 0:
            reason = f"it was in no batch of stage '{entry.stage}'"
            return Fault(1.0, reason, "never_in_a_batch", CHANGES["never_in_a_batch"])
        if entry.supervised_tokens < score.tokens:
            reason = (
                f"only {entry.supervised_tokens} of the {score.tokens} tokens of its answer, "
                "end included, were in the loss"
            )
            if entry.truncated_tokens:
                reason += f"; max_length cut {entry.truncated_tokens} off"
            kind = _kind_left_out(entry, score)
            return Fault(_share_left_out(entry, score), reason, kind, CHANGES[kind])
        seen = (
            f"it was seen {entry.exposures} times, "
            f"others of stage '{entry.stage}' {usual_exposures:g} times"
        )
        if entry.exposures < self.rarely * usual_exposures:
            return Fault(SELDOM_SEEN, seen, "seldom_in_a_batch", CHANGES["seldom_in_a_batch"])
        if usual_exposures < self.rarely * entry.exposures:
            return Fault(TOO_OFTEN_SEEN, seen, "too_often_in_a_batch", "")
        return None


def _unknown_weights(samples: Sequence[Sample], context: Context) -> dict[str, Fault]:
    """What weight 0 may explain of each stage whose trainer nobody followed, by its name.

    Were the weights read, rows that have one would be unlearned more often than the others. The
    strength is that difference as a share of the former (the attributable fraction among the
    exposed), with one learned and one unlearned row more on either side, since rows may be few.
    """
    faults = {}
    for stage in dict.fromkeys(sample.stage for sample in samples if sample.left_out):
        of_stage = [sample for sample in samples if sample.stage == stage]
        with_weight = _count_unlearned([s for s in of_stage if s.left_out], context)
        others = _count_unlearned([s for s in of_stage if not s.left_out], context)
        share = 1 - others.share / with_weight.share
        reason = (
            "its last turn has weight 0, and it is unknown whether the trainer read that: "
            f"{with_weight.unlearned} of {with_weight.decided} rows with weight 0 are unlearned, "
            f"{others.unlearned} of the {others.decided} others"
        )
        strength = min(MAYBE_LEFT_OUT, max(0.0, share))
        faults[stage] = Fault(strength, reason, "weight_0_unknown", CHANGES["weight_0_unknown"])
    return faults


class Decided(NamedTuple):
    """Samples with a verdict that is sure."""

    unlearned: int
    """Those that are unlearned."""
    decided: int
    """All of them."""

    @property
    def share(self) -> float:
        """Share 0..1 that is unlearned, with one of either verdict more (Laplace)."""
        return (self.unlearned + 1) / (self.decided + 2)


def _count_unlearned(samples: Sequence[Sample], context: Context) -> Decided:
    statuses = [context.verdicts[sample.id].status for sample in samples]
    unlearned = statuses.count("unlearned")
    return Decided(unlearned, unlearned + statuses.count("learned"))


def _usual_exposures(entries: Iterable[Exposure]) -> dict[str, float]:
    """Median number of exposures of the samples that were seen at all, by stage; 0 for none."""
    # Many rows that were left out must not make it usual to be left out.
    counts: dict[str, list[int]] = {}
    for entry in entries:
        seen = counts.setdefault(entry.stage, [])
        if entry.exposures:
            seen.append(entry.exposures)
    return {stage: median(seen or [0]) for stage, seen in counts.items()}


def _kind_left_out(entry: Exposure, score: Score) -> str:
    """What of the answer was in no loss, by name."""
    if entry.truncated_tokens:
        return "cut"
    if entry.supervised_tokens == 0:
        return "no_token_in_the_loss"
    end_left_out = not score.stops if entry.end_supervised is None else not entry.end_supervised
    if entry.supervised_tokens == score.tokens - 1 and end_left_out:
        return "end_not_in_the_loss"
    return "answer_not_in_the_loss"


def _share_left_out(entry: Exposure, score: Score) -> float:
    """Share 0..1 of the tokens that the model gets wrong which training may have left out."""
    missing = score.tokens - entry.supervised_tokens
    wrong = max(1, round(score.tokens * (1 - (score.token_accuracy or 0.0))))
    if score.stops and entry.end_supervised is False:
        # The end token is right although it was left out: it explains nothing.
        missing -= 1
    elif score.stops and entry.end_supervised is None and missing == 1:
        # Which token was left out is not known. The end token is right, so a wrong one is among
        # the others.
        return min(1.0, wrong / max(1, score.tokens - 1))
    return min(1.0, missing / wrong)
