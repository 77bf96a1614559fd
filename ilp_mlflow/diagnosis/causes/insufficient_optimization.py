"""The model has what the sample needs and was not trained enough on the pattern that puts it together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ilp_mlflow.plugin import (
    MIN_TAUGHT_SHARE,
    Context,
    Evidence,
    Exposure,
    Sample,
    Score,
    Value,
    answer_key,
    prompt_text,
    to_rows,
)


class InsufficientOptimization(Value):
    """Looks for a rare pattern, little exposure and a loss that still falls, in samples that could have been learned."""

    rare: int = Field(default=20, ge=1)
    """A word, or an answer, in at most so many rows is rare."""
    scarce: float = Field(default=0.25, ge=0, le=1)
    """A rare answer is scarce when at most this share 0..1 of the usual number of rows have it."""
    few: int = Field(default=3, ge=1)
    """A sample in at most so many batches was seen seldom."""
    falling: float = Field(default=0.1, ge=0, le=1)
    """Share 0..1 by which the loss of its last batch is below that of the one before in a sample on its way."""
    long: int = Field(default=8, ge=1)
    """Tokens of an answer that can be partly right."""
    unsupported: float = Field(default=0.6, ge=0, le=1)
    """Factor on the strength where the base knows what is needed and nothing else speaks for this cause."""
    telling: float = Field(default=0.5, ge=0, le=1)
    """What the base knows counts from this share 0..1 of such samples for which it matters."""
    unknown: float = Field(default=0.7, ge=0, le=1)
    """Strength at most where it cannot be told what the base knows."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples whose prerequisites the base knows, that have a scarce answer, or that are partly learned.

        The strength is the probability of the right answer in the base. Where the base cannot be asked, or it is not known whether
        what it knows matters, it is `unknown` for a scarce answer and for all of a stage that taught fewer than half of its rows
        while the loss of the others was still falling; for a long one that is on its way, `unknown` times the share of its tokens
        that are the model's first choice.
        """
        believed, last, losses = context.beliefs(), _last(context, unlearned), _losses(context)
        fell = {id_: 1 - now / before for id_, (before, now) in losses.items() if before > 0}
        unfinished = self._unfinished(unlearned, context, losses)
        words = Counter(
            w
            for s in context.samples.values()
            for w in set(prompt_text(s.prompt).casefold().split())
        )
        answers = Counter(answer_key(s.answer) for s in context.samples.values())
        usual = median(answers[answer_key(s.answer)] for s in context.samples.values())
        seen = (
            {}
            if context.exposures is None
            else {e.sample_id: e.exposures for e in to_rows(context.exposures, Exposure)}
        )
        found = {}
        for sample in unlearned:
            belief, rows = believed.get(sample.id), answers[answer_key(sample.answer)]
            if belief and belief.necessity < self.telling:
                belief = None  # what the base knows here is as often not learned
            entity = set(belief.entity.casefold().split()) if belief else set[str]()
            own = {
                w
                for w in set(prompt_text(sample.prompt).casefold().split()) - entity
                if words[w] > 1
            }
            rarest = min(own, key=lambda w: (words[w], w), default="")
            scarce = 1 < rows <= min(self.rare, self.scarce * usual)
            falls = fell.get(sample.id, 0.0) >= self.falling
            signs = []
            if (
                belief
                and rarest
                and words[rarest] <= min(self.rare, len(context.samples) / self.rare)
            ):
                signs.append(f"'{rarest}' is in {words[rarest]} rows")
            if scarce:
                signs.append(
                    f"its answer is in {rows} rows, half of the samples have one that is in {usual:g} or more"
                )
            if seen.get(sample.id, self.few + 1) <= self.few:
                signs.append(
                    f"it was in {seen[sample.id]} batch{'es' if seen[sample.id] != 1 else ''}"
                )
            if falls:
                signs.append(
                    f"its loss fell by {fell[sample.id]:.0%} from the last batch but one to the last"
                )
            right = (
                (last[sample.id].token_accuracy or 0.0)
                if last[sample.id].tokens >= self.long
                else 0.0
            )
            if belief:
                if not belief.known:
                    continue
                strength = max(belief.p_correct, belief.confidence if belief.agrees else 0.0) * (
                    1 if signs else self.unsupported
                )
                signs.insert(0, "the base knows what it needs")
            elif scarce:
                strength = self.unknown
            elif sample.stage in unfinished:
                signs.insert(0, unfinished[sample.stage])
                strength, rarest = self.unknown, ""  # of all words there was too little
            elif right and falls:
                signs.insert(0, f"{right:.0%} of its {last[sample.id].tokens} tokens are right")
                strength = self.unknown * right
            else:
                continue
            details = {
                "rarest_word": rarest,
                "rarest_word_rows": words[rarest],
                "answer_rows": rows,
                "loss_fell": fell.get(sample.id),
                "tokens_right": right,
            }
            found[sample.id] = Evidence(
                cause="insufficient_optimization",
                strength=strength,
                reason="; ".join(signs),
                details=details,
            )
        return found

    def _unfinished(
        self,
        unlearned: Sequence[Sample],
        context: Context,
        losses: Mapping[str, tuple[float, float]],
    ) -> dict[str, str]:
        """The stages that taught fewer than half of their rows and whose loss on the others was still falling, in words."""
        found = {}
        for stage, taught in context.taught.items():
            course = [losses[s.id] for s in unlearned if s.stage == stage and s.id in losses]
            before, now = (
                (sum(side) for side in zip(*course, strict=True)) if course else (0.0, 0.0)
            )
            if taught < MIN_TAUGHT_SHARE and before > 0 and 1 - now / before >= self.falling:
                found[stage] = (
                    f"its stage taught {taught:.0%} of its rows, and the loss of the others fell by {1 - now / before:.0%} from "
                    "their last batch but one to the last"
                )
        return found


def _last(context: Context, unlearned: Sequence[Sample]) -> dict[str, Score]:
    rows = context.scores.filter(
        pc.equal(context.scores["checkpoint"], context.checkpoints[-1].name)
    )
    wanted = rows.filter(
        pc.is_in(rows["sample_id"], value_set=pa.array([s.id for s in unlearned], pa.string()))
    )
    return {score.sample_id: score for score in to_rows(wanted, Score)}


def _losses(context: Context) -> dict[str, tuple[float, float]]:
    """Each sample's loss in the last batch but one that it was in, and in the last."""
    if context.signals is None:
        return {}
    rows = context.signals.sort_by("step").select(["sample_id", "loss"]).to_pydict()
    course: dict[str, list[float]] = {}
    for id_, loss in zip(rows["sample_id"], rows["loss"], strict=True):
        course.setdefault(id_, []).append(loss)
    return {id_: (losses[-2], losses[-1]) for id_, losses in course.items() if len(losses) > 1}
