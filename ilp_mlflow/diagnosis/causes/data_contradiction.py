"""Other rows answer the same question differently, and the model follows them."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from ilp_mlflow.diagnosis.neighbour_votes import Neighbours, NeighbourVotes
from ilp_mlflow.plugin import (
    MIN_TAUGHT_SHARE,
    Belief,
    Context,
    Evidence,
    PluginError,
    Sample,
    Value,
    answer_key,
    excerpt,
    judge_contradiction,
    prompt_key,
    prompt_text,
    same_answer,
    similar_rows,
    with_answer,
)

THIS, OTHERS = "this row", "the others"
"""Which side is wrong."""
SHORT = 60
"""Characters of the longest answer the base is asked for: longer ones it gives to nothing, word for word."""
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
    few: int = Field(default=10, ge=0)
    """Rows of a stage below which only equal prompts contradict each other: what is near is told from rows that are not."""
    taught: float = Field(default=MIN_TAUGHT_SHARE, ge=0, le=1)
    """Share 0..1 of its own rows that a stage must have taught; else a model's answers tell nothing of rows with other prompts."""
    unlike: float = Field(default=0.1, ge=0, le=1)
    """Share 0..1 of rows that may share fewer words with the nearest of their own answer than a row that is heard shares."""
    trust: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    """What a row counts in votes, by its `source`; 1 unless given."""
    judge: str | None = None
    """MLflow judge model URI, such as `openai:/gpt-4.1-mini`, to rule which side is wrong instead; one call per contradiction."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples whose question other rows answer with something that says neither the same nor merely more.

        Where the prompt tells what a sample asks about, only rows about the same are looked at. The strength is the product of two
        probabilities: that it is the same question, and that the last checkpoint, having to choose, answers like the others. The
        first is 1 for equal prompts, else the probability that the base answers the other row's prompt with this sample's answer,
        as far as it is above that for unrelated prompts. Where prompts do not tell, the nearest rows vote too, see `NeighbourVotes`: near by
        the mean of two cosines, of their words and of what the last checkpoint makes of them (deep nearest neighbours, Bahri et al.
        2020). The second is of all answers, each as far as its rows ask the same.
        """
        rivals = list(self._rivals([s for s in unlearned if s.id in context.asked], context))
        base, last = context.checkpoints[0].name, context.checkpoints[-1].name
        theirs = context.probe.logprobs(
            last,
            [(r.sample.prompt, with_answer(r.sample.completion, r.rows[0].answer)) for r in rivals],
        )
        ours = context.probe.logprobs(
            last, [(r.sample.prompt, r.sample.completion) for r in rivals]
        )
        by_sample: dict[str, list[Rival]] = {}
        odds: dict[int, float] = {}
        for rival, other, own in zip(rivals, theirs, ours, strict=True):
            if not math.isnan(other - own):  # else the model cannot be asked which it follows
                odds[id(rival)] = _odds(
                    other, own, rival.rows[0].answer.strip(), rival.sample.answer.strip()
                )
                by_sample.setdefault(rival.sample.id, []).append(rival)
        first = [
            r
            for some in by_sample.values()
            for r in sorted(some, key=lambda r: -odds[id(r)])[: self.asked]
        ]
        drawn = [r for r in first if not r.equal and len(r.sample.answer) <= SHORT]
        said = context.probe.logprobs(
            base,
            [(r.rows[0].prompt, with_answer(r.rows[0].completion, r.sample.answer)) for r in drawn],
        )
        anyway = self._anyway({r.sample.answer.strip() for r in drawn}, context)
        same = {id(r): 1.0 if r.equal else r.vote for r in rivals}
        for rival, agreed in zip(drawn, said, strict=True):
            if not math.isnan(agreed):
                above = _above(math.exp(min(agreed, 0.0)), anyway[rival.sample.answer.strip()])
                same[id(rival)] = max(same[id(rival)], above)
        judge = _Judge(self.judge) if self.judge else None
        found: dict[str, Evidence] = {}
        for id_, some in by_sample.items():
            # how much more readily it answers like rows that ask the same than like the sample
            drawn_to = sum(same[id(r)] * odds[id(r)] for r in some)
            rival = max(some, key=lambda r: (same[id(r)] * odds[id(r)], same[id(r)]))
            evidence = self._evidence(rival, same[id(rival)], drawn_to / (1 + drawn_to))
            believed = context.beliefs().get(id_)
            found[id_] = (
                evidence
                if evidence.strength < JUDGED
                else self._ruled(evidence, rival, judge, believed)
            )
        return found

    def _evidence(self, rival: Rival, same: float, pull: float) -> Evidence:
        sample, row = rival.sample, rival.rows[0]
        others = (
            f"{len(rival.rows)} similar rows say" if len(rival.rows) > 1 else "a similar row says"
        )
        return Evidence(
            cause="data_contradiction",
            strength=same * pull,
            reason=f"'{excerpt(sample.prompt)}' is to be '{excerpt(sample.answer)}', but {others} '{excerpt(row.answer)}', "
            f"such as '{row.id}': '{excerpt(row.prompt)}'; the model goes with such rows with probability {pull:.2f}",
            details={"rows": [r.id for r in rival.rows], "same_question": same, "pull": pull},
        )

    def _ruled(
        self, evidence: Evidence, rival: Rival, judge: _Judge | None, belief: Belief | None
    ) -> Evidence:
        """The evidence with the side that is wrong, and by whom; none is left where a judge finds neither wrong.

        A judge rules, else what the base knows (it read about it elsewhere), else the rows themselves.
        """
        by, side = "the number of rows", "undecided"
        if judge:
            by, side = judge.rule(rival)
        elif belief and belief.known:
            by, side = "what the base knows", OTHERS
        elif (
            belief and belief.conflict >= JUDGED and same_answer(belief.wrong, rival.rows[0].answer)
        ):
            by, side = "what the base knows", THIS
        elif rival.vote >= JUDGED and not rival.equal:
            by, side = "the nearest rows", THIS
        else:
            more = self._weight(rival.rows) - self._weight((rival.sample, *rival.agreeing))
            side = THIS if more > 0 else OTHERS if more < 0 else side
        details = evidence.details | {"wrong": side, "by": by}
        strength = 0.0 if side == "neither" else evidence.strength
        reason = f"{evidence.reason}; wrong, by {by}: {side}"
        return evidence.model_copy(
            update={"strength": strength, "reason": reason, "details": details}
        )

    def _weight(self, rows: Sequence[Sample]) -> float:
        return sum(self.trust.get(row.source or "", 1.0) for row in rows)

    def _anyway(self, answers: set[str], context: Context) -> dict[str, float]:
        """Mean probability 0..1 of each of `answers` in the base, asked something unrelated."""
        rows = list(context.samples.values())
        some = random.Random(len(rows)).sample(rows, min(self.strangers, len(rows)))
        asked = {
            answer: [row for row in some if not same_answer(row.answer, answer)]
            for answer in sorted(answers)
        }
        exchanges = [
            (row.prompt, with_answer(row.completion, answer))
            for answer, own in asked.items()
            for row in own
        ]
        sure = iter(context.probe.logprobs(context.checkpoints[0].name, exchanges))
        found = {}
        for answer, own in asked.items():
            read = [
                math.exp(min(x, 0.0)) for x in itertools.islice(sure, len(own)) if not math.isnan(x)
            ]
            found[answer] = sum(read) / len(read) if read else 0.0
        return found

    def _rivals(self, unlearned: Sequence[Sample], context: Context) -> Iterator[Rival]:
        pool, believed = list(context.samples.values()), context.beliefs()
        about = {s.id: believed[s.id].entity if s.id in believed else "" for s in unlearned}
        some = (
            random.Random(len(pool)).sample(pool, min(self.compared, len(pool)))
            if not all(about.values())
            else []
        )
        near, usual = list(self._near(unlearned, pool, about)), list(self._near(some, pool, {}))
        voters = self._voters(
            usual + [(sample, rows) for sample, rows in near if not about[sample.id]], context
        )
        votes = NeighbourVotes(Counter(answer_key(row.answer) for row in pool), self.trust)
        votes.calibrate(((sample, voters[sample.id], rows) for sample, rows in usual), self.unlike)
        by_prompt: dict[str, list[Sample]] = {}
        for row in pool:
            by_prompt.setdefault(prompt_key(row.prompt), []).append(row)
        by_prompt.pop("", None)
        few = {s.name for s in context.stages if len(s.samples) < self.few}
        weak = few | {stage for stage, share in context.taught.items() if share < self.taught}
        for sample, rows in near:
            asked, by_answer, agreeing = (
                prompt_key(sample.prompt),
                dict[str, list[Sample]](),
                list[Sample](),
            )
            own = voters[sample.id] if not about[sample.id] else ()
            speak = votes.against(sample, own, rows)
            heard = {row.id for row, _ in own if speak.get(answer_key(row.answer))}
            equal = [row for row in by_prompt.get(asked, ()) if row.id != sample.id]
            same = {row.id for row in equal}
            for row in (
                *equal,
                *(
                    r
                    for r, cosine in rows
                    if r.id not in same and (cosine >= self.similar or r.id in heard)
                ),
            ):
                if same_answer(row.answer, sample.answer):
                    agreeing.append(row)
                else:
                    by_answer.setdefault(answer_key(row.answer), []).append(row)
            ranked = sorted(
                by_answer.items(),
                key=lambda item: (
                    item[1][0].id not in same,
                    -speak.get(item[0], 0.0),
                    -len(item[1]),
                ),
            )
            for answer, found in itertools.islice(ranked, self.answers):
                alike = found[0].id in same  # then only rows that ask the same are counted
                if sample.stage in weak and not alike:
                    continue
                kept = [
                    [row for row in some if not alike or row.id in same]
                    for some in (found, agreeing)
                ]
                yield Rival(sample, tuple(kept[0]), tuple(kept[1]), speak.get(answer, 0.0), alike)

    def _near(
        self, samples: Sequence[Sample], pool: Sequence[Sample], about: Mapping[str, str]
    ) -> Iterator[tuple[Sample, Neighbours]]:
        """Each sample with the rows that share words with it; where it is known what it asks `about`, by id, only such."""
        for sample, near in zip(
            samples, similar_rows(samples, pool, self.neighbours, 0.0), strict=True
        ):
            rows = [(pool[i], cosine) for i, cosine in near if pool[i].id != sample.id]
            if entity := about.get(sample.id):
                named, asked = (
                    re.compile(rf"(?<!\w){re.escape(entity)}(?!\w)", re.IGNORECASE),
                    prompt_key(sample.prompt),
                )
                rows = [
                    (r, c)
                    for r, c in rows
                    if named.search(prompt_text(r.prompt)) or prompt_key(r.prompt) == asked
                ]
            yield sample, rows

    def _voters(
        self, near: Sequence[tuple[Sample, Neighbours]], context: Context
    ) -> dict[str, Neighbours]:
        """By sample, the `nearest` of its rows, in words and to the last checkpoint; in words alone if it cannot be asked."""
        prompts = list(
            dict.fromkeys(
                row.prompt for sample, rows in near for row in (sample, *(r for r, _ in rows))
            )
        )
        if not prompts:
            return {}
        states = np.asarray(context.probe.embed(context.checkpoints[-1].name, prompts))
        read = ~np.isnan(states[:, 0])
        states = states - (
            states[read].mean(axis=0) if read.any() else 0
        )  # what all prompts have in common tells nothing
        states /= np.linalg.norm(states, axis=1, keepdims=True) + 1e-9
        place = {prompt: i for i, prompt in enumerate(prompts)}
        found: dict[str, Neighbours] = {}
        for sample, rows in near:
            cosines = states[[place[row.prompt] for row, _ in rows]] @ states[place[sample.prompt]]
            both = zip(rows, cosines.tolist(), strict=True)
            alike = [
                (row, words if math.isnan(c) else max(0.0, (words + c) / 2))
                for (row, words), c in both
            ]
            found[sample.id] = sorted(alike, key=lambda pair: -pair[1])[: self.nearest]
        return found


