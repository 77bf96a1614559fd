"""Other rows answer the same question differently, whatever the model makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from ilp_mlflow.core.interfaces import MIN_TAUGHT_SHARE, Context, Diagnostic
from ilp_mlflow.core.texts import Text
from ilp_mlflow.core.values import Details, Evidence, Sample
from ilp_mlflow.data.matching import excerpt, with_answer
from ilp_mlflow.diagnosis.attribution import WEAK_EVIDENCE
from ilp_mlflow.diagnosis.contradictions.asked_rows import AskedRows
from ilp_mlflow.diagnosis.contradictions.base_answers import (
    MAX_ANSWER_CHARS,
    answered_alike,
    rows_about,
)
from ilp_mlflow.diagnosis.contradictions.label_votes import (
    VoteOptions,
    find_similar,
    label_rivals,
)
from ilp_mlflow.diagnosis.contradictions.rivals import (
    BASE,
    VOTES,
    AskingRow,
    Rival,
    find_rivals,
    group_by_answer,
)
from ilp_mlflow.diagnosis.contradictions.wrong_side import (
    BOTH,
    NEITHER,
    THE_OTHERS,
    THIS_ROW,
    UNDECIDED,
    Judge,
    Ruling,
    Side,
    rule_without_judge,
)

MAX_LOG_ODDS = 50.0
"""Nats beyond which odds are cut off, so that they stay numbers."""


class ContradictionDetails(Details):
    """The rows that contradict a sample, and which side is wrong."""

    cause: ClassVar[str] = "data_contradiction"
    rows: tuple[str, ...] = ()
    """Ids of the rows with the other answer, those first that most surely ask the same."""
    same_question: float | None = None
    """Probability 0..1 that these rows ask what the sample asks."""
    ground: str = ""
    """How that is known."""
    others_win: float | None = None
    """Probability 0..1 that the last checkpoint, having to choose, answers like such rows; None
    where it was not asked."""
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
    """Looks for incompatible answers to the same question, in whatever words it is asked."""

    order: ClassVar[int] = 20
    meaning: ClassVar[str] = "other rows answer the same question with something else"
    colour: ClassVar[str] = "#d9603b"
    plant: ClassVar[str] = (
        "a right label against twelve questions for the same city with one wrong label"
    )

    neighbours: int = Field(default=64, ge=1)
    """Similar rows looked at."""
    similar: float = Field(default=0.3, ge=0, le=1)
    """Cosine of two prompts about one thing from which the base is asked whether they ask the same.
    """
    nearest: int = Field(default=20, ge=1)
    """Rows that vote on a label, however similar."""
    answers: int = Field(default=10, ge=1)
    """Other answers of a sample that models are asked about."""
    strangers: int = Field(default=8, ge=1)
    """Unrelated prompts that show how readily the base gives an answer to anything."""
    compared: int = Field(default=1000, ge=1)
    """Rows of all that show which answers are labels, and how much near rows disagree anyway."""
    taught: float = Field(default=MIN_TAUGHT_SHARE, ge=0, le=1)
    """Share 0..1 of its own rows that a stage must have taught.

    Else the nearest rows do not vote on its labels.
    """
    unlike: float = Field(default=0.1, ge=0, le=1)
    """How few words a label's rows may share with the sample and still vote.

    They must share as many as all but this share 0..1 of rows share with the nearest row of their
    own label: at 0.1, as many as nine in ten rows do.
    """
    trust: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    """What a row counts by its `source`; 1 unless given."""
    judge: str | None = None
    """MLflow judge model URI, such as `openai:/gpt-4.1-mini`, to rule which side is wrong instead.

    It is called once per contradiction, and also where answers are too long or too open for their
    words to tell whether they differ.
    """

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Evidence for samples whose question other rows answer with something incompatible.

        The strength is the probability that it is the same question, whatever the model does. Only
        of labels, which the nearest rows vote on, is it that times the probability that the last
        checkpoint, having to choose, answers like these rows.
        """
        rivals = self._rivals(unlearned, context)
        odds = _odds_by_rival(self._to_ask(rivals, context), context)
        judge = Judge(self.judge) if self.judge else None
        evidence = {}
        for id_, answers in rivals.items():
            if answers:
                strongest = max(answers, key=lambda rival: _rank(rival, odds))
                evidence[id_] = self._evidence(
                    strongest, _others_win(answers, odds), judge, context
                )
        return evidence

    def _rivals(self, unlearned: Sequence[Sample], context: Context) -> dict[str, list[Rival]]:
        """Other answers to the question of each sample, by its id.

        Where the words of prompts tell, neither the base nor the nearest rows are asked.
        """
        rows = AskedRows.of(list(context.samples.values()))
        asking = {sample.id: rows.asking_the_same(sample) for sample in unlearned}
        asked = [sample for sample in unlearned if sample.id in context.asked]
        for id_, reworded in rows.asking_in_other_words(asked, context).items():
            asking[id_] = asking[id_] + reworded
        rivals = {}
        for sample in unlearned:
            found = find_rivals(sample, asking[sample.id], rows.recurring, WEAK_EVIDENCE)
            rivals[sample.id] = found
        left = [s for s in asked if not any(r.is_incompatible for r in rivals[s.id])]
        about_things = [s for s in left if _thing(s, context)]
        for id_, found in self._told_by_base(about_things, rows, context).items():
            rivals[id_] = rivals[id_] + found
        # where a prompt tells what it asks about, near rows do not vote on that
        rest = [s for s in left if not _thing(s, context) and self._is_taught(s, context)]
        for id_, found in label_rivals(rest, context, self._vote_options()).items():
            rivals[id_] = rivals[id_] + found
        return rivals

    def _told_by_base(
        self, samples: Sequence[Sample], rows: AskedRows, context: Context
    ) -> dict[str, list[Rival]]:
        """Other answers to prompts about the same thing, as far as the base answers both alike."""
        pairs = []
        owners: list[tuple[list[AskingRow], list[AskingRow]]] = []
        for sample, similar in find_similar(samples, rows.rows, self.neighbours):
            near = [row for row, cosine in similar if cosine >= self.similar]
            about = rows_about(_thing(sample, context), near)
            asking = [AskingRow(row, 0.0, BASE) for row in about]
            grouped = group_by_answer(sample, asking, rows.recurring)
            if len(sample.answer) > MAX_ANSWER_CHARS:
                continue
            for asking_other in list(grouped.by_answer.values())[: self.answers]:
                pairs.append((sample, asking_other[0].row))
                owners.append((asking_other, grouped.agreeing))
        alike = answered_alike(pairs, context, self.strangers)
        rivals: dict[str, list[Rival]] = {}
        for (sample, _), (others, agreeing), probability in zip(pairs, owners, alike, strict=True):
            rival = Rival(
                sample=sample,
                rows=tuple(asking.row for asking in others),
                agreeing=tuple(asking.row for asking in agreeing),
                same_question=probability,
                ground=BASE,
            )
            rivals.setdefault(sample.id, []).append(rival)
        return rivals

    def _is_taught(self, sample: Sample, context: Context) -> bool:
        """Whether the sample's stage taught enough for its nearest rows to vote."""
        return context.taught.get(sample.stage, 1.0) >= self.taught

    def _vote_options(self) -> VoteOptions:
        return VoteOptions(self.neighbours, self.nearest, self.compared, self.unlike, self.trust)

    def _to_ask(self, rivals: Mapping[str, Sequence[Rival]], context: Context) -> list[Rival]:
        """The rivals that the last checkpoint is asked about."""
        to_ask: list[Rival] = []
        for id_, answers in rivals.items():
            if id_ in context.asked:
                to_ask += answers[: self.answers]
        return to_ask

    def _evidence(
        self, rival: Rival, others_win: float | None, judge: Judge | None, context: Context
    ) -> Evidence:
        """The evidence that the strongest rival of a sample gives, ruled unless it is weak."""
        details = ContradictionDetails(
            rows=tuple(row.id for row in rival.rows),
            same_question=rival.same_question,
            ground=rival.ground,
            others_win=others_win,
        )
        strength = rival.same_question
        if rival.ground == VOTES:
            strength *= others_win or 0.0
        reason = _reason(rival, others_win)
        if not rival.is_incompatible and judge is None:
            strength = 0.0
            reason += "; both may say the same in other words, which a `judge` can tell"
        if strength >= WEAK_EVIDENCE:
            ruling = self._rule(rival, judge, context)
            details = details.model_copy(update={"wrong": ruling.wrong, "by": ruling.by})
            reason = f"{reason}; wrong, by {ruling.by}: {ruling.wrong}"
            if ruling.wrong == NEITHER or (ruling.wrong == UNDECIDED and not rival.is_incompatible):
                # Then each is right for its question, and there is no contradiction.
                strength = 0.0
        return Evidence(cause=details.cause, strength=strength, reason=reason, details=details)

    def _rule(self, rival: Rival, judge: Judge | None, context: Context) -> Ruling:
        """Which side of a contradiction is wrong."""
        if judge:
            return judge.rule(rival)
        return rule_without_judge(rival, context.beliefs().get(rival.sample.id), self.trust)


