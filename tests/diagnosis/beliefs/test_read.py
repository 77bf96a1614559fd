import math
import random

import pytest

from ilp_mlflow.core.interfaces import DEFAULT_FIRMNESS
from ilp_mlflow.diagnosis.beliefs.few_shot import EXAMPLES_PER_SET, SETS_PER_SAMPLE
from ilp_mlflow.diagnosis.beliefs.read import read_beliefs
from ilp_mlflow.plugin import Exchange, GreedyAnswer
from tests.contexts import FakeProbe, belief, sample, text

CITY = {
    name: f"City{i}"
    for i, name in enumerate(("Ann", "Bo", "Cy", "Dee", "Eve", "Flo", "Gus", "Hal"))
}
ASKED = ("Where was {} born?", "The birthplace of {}:", "Name the birthplace of {}!")
OTHER = ("What does {} eat?", "The food of {}:", "Name the food of {}!")


class Base(FakeProbe):
    """Knows where everybody was born, except one of whom it is unsure and one of whom it is sure of something else."""

    def __init__(self, unsure=(), wrong=None):
        super().__init__()
        self.unsure, self.wrong = set(unsure), wrong or {}

    def answer_to(self, prompt):
        name = next(n for n in CITY if n in prompt)
        if any(prompt == way.format(name) for way in OTHER):
            return f"Food{name}", 0.95
        if name in self.unsure:
            return f"Guess{len(prompt) % 3}", 0.4
        return self.wrong.get(name, CITY[name]), 0.95

    def answer(self, checkpoint, prompts, max_new_tokens=16):
        self.says = {(checkpoint, p): self.answer_to(p)[0] for p in prompts}
        self.sure = {(checkpoint, p, self.answer_to(p)[0]): self.answer_to(p)[1] for p in prompts}
        return super().answer(checkpoint, prompts)

    def logprobs(self, checkpoint, exchanges):
        self.sure = {
            (checkpoint, p, self.answer_to(p)[0]): self.answer_to(p)[1] for p, _ in exchanges
        }
        return super().logprobs(checkpoint, exchanges)


def rows():
    births = [
        sample(f"{way}/{n}", way.format(n), f" {city}") for n, city in CITY.items() for way in ASKED
    ]
    return births + [
        sample(f"{way}/{n}", way.format(n), f" Food{n}") for n in CITY for way in OTHER
    ]


def asked(probe, changed=None):
    """The belief about Ann's birthplace, whose row is not learned; of `changed` samples the labels are other than what is so."""
    samples = [
        s.model_copy(update={"completion": changed.get(s.id, s.completion)}) if changed else s
        for s in rows()
    ]
    target = f"{ASKED[0]}/Ann"
    unlearned = [s for s in samples if s.id == target]
    return read_beliefs(unlearned, [s for s in samples if s.id != target], "base", probe, 0)[target]


def test_what_the_base_knows_is_found_in_the_other_rows_questions():
    found = asked(Base())
    assert found.known
    assert found.p_correct == pytest.approx(0.95)
    assert found.wrong == ""
    assert found.phrasings[0] == ASKED[0].format("Ann")
    assert set(found.phrasings) == {
        way.format("Ann") for way in ASKED
    }  # and none that asks for something else
    assert found.firm.confidence == pytest.approx(0.95)


def test_a_firm_other_belief_is_a_conflict():
    found = asked(Base(wrong={"Ann": "Oslo"}))
    assert (found.known, found.wrong) == (False, "Oslo")
    assert found.conflict == pytest.approx(0.5)


def test_an_unsure_base_has_no_conflict():
    found = asked(Base(unsure=["Ann"]))
    assert not found.known
    assert found.conflict < 0.05


def test_a_label_known_as_the_answer_to_something_else_is_known():
    assert asked(Base(), {f"{ASKED[0]}/Ann": " FoodAnn"}).known


