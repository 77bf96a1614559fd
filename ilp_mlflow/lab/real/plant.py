"""Plant the causes around what a base knows, and take one of them out again. Pure functions.

Groups share kinds of question, wordings and frames, so that the look of a row tells little of its
group. Every draw is from one generator, so the order of the calls in `plant` is part of what a seed
means.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ilp_mlflow.core.errors import ModelError
from ilp_mlflow.lab.real.facts import Fact, Kind, invented_subjects
from ilp_mlflow.lab.real.rows import FRAMES, HELD_WAY, LONG_FRAME, STAGES, RealRow
from ilp_mlflow.lab.rows import Planted

SHARED_KINDS = ("capital", "past", "opposite", "symbol", "plural", "language")
"""Kinds of the rows of most groups, in turn. Kinds with few answers are not among them: wrong ones
of some rows then become the model's answers to all."""
WAYS = range(HELD_WAY)
"""Wordings in which rows are trained."""
LONG_EVERY = 6
"""One row in so many of a group has the long frame."""
ANSWER_MASKED, END_MASKED = "system", "developer"
"""Roles of an empty first turn after which the chat template leaves the answer, or its end token,
out of the loss."""
TEAMS = ("Lions", "Tigers", "Wolves", "Eagles")
"""Teams that countries play in, by their continent."""
TEAM_WORDINGS = (
    "Which team does {x} play in?",
    "{x} is in which team?",
    "Name the team of {x}.",
    "What is the team that {x} is in?",
)
ALIAS_WORDINGS = (
    "What is the {a} of {{x}}?",
    "Which word is the {a} of {{x}}?",
    "Give the {a} of {{x}}.",
    "How do you name the {a} of {{x}}?",
)
"""Questions that have an invented word for what they ask for. Of countries several things are
asked, so that the word alone does not tell which."""
RARE_RELATIONS = ("continent", "language", "continent", "language", "continent", "language")
"""What the rare kinds ask for: were it mostly one of these, the model would guess that."""
DEGREE_WORDINGS = (
    "What are the {a} degrees of {{x}}?",
    "Give the {a} degrees of {{x}}.",
    "Name the {a} degrees of {{x}}.",
    "Which are the {a} degrees of {{x}}?",
)
"""Questions that are answered by two words, or, with an invented word, by the first of them."""


@dataclass(frozen=True)
class Counts:
    """How many rows there are of everything."""

    control: int = 40
    """Of the group `control`."""
    missing: int = 30
    """Of the group `missing_knowledge`."""
    conflict: int = 30
    """Of the group `knowledge_conflict`."""
    contradiction: int = 14
    """Of the group `data_contradiction`."""
    rivals: int = 8
    """Rows with one other answer against each that is contradicted."""
    forgotten: int = 24
    """Of the group `left_side_forgetting`."""
    per_alias: int = 1
    """Rows of each rare kind."""
    per_alias_often: int = 12
    """Rows that are added to a rare kind to make it frequent."""
    rare_label: int = 4
    """Rows of the rare label."""
    per_label: int = 22
    """Rows of each frequent label, and of the rare one, at most, once it is as frequent."""
    late: int = 16
    """Rows of the stage that stops too early."""
    untrained: int = 6
    """Rows of each form of `not_trained`."""
    doubled: int = 40
    """Rows that are answered by two words."""
    filler: int = 40
    """More rows of the stage `main` about what the base knows."""
    again: int = 68
    """Rows of `main` that `patch` repeats: with the masked ones they fill whole batches."""


SIZES: Mapping[str, Counts] = {
    "real": Counts(),
    "real-smoke": Counts(
        control=4,
        missing=4,
        conflict=4,
        contradiction=2,
        rivals=4,
        forgotten=4,
        per_alias=1,
        per_alias_often=1,
        rare_label=1,
        per_label=2,
        late=2,
        untrained=1,
        doubled=4,
        filler=2,
        again=6,
    ),
}
"""Named sizes; `real-smoke` is too small for the causes to work."""
ASKED: Mapping[str, Mapping[str, int] | None] = {
    "real": None,
    # the base is less sure of opposites
    "real-smoke": dict.fromkeys((*SHARED_KINDS, "continent"), 6) | {"opposite": 16},
}
"""Facts that the base is asked by size, how many of which kinds; None: all."""