def _thing(sample: Sample, context: Context) -> str:
    """What a sample asks about, where its prompt tells; else ""."""
    belief = context.beliefs().get(sample.id)
    return belief.entity if belief else ""


def _rank(rival: Rival, odds: Mapping[Rival, float]) -> tuple[bool, float, int, float]:
    """The larger, the more an answer counts among several to a sample's question."""
    drawn_to = odds.get(rival, 0.0)
    # of labels, the one counts that the model says
    same = rival.same_question * drawn_to if rival.ground == VOTES else rival.same_question
    return rival.is_incompatible, same, len(rival.rows), drawn_to


def _others_win(answers: Sequence[Rival], odds: Mapping[Rival, float]) -> float | None:
    """Probability 0..1 that the model answers like rows that ask the same as the sample.

    Of all answers, each as far as its rows do; None where the model was not asked.
    """
    if not any(rival in odds for rival in answers):
        return None
    drawn_to = sum(rival.same_question * odds.get(rival, 0.0) for rival in answers)
    return drawn_to / (1 + drawn_to)


def _reason(rival: Rival, others_win: float | None) -> str:
    """What the rival's rows say, how surely they ask the same, and how far the model follows."""
    sample, row = rival.sample, rival.rows[0]
    say = "a similar row says"
    if len(rival.rows) > 1:
        say = f"{len(rival.rows)} similar rows say"
    win = "not asked" if others_win is None else f"{others_win:.2f}"
    return (
        f"'{excerpt(sample.prompt)}' is to be '{excerpt(sample.answer)}', "
        f"but {say} '{excerpt(row.answer)}', such as '{row.id}': '{excerpt(row.prompt)}'; "
        f"same question: {rival.same_question:.2f} ({rival.ground}), the others win: {win}"
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