class _Judge:
    """An MLflow judge; one that cannot be asked is not asked again."""

    def __init__(self, model: str) -> None:
        self._model, self._failed = model, ""

    def rule(self, rival: Rival) -> tuple[str, str]:
        """Who ruled, and which side is wrong."""
        sample, row = rival.sample, rival.rows[0]
        if not self._failed:
            try:
                said = judge_contradiction(
                    self._model,
                    (prompt_text(sample.prompt), prompt_text(row.prompt)),
                    (sample.answer, row.answer),
                )
                return "the judge", {"first": THIS, "second": OTHERS}.get(said, said)
            except PluginError as error:
                self._failed = str(error)
        return f"nobody ({self._failed})", "undecided"


def _odds(other: float, own: float, theirs: str, ours: str) -> float:
    """Odds of their answer over ours by log-probabilities, nats; where one begins with the other, to say 10 is not to say 1."""
    odds = math.exp(max(-50.0, min(other - own, 50.0)))
    if theirs.startswith(ours):
        return odds / (1 - odds) if odds < 1 else math.exp(50.0)
    return max(0.0, odds - 1) if ours.startswith(theirs) else odds


def _above(probability: float, usual: float) -> float:
    """How far a probability 0..1 is above what is usual, as a share of what it could be."""
    return max(0.0, (probability - usual) / (1 - usual)) if usual < 1 else 0.0
