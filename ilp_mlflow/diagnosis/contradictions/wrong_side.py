"""Which side of a contradiction is wrong: by a judge, by what the base knows, or by the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import Belief
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import prompt_text, same_answer
from ilp_mlflow.diagnosis.attribution import WEAK_EVIDENCE
from ilp_mlflow.diagnosis.contradictions.rivals import VOTES, Rival
from ilp_mlflow.tracking import llm_judge
from ilp_mlflow.tracking.llm_judge import judge_contradiction

Side = Literal["this row", "the others", "both", "neither", "undecided"]
"""Who is wrong: the sample, the rows that contradict it, both or neither; or it is not known."""
THIS_ROW: Side = "this row"
THE_OTHERS: Side = "the others"
BOTH: Side = "both"
NEITHER: Side = "neither"
UNDECIDED: Side = "undecided"
WRONG_BY_JUDGE: dict[llm_judge.Ruling, Side] = {
    "first": THIS_ROW,
    "second": THE_OTHERS,
    "both": BOTH,
    "neither": NEITHER,
}
"""Sides by what a judge calls them, who reads the sample first."""


class Ruling(NamedTuple):
    """Which side is wrong, and who says so."""

    wrong: Side
    """The side."""
    by: str
    """Who or what ruled, in a few words."""


class Judge:
    """An MLflow judge; one that cannot be asked is not asked again."""

    def __init__(self, model: str) -> None:
        """`model` is the URI of an MLflow judge model, such as `openai:/gpt-4.1-mini`."""
        self._model = model
        self._failure = ""

    def rule(self, rival: Rival) -> Ruling:
        """What the judge says of a contradiction; undecided where it cannot be asked."""
        sample, row = rival.sample, rival.rows[0]
        questions = prompt_text(sample.prompt), prompt_text(row.prompt)
        if not self._failure:
            try:
                wrong = judge_contradiction(self._model, questions, (sample.answer, row.answer))
                return Ruling(WRONG_BY_JUDGE[wrong], "the judge")
            except PluginError as error:
                self._failure = str(error)
        return Ruling(UNDECIDED, f"nobody ({self._failure})")


def rule_without_judge(rival: Rival, belief: Belief | None, trust: Mapping[str, float]) -> Ruling:
    """What the base knows decides, where it knows anything, else the rows.

    `trust` is what a row counts by its `source`, 1 where it is not given.
    """
    # The base read about it elsewhere: a witness that no number of rows outvotes.
    if belief:
        by = "what the base knows"
        if belief.known:
            return Ruling(THE_OTHERS, by)
        believes_rival = same_answer(belief.wrong, rival.rows[0].answer)
        if belief.conflict >= WEAK_EVIDENCE and believes_rival:
            return Ruling(THIS_ROW, by)
    # Rows that surely ask the same are counted instead: near ones may ask something else.
    if rival.ground == VOTES and rival.same_question >= WEAK_EVIDENCE:
        return Ruling(THIS_ROW, "the nearest rows")
    by = "the number of rows"
    others = _weight(rival.rows, trust)
    agreeing = _weight((rival.sample, *rival.agreeing), trust)
    if others > agreeing:
        return Ruling(THIS_ROW, by)
    if others < agreeing:
        return Ruling(THE_OTHERS, by)
    return Ruling(UNDECIDED, by)


def _weight(rows: Sequence[Sample], trust: Mapping[str, float]) -> float:
    """What rows count together."""
    return sum(trust.get(row.source or "", 1.0) for row in rows)
