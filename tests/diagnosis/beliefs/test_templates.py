import random

from ilp_mlflow.diagnosis.beliefs.templates import GAP, Question, draw_questions, mine_questions
from tests.contexts import sample
from tests.conversations import chat

PEOPLE = ("Ann Lee", "Bo", "Cy Fox", "Dee", "Eve Ray", "Flo", "Gus", "Hal")
WAYS = ("What is the {} city of {}?", "Name the {} city of {}, please.")
ADJECTIVES = ("birth", "home", "work", "study", "holiday", "dream")


def rows():
    """Every person's six cities, asked for in two ways; a person's cities are no one else's."""
    found = []
    for way, pattern in enumerate(WAYS):
        for person in PEOPLE:
            for adjective in ADJECTIVES:
                prompt = pattern.format(adjective, person)
                found.append(
                    sample(
                        f"{way}/{adjective}/{person}",
                        prompt,
                        f" City {person[:2]}{adjective in ADJECTIVES[:3]}",
                    )
                )
    return found


def test_a_row_asks_about_what_decides_its_answer():
    found = mine_questions(rows())
    assert len(found) == len(rows())
    assert all(question.entity == id_.split("/")[2] for id_, question in found.items())
    assert found["0/birth/Bo"].template == f"What is the birth city of {GAP}?"


def test_the_order_of_rows_does_not_matter():
    mixed = rows()
    random.Random(0).shuffle(mixed)
    assert {i: q.template for i, q in mine_questions(mixed).items()} == {
        i: q.template for i, q in mine_questions(rows()).items()
    }


def test_a_question_is_asked_about_something_else_and_answered():
    question = Question(f"Where is {GAP}?", "Rome", " Italy")
    assert question.answered("Oslo", "Norway") == ("Where is Oslo?", " Norway")
    turns = chat(system="Be brief.", user=f"Where is {GAP}?")
    question = Question(turns, "Rome", chat(assistant="Italy"))
    prompt, completion = question.answered("Oslo", "Norway")
    assert prompt == chat(system="Be brief.", user="Where is Oslo?")
    assert completion == chat(assistant="Norway")


def test_conversations_are_read_at_their_last_turn():
    chats = [
        s.model_copy(update={"prompt": chat(user=s.prompt), "completion": chat(assistant=s.answer)})
        for s in rows()
    ]
    assert {q.entity for q in mine_questions(chats).values()} == set(PEOPLE)


def test_prompts_without_a_pattern_ask_about_nothing():
    texts = (
        "my card was declined",
        "why is the transfer late",
        "a refund never came",
        "help me top up",
        "who stole it",
    )
    assert mine_questions([sample(text, text) for text in texts]) == {}


def test_templates_are_drawn_once_each_and_the_same_for_a_seed():
    found = mine_questions(rows())
    some = draw_questions(found, 5, random.Random(1))
    assert len({q.template for q in some}) == 5
    assert some == draw_questions(found, 5, random.Random(1))
    assert len(draw_questions(found, 100, random.Random(1))) == len(WAYS) * len(ADJECTIVES)


def test_what_stands_in_the_frame_of_all_prompts_is_no_entity():
    """`User: ... Intent:` asks nothing by itself, so a short utterance is not what a row asks about."""
    short = [
        sample(f"{i}", f"User: {text}\nIntent:", f" label{i % 3}")
        for i, text in enumerate(("hi", "stop", "go on", "bye", "yes", "no", "ok"))
    ]
    rest = [
        sample(
            f"r{i}",
            f"User: utterance number {i} of a few more words {i * i}\nIntent:",
            f" label{i % 3}",
        )
        for i in range(20)
    ]
    assert not {s.id for s in short} & set(mine_questions([*short, *rest]))


def test_a_few_rows_alike_in_free_text_are_no_templates():
    asked = ("pay", "leave", "win", "sing", "cook", "swim", "fly")
    alike = [
        sample(f"{way}{i}", f"{way} {text}?", f" {i}")
        for way in ("How do I", "Where may we")
        for i, text in enumerate(asked)
    ]
    rng = random.Random(0)
    free = [
        sample(f"f{i}", " ".join(rng.sample([f"w{k}" for k in range(99)], 7)), f" label{i % 3}")
        for i in range(30)
    ]
    assert set(mine_questions(alike)) == {s.id for s in alike}
    assert mine_questions([*alike, *free]) == {}
    elsewhere = [s.model_copy(update={"stage": "other"}) for s in free]
    assert set(mine_questions([*alike, *elsewhere])) == {s.id for s in alike}
