"""Other rows answer the same question differently, and the model follows them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from ilp_mlflow import Context, Evidence, Sample, Value, agree, answered, gist, ruling, same_prompt, similar, text_of

THIS, OTHERS = "this row", "the others"
"""Which side is wrong."""
JUDGED = 0.5
"""Strength from which a judge is asked: below it no cause is named."""


@dataclass(frozen=True)
class Rival:
    """Another answer to what may be a sample's question."""

    sample: Sample
    """The sample."""
    rows: tuple[Sample, ...]
    """Those with the answer, the most similar prompt first."""
    votes: int
    """How many of the nearest rows have it."""
    agreeing: tuple[Sample, ...]
    """Similar rows with the sample's answer."""
    own: int
    """How many of the nearest have it."""


class DataContradiction(Value):
    """Looks among the rows with similar prompts for other answers, and asks the models whether it is the same question."""

    neighbours: int = Field(default=64, ge=1)
    """Similar rows looked at."""
    nearest: int = Field(default=10, ge=1)
    """Of those, the ones whose answers are counted."""
    similar: float = Field(default=0.3, ge=0, le=1)
    """Cosine of two prompts from which they may ask the same."""
    answers: int = Field(default=8, ge=1)
    """Other answers of a sample the models are asked about."""
    trust: dict[str, float] = Field(default_factory=dict)
    """What a row counts when it is voted which side is wrong, by its `source`; 1 unless given."""
    judge: str | None = None
    """MLflow judge model URI, such as `openai:/gpt-4.1-mini`, to rule which side is wrong instead; one call per contradiction."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples whose question other rows answer with something that says neither the same nor merely more.

        Where the prompt tells what a sample asks about, only rows about the same are looked at.

        The strength is the product of two probabilities: that it is the same question, and that the last checkpoint, having to
        choose, answers like the others. The first is 1 for equal prompts, else the probability that the base answers the other
        row's prompt with this sample's answer. Where the base cannot be asked in other ways, since prompts are not made from
        templates, the nearest rows vote too: those with the other answer, as a share of those with either and two more.
        """
        rivals = list(self._rivals(unlearned, context))
        base, last = context.checkpoints[0].name, context.checkpoints[-1].name
        same = context.probe.logprobs(base, [(r.rows[0].prompt, answered(r.rows[0].completion, r.sample.answer)) for r in rivals])
        theirs = context.probe.logprobs(last, [(r.sample.prompt, answered(r.sample.completion, r.rows[0].answer)) for r in rivals])
        ours = context.probe.logprobs(last, [(r.sample.prompt, r.sample.completion) for r in rivals])
        found: dict[str, Evidence] = {}
        strongest: dict[str, Rival] = {}
        believed = context.beliefs()
        for rival, agreed, other, own in zip(rivals, same, theirs, ours, strict=True):
            if math.isnan(other - own):
                continue  # the model cannot be asked which it follows
            sample, row = rival.sample, rival.rows[0]
            equal = same_prompt(sample.prompt) == same_prompt(row.prompt)
            vote = 0.0 if sample.id in believed else rival.votes / (rival.votes + rival.own + 2)
            question = 1.0 if equal else max(vote, 0.0 if math.isnan(agreed) else math.exp(min(agreed, 0.0)))
            pull = 1 / (1 + math.exp(min(own - other, 700.0)))
            strength = question * pull
            if sample.id in found and found[sample.id].strength >= strength:
                continue
            strongest[sample.id] = rival
            others = f"{len(rival.rows)} similar rows say" if len(rival.rows) > 1 else "a similar row says"
            found[sample.id] = Evidence(
                cause="data_contradiction",
                strength=strength,
                reason=f"'{text_of(sample.prompt)}' is to be '{sample.answer.strip()}', but {others} '{row.answer.strip()}', "
                f"such as '{row.id}': '{text_of(row.prompt)}'; the model chooses theirs with probability {pull:.2f}",
                details={"rows": [r.id for r in rival.rows], "same_question": question, "pull": pull},
            )
        return {id_: self._ruled(evidence, strongest[id_]) for id_, evidence in found.items()}

    def _ruled(self, evidence: Evidence, rival: Rival) -> Evidence:
        """The evidence with the side that is wrong: `this row`, `the others`, `both`, `neither` or `undecided`."""
        if self.judge and evidence.strength >= JUDGED:
            row, by = rival.rows[0], "the judge"
            said = ruling(self.judge, (text_of(rival.sample.prompt), text_of(row.prompt)), (rival.sample.answer, row.answer))
            side = {"first": THIS, "second": OTHERS}.get(said, said)
        else:
            by = "count of the rows"
            more = self._weight(rival.rows) - self._weight((rival.sample, *rival.agreeing))
            side = THIS if more > 0 else OTHERS if more < 0 else "undecided"
        text = f"{evidence.reason}; wrong by {by}: {side}"
        return evidence.model_copy(update={"reason": text, "details": evidence.details | {"wrong": side, "by": by}})

    def _weight(self, rows: Sequence[Sample]) -> float:
        return sum(self.trust.get(row.source or "", 1.0) for row in rows)

    def _rivals(self, unlearned: Sequence[Sample], context: Context) -> Iterator[Rival]:
        pool, believed = list(context.samples.values()), context.beliefs()
        for sample, near in zip(unlearned, similar(unlearned, pool, self.neighbours, self.similar), strict=True):
            entity = believed[sample.id].entity if sample.id in believed else ""
            rows = [pool[i] for i, _ in near if pool[i].id != sample.id and entity in text_of(pool[i].prompt)]
            same = [agree(row.answer, sample.answer) for row in rows]
            said = [gist(row.answer) for row in rows]
            by_answer: dict[str, list[Sample]] = {}
            for row, agrees, answer in zip(rows, same, said, strict=True):
                if not agrees:
                    by_answer.setdefault(answer, []).append(row)
            agreeing = tuple(itertools.compress(rows, same))
            frequent = sorted(by_answer.items(), key=lambda item: -len(item[1]))
            for answer, found in itertools.islice(frequent, self.answers):
                nearest = said[: self.nearest]
                yield Rival(sample, tuple(found), nearest.count(answer), agreeing, sum(same[: self.nearest]))