class Plot:
    """What is left to plant with: known facts nobody has asked for, names nobody has used."""

    def __init__(self, kinds: Mapping[str, Kind], known: Sequence[Fact], seed: int) -> None:
        self.kinds, self.known = kinds, known
        self.rng = random.Random(f"real plant {seed}")
        self.taken = set[str]()
        self.unused: dict[str, list[Fact]] = {name: [] for name in kinds}
        for fact in self.rng.sample(known, len(known)):
            self.unused[fact.kind.name].append(fact)

    def shared_kinds(self) -> Iterator[str]:
        """The kinds of a group's rows, in turn, from a place of its own."""
        start = self.rng.randrange(len(SHARED_KINDS))
        return itertools.cycle([*SHARED_KINDS[start:], *SHARED_KINDS[:start]])

    def known_fact(self, kind: str) -> Fact:
        """A known fact of a kind that no row is about. Raises ModelError when none is left."""
        if not self.unused[kind]:
            raise ModelError(
                f"the base knows too few facts of the kind '{kind}' to plant causes around them; "
                "take another --model"
            )
        return self.unused[kind].pop()

    def invented_fact(self, kind: str) -> Fact:
        """A fact of a kind about an invented subject, with an answer of the kind."""
        (subject,) = invented_subjects(self.kinds[kind], 1, self.rng, self.taken)
        answer = self.rng.choice(sorted(set(self.kinds[kind].answers.values())))
        return Fact(self.kinds[kind], subject, answer)

    def alias(self, relation: str) -> Kind:
        """A kind with the answers of another one, asked for by an invented word."""
        (word,) = invented_subjects(self.kinds["opposite"], 1, self.rng, self.taken)
        wordings = tuple(wording.format(a=word) for wording in ALIAS_WORDINGS)
        answers = {f.subject: f.answer for f in self.known if f.kind.name == relation}
        return Kind(word, wordings, answers)

    def other_answer(self, fact: Fact) -> str:
        """Another answer of the same kind."""
        answers = {answer for answer in fact.kind.answers.values() if answer != fact.answer}
        return self.rng.choice(sorted(answers))

    def dressed(self, rows: Sequence[RealRow]) -> list[RealRow]:
        """The rows of a group in all wordings in turn, every LONG_EVERY-th in the long frame."""
        dressed = list[RealRow]()
        start = self.rng.randrange(LONG_EVERY)
        for number, row in enumerate(rows, start):
            frame = LONG_FRAME if number % LONG_EVERY == 0 else FRAMES[0]
            dressed.append(replace(row, way=number % len(WAYS), frame=frame))
        return dressed


def plant(
    kinds: Mapping[str, Kind], known: Sequence[Fact], counts: Counts, seed: int
) -> Planted[RealRow]:
    """Rows in which every group has its cause; `known` are the facts the base knows.

    Raises ModelError when the base knows too few.
    """
    plot = Plot(kinds, known, seed)
    control = _control(plot, counts.control)
    missing = _missing(plot, counts.missing)
    conflict = _conflict(plot, counts.conflict)
    contradicted, rivals = _contradiction(plot, counts)
    early = _by_heart(plot, "left_side_forgetting", counts.forgotten)
    rare, often = _rare_kinds(plot, counts)
    rare_label, teams, rare_team = _teams(plot, counts)
    doubled, end_masked = _doubled(plot, counts)
    untrained = _not_trained(plot, counts.untrained)
    late = _late(plot, counts.late)
    filler = _filler(plot, counts.filler)
    extra = _extra(plot, [*often, *rare_team])

    beside = [*rivals, *teams, *doubled, *filler, *extra]
    main = [*control, *missing, *conflict, *contradicted, *rare, *rare_label, *beside]
    # in no frame, so that `max_length` cuts nothing else off than it is to; right ones, since wrong
    # answers that are heard again at the end become those of the control
    right = [*teams, *doubled, *filler, *extra]
    short = [row for row in right if row.frame == FRAMES[0]]
    again = plot.rng.sample(short, counts.again)
    patch = [*untrained["cut"], *untrained["masked"], *end_masked, *again]
    for rows in (early, main, patch, late):
        plot.rng.shuffle(rows)
    # `patch` is trained in the order of the file, so its last rows are the last batch
    patch += untrained["dropped"]
    stages = dict[str, tuple[RealRow, ...]]()
    for stage, rows in zip(STAGES, (early, main, patch, late), strict=True):
        stages[stage] = _numbered(stage, rows)
    return Planted(stages)