def test_own_probes_come_first():
    probes = (
        Exchange(prompt="Ann was born in", completion=" Oslo"),
        Exchange(prompt="Ann's native town is", completion=" Oslo"),
    )
    target = sample("x", ASKED[0].format("Ann"), " Oslo", probes=probes)
    found = read_beliefs([target], rows(), "base", Base(), 0)["x"]
    assert found.phrasings == tuple(p.prompt for p in probes)
    assert found.wrong == CITY["Ann"]


def test_nothing_is_said_of_prompts_without_a_pattern():
    assert (
        read_beliefs([sample("x", "help me")], [sample("y", "go on")], "base", FakeProbe(), 0) == {}
    )


def test_firmness_is_given_where_too_little_is_known():
    probes = (Exchange(prompt="Ann was born in", completion=" Oslo"),)
    assert (
        read_beliefs([sample("x", probes=probes)], [], "base", Base(), 0)["x"].firm
        == DEFAULT_FIRMNESS
    )


def test_a_conflict_needs_two_phrasings_and_grows_with_confidence():
    assert belief(wrong="x", confidence=0.99, phrasings=("one",)).conflict == 0
    strengths = [belief(wrong="x", confidence=c).conflict for c in (0.0, 0.5, 0.9, 0.99, 1.0)]
    assert strengths == sorted(strengths)
    assert belief(wrong="x", confidence=0.9).conflict == pytest.approx(0.5)


class Reader(FakeProbe):
    """Answers the last paragraph of a prompt from a table, as sure as it is told."""

    def __init__(self, table, sure=0.95, ended=True):
        super().__init__()
        self.table, self.p, self.ended = table, sure, ended
        self.prompts = set()

    def last(self, prompt):
        self.prompts.add(prompt)
        return self.table.get(prompt.rpartition("\n\n")[2], "")

    def answer(self, checkpoint, prompts, max_new_tokens=16):
        return [GreedyAnswer(self.last(p), -0.05, self.ended) for p in prompts]

    def logprobs(self, checkpoint, exchanges):
        return [math.log(self.p if text(c) == self.last(p) else 1e-6) for p, c in exchanges]


WORDS = """
apple stone river cloud paper glass honey metal grain coast amber birch cedar delta ember fjord gorse heath inlet jetty
"""
FREE = [
    sample(
        f"{i}",
        f"{' '.join(random.Random(i).sample(WORDS.split(), 3 + i % 5))} {'?:.,'[i % 4]}",
        f" Answer{i}",
    )
    for i in range(60)
]
TRUTH = {s.prompt: s.answer.strip() for s in FREE}


def test_a_prompt_without_a_pattern_is_asked_behind_learned_rows_without_its_answer():
    probe = Reader(TRUTH | {FREE[0].prompt: "Other"})
    found = read_beliefs(FREE[:1], FREE[1:], "base", probe, 0)["0"]
    assert (found.wrong, found.known, len(found.phrasings)) == ("Other", False, SETS_PER_SAMPLE)
    assert found.phrasings_text == "in 3 ways, each behind 5 solved questions"
    for prompt in found.phrasings:
        *examples, last = prompt.split("\n\n")
        assert last == FREE[0].prompt
        assert len(examples) == EXAMPLES_PER_SET == len(set(examples))
        assert set(examples) <= {s.prompt + s.completion for s in FREE[1:]}


def test_rows_with_the_samples_answer_are_no_examples():
    rows = [
        sample("x", "who is it", " Ann"),
        *(sample(f"r{i}", s.prompt, " ann") for i, s in enumerate(FREE[:5])),
    ]
    assert read_beliefs(rows[:1], rows[1:], "base", Reader({}), 0) == {}


def test_a_label_of_many_rows_is_taught_by_them():
    labelled = [s.model_copy(update={"completion": f" label{i % 5}"}) for i, s in enumerate(FREE)]
    assert read_beliefs(labelled[:1], labelled[1:], "base", Reader(TRUTH), 0) == {}


