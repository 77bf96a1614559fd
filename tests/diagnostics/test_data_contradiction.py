from dataclasses import replace

import pytest

from ilp_mlflow import Message, same_prompt
from ilp_mlflow.diagnostics.data_contradiction import DataContradiction
from tests.contexts import FakeProbe, belief, context, sample

QUESTION = "how many moons has the planet Mars"
X = sample("x", QUESTION, " two")


def examined(other, probe):
    samples = [X, *other, sample("far", "who painted the bridge", " Ann")]
    return DataContradiction().examine([X], context(samples, probe=probe))


def test_the_same_prompt_answered_otherwise_is_a_contradiction_when_the_model_follows_it():
    pulled = FakeProbe(sure={("second", QUESTION, "three"): 0.9, ("second", QUESTION, "two"): 0.1})
    found = examined([sample("y", QUESTION.upper() + "?", " three")], pulled)["x"]
    assert found.strength == pytest.approx(0.9)
    assert found.details["rows"] == ["y"]
    assert "is to be 'two', but a similar row says 'three', such as 'y'" in found.reason


def test_a_model_that_is_not_pulled_is_not_contradicted():
    keeps = FakeProbe(sure={("second", QUESTION, "three"): 0.1, ("second", QUESTION, "two"): 0.9})
    assert examined([sample("y", QUESTION, " three")], keeps)["x"].strength == pytest.approx(0.1)


@pytest.mark.parametrize("same", [" Two", " two.", " The two", " two moons"])
def test_an_answer_that_says_the_same_or_merely_more_is_none(same):
    pulled = FakeProbe(sure={("second", QUESTION, same.strip()): 0.9})
    assert examined([sample("y", QUESTION, same)], pulled) == {}


def test_a_similar_prompt_counts_as_far_as_it_asks_the_same():
    prompt = "how many moons has the planet Venus"
    pulled = {("second", QUESTION, "none"): 0.9, ("second", QUESTION, "two"): 0.1}
    found = examined([sample("y", prompt, " none")], FakeProbe(sure=pulled | {("base", prompt, "two"): 0.01}))
    assert found["x"].strength < 0.5  # other questions nearby; the base does not answer Venus with what Mars has
    found = examined([sample("y", prompt, " none")], FakeProbe(sure=pulled | {("base", prompt, "two"): 0.95}))
    assert found["x"].strength > 0.8


def test_the_order_of_rows_does_not_matter():
    others = [sample(f"y{i}", f"{QUESTION} {i}", f" {answer}") for i, answer in enumerate(("three", "four", "three"))]
    pulled = FakeProbe(sure={("second", QUESTION, "three"): 0.9})
    assert examined(others, pulled)["x"].strength == examined(others[::-1], pulled)["x"].strength


# two topics: rows about one are near each other and agree
NEAR = [sample(f"y{i}", f"{QUESTION} {word}", " three") for i, word in enumerate(("now", "please", "today", "really"))]
FAR = [sample(f"far {i}", f"who painted the bridge {i}", " Ann") for i in range(40)]
PULLED = FakeProbe(sure={("second", QUESTION, "three"): 0.9, ("second", QUESTION, "two"): 0.0001})


def voted(samples, **more):
    return DataContradiction(nearest=4).examine([X], context([X, *samples], probe=PULLED, **more)).get("x")


def test_neighbours_vote_where_nothing_else_tells_what_is_asked():
    found = voted([*NEAR, *FAR])
    assert found.strength > 0.8
    assert found.details["wrong"] == "this row"
    about = replace(belief(), entity="Mars")  # the base can be asked
    assert voted([*NEAR, *FAR], beliefs={"x": about}).strength < 0.01


def test_neighbours_are_not_heard_where_similar_prompts_are_answered_in_many_ways():
    """Of 44 rows each has its own answer: that another differs is what to expect."""
    rows = [sample(s.id, s.prompt, f" {s.id}") for s in (*NEAR, *FAR)]
    found = DataContradiction(nearest=4).examine([X], context([X, *rows], probe=FakeProbe()))
    assert all(e.details["same_question"] < 0.2 for e in found.values())


def test_an_answer_that_most_rows_have_is_no_contradiction():
    """The only row with its answer: that none of its kind is near says nothing."""
    assert voted([*NEAR, *(sample(f"far {i}", f"who painted the bridge {i}", " three") for i in range(40))]).strength < 0.5


