"""Which rows ask what a sample asks, as far as the rows and what was learned of them tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ilp_mlflow.core.interfaces import Context
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key
from ilp_mlflow.data.questions import Questions
from ilp_mlflow.diagnosis.contradictions.labels import MIN_LABEL_ROWS
from ilp_mlflow.diagnosis.contradictions.rivals import (
    EQUAL,
    WORDINGS,
    WORDS,
    AskingRow,
    answer_comparison,
)
from ilp_mlflow.diagnosis.contradictions.wordings import Wordings


@dataclass(frozen=True)
class AskedRows:
    """All rows, with what their prompts ask and how often their answers recur."""

    rows: Sequence[Sample]
    """In the order of the stages."""
    questions: Questions
    """What they ask, by place."""
    places: Mapping[str, int]
    """By id."""
    recurring: Mapping[str, int]
    """Rows by `answer_key`, of answers that recur."""

    @classmethod
    def of(cls, rows: Sequence[Sample]) -> AskedRows:
        """Read the prompts and answers of rows."""
        counts = Counter(answer_key(row.answer) for row in rows)
        return cls(
            rows=rows,
            questions=Questions([row.prompt for row in rows]),
            places={row.id: place for place, row in enumerate(rows)},
            recurring={answer: n for answer, n in counts.items() if n >= MIN_LABEL_ROWS},
        )

    def asking_the_same(self, sample: Sample) -> list[AskingRow]:
        """The rows whose prompts are the same question as a sample's."""
        place = self.places[sample.id]
        asking = []
        for other in self.questions.same_as(place):
            ground = EQUAL if self.questions.has_equal_prompt(place, other) else WORDS
            asking.append(AskingRow(self.rows[other], 1.0, ground))
        return asking

    def asking_in_other_words(
        self, samples: Sequence[Sample], context: Context
    ) -> dict[str, list[AskingRow]]:
        """Rows that ask what samples ask in wordings that are answered alike, by sample id.

        Rows whose answers do not differ are not looked for.
        """
        comparisons = {}
        for sample in samples:
            comparisons[self.places[sample.id]] = answer_comparison(sample, self.recurring)

        def are_rivals(place: int, other: int) -> bool:
            is_new = not self.questions.is_same(place, other)
            return is_new and comparisons[place](self.rows[other]) == "different"

        wordings = Wordings(self.rows, self.questions, context)
        found = {}
        for place, alike in wordings.same_as(list(comparisons), are_rivals).items():
            asking = []
            for other, probability in alike.items():
                asking.append(AskingRow(self.rows[other], probability, WORDINGS))
            found[self.rows[place].id] = asking
        return found
