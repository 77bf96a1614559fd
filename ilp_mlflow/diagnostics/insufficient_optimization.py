"""The model has what the sample needs and was not trained enough on the pattern that puts it together."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ilp_mlflow import Context, Evidence, Exposure, Sample, Score, Value, gist, text_of, to_rows


class InsufficientOptimization(Value):
    """Looks for a rare pattern, little exposure and a rise that has not ended, in samples that could have been learned."""

    rare: int = Field(default=20, ge=1)
    """A word in at most so many rows is rare."""
    scarce: float = Field(default=0.25, ge=0, le=1)
    """An answer is scarce when at most this share 0..1 of the usual number of rows have it."""
    few: int = Field(default=3, ge=1)
    """A sample in at most so many batches was seen seldom."""
    improving: float = Field(default=1.0, gt=0)
    """A rise of log-probability that counts as being on the way, nats."""
    long: int = Field(default=8, ge=1)
    """Tokens of an answer that can be partly right."""
    unsupported: float = Field(default=0.6, ge=0, le=1)
    """Factor on the strength where the base knows what is needed and nothing else speaks for this cause."""
    unknown: float = Field(default=0.7, ge=0, le=1)
    """Strength for a scarce answer where it cannot be told what the base knows."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples whose prerequisites the base knows, that have a scarce answer, or that are partly learned.

        The strength is the probability of the right answer in the base; where the base cannot be asked, `unknown` for a scarce
        answer, and for a long one on its way the share of its tokens that are the model's first choice.
        """
        believed, rise, last = context.beliefs(), _rise(context), _last(context, unlearned)
        words = {id_: set(text_of(s.prompt).casefold().split()) for id_, s in context.samples.items()}
        often = Counter(itertools.chain.from_iterable(words.values()))
        answers = Counter(gist(s.answer) for s in context.samples.values())
        usual = median(answers[gist(s.answer)] for s in context.samples.values())
        seen = {} if context.exposures is None else {e.sample_id: e.exposures for e in to_rows(context.exposures, Exposure)}
        found = {}
        for sample in unlearned:
            id_, signs = sample.id, list[str]()
            rarest = min(words[id_], key=lambda w: (often[w], w), default="")
            rows = answers[gist(sample.answer)]
            right = (last[id_].token_accuracy or 0.0) if last[id_].tokens >= self.long else 0.0
            rising = rise.get(id_, 0.0) >= self.improving
            if id_ in believed and often[rarest] <= self.rare:
                signs.append(f"'{rarest}' is in {often[rarest]} rows")
            if 1 < rows <= self.scarce * usual:
                signs.append(f"its answer is in {rows} rows, half of the samples have one that is in {usual:g} or more")
            if id_ in seen and seen[id_] <= self.few:
                signs.append(f"it was in {seen[id_]} batches")
            if rising:
                signs.append(f"training has raised it by {rise[id_]:.1f} nats")
            if id_ in believed:
                if not believed[id_].known:
                    continue
                signs.insert(0, "the base knows what it needs")
                strength = believed[id_].right * (1 if len(signs) > 1 else self.unsupported)
            elif 1 < rows <= self.scarce * usual:
                strength = self.unknown
            elif right and rising:
                signs.insert(0, f"{right:.0%} of its {last[id_].tokens} tokens are right")
                strength = right
            else:
                continue
            details = {"rarest_word_rows": often[rarest], "answer_rows": rows, "rise": rise.get(id_), "tokens_right": right}
            found[id_] = Evidence(cause="insufficient_optimization", strength=strength, reason="; ".join(signs), details=details)
        return found


def _last(context: Context, unlearned: Sequence[Sample]) -> dict[str, Score]:
    rows = context.scores.filter(pc.equal(context.scores["checkpoint"], context.checkpoints[-1].name))
    wanted = rows.filter(pc.is_in(rows["sample_id"], value_set=pa.array([s.id for s in unlearned], pa.string())))
    return {score.sample_id: score for score in to_rows(wanted, Score)}


def _rise(context: Context) -> dict[str, float]:
    """Change of each sample's log-probability from the first checkpoint to the last, nats."""
    first, last = context.checkpoints[0].name, context.checkpoints[-1].name
    rows = zip(*(context.scores[name].to_pylist() for name in ("sample_id", "checkpoint", "logprob")), strict=True)
    found = {(id_, name): logprob for id_, name, logprob in rows if logprob is not None and name in (first, last)}
    return {id_: found[id_, last] - found[id_, first] for id_ in context.samples if {(id_, first), (id_, last)} <= found.keys()}