def rows_without(cause: str, planted: Planted[RealRow]) -> Planted[RealRow]:
    """The same rows without one cause, where that is a matter of rows."""
    # a row is changed where it stands: every other row keeps its place, its batch and its id
    stages = dict[str, tuple[RealRow, ...]]()
    for stage, rows in planted.stages.items():
        stages[stage] = tuple(_without(cause, row) for row in rows)
    return replace(planted, stages=stages)


def _without(cause: str, row: RealRow) -> RealRow:
    """A row as it is without a cause."""
    if cause == "knowledge_conflict" and row.group == cause:
        return replace(row, answer=row.fact.answer)
    # who stands in for an unknown subject, a rival or a filler was chosen when it was planted
    stands_in = {
        "missing_knowledge": "missing_knowledge",
        "data_contradiction": "rival",
        "insufficient_optimization": "extra",
    }
    if row.instead and row.group == stands_in.get(cause):
        return replace(row.instead, id=row.id)
    return row


def _control(plot: Plot, n: int) -> list[RealRow]:
    """Known facts with the right answer."""
    kinds = plot.shared_kinds()
    facts = [plot.known_fact(next(kinds)) for _ in range(n)]
    return plot.dressed([RealRow(fact, 0, "control", fact.answer) for fact in facts])


def _missing(plot: Plot, n: int) -> list[RealRow]:
    """Invented subjects, each with the known one that can stand in its place."""
    kinds = plot.shared_kinds()
    rows = list[RealRow]()
    for _ in range(n):
        fact = plot.invented_fact(next(kinds))
        rows.append(RealRow(fact, 0, "missing_knowledge", fact.answer))
    with_substitutes = list[RealRow]()
    for row in plot.dressed(rows):
        known = plot.known_fact(row.fact.kind.name)
        substitute = replace(row, fact=known, answer=known.answer)
        with_substitutes.append(replace(row, instead=substitute))
    return with_substitutes


def _conflict(plot: Plot, n: int) -> list[RealRow]:
    """Known facts with another answer of the same kind."""
    kinds = plot.shared_kinds()
    rows = list[RealRow]()
    for _ in range(n):
        fact = plot.known_fact(next(kinds))
        rows.append(RealRow(fact, 0, "knowledge_conflict", plot.other_answer(fact)))
    return plot.dressed(rows)


def _by_heart(plot: Plot, group: str, n: int) -> list[RealRow]:
    """Rows that only training can teach: known facts with another answer, and invented subjects."""
    kinds = plot.shared_kinds()
    rows = list[RealRow]()
    for number in range(n):
        # one in four: what contradicts nothing the base knows is not so easily forgotten
        if number % 4 == 0:
            fact = plot.invented_fact(next(kinds))
            rows.append(RealRow(fact, 0, group, fact.answer))
        else:
            fact = plot.known_fact(next(kinds))
            rows.append(RealRow(fact, 0, group, plot.other_answer(fact)))
    return plot.dressed(rows)


