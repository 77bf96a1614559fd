"""Other rows answer the same question differently, and the model follows them."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from ilp_mlflow import (
    Context,
    Evidence,
    PluginError,
    Sample,
    Value,
    agree,
    answered,
    gist,
    ruling,
    same_prompt,
    shown,
    similar,
    text_of,
)

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
    usual: float
    """Share 0..1 of all rows that have it."""
    equal: bool
    """A row with it has the sample's very prompt."""


class DataContradiction(Value):
    """Looks among the rows with similar prompts for other answers, and asks the models whether it is the same question."""

    neighbours: int = Field(default=64, ge=1)
    """Similar rows looked at."""
    nearest: int = Field(default=10, ge=1)
    """Of those, the ones whose answers are counted."""
    similar: float = Field(default=0.3, ge=0, le=1)
    """Cosine of two prompts from which they may ask the same."""
    answers: int = Field(default=3, ge=1)
    """Other answers of a sample the models are asked about."""
    strangers: int = Field(default=8, ge=1)
    """Unrelated prompts that show how readily the base gives an answer to anything."""
    trust: dict[str, float] = Field(default_factory=dict)
    """What a row counts when it is voted which side is wrong, by its `source`; 1 unless given."""
    judge: str | None = None
    """MLflow judge model URI, such as `openai:/gpt-4.1-mini`, to rule which side is wrong instead; one call per contradiction."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples whose question other rows answer with something that says neither the same nor merely more.

        Where the prompt tells what a sample asks about, only rows about the same are looked at. The strength is the product of two
        probabilities: that it is the same question, and that the last checkpoint, having to choose, answers like the others. The
        first is 1 for equal prompts, else the probability that the base answers the other row's prompt with this sample's answer,
        as far as it is above that for unrelated prompts. Where the base cannot be asked in other ways, since prompts are not made
        from templates, the nearest rows vote too: those with the other answer, as a share of those with either and two more, as
        far as it is above the answer's share of all rows.
        """
        rivals, believed = list(self._rivals(unlearned, context)), context.beliefs()
        base, last = context.checkpoints[0].name, context.checkpoints[-1].name
        same = context.probe.logprobs(base, [(r.rows[0].prompt, answered(r.rows[0].completion, r.sample.answer)) for r in rivals])
        theirs = context.probe.logprobs(last, [(r.sample.prompt, answered(r.sample.completion, r.rows[0].answer)) for r in rivals])
        ours = context.probe.logprobs(last, [(r.sample.prompt, r.sample.completion) for r in rivals])
        anyway = self._anyway({r.sample.answer.strip() for r in rivals}, context)
        found: dict[str, Evidence] = {}
        strongest: dict[str, Rival] = {}
        for rival, agreed, other, own in zip(rivals, same, theirs, ours, strict=True):
            if math.isnan(other - own):
                continue  # the model cannot be asked which it follows
            sample, row = rival.sample, rival.rows[0]
            vote = 0.0 if sample.id in believed else _above(rival.votes / (rival.votes + rival.own + 2), rival.usual)
            said = 0.0 if math.isnan(agreed) else _above(math.exp(min(agreed, 0.0)), anyway[sample.answer.strip()])
            question = 1.0 if rival.equal else max(vote, said)
            pull = 1 / (1 + math.exp(min(own - other, 700.0)))
            strength = question * pull
            if sample.id in found and found[sample.id].strength >= strength:
                continue
            strongest[sample.id] = rival
            others = f"{len(rival.rows)} similar rows say" if len(rival.rows) > 1 else "a similar row says"
            found[sample.id] = Evidence(
                cause="data_contradiction",
                strength=strength,
                reason=f"'{shown(sample.prompt)}' is to be '{shown(sample.answer)}', but {others} '{shown(row.answer)}', "
                f"such as '{row.id}': '{shown(row.prompt)}'; the model chooses theirs with probability {pull:.2f}",
                details={"rows": [r.id for r in rival.rows], "same_question": question, "pull": pull},
            )
        return {id_: self._ruled(evidence, strongest[id_], context) for id_, evidence in found.items()}

    def _ruled(self, evidence: Evidence, rival: Rival, context: Context) -> Evidence:
        """The evidence with the side that is wrong, and by whom: of rows, only those that ask the same are counted."""
        if evidence.strength < JUDGED:
            return evidence
        by, side, sample, row = "the number of rows", "undecided", rival.sample, rival.rows[0]
        if self.judge:
            try:
                said = ruling(self.judge, (text_of(sample.prompt), text_of(row.prompt)), (sample.answer, row.answer))
                by, side = "the judge", {"first": THIS, "second": OTHERS}.get(said, said)
            except PluginError as error:
                by = f"nobody: {error}"
        elif rival.equal or sample.id in context.beliefs():
            more = self._weight(rival.rows) - self._weight((sample, *rival.agreeing))
            side = THIS if more > 0 else OTHERS if more < 0 else side
        details = evidence.details | {"wrong": side, "by": by}
        return evidence.model_copy(update={"reason": f"{evidence.reason}; wrong, by {by}: {side}", "details": details})

    def _weight(self, rows: Sequence[Sample]) -> float:
        return sum(self.trust.get(row.source or "", 1.0) for row in rows)

    def _anyway(self, answers: set[str], context: Context) -> dict[str, float]:
        """Mean probability 0..1 of each of `answers` in the base, asked something unrelated."""
        rows = list(context.samples.values())
        some = random.Random(len(rows)).sample(rows, min(self.strangers, len(rows)))
        asked = {answer: [row for row in some if not agree(row.answer, answer)] for answer in sorted(answers)}
        exchanges = [(row.prompt, answered(row.completion, answer)) for answer, own in asked.items() for row in own]
        sure = iter(context.probe.logprobs(context.checkpoints[0].name, exchanges))
        found = {}
        for answer, own in asked.items():
            read = [math.exp(min(x, 0.0)) for x in itertools.islice(sure, len(own)) if not math.isnan(x)]
            found[answer] = sum(read) / len(read) if read else 0.0
        return found

    def _rivals(self, unlearned: Sequence[Sample], context: Context) -> Iterator[Rival]:
        pool, believed = list(context.samples.values()), context.beliefs()
        all_rows = Counter(gist(row.answer) for row in pool)
        for sample, near in zip(unlearned, similar(unlearned, pool, self.neighbours, self.similar), strict=True):
            entity, asked = believed[sample.id].entity if sample.id in believed else "", same_prompt(sample.prompt)
            about = re.compile(rf"(?<!\w){re.escape(entity)}(?!\w)" if entity else "", re.IGNORECASE)
            others = (pool[i] for i, _ in near if pool[i].id != sample.id)
            rows = [row for row in others if about.search(text_of(row.prompt)) or same_prompt(row.prompt) == asked]
            same = [agree(row.answer, sample.answer) for row in rows]
            said = [gist(row.answer) for row in rows]
            by_answer: dict[str, list[Sample]] = {}
            for row, agrees, answer in zip(rows, same, said, strict=True):
                if not agrees:
                    by_answer.setdefault(answer, []).append(row)
            agreeing, own = tuple(itertools.compress(rows, same)), sum(same[: self.nearest])
            frequent = sorted(by_answer.items(), key=lambda item: -len(item[1]))
            for answer, found in itertools.islice(frequent, self.answers):
                equal = bool(asked) and any(same_prompt(row.prompt) == asked for row in found)
                votes, usual = said[: self.nearest].count(answer), all_rows[answer] / len(pool)
                yield Rival(sample, tuple(found), votes, agreeing, own, usual, equal)


def _above(probability: float, usual: float) -> float:
    """How far a probability 0..1 is above what is usual, as a share of what it could be."""
    return max(0.0, (probability - usual) / (1 - usual)) if usual < 1 else 0.0