def test_a_rare_answer_is_not_outvoted_for_being_rare():
    one_of_two = [sample("z0", f"{QUESTION} then", " two"), sample("z1", "who painted the bridge", " two")]
    assert voted([*NEAR[:3], *one_of_two, *FAR]).strength < 0.5


def test_untrusted_rows_do_not_outvote():
    scraped = [row.model_copy(update={"source": "scraped"}) for row in NEAR]
    probe = context([X, *scraped, *FAR], probe=PULLED)
    assert DataContradiction(nearest=4, trust={"scraped": 0}).examine([X], probe)["x"].strength < 0.01


def test_an_answer_the_base_gives_to_anything_does_not_tell_that_two_prompts_ask_the_same():
    prompt, told = "how many moons has the planet Venus", {"x": replace(belief(), entity="planet")}
    far = [sample(f"far {i}", f"unrelated words {i}", f" answer {i}") for i in range(45)]
    sure = {("base", p, "two"): 0.95 for p in (prompt, *(s.prompt for s in far))} | {("second", QUESTION, "none"): 0.9}
    samples = [X, sample("y", prompt, " none"), *far]
    assert DataContradiction().examine([X], context(samples, probe=FakeProbe(sure=sure), beliefs=told))["x"].strength < 0.5


def test_empty_prompts_do_not_ask_the_same():
    samples = [sample("x", "", " two"), sample("y", "", " three")]
    pulled = FakeProbe(sure={("second", "", "three"): 0.9})
    assert DataContradiction().examine(samples[:1], context(samples, probe=pulled))["x"].strength == 0


def test_a_row_about_something_else_contradicts_nothing():
    prompt = "how many moons has the planet Venus"
    pulled = FakeProbe(sure={("second", QUESTION, "none"): 0.9, ("base", prompt, "two"): 0.95})
    samples = [X, sample("y", prompt, " none")]
    about = context(samples, probe=pulled, beliefs={"x": replace(belief(), entity="Mars")})
    assert DataContradiction().examine([X], about) == {}


def test_a_model_that_cannot_be_asked_gives_no_evidence():
    silent = FakeProbe()
    silent.logprobs = lambda checkpoint, exchanges: [float("nan")] * len(exchanges)
    assert examined([sample("y", QUESTION, " three")], silent) == {}


def side(other, **options):
    pulled = FakeProbe(sure={("second", QUESTION, "three"): 0.9, ("second", QUESTION, "two"): 0.1})
    found = DataContradiction(**options).examine([X], context([X, *other], probe=pulled))["x"]
    return found.details["wrong"], found.details["by"]


def test_the_side_with_fewer_rows_is_wrong_as_far_as_sources_are_trusted():
    three = [sample(f"y{i}", QUESTION, " three", source="scraped") for i in range(2)]
    assert side(three) == ("this row", "the number of rows")
    assert side(three[:1]) == ("undecided", "the number of rows")
    assert side([*three, *(sample(f"z{i}", QUESTION, " two") for i in range(2))]) == ("the others", "the number of rows")
    assert side(three, trust={"scraped": 0.1}) == ("the others", "the number of rows")


def test_a_judge_rules_instead(monkeypatch):
    asked = []

    def ruling(model, questions, answers):
        asked.append((model, questions, answers))
        return "second"

    monkeypatch.setattr("ilp_mlflow.diagnostics.data_contradiction.ruling", ruling)
    assert side([sample("y", QUESTION, " three")], judge="openai:/m") == ("the others", "the judge")
    assert asked == [("openai:/m", (QUESTION, QUESTION), (" two", " three"))]


def turns(*contents, role="user"):
    return tuple(Message(role=role, content=text) for text in contents)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("How many?", "how  many", True),
        ("what is 5!", "what is 5?", False),
        (turns("Hi"), turns("hi!"), True),
        (turns("Hi"), turns("Hi", role="system"), False),
        (turns("a", "b"), turns("ab"), False),
    ],
)
def test_prompts_are_the_same_but_for_case_white_space_and_ends(one, other, same):
    assert (same_prompt(one) == same_prompt(other)) is same


def test_models_are_asked_about_the_samples_they_may_be_asked_about_only():
    known = context([X, sample("y", QUESTION, " three")], probe=PULLED)
    assert DataContradiction().examine([X], replace(known, asked=frozenset())) == {}