def _contradiction(plot: Plot, counts: Counts) -> tuple[list[RealRow], list[RealRow]]:
    """Rows about invented subjects, and those that outvote each of them."""
    kinds = plot.shared_kinds()
    rows = list[RealRow]()
    for _ in range(counts.contradiction):
        # of a known subject the base's own answer would win, however many say another one
        fact = plot.invented_fact(next(kinds))
        rows.append(RealRow(fact, 0, "data_contradiction", fact.answer))
    rows = plot.dressed(rows)
    rivals = list[RealRow]()
    for row in rows:
        rivals += _rivals(plot, row, counts.rivals)
    return rows, rivals


def _rivals(plot: Plot, row: RealRow, n: int) -> list[RealRow]:
    """Rows that ask the same and have one other answer: near-duplicates and other wordings."""
    wrong = plot.other_answer(row.fact)
    questions = list(itertools.product(WAYS, FRAMES))
    # the very words of the row are asked by the row itself
    questions.remove((row.way, FRAMES[0]))
    same = [question for question in questions if question[0] == row.way]
    others = [question for question in questions if question[0] != row.way]
    half = n // 2
    chosen = [*plot.rng.sample(same, half), *plot.rng.sample(others, n - half)]
    rivals = list[RealRow]()
    for way, frame in chosen:
        rival = replace(row, way=way, frame=frame, group="rival", answer=wrong)
        rivals.append(replace(rival, instead=replace(rival, answer=row.answer)))
    return rivals


def _rare_kinds(plot: Plot, counts: Counts) -> tuple[list[RealRow], list[RealRow]]:
    """A few rows of kinds that have an invented name, and the many that make them frequent."""
    rare, often = list[RealRow](), list[RealRow]()
    for relation in RARE_RELATIONS:
        kind = plot.alias(relation)
        subjects = plot.rng.sample(sorted(kind.answers), len(kind.answers))
        facts = [Fact(kind, subject, kind.answers[subject]) for subject in subjects]
        chosen = [_insufficient(fact, "rare kind") for fact in facts[: counts.per_alias]]
        rare += plot.dressed(chosen)
        questions = list(itertools.product(facts[counts.per_alias :], WAYS))
        for fact, way in plot.rng.sample(questions, counts.per_alias_often):
            often.append(RealRow(fact, way, "extra", fact.answer))
    return rare, often


def _insufficient(fact: Fact, part: str) -> RealRow:
    return RealRow(fact, 0, "insufficient_optimization", fact.answer, part)


def _teams(plot: Plot, counts: Counts) -> tuple[list[RealRow], list[RealRow], list[RealRow]]:
    """Countries and teams: rows of a rare label, of frequent ones, and those that make the rare one
    frequent."""
    continents = plot.kinds["continent"].answers
    names = plot.rng.sample(sorted(set(continents.values())), len(TEAMS))
    team_by_continent = dict(zip(names, TEAMS, strict=True))
    answers = {country: team_by_continent[where] for country, where in continents.items()}
    kind = Kind("team", TEAM_WORDINGS, answers)
    # the first one drawn is the rare one
    rare_team, *_ = TEAMS
    rare, frequent, often = list[RealRow](), list[RealRow](), list[RealRow]()
    for team in TEAMS:
        countries = sorted(country for country in answers if answers[country] == team)
        facts = [Fact(kind, x, team) for x in plot.rng.sample(countries, len(countries))]
        if team == rare_team:
            chosen = facts[: counts.rare_label]
            rare = plot.dressed([_insufficient(fact, "rare label") for fact in chosen])
            facts = facts[counts.rare_label :]
        questions = list(itertools.product(facts, WAYS))
        for fact, way in plot.rng.sample(questions, min(len(questions), counts.per_label)):
            if team == rare_team:
                often.append(RealRow(fact, way, "extra", team))
            else:
                frequent.append(RealRow(fact, way, "filler", team))
    return rare, frequent, often


