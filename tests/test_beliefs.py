import pytest

from ilp_mlflow import Exchange
from ilp_mlflow.beliefs import beliefs
from ilp_mlflow.plugin import FIRM
from tests.contexts import FakeProbe, belief, sample

CITY = {name: f"City{i}" for i, name in enumerate(("Ann", "Bo", "Cy", "Dee", "Eve", "Flo", "Gus", "Hal"))}
ASKED = ("Where was {} born?", "The birthplace of {}:", "Name the birthplace of {}!")
OTHER = ("What does {} eat?", "The food of {}:", "Name the food of {}!")


class Base(FakeProbe):
    """Knows where everybody was born, except one of whom it is unsure and one of whom it is sure of something else."""

    def __init__(self, unsure=(), wrong=None):
        super().__init__()
        self.unsure, self.wrong = set(unsure), wrong or {}

    def answer(self, prompt):
        name = next(n for n in CITY if n in prompt)
        if any(prompt == way.format(name) for way in OTHER):
            return f"Food{name}", 0.95
        if name in self.unsure:
            return f"Guess{len(prompt) % 3}", 0.4
        return self.wrong.get(name, CITY[name]), 0.95

    def say(self, checkpoint, prompts, max_new_tokens=16):
        self.says = {(checkpoint, p): self.answer(p)[0] for p in prompts}
        return super().say(checkpoint, prompts)

    def logprobs(self, checkpoint, exchanges):
        self.sure = {(checkpoint, p, self.answer(p)[0]): self.answer(p)[1] for p, _ in exchanges}
        return super().logprobs(checkpoint, exchanges)


def rows():
    births = [sample(f"{way}/{n}", way.format(n), f" {city}") for n, city in CITY.items() for way in ASKED]
    return births + [sample(f"{way}/{n}", way.format(n), f" Food{n}") for n in CITY for way in OTHER]


def asked(probe, changed=None):
    """The belief about Ann's birthplace, whose row is not learned; of `changed` samples the labels are other than what is so."""
    samples = [s.model_copy(update={"completion": changed.get(s.id, s.completion)}) if changed else s for s in rows()]
    target = f"{ASKED[0]}/Ann"
    unlearned = [s for s in samples if s.id == target]
    return beliefs(unlearned, [s for s in samples if s.id != target], "base", probe, 0)[target]


def test_what_the_base_knows_is_found_in_the_other_rows_questions():
    found = asked(Base())
    assert found.known
    assert found.right == pytest.approx(0.95)
    assert found.wrong == ""
    assert found.phrasings[0] == ASKED[0].format("Ann")
    assert set(found.phrasings) == {way.format("Ann") for way in ASKED}  # and none that asks for something else
    assert found.firm == pytest.approx(0.95)


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
    probes = (Exchange(prompt="Ann was born in", completion=" Oslo"), Exchange(prompt="Ann's native town is", completion=" Oslo"))
    target = sample("x", ASKED[0].format("Ann"), " Oslo", probes=probes)
    found = beliefs([target], rows(), "base", Base(), 0)["x"]
    assert found.phrasings == tuple(p.prompt for p in probes)
    assert found.wrong == CITY["Ann"]


def test_nothing_is_said_of_prompts_without_a_pattern():
    assert beliefs([sample("x", "help me")], [sample("y", "go on")], "base", FakeProbe(), 0) == {}


def test_firmness_is_given_where_too_little_is_known():
    probes = (Exchange(prompt="Ann was born in", completion=" Oslo"),)
    assert beliefs([sample("x", probes=probes)], [], "base", Base(), 0)["x"].firm == FIRM


def test_a_conflict_needs_two_phrasings_and_grows_with_confidence():
    assert belief(wrong="x", confidence=0.99, phrasings=("one",)).conflict == 0
    strengths = [belief(wrong="x", confidence=c).conflict for c in (0.0, 0.5, 0.9, 0.99, 1.0)]
    assert strengths == sorted(strengths)
    assert belief(wrong="x", confidence=0.9).conflict == pytest.approx(0.5)
