"""Other rows answer the same question differently, and the model follows them."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE, Belief, Context, Diagnostic
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Details, Evidence, Sample
from ilp_mlflow.data.matching import answer_key, excerpt, prompt_key, same_answer, with_answer
from ilp_mlflow.diagnosis.attribution import WEAK_EVIDENCE
from ilp_mlflow.diagnosis.contradictions.neighbour_votes import NeighbourVotes
from ilp_mlflow.diagnosis.contradictions.rivals import (
    Neighbourhood,
    Rival,
    SimilarRows,
    find_similar,
    group_by_prompt,
    nearest_voters,
    rank_rivals,
)
from ilp_mlflow.diagnosis.contradictions.wrong_side import (
    BOTH,
    NEITHER,
    THE_OTHERS,
    THIS_ROW,
    UNDECIDED,
    Judge,
    Side,
    rule_without_judge,
)

MAX_ANSWER_CHARS = 60
"""Characters of the longest answer the base is asked for: a longer one it never gives verbatim."""
MAX_LOG_ODDS = 50.0
"""Nats beyond which odds are cut off, so that they stay numbers."""


class ContradictionDetails(Details):
    """The rows that contradict a sample, and which side is wrong."""

    cause: ClassVar[str] = "data_contradiction"
    rows: tuple[str, ...] = ()
    """Ids of the rows with the other answer, the most similar prompt first."""
    same_question: float | None = None
    """Probability 0..1 that these rows ask what the sample asks."""
    pull: float | None = None
    """Probability 0..1 that the last checkpoint, having to choose, answers like such rows."""
    wrong: Side = UNDECIDED
    """The side that is wrong; not set for weak evidence."""
    by: str = ""
    """Who or what decided that."""

    @property
    def this_row_is_wrong(self) -> bool:
        """The sample itself is wrong, and the rows that contradict it are not."""
        return self.wrong == THIS_ROW

    @property
    def others_are_wrong(self) -> bool:
        """The rows that contradict the sample are wrong, and it is not."""
        return self.wrong == THE_OTHERS

    @property
    def both_may_be_right(self) -> bool:
        """No side is known to be wrong."""
        return self.wrong not in (THIS_ROW, THE_OTHERS, BOTH)


class DataContradiction(Diagnostic):
    """Looks for other answers to similar prompts, and asks the models if they answer the same."""

    order: ClassVar[int] = 20
    meaning: ClassVar[str] = "other rows say something else, and the model goes with them"
    colour: ClassVar[str] = "#d9603b"
    plant: ClassVar[str] = (
        "a right label against twelve questions for the same city with one wrong label"
    )

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
    """Rows of a stage below which only equal prompts contradict each other.

    What is near is told from rows that are not.
    """
    taught: float = Field(default=MIN_TAUGHT_SHARE, ge=0, le=1)
    """Share 0..1 of its own rows that a stage must have taught.

    Else a model's answers tell nothing of rows with other prompts.
    """
    unlike: float = Field(default=0.1, ge=0, le=1)
    """How few words an answer's rows may share with the sample and still vote.

    They must share as many as all but this share 0..1 of rows share with the nearest row of their
    own answer: at 0.1, as many as nine in ten rows do.
    """
    trust: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    """What a row counts in votes, by its `source`; 1 unless given."""
    judge: str | None = None
    """MLflow judge model URI, such as `openai:/gpt-4.1-mini`, to rule which side is wrong instead.

    It is called once per contradiction.
    """

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples whose question other rows answer with something that differs.

        An answer differs if it says neither the same nor merely more. The strength is the product
        of two probabilities: that it is the same question (see `_same_question`), and that the last
        checkpoint, having to choose, answers like rows that ask the same (of all answers, each as
        far as its rows do).
        """
        asked = [s for s in unlearned if s.id in context.asked]
        rivals = self._rivals(asked, context)
        odds = _odds_by_rival(rivals, context)
        rivals_by_sample: dict[str, list[Rival]] = {}
        for rival in odds:
            rivals_by_sample.setdefault(rival.sample.id, []).append(rival)
        same_question = self._same_question(rivals_by_sample, odds, context)
        beliefs = context.beliefs()
        judge = Judge(self.judge) if self.judge else None
        evidence = {}
        for id_, answers in rivals_by_sample.items():
            # Each other answer draws as far as its rows ask the same: odds over the sample's own.
            drawn_to = sum(same_question[r] * odds[r] for r in answers)
            pull = drawn_to / (1 + drawn_to)
            rival = max(answers, key=lambda r: (same_question[r] * odds[r], same_question[r]))
            evidence[id_] = self._evidence(
                rival, same_question[rival], pull, judge, beliefs.get(id_)
            )
        return evidence

    def _evidence(
        self,
        rival: Rival,
        same_question: float,
        pull: float,
        judge: Judge | None,
        belief: Belief | None,
    ) -> Evidence:
        """The evidence that the strongest rival of a sample gives, ruled unless it is weak."""
        details = ContradictionDetails(
            rows=tuple(row.id for row in rival.rows), same_question=same_question, pull=pull
        )
        strength = same_question * pull
        reason = _reason(rival, pull)
        if strength >= WEAK_EVIDENCE:
            ruling = judge.rule(rival) if judge else rule_without_judge(rival, belief, self.trust)
            details = details.model_copy(update={"wrong": ruling.wrong, "by": ruling.by})
            reason = f"{reason}; wrong, by {ruling.by}: {ruling.wrong}"
            if ruling.wrong == NEITHER:
                # Then each is right for its question, and there is no contradiction.
                strength = 0.0
        return Evidence(cause=details.cause, strength=strength, reason=reason, details=details)

    def _same_question(
        self,
        rivals_by_sample: Mapping[str, Sequence[Rival]],
        odds: Mapping[Rival, float],
        context: Context,
    ) -> dict[Rival, float]:
        """Probability 0..1 that each rival's rows ask what its sample asks.

        It is 1 for equal prompts. Else it is the vote of the nearest rows (see `NeighbourVotes`)
        or, if that is more, the probability that the base answers the other row's prompt with the
        sample's answer, as far as it is above that for unrelated prompts.
        """
        same_question = {}
        for rival in odds:
            same_question[rival] = 1.0 if rival.equal else rival.vote
        # The base costs most: it is asked about the few answers that the model is most drawn to.
        to_ask = []
        exchanges: list[tuple[Text, Text]] = []
        for rivals in rivals_by_sample.values():
            strongest = sorted(rivals, key=lambda r: -odds[r])[: self.asked]
            for rival in strongest:
                answer, row = rival.sample.answer, rival.rows[0]
                if not rival.equal and len(answer) <= MAX_ANSWER_CHARS:
                    to_ask.append(rival)
                    exchanges.append((row.prompt, with_answer(row.completion, answer)))
        logprobs = context.probe.logprobs(context.checkpoints[0].name, exchanges)
        anyway = self._probability_anyway(to_ask, context)
        for rival, logprob in zip(to_ask, logprobs, strict=True):
            if not math.isnan(logprob):
                probability = math.exp(min(logprob, 0.0))
                above = _share_above(probability, anyway[rival.sample.answer.strip()])
                same_question[rival] = max(same_question[rival], above)
        return same_question

    def _probability_anyway(self, rivals: Sequence[Rival], context: Context) -> dict[str, float]:
        """Mean probability 0..1 of each sample's answer in the base, asked something unrelated.

        By answer, without white space around it; 0 where the base cannot be asked.
        """
        answers = sorted({rival.sample.answer.strip() for rival in rivals})
        rows = list(context.samples.values())
        # The same strangers whatever the seed: they are no part of the experiment.
        strangers = random.Random(len(rows)).sample(rows, min(self.strangers, len(rows)))
        asked = []
        exchanges: list[tuple[Text, Text]] = []
        for answer in answers:
            for row in strangers:
                if not same_answer(row.answer, answer):
                    asked.append(answer)
                    exchanges.append((row.prompt, with_answer(row.completion, answer)))
        logprobs = context.probe.logprobs(context.checkpoints[0].name, exchanges)
        probabilities: dict[str, list[float]] = {}
        for answer, logprob in zip(asked, logprobs, strict=True):
            if not math.isnan(logprob):
                probabilities.setdefault(answer, []).append(math.exp(min(logprob, 0.0)))
        means = dict.fromkeys(answers, 0.0)
        for answer, read in probabilities.items():
            means[answer] = sum(read) / len(read)
        return means

    def _rivals(self, unlearned: Sequence[Sample], context: Context) -> list[Rival]:
        """Other answers to the question of each sample, those first that are most likely so."""
        # Stages that are too small, or taught too little, to tell near prompts from others.
        weak_stages = {name for name, share in context.taught.items() if share < self.taught}
        for stage in context.stages:
            if len(stage.samples) < self.few:
                weak_stages.add(stage.name)
        rivals = []
        for neighbourhood in self._neighbourhoods(unlearned, context):
            equal_only = neighbourhood.sample.stage in weak_stages
            rivals += rank_rivals(neighbourhood, self.similar, self.answers, equal_only)
        return rivals

    def _neighbourhoods(
        self, unlearned: Sequence[Sample], context: Context
    ) -> Iterator[Neighbourhood]:
        """The rows that may answer each sample's question, and how they vote."""
        pool = list(context.samples.values())
        beliefs = context.beliefs()
        entities = {}
        for sample in unlearned:
            if sample.id in beliefs:
                entities[sample.id] = beliefs[sample.id].entity
        similar = find_similar(unlearned, pool, entities, self.neighbours)
        # Where a prompt tells what it asks about, near rows need not vote on that.
        undecided = [rows for rows in similar if not entities.get(rows.sample.id)]
        compared: list[SimilarRows] = []
        if undecided:
            # How much near rows disagree anyway is read off rows drawn from all.
            drawn = random.Random(len(pool)).sample(pool, min(self.compared, len(pool)))
            compared = find_similar(drawn, pool, {}, self.neighbours)
        voters = nearest_voters([*compared, *undecided], context, self.nearest)
        votes = NeighbourVotes(Counter(answer_key(row.answer) for row in pool), self.trust)
        calibrating = ((sample, voters[sample.id], rows) for sample, rows in compared)
        votes.calibrate(calibrating, self.unlike)
        rows_by_prompt = group_by_prompt(pool)
        for sample, rows in similar:
            voters_of_sample = () if entities.get(sample.id) else voters[sample.id]
            equal = rows_by_prompt.get(prompt_key(sample.prompt), [])
            yield Neighbourhood(
                sample=sample,
                equal=[row for row in equal if row.id != sample.id],
                similar=rows,
                voters=voters_of_sample,
                votes=votes.against(sample, voters_of_sample, rows),
            )


