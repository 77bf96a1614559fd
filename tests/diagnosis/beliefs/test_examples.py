"""Solved rows as examples: which are good ones, and which come first."""

from ilp_mlflow.core.texts import with_last_turn
from ilp_mlflow.diagnosis.beliefs.examples import candidates_by_kind, plain_facts, plain_questions
from ilp_mlflow.diagnosis.beliefs.kinds import kinds_of
from ilp_mlflow.diagnosis.beliefs.templates import GAP, Question, mine_questions
from tests.contexts import sample
from tests.conversations import chat
from tests.diagnosis.beliefs.test_kinds import (
    CAPITAL,
    FRAME,
    FREE,
    NUMBERS,
    OPPOSITE,
    QUESTIONS,
    ROWS,
    framed,
    question,
    row,
)


def chosen_rows(kinds, asked, solved, kind_of, n, enough, known=()):
    """The examples of every kind, where the base knows the rows of these ids."""
    candidates = candidates_by_kind(set(kinds), asked, solved, kind_of, n, 0)
    return {kind: candidates[kind].choose(known, enough) for kind in candidates}


def test_examples_are_of_the_kind_first_and_then_of_those_that_ask_alike():
    kinds = kinds_of([*ROWS, *FREE, *NUMBERS], QUESTIONS)
    solved = [*ROWS, *FREE, *NUMBERS]
    chosen = chosen_rows(kinds.values(), [], solved, kinds, 7, 7)
    ids = [r.id for r in chosen[kinds["capital0"]]]
    assert len(ids) == 7
    assert {i[:2] for i in ids[:3]} == {"ca"}
    assert {i[:2] for i in ids[3:]} <= {"ci", "op", "co", "pa"}
    free = [r.id for r in chosen[kinds["free0"]]]
    assert {i[:4] for i in free[:3]} == {"free"}
    assert len(free) == 7 == len(set(free))


def test_without_solved_rows_there_are_no_examples():
    kinds = kinds_of(ROWS, QUESTIONS)
    assert set(map(len, chosen_rows(kinds.values(), [], [], kinds, 5, 5).values())) == {0}


def test_text_and_conversations_are_no_examples_of_each_other():
    talks = [
        sample(f"talk{i}", chat(user=f"What is the capital of E{i}?"), chat(assistant=f"Port{i}"))
        for i in range(6)
    ]
    talk = with_last_turn(talks[0].prompt, CAPITAL)
    questions = QUESTIONS | {r.id: Question(talk, r.id, " x") for r in talks}
    solved = [*ROWS, *talks]
    for known in (questions, QUESTIONS):
        kinds = kinds_of(solved, known)
        chosen = chosen_rows(kinds.values(), [], solved, kinds, 20, 8)
        for kind, rows in chosen.items():
            assert rows
            assert {not isinstance(r.prompt, str) for r in rows} == {kind.is_chat}


def test_where_a_kind_has_enough_rows_of_its_own_these_are_its_examples():
    kinds = kinds_of(ROWS, QUESTIONS)
    chosen = chosen_rows(kinds.values(), [], ROWS, kinds, 20, 6)
    assert {r.id[:2] for r in chosen[kinds["opposite0"]]} == {"op"}
    assert len(chosen[kinds["capital0"]]) == 6


def test_examples_tell_of_each_thing_once_in_the_plainest_words_and_never_what_is_disputed():
    plain, framed = ROWS[0], row("capitalframed", f"So, {CAPITAL} I forgot.", "C0", "City0")
    disputed = [row("op_a", OPPOSITE, "o9", "narrow"), row("op_b", OPPOSITE, "o9", "lose")]
    elsewhere = row("op_c", OPPOSITE, "o5", "other")
    questions = {
        **QUESTIONS,
        framed.id: QUESTIONS[plain.id],
        **{r.id: question(OPPOSITE, "o9") for r in disputed},
        elsewhere.id: QUESTIONS["opposite5"],
    }
    kinds = kinds_of([*ROWS, *FREE, framed, *disputed, elsewhere], questions)
    kinds[framed.id] = kinds[plain.id]
    solved = [framed, *ROWS, *FREE, *disputed]
    found = {r.id for r in plain_facts(solved, [elsewhere], questions, kinds)}
    assert found == {r.id for r in [*ROWS, *FREE]} - {"opposite5"}


def test_examples_that_are_wanted_are_of_kinds_with_the_same_answers_before_those_that_sound_alike():
    antonym = f"Give the antonym of {GAP}."
    plural = f"Give the plural of {GAP}."
    opposites = [row(f"op{i}", OPPOSITE, f"o{i}", f"word{i}") for i in range(6)]
    plurals = [row(f"pl{i}", plural, f"n{i}", f"n{i}s") for i in range(6)]
    antonyms = [row(f"an{i}", antonym, f"a{i}", f"word{i}") for i in range(3)]
    templates = {"op": OPPOSITE, "pl": plural, "an": antonym}
    rows = [*opposites, *plurals, *antonyms]
    kinds = kinds_of(rows, {r.id: question(templates[r.id[:2]], r.id) for r in rows})
    solved = [*opposites, *plurals, antonyms[0]]
    asked = {r.id: kinds[r.id] for r in antonyms}
    chosen = chosen_rows(asked.values(), antonyms, solved, kinds, 20, 5)
    assert sorted(r.id[:2] for r in chosen[kinds["an0"]]) == ["an", "op", "op", "op", "op"]
    # what few rows answer is not known to be the same
    chosen = chosen_rows(asked.values(), antonyms[:1], solved, kinds, 20, 5)
    assert sorted(r.id[:2] for r in chosen[kinds["an0"]]) == ["an", "pl", "pl", "pl", "pl"]


def test_an_example_is_shown_without_its_frame():
    asked = framed(FRAME)
    questions = mine_questions(asked)
    plain = plain_questions(questions)
    examples = plain_facts(asked, [], plain, kinds_of(asked, questions))
    assert {id_: q.entity for id_, q in plain.items()} == {
        id_: q.entity for id_, q in questions.items()
    }
    assert len(examples) == len(asked)
    assert not any(FRAME[:20] in row.prompt for row in examples)
    assert {row.id: row.prompt for row in examples}["symbol/iron"] == (
        "What is the chemical symbol of iron?"
    )


def test_what_the_base_knows_comes_first_and_what_it_does_not_only_where_that_is_not_enough():
    antonym = f"Give the antonym of {GAP}."
    opposites = [row(f"op{i}", OPPOSITE, f"o{i}", f"word{i}") for i in range(6)]
    antonyms = [row(f"an{i}", antonym, f"a{i}", f"word{i}") for i in range(6)]
    templates = {"op": OPPOSITE, "an": antonym}
    rows = [*opposites, *antonyms]
    kinds = kinds_of(rows, {r.id: question(templates[r.id[:2]], r.id) for r in rows})
    wanted = [kinds["an0"]]

    def examples(known, enough):
        return {r.id for r in chosen_rows(wanted, [], rows, kinds, 20, enough, known)[wanted[0]]}

    known = {"an0", "an1", "op0", "op1"}
    assert examples(known, 2) == {"an0", "an1"}
    assert examples(known, 4) == known
    # all rows of the kind, so that sets without a sample's answer can be drawn
    assert examples(known, 5) == {"op0", "op1", *(r.id for r in antonyms)}
    assert examples({r.id for r in rows}, 4) == {r.id for r in antonyms}
    # of what the base knows nothing of, the rows of the kind still tell what is asked
    assert examples(set(), 6) == {r.id for r in antonyms}