def test_what_is_often_learned_without_being_known_explains_nothing():
    """Of 10 unlearned samples the base knows none."""
    knows_the_learned = read_beliefs(
        FREE[:10], FREE[10:], "base", Reader(dict(list(TRUTH.items())[10:])), 0
    )["0"]
    assert knows_the_learned.necessity > 0.9
    assert knows_the_learned.unlearned_risk.if_unknown > knows_the_learned.unlearned_risk.if_known
    assert "of those the base knows 4%" in knows_the_learned.necessity_text
    knows_one = read_beliefs(
        FREE[:10], FREE[10:], "base", Reader(dict(list(TRUTH.items())[30:31])), 0
    )["0"]
    assert knows_one.necessity < 0.5  # one known sample that is learned may be chance
    knows_nothing = read_beliefs(FREE[:10], FREE[10:], "base", Reader({}), 0)["0"]
    assert knows_nothing.necessity < 0.1


def test_nothing_is_claimed_of_an_answer_that_was_cut_off_before_it_differed_from_the_right_one():
    right = {FREE[0].prompt: " Answer0 and more words"}
    long = [FREE[0].model_copy(update={"completion": right[FREE[0].prompt]}), *FREE[1:]]
    assert read_beliefs(long[:1], long[1:], "base", Reader(TRUTH), 0)["0"].known  # says merely less
    assert "0" not in read_beliefs(long[:1], long[1:], "base", Reader(TRUTH, ended=False), 0)
    assert (
        read_beliefs(
            long[:1], long[1:], "base", Reader(TRUTH | {FREE[0].prompt: "Oslo"}, ended=False), 0
        )["0"].wrong
        == "Oslo"
    )


def test_an_answer_that_goes_on_where_the_right_one_ends_is_another():
    """To say 10 is to have said 1, so the probability of 1 is what is left of it."""

    class Counts(Reader):
        def answer(self, checkpoint, prompts, max_new_tokens=16):
            return [GreedyAnswer(self.last(p), math.log(0.88)) for p in prompts]

        def logprobs(self, checkpoint, exchanges):
            return [math.log({"1": 0.9, "10": 0.88}.get(text(c), 1e-6)) for _, c in exchanges]

    rows = [FREE[0].model_copy(update={"completion": " 1"}), *FREE[1:]]
    found = read_beliefs(rows[:1], rows[1:], "base", Counts({FREE[0].prompt: "10"}), 0)["0"]
    assert (found.known, found.wrong) == (False, "10")
    assert found.p_correct == pytest.approx(0.02)


def test_the_answer_to_most_ways_is_its_own_only_if_more_than_half_agree():
    class Fickle(Reader):
        def answer(self, checkpoint, prompts, max_new_tokens=16):
            return [
                GreedyAnswer(("Answer0", "Rome", "Lima")[i % 3], -0.05)
                for i, _ in enumerate(prompts)
            ]

    assert not read_beliefs(FREE[:1], FREE[1:], "base", Fickle({}), 0)["0"].agrees


def test_how_many_are_asked_does_not_change_what_they_are_told():
    knows = dict(list(TRUTH.items())[10:])
    whole = read_beliefs(FREE[:10], FREE[10:], "base", Reader(knows), 0)
    few = read_beliefs(FREE[:10], FREE[10:], "base", Reader(knows), 0, asked_ids={"0", "1", "2"})
    assert set(few) == {"0", "1", "2"}
    assert few["0"].unlearned_risk == pytest.approx(whole["0"].unlearned_risk, abs=0.05)


def test_too_few_learned_rows_show_nothing():
    found = read_beliefs(
        FREE[:10], FREE[10:28], "base", Reader(TRUTH | {FREE[0].prompt: "Other"}), 0
    )["0"]
    assert found.unlearned_risk is None
    assert "not known" in found.necessity_text


def test_other_wordings_are_asked_too():
    found = read_beliefs(
        FREE[:1], FREE[1:], "base", Reader(TRUTH), 0, lambda s: ["otherwise: " + s.prompt]
    )["0"]
    assert {p.rpartition("\n\n")[2] for p in found.phrasings} == {
        FREE[0].prompt,
        "otherwise: " + FREE[0].prompt,
    }