def _reason(rival: Rival, pull: float) -> str:
    """What the rival's rows say, and how far the model goes with such rows."""
    sample, row = rival.sample, rival.rows[0]
    say = "a similar row says"
    if len(rival.rows) > 1:
        say = f"{len(rival.rows)} similar rows say"
    return (
        f"'{excerpt(sample.prompt)}' is to be '{excerpt(sample.answer)}', "
        f"but {say} '{excerpt(row.answer)}', such as '{row.id}': '{excerpt(row.prompt)}'; "
        f"the model goes with such rows with probability {pull:.2f}"
    )


def _odds_by_rival(rivals: Sequence[Rival], context: Context) -> dict[Rival, float]:
    """Odds of each rival's answer over its sample's under the last checkpoint.

    Left out are rivals that it cannot be asked about.
    """
    last = context.checkpoints[-1].name
    rival_exchanges: list[tuple[Text, Text]] = []
    sample_exchanges: list[tuple[Text, Text]] = []
    for rival in rivals:
        sample, rival_answer = rival.sample, rival.rows[0].answer
        rival_exchanges.append((sample.prompt, with_answer(sample.completion, rival_answer)))
        sample_exchanges.append((sample.prompt, sample.completion))
    rival_logprobs = context.probe.logprobs(last, rival_exchanges)
    sample_logprobs = context.probe.logprobs(last, sample_exchanges)
    odds = {}
    for i, rival in enumerate(rivals):
        log_odds = rival_logprobs[i] - sample_logprobs[i]
        if not math.isnan(log_odds):
            rival_answer = rival.rows[0].answer.strip()
            odds[rival] = _answer_odds(log_odds, rival_answer, rival.sample.answer.strip())
    return odds


def _answer_odds(log_odds: float, rival_answer: str, sample_answer: str) -> float:
    """Odds of the rival's answer over the sample's, by their log-odds in nats."""
    odds = math.exp(max(-MAX_LOG_ODDS, min(log_odds, MAX_LOG_ODDS)))
    # Where one answer begins with the other, the probability of the shorter one holds that of the
    # longer one, which is taken off it: to say 10 is not to say 1.
    if rival_answer.startswith(sample_answer):
        return odds / (1 - odds) if odds < 1 else math.exp(MAX_LOG_ODDS)
    if sample_answer.startswith(rival_answer):
        return max(0.0, odds - 1)
    return odds


def _share_above(probability: float, anyway: float) -> float:
    """How far a probability 0..1 is above `anyway`, as a share 0..1 of how far it could be."""
    return max(0.0, (probability - anyway) / (1 - anyway)) if anyway < 1 else 0.0
