from ilp_mlflow.diagnosis.beliefs.asking import BaseProbe
from ilp_mlflow.diagnosis.beliefs.template_groups import MAX_ENTITIES, group_templates
from ilp_mlflow.diagnosis.beliefs.templates import GAP, Question
from ilp_mlflow.plugin import GreedyAnswer
from tests.contexts import FakeProbe

PEOPLE = [f"Person{i}" for i in range(20)]
BORN = [f"{GAP} was born in", f"The birthplace of {GAP}:", f"Where was {GAP} born?"]
EATS = [f"{GAP} likes to eat", f"The food of {GAP}:"]
SAME = [f"{GAP} is a", f"What is {GAP}?"]


class Base(FakeProbe):
    """Answers by what is asked and about whom; that everybody is a person is the same answer."""

    def __init__(self):
        super().__init__()
        self.prompts = []

    def answer(self, checkpoint, prompts, max_new_tokens=16):
        self.prompts += prompts
        return [GreedyAnswer(self.answer_to(prompt), -0.1) for prompt in prompts]

    def answer_to(self, prompt):
        person = next(p for p in sorted(PEOPLE, reverse=True) if p in prompt)
        template = prompt.replace(person, GAP)
        if template in BORN:
            return f"City{person[6:]}"
        return f"Food{person[6:]}" if template in EATS else "person"


def questions(*templates):
    return {
        f"{template}/{person}": Question(template, person, " a")
        for template in templates
        for person in PEOPLE
    }


def grouped(mined, needed=(), seed=0):
    probe = Base()
    return group_templates(mined, needed, BaseProbe(probe, "base"), seed), probe


def templates(group):
    return {question.template for question in group}


def test_templates_that_are_answered_alike_are_one_group_the_largest_first():
    found, _ = grouped(questions(*EATS, *BORN))
    assert [templates(group) for group in found.groups] == [set(BORN), set(EATS)]


def test_templates_that_get_one_answer_about_everybody_ask_nothing_about_them():
    found, _ = grouped(questions(*BORN, *SAME))
    assert [templates(group) for group in found.groups] == [set(BORN)]


def test_others_ask_the_same_with_other_templates():
    found, _ = grouped(questions(*BORN, *EATS))
    assert templates(found.others_like(BORN[0], 9)) == set(BORN[1:])
    assert len(found.others_like(BORN[0], 1)) == 1


def test_a_needed_template_is_asked_and_found_others_though_it_is_in_no_group():
    mined = questions(*BORN[1:], *EATS)
    found, _ = grouped(mined, [Question(BORN[0], PEOPLE[0], " a")])
    assert BORN[0] not in set().union(*(templates(group) for group in found.groups))
    assert templates(found.others_like(BORN[0], 9)) == set(BORN[1:])


def test_every_template_is_asked_once_about_the_same_entities():
    found, probe = grouped(questions(*BORN), [Question(BORN[0], PEOPLE[0], " a")])
    assert len(probe.prompts) == len(set(probe.prompts)) == MAX_ENTITIES * len(BORN)
    assert {len(answers) for answers in found.answers.values()} == {MAX_ENTITIES}


def test_a_seed_draws_the_same_entities():
    assert (
        grouped(questions(*BORN), seed=1)[1].prompts == grouped(questions(*BORN), seed=1)[1].prompts
    )
    assert (
        grouped(questions(*BORN), seed=1)[1].prompts != grouped(questions(*BORN), seed=2)[1].prompts
    )
