import math

import pytest

from ilp_mlflow.diagnosis.beliefs.asking import BaseProbe, CommonAnswer, Phrasing
from ilp_mlflow.plugin import GreedyAnswer
from tests.contexts import FakeProbe

NAN = float("nan")


class Scripted(FakeProbe):
    """Gives answers from a table by prompt; what is not in it does not fit."""

    def __init__(self, answers, sure=None):
        super().__init__(sure)
        self.table = answers

    def answer(self, checkpoint, prompts, max_new_tokens=16):
        answers = []
        for prompt in prompts:
            answer = self.table.get(prompt, GreedyAnswer("", NAN))
            sure = self.sure.get((checkpoint, prompt, answer.text))
            answers.append(answer if sure is None else answer._replace(logprob=math.log(sure)))
        return answers

    def logprobs(self, checkpoint, exchanges):
        logprobs = super().logprobs(checkpoint, exchanges)
        fits = [prompt in self.table for prompt, _ in exchanges]
        return [p if fit else NAN for p, fit in zip(logprobs, fits, strict=True)]


def said(text, ended=True):
    return GreedyAnswer(text, -0.1, ended)


def common(answers, sure=None):
    """What a base that gives `answers` says to one prompt for each of them."""
    table = {f"p{i}": answer for i, answer in enumerate(answers)}
    sure = {("base", *key): p for key, p in (sure or {}).items()}
    probe = BaseProbe(Scripted(table, sure), "base")
    phrasings = [Phrasing(f"p{i}", " form") for i in range(len(answers))]
    return probe.common_answers({"key": phrasings})["key"]


def test_probabilities_come_back_under_the_key_they_were_asked_for():
    sure = {("base", "p", "a"): 0.5, ("base", "q", "b"): 0.25}
    probe = BaseProbe(Scripted({"p": said(""), "q": said("")}, sure), "base")
    exchanges = {"one": [("p", "a"), ("too long", "a")], "none": [], "two": [("q", "b")]}
    found = probe.probabilities(exchanges)
    assert list(found) == ["one", "none", "two"]
    assert found["one"] == pytest.approx([0.5])
    assert (found["none"], found["two"]) == ([], pytest.approx([0.25]))


def test_a_probability_is_at_most_one():
    class Rounded(FakeProbe):
        def logprobs(self, checkpoint, exchanges):
            return [1e-7]

    assert BaseProbe(Rounded(), "base").probabilities({"k": [("p", "a")]}) == {"k": [1.0]}


def test_the_most_frequent_answer_is_as_sure_as_it_is_on_average_over_all_phrasings():
    sure = {("p0", "Rome"): 0.9, ("p1", "Rome"): 0.6, ("p2", "Rome"): 0.3}
    found = common([said("Rome"), said("rome."), said("Oslo")], sure)
    assert (found.text, found.ended, found.is_majority) == ("Rome", True, True)
    assert found.confidence == pytest.approx(0.6)


def test_the_first_of_equally_frequent_answers_is_no_majority():
    found = common([said("Rome"), said("Oslo")], {("p0", "Rome"): 0.8, ("p1", "Rome"): 0.2})
    assert (found.text, found.is_majority) == ("Rome", False)


def test_a_wording_that_came_to_an_end_is_preferred():
    assert common([said("Rome", ended=False), said("Rome.")]).text == "Rome."


def test_to_say_nothing_is_an_answer_without_confidence():
    answers = said(""), said(""), said("Oslo")
    assert common(answers) == CommonAnswer("", 0.0, True, True, answers)


def test_a_question_that_does_not_fit_has_no_answer():
    probe = BaseProbe(Scripted({"p": said("Rome")}, {("base", "p", "Rome"): 0.5}), "base")
    phrasings = {
        "gone": [Phrasing("too long", " a")],
        "half": [Phrasing("too long", " a"), Phrasing("p", " a")],
    }
    found = probe.common_answers(phrasings)
    assert list(found) == ["half"]
    assert (found["half"].text, found["half"].is_majority) == ("Rome", True)
    assert math.isclose(found["half"].confidence, 0.5)
