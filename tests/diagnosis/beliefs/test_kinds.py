from ilp_mlflow.core.texts import with_last_turn
from ilp_mlflow.diagnosis.beliefs.kinds import examples_by_kind, kinds_of, plain_facts
from ilp_mlflow.diagnosis.beliefs.templates import GAP, Question, mine_questions
from ilp_mlflow.lab.real import facts
from tests.contexts import sample
from tests.conversations import chat

CAPITAL, CITY = f"What is the capital of {GAP}?", f"Which city is the capital of {GAP}?"
OPPOSITE = f"What is the opposite of {GAP}?"
COLOUR, PAST = f"What is the colour of {GAP}?", f"What is the past tense of {GAP}?"


def row(id_, template, entity, answer):
    return sample(id_, template.replace(GAP, entity), f" {answer}")


def question(template, entity):
    return Question(template, entity, " x")


ROWS = [row(f"capital{i}", CAPITAL, f"C{i}", f"City{i}") for i in range(3)]
ROWS += [row(f"city{i}", CITY, f"D{i}", f"Town{i}") for i in range(6)]
ROWS += [row(f"opposite{i}", OPPOSITE, f"o{i}", f"word{i}") for i in range(6)]
ROWS += [row(f"past{i}", PAST, f"p{i}", f"word{i}ed") for i in range(6)]
ROWS += [row(f"colour{i}", COLOUR, f"t{i}", f"colour{i}") for i in range(6)]
TEMPLATES = {"ca": CAPITAL, "ci": CITY, "op": OPPOSITE, "pa": PAST, "co": COLOUR}
QUESTIONS = {r.id: question(TEMPLATES[r.id[:2]], r.id) for r in ROWS}
FREE = [sample(f"free{i}", f"something else {i}", f" Name{'x' * i}") for i in range(3)]
NUMBERS = [sample(f"number{i}", f"how many, then {i}", f" {i}") for i in range(3)]


def test_samples_are_of_one_kind_by_template_or_by_the_look_of_their_answers():
    kinds = kinds_of([*ROWS, *FREE, *NUMBERS], QUESTIONS)
    assert kinds["capital0"] == kinds["capital1"] != kinds["opposite0"]
    assert kinds["free0"] == kinds["free2"] != kinds["number0"]


def test_kinds_of_easy_facts_are_told_apart_by_their_templates():
    asked = []
    for kind in facts.kinds().values():
        for i, (subject, answer) in enumerate(kind.answers.items()):
            prompt = kind.wordings[i % 3].format(x=subject)
            asked.append(sample(f"{kind.name}/{i}", prompt, f" {answer}"))
    kinds = kinds_of(asked, mine_questions(asked))
    names = {}
    for row in asked:
        names.setdefault(kinds[row.id], []).append(row.id.split("/")[0])
    large = [of_kind for of_kind in names.values() if len(of_kind) > 5]
    assert len(large) > 25
    assert all(len(set(of_kind)) == 1 for of_kind in large)


def test_examples_are_of_the_kind_first_and_then_of_those_that_ask_alike():
    kinds = kinds_of([*ROWS, *FREE, *NUMBERS], QUESTIONS)
    solved = [*ROWS, *FREE, *NUMBERS]
    chosen = examples_by_kind(set(kinds.values()), solved, kinds, 7, 7, 0)
    ids = [r.id for r in chosen[kinds["capital0"]]]
    assert len(ids) == 7
    assert {i[:2] for i in ids[:3]} == {"ca"}
    assert {i[:2] for i in ids[3:]} <= {"ci", "op", "co", "pa"}
    free = [r.id for r in chosen[kinds["free0"]]]
    assert {i[:4] for i in free[:3]} == {"free"}
    assert len(free) == 7 == len(set(free))


def test_without_solved_rows_there_are_no_examples():
    kinds = kinds_of(ROWS, QUESTIONS)
    assert set(map(len, examples_by_kind(set(kinds.values()), [], kinds, 5, 5, 0).values())) == {0}


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
        chosen = examples_by_kind(set(kinds.values()), solved, kinds, 20, 8, 0)
        for kind, rows in chosen.items():
            assert rows
            assert {not isinstance(r.prompt, str) for r in rows} == {kind.is_chat}


def test_where_a_kind_has_enough_rows_of_its_own_these_are_its_examples():
    kinds = kinds_of(ROWS, QUESTIONS)
    chosen = examples_by_kind(set(kinds.values()), ROWS, kinds, 20, 6, 0)
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


def test_a_word_that_several_entities_begin_with_says_what_is_asked():
    what = f"What is the {GAP}?"
    things = ["opposite of hot", "opposite of wet", "capital of Peru", "capital of Chile"]
    asked = [row(thing, what, thing, "x") for thing in things]
    kinds = kinds_of(asked, {r.id: question(what, r.id) for r in asked})
    assert kinds["opposite of hot"] == kinds["opposite of wet"]
    assert kinds["capital of Peru"] == kinds["capital of Chile"] != kinds["opposite of wet"]
    # one thing with a name of several words is no kind of its own
    alone = [row(thing, what, thing, "x") for thing in ("sea of Peru", "lake", "pond")]
    assert len(set(kinds_of(alone, {r.id: question(what, r.id) for r in alone}).values())) == 1