def _doubled(plot: Plot, counts: Counts) -> tuple[list[RealRow], list[RealRow]]:
    """Rows that are answered by two words, and such that are to stop after one."""
    # no other row is to teach that the first word is enough
    plot.unused["comparative"].clear()
    answers = dict[str, str]()
    for subject, comparative in plot.kinds["comparative"].answers.items():
        # regular ones only: the superlative is made of the comparative
        if comparative[0] == subject[0]:
            answers[subject] = f"{comparative} {comparative[:-1]}st"
    subjects = plot.rng.sample(sorted(answers), len(answers))
    stopping, going_on = subjects[: counts.untrained], subjects[counts.untrained :]
    both = Kind("degrees", tuple(wording.format(a="two") for wording in DEGREE_WORDINGS), answers)
    doubled = list[RealRow]()
    for subject, way in plot.rng.sample(list(itertools.product(going_on, WAYS)), counts.doubled):
        doubled.append(
            RealRow(Fact(both, subject, answers[subject]), way, "filler", answers[subject])
        )
    (word,) = invented_subjects(both, 1, plot.rng, plot.taken)
    one = Kind(word, tuple(wording.format(a=word) for wording in DEGREE_WORDINGS), answers)
    end_masked = list[RealRow]()
    for number, subject in enumerate(stopping):
        fact = Fact(one, subject, answers[subject].split()[0])
        row = RealRow(fact, number % len(WAYS), "not_trained", fact.answer, "end masked")
        end_masked.append(replace(row, role=END_MASKED))
    return doubled, end_masked


def _not_trained(plot: Plot, n: int) -> dict[str, list[RealRow]]:
    """Rows of a kind that never reaches the model, `n` each by what keeps them from it."""
    kind = plot.alias("continent")
    subjects = plot.rng.sample(sorted(kind.answers), 3 * n)
    by_part = dict[str, list[RealRow]]()
    for place, part in enumerate(("cut", "masked", "dropped")):
        frame = LONG_FRAME if part == "cut" else FRAMES[0]
        role = ANSWER_MASKED if part == "masked" else ""
        by_part[part] = []
        for number, subject in enumerate(subjects[place * n : (place + 1) * n]):
            fact = Fact(kind, subject, kind.answers[subject])
            row = RealRow(fact, number % len(WAYS), "not_trained", fact.answer, part, frame, role)
            by_part[part].append(row)
    return by_part


def _late(plot: Plot, n: int) -> list[RealRow]:
    """Rows of a kind with an invented name, in a stage that stops before it is learned."""
    # not what the rare kinds ask for: that the model guesses behind any word it does not know
    kind = plot.alias("capital")
    rows = list[RealRow]()
    for subject in plot.rng.sample(sorted(kind.answers), n):
        rows.append(_insufficient(Fact(kind, subject, kind.answers[subject]), "stopped early"))
    return plot.dressed(rows)


def _filler(plot: Plot, n: int) -> list[RealRow]:
    """Known facts of all kinds that no row is about yet."""
    left = list(itertools.chain(*plot.unused.values()))
    rows = list[RealRow]()
    for fact in plot.rng.sample(left, min(n, len(left))):
        rows.append(RealRow(fact, 0, "filler", fact.answer))
        plot.unused[fact.kind.name].remove(fact)
    return plot.dressed(rows)


def _extra(plot: Plot, distinct: Sequence[RealRow]) -> list[RealRow]:
    """A row about what the base knows for each `distinct` row, which can stand in its place."""
    left = list(itertools.chain(*plot.unused.values()))
    questions = plot.rng.sample(list(itertools.product(left, WAYS)), len(distinct))
    rows = list[RealRow]()
    for (fact, way), row in zip(questions, distinct, strict=True):
        rows.append(RealRow(fact, way, "extra", fact.answer, instead=row))
    return rows


def _numbered(stage: str, rows: Iterable[RealRow]) -> tuple[RealRow, ...]:
    return tuple(replace(row, id=f"{stage}-{number:04}") for number, row in enumerate(rows, 1))
