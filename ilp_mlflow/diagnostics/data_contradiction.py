"""Other rows answer the same question differently, and the model follows them."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from ilp_mlflow import (
    Context,
    Evidence,
    Near,
    PluginError,
    Sample,
    Value,
    Votes,
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
    agreeing: tuple[Sample, ...]
    """Similar rows with the sample's answer."""
    vote: float
    """How far the nearest rows speak for this answer, 0..1."""
    equal: bool
    """A row with it has the sample's very prompt."""


class DataContradiction(Value):
    """Looks among the rows with similar prompts for other answers, and asks the models whether it is the same question."""

    neighbours: int = Field(default=64, ge=1)
    """Similar rows looked at."""
    similar: float = Field(default=0.3, ge=0, le=1)
    """Cosine of two prompts from which they may ask the same."""
    nearest: int = Field(default=20, ge=1)
    """Rows that vote, however similar."""
    answers: int = Field(default=10, ge=1)
    """Other answers of a sample the last checkpoint is asked about."""
    asked: int = Field(default=3, ge=1)
    """Of those, the ones it is most drawn to, the answers the base is asked about."""
    strangers: int = Field(default=8, ge=1)
    """Unrelated prompts that show how readily the base gives an answer to anything."""
    compared: int = Field(default=1000, ge=1)
    """Rows of all that show how much near rows disagree anyway."""
    unlike: float = Field(default=0.1, ge=0, le=1)
    """Share 0..1 of those that are farther from the nearest row with their own answer than a row with another may be."""
    trust: dict[str, float] = Field(default_factory=dict)
    """What a row counts in votes, by its `source`; 1 unless given."""
    judge: str | None = None
    """MLflow judge model URI, such as `openai:/gpt-4.1-mini`, to rule which side is wrong instead; one call per contradiction."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples whose question other rows answer with something that says neither the same nor merely more.

        Where the prompt tells what a sample asks about, only rows about the same are looked at. The strength is the product of two
        probabilities: that it is the same question, and that the last checkpoint, having to choose, answers like the others. The
        first is 1 for equal prompts, else the probability that the base answers the other row's prompt with this sample's answer,
        as far as it is above that for unrelated prompts. Where prompts do not tell, the nearest rows vote too, see `Votes`: near by
        the mean of two cosines, of their words and of what the last checkpoint makes of them (deep nearest neighbours, Bahri et al.
        2020); the second probability is then of any answer that they speak for.
        """
        rivals = list(self._rivals([s for s in unlearned if s.id in context.asked], context))
        base, last = context.checkpoints[0].name, context.checkpoints[-1].name
        theirs = context.probe.logprobs(last, [(r.sample.prompt, answered(r.sample.completion, r.rows[0].answer)) for r in rivals])
        ours = context.probe.logprobs(last, [(r.sample.prompt, r.sample.completion) for r in rivals])
        by_sample: dict[str, list[Rival]] = {}
        odds: dict[int, float] = {}
        for rival, other, own in zip(rivals, theirs, ours, strict=True):
            if not math.isnan(other - own):  # else the model cannot be asked which it follows
                odds[id(rival)] = math.exp(min(other - own, 50.0))
                by_sample.setdefault(rival.sample.id, []).append(rival)
        drawn = [r for some in by_sample.values() for r in sorted(some, key=lambda r: -odds[id(r)])[: self.asked] if not r.equal]
        said = context.probe.logprobs(base, [(r.rows[0].prompt, answered(r.rows[0].completion, r.sample.answer)) for r in drawn])
        anyway = self._anyway({r.sample.answer.strip() for r in drawn}, context)
        same = {id(r): 1.0 if r.equal else r.vote for r in rivals}
        for rival, agreed in zip(drawn, said, strict=True):
            if not math.isnan(agreed):
                above = _above(math.exp(min(agreed, 0.0)), anyway[rival.sample.answer.strip()])
                same[id(rival)] = max(same[id(rival)], above)
        found: dict[str, Evidence] = {}
        for id_, some in by_sample.items():
            heard = sum(odds[id(r)] for r in some if r.vote)
            against = {id(r): heard if r.vote else heard + odds[id(r)] for r in some}
            pulls = {key: odd / (1 + odd) for key, odd in against.items()}
            rival = max(some, key=lambda r: (same[id(r)] * pulls[id(r)], odds[id(r)]))
            found[id_] = self._ruled(self._evidence(rival, same[id(rival)], pulls[id(rival)]), rival, context)
        return found

    def _evidence(self, rival: Rival, same: float, pull: float) -> Evidence:
        sample, row = rival.sample, rival.rows[0]
        others = f"{len(rival.rows)} similar rows say" if len(rival.rows) > 1 else "a similar row says"
        return Evidence(
            cause="data_contradiction",
            strength=same * pull,
            reason=f"'{shown(sample.prompt)}' is to be '{shown(sample.answer)}', but {others} '{shown(row.answer)}', "
            f"such as '{row.id}': '{shown(row.prompt)}'; the model goes with such rows with probability {pull:.2f}",
            details={"rows": [r.id for r in rival.rows], "same_question": same, "pull": pull},
        )

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
        elif rival.vote >= JUDGED and not rival.equal:
            by, side = "the nearest rows", THIS
        else:
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
        about = {s.id: believed[s.id].entity if s.id in believed else "" for s in unlearned}
        some = random.Random(len(pool)).sample(pool, min(self.compared, len(pool))) if not all(about.values()) else []
        near, usual = list(self._near(unlearned, pool, about)), list(self._near(some, pool, {}))
        alike = self._seen(usual + [(sample, rows) for sample, rows in near if not about[sample.id]], context)
        votes = Votes(Counter(gist(row.answer) for row in pool), self.trust)
        votes.compare(alike[: len(usual)], self.unlike)
        voters = {sample.id: rows for sample, rows in alike[len(usual) :]}
        for sample, rows in near:
            asked, by_answer, agreeing = same_prompt(sample.prompt), dict[str, list[Sample]](), list[Sample]()
            speak = votes.of(sample, voters.get(sample.id, ()))
            heard = {row.id for row, _ in voters.get(sample.id, ()) if speak.get(gist(row.answer))}
            for row in [row for row, cosine in rows if cosine >= self.similar or row.id in heard]:
                if agree(row.answer, sample.answer):
                    agreeing.append(row)
                else:
                    by_answer.setdefault(gist(row.answer), []).append(row)
            frequent = sorted(by_answer.items(), key=lambda item: (-speak.get(item[0], 0.0), -len(item[1])))
            for answer, found in itertools.islice(frequent, self.answers):
                equal = bool(asked) and any(same_prompt(row.prompt) == asked for row in found)
                yield Rival(sample, tuple(found), tuple(agreeing), speak.get(answer, 0.0), equal)

    def _near(self, samples: Sequence[Sample], pool: Sequence[Sample], about: Mapping[str, str]) -> Iterator[tuple[Sample, Near]]:
        """Each sample with the rows that share words with it; where it is known what it asks `about`, by id, only such."""
        for sample, near in zip(samples, similar(samples, pool, self.neighbours, 0.0), strict=True):
            rows = [(pool[i], cosine) for i, cosine in near if pool[i].id != sample.id]
            if entity := about.get(sample.id):
                named, asked = re.compile(rf"(?<!\w){re.escape(entity)}(?!\w)", re.IGNORECASE), same_prompt(sample.prompt)
                rows = [(r, c) for r, c in rows if named.search(text_of(r.prompt)) or same_prompt(r.prompt) == asked]
            yield sample, rows

    def _seen(self, near: Sequence[tuple[Sample, Near]], context: Context) -> list[tuple[Sample, Near]]:
        """Each sample with the `nearest` of its rows, in words and to the last checkpoint; in words alone if it cannot be asked."""
        prompts = list(dict.fromkeys(row.prompt for sample, rows in near for row in (sample, *(r for r, _ in rows))))
        if not prompts:
            return []
        states = np.asarray(context.probe.embed(context.checkpoints[-1].name, prompts))
        read = ~np.isnan(states[:, 0])
        states = states - (states[read].mean(axis=0) if read.any() else 0)  # what all prompts have in common tells nothing
        states /= np.linalg.norm(states, axis=1, keepdims=True) + 1e-9
        place = {prompt: i for i, prompt in enumerate(prompts)}
        found: list[tuple[Sample, Near]] = []
        for sample, rows in near:
            cosines = states[[place[row.prompt] for row, _ in rows]] @ states[place[sample.prompt]]
            both = zip(rows, cosines.tolist(), strict=True)
            alike = [(row, words if math.isnan(c) else max(0.0, (words + c) / 2)) for (row, words), c in both]
            found.append((sample, sorted(alike, key=lambda pair: -pair[1])[: self.nearest]))
        return found


def _above(probability: float, usual: float) -> float:
    """How far a probability 0..1 is above what is usual, as a share of what it could be."""
    return max(0.0, (probability - usual) / (1 - usual)) if usual < 1 else 0.0
