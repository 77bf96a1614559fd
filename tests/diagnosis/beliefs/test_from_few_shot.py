"""Asking behind solved questions, with a base whose knowledge is a table."""

import math

import pytest

from ilp_mlflow.diagnosis.beliefs.asking import BaseProbe
from ilp_mlflow.diagnosis.beliefs.few_shot import EXAMPLES_PER_SET, SETS_PER_SAMPLE
from ilp_mlflow.diagnosis.beliefs.from_few_shot import FewShot
from ilp_mlflow.diagnosis.beliefs.kinds import kinds_of, others_about_the_same
from ilp_mlflow.diagnosis.beliefs.templates import GAP, Question
from ilp_mlflow.plugin import GreedyAnswer
from tests.contexts import FakeProbe, sample, text

CAPITAL, CONTINENT = f"What is the capital of {GAP}?", f"On which continent is {GAP}?"
NEW, OPPOSITE = f"Name the zork of {GAP}!", f"Which word is contrary to {GAP}?"
COUNTRIES = [f"Land{'abcdefghijkl'[i]}" for i in range(12)]
KNOWN = {CAPITAL.replace(GAP, c): f"City{i}" for i, c in enumerate(COUNTRIES)}
KNOWN |= {CONTINENT.replace(GAP, c): f"Part{i % 6}" for i, c in enumerate(COUNTRIES)}


class Reader(FakeProbe):
    """Knows a table of questions, the last paragraph of a prompt; else it guesses."""

    def answer(self, checkpoint, prompts, max_new_tokens=16):
        answers = []
        for prompt in prompts:
            known = KNOWN.get(prompt.rpartition("\n\n")[2])
            answers.append(
                GreedyAnswer(known, math.log(0.9))
                if known
                else GreedyAnswer("Guess", math.log(0.1))
            )
        return answers

    def logprobs(self, checkpoint, exchanges):
        logprobs = []
        for prompt, completion in exchanges:
            known = KNOWN.get(prompt.rpartition("\n\n")[2])
            logprobs.append(math.log(0.9 if text(completion) == known else 1e-6))
        return logprobs


def asked(name, template, thing, answer):
    row = sample(name, template.replace(GAP, thing), f" {answer}")
    return row, Question(template, thing, row.completion)


ROWS = [
    asked(f"{name}{i}", template, c, KNOWN[template.replace(GAP, c)])
    for name, template in (("capital", CAPITAL), ("continent", CONTINENT))
    for i, c in enumerate(COUNTRIES)
]
ROWS += [asked(f"opposite{i}", OPPOSITE, f"o{i}", f"w{i}") for i in range(8)]
NEW_NAME = asked("new", NEW, "Landa", "Part0")
ALL = [*ROWS, NEW_NAME]
QUESTIONS = {row.id: question for row, question in ALL}
KINDS = kinds_of([row for row, _ in ALL], QUESTIONS)


def few_shot():
    solved = [row for row, _ in ROWS]
    return FewShot(BaseProbe(Reader(), "base"), solved, QUESTIONS, KINDS, 0)


def test_a_kind_is_about_the_things_of_the_kinds_that_share_some_with_it():
    others = others_about_the_same(KINDS, QUESTIONS, 8)
    assert set(others[KINDS["new"]]) == {KINDS["capital0"], KINDS["continent0"]}
    assert others[KINDS["capital0"]][0] == KINDS["continent0"]
    assert KINDS["opposite0"] not in others[KINDS["capital0"]]
    assert others[KINDS["opposite0"]] == []
    assert len(others_about_the_same(KINDS, QUESTIONS, 1)[KINDS["new"]]) == 1


def test_what_is_known_under_another_question_is_within_reach():
    row, _ = NEW_NAME
    beliefs = few_shot().beliefs([row])
    assert not beliefs["new"].known
    assert few_shot().reach([row])["new"] == pytest.approx(0.9)
    wrong = row.model_copy(update={"completion": " Part3"})
    assert few_shot().reach([wrong])["new"] < 0.01


def test_nothing_is_reached_where_no_other_question_can_be_asked():
    opposite = ROWS[-1][0]
    assert few_shot().reach([opposite]) == {}
    assert few_shot().reach([sample("free", "no template", " x")]) == {}


def test_a_sample_is_asked_behind_sets_of_its_kind():
    row = ROWS[0][0]
    belief = few_shot().beliefs([row])[row.id]
    assert (belief.agrees, belief.knowledge) == (True, "HighlyKnown")
    assert len(belief.phrasings) == SETS_PER_SAMPLE
    for prompt in belief.phrasings:
        *examples, last = prompt.split("\n\n")
        assert last == row.prompt
        assert len(examples) == EXAMPLES_PER_SET
        assert all(example.startswith("What is the capital of") for example in examples)
        assert "City0" not in prompt


def test_guesses_are_about_things_that_do_not_exist():
    asked = [ROWS[0][0], NEW_NAME[0]]
    guesses = few_shot().guesses(asked, set(KINDS.values()))
    assert few_shot().guesses(asked, {KINDS["opposite0"]}) == {}
    assert guesses[KINDS["capital0"]] == pytest.approx([0.1] * len(guesses[KINDS["capital0"]]))


class Parrot(Reader):
    """Says the last word of the prompt."""

    def answer(self, checkpoint, prompts, max_new_tokens=16):
        return [GreedyAnswer(p.split()[-1].strip("?!"), math.log(0.9)) for p in prompts]


def test_to_repeat_what_is_asked_about_is_no_belief():
    solved = [row for row, _ in ROWS]
    parrot = FewShot(BaseProbe(Parrot(), "base"), solved, QUESTIONS, KINDS, 0)
    row, _ = NEW_NAME
    belief = parrot.beliefs([row])[row.id]
    assert (belief.wrong, belief.conflict) == ("", 0)
    assert parrot.guesses([row], set(KINDS.values())) == {}


def test_examples_are_what_the_base_knows_where_it_knows_enough():
    invented = [asked(f"x{i}", CAPITAL, f"Nowhere{i}", f"Noplace{i}") for i in range(30)]
    rows = [row for row, _ in [*ROWS, *invented]]
    questions = QUESTIONS | {row.id: question for row, question in invented}
    kinds = kinds_of(rows, questions)
    asking = FewShot(BaseProbe(Reader(), "base"), rows, questions, kinds, 0)
    (belief,) = asking.beliefs([invented[0][0]]).values()
    shown = {line for prompt in belief.phrasings for line in prompt.split("\n\n")[:-1] if line}
    assert shown
    assert all(line.startswith("What is the capital of Land") for line in shown)
