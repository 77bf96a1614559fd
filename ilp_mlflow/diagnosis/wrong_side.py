"""Which side of a contradiction is wrong: by a judge, by what the base knows, or by the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from ilp_mlflow.core.errors import PluginError
from ilp_mlflow.core.interfaces import Belief
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import prompt_text, same_answer
from ilp_mlflow.diagnosis.attribution import WEAK_EVIDENCE
from ilp_mlflow.diagnosis.rivals import Rival
from ilp_mlflow.tracking.llm_judge import judge_contradiction

Side = Literal["this row", "the others", "both", "neither", "undecided"]
"""Who is wrong: the sample, the rows that contradict it, both or neither; or it is not known."""
THIS_ROW: Side = "this row"
THE_OTHERS: Side = "the others"
BOTH: Side = "both"
NEITHER: Side = "neither"
UNDECIDED: Side = "undecided"


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
        if not self._failure:
            try:
                return Ruling(self._ask(rival), "the judge")
            except PluginError as error:
                self._failure = str(error)
        return Ruling(UNDECIDED, f"nobody ({self._failure})")

    def _ask(self, rival: Rival) -> Side:
        sample, row = rival.sample, rival.rows[0]
        questions = prompt_text(sample.prompt), prompt_text(row.prompt)
        ruling = judge_contradiction(self._model, questions, (sample.answer, row.answer))
        if ruling == "first":
            return THIS_ROW
        if ruling == "second":
            return THE_OTHERS
        return ruling


def rule_without_judge(rival: Rival, belief: Belief | None, trust: Mapping[str, float]) -> Ruling:
    """What the base knows decides, where it knows anything, else the rows.

    The base read about it elsewhere: a witness that the rows cannot outvote. `trust` is what a row
    counts by its `source`, 1 where it is not given.
    """
    if belief:
        by = "what the base knows"
        if belief.known:
            return Ruling(THE_OTHERS, by)
        believes_other = same_answer(belief.wrong, rival.rows[0].answer)
        if belief.conflict >= WEAK_EVIDENCE and believes_other:
            return Ruling(THIS_ROW, by)
    # Of rows that ask the same, the votes of near rows say nothing beyond their number.
    if rival.vote >= WEAK_EVIDENCE and not rival.equal:
        return Ruling(THIS_ROW, "the nearest rows")
    return Ruling(_lighter_side(rival, trust), "the number of rows")


def _lighter_side(rival: Rival, trust: Mapping[str, float]) -> Side:
    """The side whose rows count less."""
    others = _weight(rival.rows, trust)
    agreeing = _weight((rival.sample, *rival.agreeing), trust)
    if others > agreeing:
        return THIS_ROW
    return THE_OTHERS if others < agreeing else UNDECIDED


def _weight(rows: Sequence[Sample], trust: Mapping[str, float]) -> float:
    return sum(trust.get(row.source or "", 1.0) for row in rows)
