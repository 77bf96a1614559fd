import pytest

from ilp_mlflow.diagnosis.beliefs.kinds import kinds_of
from ilp_mlflow.diagnosis.beliefs.templates import GAP, Question, mine_questions
from ilp_mlflow.lab.real import facts
from tests.contexts import sample

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


FRAME = "Here is a short question that my sister asked me at home this morning: {}"
BEHIND = "{} Answer in one word, please, since there is not much time left."


def framed(frame):
    """Four kinds of easy facts, each asked alone about some things and in a frame about others."""
    asked = []
    for kind in ("capital", "past", "symbol", "plural"):
        for i, (subject, answer) in enumerate(facts.kinds()[kind].answers.items()):
            prompt = facts.kinds()[kind].wordings[0].format(x=subject)
            # symbols never stand alone
            in_frame = i % 4 == 0 or kind == "symbol"
            asked.append(
                sample(
                    f"{kind}/{subject}", frame.format(prompt) if in_frame else prompt, f" {answer}"
                )
            )
    return asked


@pytest.mark.parametrize("frame", [FRAME, BEHIND])
def test_what_is_asked_in_a_frame_is_of_the_kind_that_it_is_of_alone(frame):
    asked = framed(frame)
    questions = mine_questions(asked)
    kinds = kinds_of(asked, questions)
    assert {id_: q.entity for id_, q in questions.items()} == {
        row.id: row.id.split("/")[1] for row in asked
    }
    of_name = {}
    for row in asked:
        of_name.setdefault(row.id.split("/")[0], set()).add(kinds[row.id])
    assert all(len(of_kind) == 1 for of_kind in of_name.values())
    assert len(set.union(*of_name.values())) == len(of_name)
