"""The model knows all it needs and was not trained enough on the pattern that puts it together."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field

from ilp_mlflow import Context, Evidence, Exposure, Sample, Value, text_of, to_rows


class InsufficientOptimization(Value):
    """Asks the base for what a sample needs, and counts how often training saw the rarest word of its prompt."""

    rare: int = Field(default=20, ge=1)
    """A word in at most so many rows is rare."""
    few: int = Field(default=3, ge=1)
    """A sample in at most so many batches was seen seldom."""
    improving: float = Field(default=1.0, gt=0)
    """A rise of log-probability that counts as being on the way, nats."""
    unsupported: float = Field(default=0.6, ge=0, le=1)
    """Factor on the strength where the pattern is neither rare nor seldom seen nor on the way."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples whose prerequisites the base knows; the strength is the probability of the least known one."""
        words = {id_: set(text_of(s.prompt).casefold().split()) for id_, s in context.samples.items()}
        often = Counter(itertools.chain.from_iterable(words.values()))
        learned = Counter(w for id_, own in words.items() if context.verdicts[id_].status == "learned" for w in own)
        seen = {} if context.exposures is None else {e.sample_id: e.exposures for e in to_rows(context.exposures, Exposure)}
        rise = _rise(context)
        found = {}
        for id_, belief in context.beliefs().items():
            if not belief.known:
                continue
            rarest = min(words[id_], key=lambda w: (often[w], w), default="")
            signs = []
            if often[rarest] <= self.rare:
                signs.append(f"'{rarest}' is in {often[rarest]} rows, {learned[rarest]} of them learned")
            if id_ in seen and seen[id_] <= self.few:
                signs.append(f"it was in {seen[id_]} batches")
            if rise.get(id_, 0.0) >= self.improving:
                signs.append(f"training has raised it by {rise[id_]:.1f} nats")
            found[id_] = Evidence(
                cause="insufficient_optimization",
                strength=belief.right * (1 if signs else self.unsupported),
                reason="; ".join(["the base knows what it needs", *signs]),
                details={
                    "known": belief.right,
                    "asked": [text_of(prompt) for prompt in belief.phrasings],
                    "rows": often[rarest],
                    "rise": rise.get(id_),
                },
            )
        return found


def _rise(context: Context) -> dict[str, float]:
    """Change of each sample's log-probability from the first checkpoint to the last, nats."""
    first, last = context.checkpoints[0].name, context.checkpoints[-1].name
    rows = zip(*(context.scores[name].to_pylist() for name in ("sample_id", "checkpoint", "logprob")), strict=True)
    found = {(id_, name): logprob for id_, name, logprob in rows if logprob is not None and name in (first, last)}
    return {id_: found[id_, last] - found[id_, first] for id_ in context.samples if {(id_, first), (id_, last)} <= found.keys()}
