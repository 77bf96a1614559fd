"""Solved rows that are shown to a base before it is asked: which are good examples of a kind."""

from __future__ import annotations

import random
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ilp_mlflow.core.texts import last_turn
from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.matching import answer_key
from ilp_mlflow.data.similarity import similar_rows
from ilp_mlflow.diagnosis.beliefs.kinds import Kind, bare, is_chat, without_frames
from ilp_mlflow.diagnosis.beliefs.templates import Question

MIN_SHARED_ANSWERS = 3
"""Different answers that two kinds must both have to answer alike: opposites."""
MIN_ALIKE = 0.05
"""Cosine 0..1 of two templates below which they have nothing in common."""


def plain_questions(questions: Mapping[str, Question]) -> dict[str, Question]:
    """Questions, by sample id, without the frame that some are in.

    What stands around a question ("I forgot.") would be imitated, or answered.
    """
    plain = without_frames({question.template for question in questions.values()})
    return {id_: replace(q, template=plain[q.template]) for id_, q in questions.items()}


def plain_facts(
    solved: Sequence[Sample],
    others: Sequence[Sample],
    questions: Mapping[str, Question],
    kind_of: Mapping[str, Kind],
) -> list[Sample]:
    """Of the `solved` rows those that are good examples: one for each thing that a kind asks about.

    It is the one with the shortest prompt, asked as `questions` have it, by id. Left out are things
    about which rows disagree, the `others` among them: some of their answers are wrong. Rows
    without a question all stay.
    """
    answers: dict[tuple[Kind, str], set[str]] = {}
    for row in [*solved, *others]:
        if row.id in questions:
            thing = kind_of[row.id], questions[row.id].entity.casefold()
            answers.setdefault(thing, set()).add(answer_key(row.answer))
    plainest: dict[tuple[Kind, str], Sample] = {}
    facts: list[Sample] = []
    for row in solved:
        if row.id not in questions:
            facts.append(row)
            continue
        thing = kind_of[row.id], questions[row.id].entity.casefold()
        known = plainest.get(thing)
        if len(answers[thing]) == 1 and (known is None or _length(row) < _length(known)):
            plainest[thing] = row
    for row in plainest.values():
        question = questions[row.id]
        prompt = question.about(question.entity)
        facts.append(row.model_copy(update={"prompt": prompt}))
    return facts


def _length(row: Sample) -> int:
    return len(last_turn(row.prompt))


class Candidates(NamedTuple):
    """Solved rows that may be examples for a kind of question."""

    own: Sequence[Sample]
    """Rows of the kind."""
    akin: Sequence[Sample]
    """Rows of kinds whose answers are those of its rows: an opposite is an antonym."""
    alike: Sequence[Sample]
    """Rows of the kinds with the words of its template; without a template, rows of its stage."""

    def choose(self, known: Container[str], enough: int) -> list[Sample]:
        """The rows of the kind that the base knows; all of the kind where these are not enough.

        Behind what it does not know a base says anything. Rows of kinds akin make it enough: known
        ones first, and where nothing else is left others, too. `known` are ids.
        """
        chosen = [row for row in self.own if row.id in known]
        if len(chosen) < enough:
            known_akin = [row for row in self.akin if row.id in known]
            chosen += known_akin[: enough - len(chosen)]
        if len(chosen) >= enough:
            return chosen
        rows = {row.id: row for row in [*chosen, *self.own]}
        for row in [*self.akin, *self.alike]:
            if len(rows) < enough:
                rows[row.id] = row
        return list(rows.values())


def candidates_by_kind(
    kinds: Collection[Kind],
    asked: Sequence[Sample],
    solved: Sequence[Sample],
    kind_of: Mapping[str, Kind],
    n: int,
    seed: int,
) -> dict[Kind, Candidates]:
    """The `solved` rows that may be examples for each kind: up to `n` of every sort.

    Which kinds are akin is told by the answers of `asked` and of solved rows. A template is like
    another by the words of both, the things they ask about left out.
    """
    # one order for all, so that a kind has the same examples whatever is asked beside it
    shuffled = random.Random(seed).sample(solved, len(solved))
    of_kind: dict[Kind, list[Sample]] = {}
    of_stage: dict[str, list[Sample]] = {}
    for row in shuffled:
        of_kind.setdefault(kind_of[row.id], []).append(row)
        of_stage.setdefault(row.stage, []).append(row)
    like = _most_alike([kind for kind in kinds if kind.template], shuffled, kind_of, n)
    kin = _answering_alike(kinds, [*asked, *solved], kind_of)
    candidates = {}
    for kind in kinds:
        akin = [row for row in shuffled if kind_of[row.id] in kin[kind]]
        alike = like.get(kind, of_stage.get(kind.stage, []))
        candidates[kind] = Candidates(
            of_kind.get(kind, [])[:n],
            [row for row in akin if is_chat(row) == kind.is_chat][:n],
            [row for row in alike if is_chat(row) == kind.is_chat][:n],
        )
    return candidates


def _answering_alike(
    kinds: Collection[Kind], rows: Sequence[Sample], kind_of: Mapping[str, Kind]
) -> dict[Kind, set[Kind]]:
    """For each kind with a template the others that have MIN_SHARED_ANSWERS of its answers."""
    answers: dict[Kind, set[str]] = {}
    for row in rows:
        if kind_of[row.id].template:
            answers.setdefault(kind_of[row.id], set()).add(answer_key(row.answer))
    alike = {}
    for kind in kinds:
        own = answers.get(kind, set())
        shared = {other: len(own & its) for other, its in answers.items() if other != kind}
        alike[kind] = {other for other, n in shared.items() if n >= MIN_SHARED_ANSWERS}
    return alike


def _most_alike(
    kinds: Sequence[Kind], rows: Sequence[Sample], kind_of: Mapping[str, Kind], n: int
) -> dict[Kind, list[Sample]]:
    """The `n` rows whose templates are most like that of each kind."""
    templated = [row for row in rows if kind_of[row.id].template]
    if not kinds or not templated:
        return {}
    asking = [bare(kind.template) for kind in kinds]
    pool = [bare(kind_of[row.id].template) for row in templated]
    alike = {}
    for kind, similar in zip(kinds, similar_rows(asking, pool, n, MIN_ALIKE), strict=True):
        alike[kind] = [templated[row.place] for row in similar]
    return alike
