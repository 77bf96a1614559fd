from dataclasses import replace

import pytest
from pydantic import ValidationError

from ilp_mlflow import PluginError
from ilp_mlflow.diagnosis.causes.data_contradiction import DataContradiction
from ilp_mlflow.plugin import Conversation, Message, prompt_key
from tests import contexts
from tests.contexts import FakeProbe, belief, sample

QUESTION = "how many moons has the planet Mars"
X = sample("x", QUESTION, " two")


def context(samples, **more):
    """A context in which the stage taught all rows but the first."""
    return contexts.context(
        samples, {s.id: ("unlearned", "learned", "learned") for s in samples[1:]}, **more
    )


def examined(other, probe):
    samples = [X, *other, sample("far", "who painted the bridge", " Ann")]
    return DataContradiction(few=0).examine([X], context(samples, probe=probe))


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
    found = examined(
        [sample("y", prompt, " none")], FakeProbe(sure=pulled | {("base", prompt, "two"): 0.01})
    )
    assert (
        found["x"].strength < 0.5
    )  # other questions nearby; the base does not answer Venus with what Mars has
    found = examined(
        [sample("y", prompt, " none")], FakeProbe(sure=pulled | {("base", prompt, "two"): 0.95})
    )
    assert found["x"].strength > 0.8


def test_the_order_of_rows_does_not_matter():
    others = [
        sample(f"y{i}", f"{QUESTION} {i}", f" {answer}")
        for i, answer in enumerate(("three", "four", "three"))
    ]
    pulled = FakeProbe(sure={("second", QUESTION, "three"): 0.9})
    assert examined(others, pulled)["x"].strength == examined(others[::-1], pulled)["x"].strength


# two topics: rows about one are near each other and agree
NEAR = [
    sample(f"y{i}", f"{QUESTION} {word}", " three")
    for i, word in enumerate(("now", "please", "today", "really"))
]
FAR = [sample(f"far {i}", f"who painted the bridge {i}", " Ann") for i in range(40)]
PULLED = FakeProbe(sure={("second", QUESTION, "three"): 0.9, ("second", QUESTION, "two"): 0.0001})


def test_after_a_stage_that_taught_little_only_the_very_prompt_tells():
    rows = [X, *NEAR, *FAR]
    told = DataContradiction(nearest=4)
    assert told.examine([X], context(rows, probe=PULLED))["x"].strength > 0.5
    assert told.examine([X], contexts.context(rows, probe=PULLED)) == {}
    assert (
        told.examine([X], context([X, *NEAR, *FAR[:4]], probe=PULLED)) == {}
    )  # nine rows are too few to tell near from far
    same = sample("y", QUESTION, " three")
    assert told.examine([X], contexts.context([*rows, same], probe=PULLED))["x"].details[
        "rows"
    ] == ["y"]


def voted(samples, **more):
    return (
        DataContradiction(nearest=4)
        .examine([X], context([X, *samples], probe=PULLED, **more))
        .get("x")
    )


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
    assert (
        voted(
            [
                *NEAR,
                *(sample(f"far {i}", f"who painted the bridge {i}", " three") for i in range(40)),
            ]
        ).strength
        < 0.5
    )


def test_a_rare_answer_is_not_outvoted_for_being_rare():
    one_of_two = [
        sample("z0", f"{QUESTION} then", " two"),
        sample("z1", "who painted the bridge", " two"),
    ]
    assert voted([*NEAR[:3], *one_of_two, *FAR]).strength < 0.5


def test_untrusted_rows_do_not_outvote():
    scraped = [row.model_copy(update={"source": "scraped"}) for row in NEAR]
    probe = context([X, *scraped, *FAR], probe=PULLED)
    assert (
        DataContradiction(nearest=4, trust={"scraped": 0}).examine([X], probe)["x"].strength < 0.01
    )


def test_an_answer_the_base_gives_to_anything_does_not_tell_that_two_prompts_ask_the_same():
    prompt, told = "how many moons has the planet Venus", {"x": replace(belief(), entity="planet")}
    far = [sample(f"far {i}", f"unrelated words {i}", f" answer {i}") for i in range(45)]
    sure = {("base", p, "two"): 0.95 for p in (prompt, *(s.prompt for s in far))} | {
        ("second", QUESTION, "none"): 0.9
    }
    samples = [X, sample("y", prompt, " none"), *far]
    assert (
        DataContradiction()
        .examine([X], context(samples, probe=FakeProbe(sure=sure), beliefs=told))["x"]
        .strength
        < 0.5
    )


def test_near_is_what_the_last_checkpoint_takes_for_the_same_among_what_shares_words():
    """Of rows that share as many words with the sample, those speak that the model sees near it."""
    ours = [
        sample(f"a{i}", f"how many moons circle {word}", " three")
        for i, word in enumerate(("x", "y", "z"))
    ]
    others = [
        sample(f"b{i}", f"how many moons see {word}", " nine")
        for i, word in enumerate(("u", "v", "w"))
    ]
    samples = [X, *ours, *others, *FAR]
    states = {s.prompt: (0.0, 0.0, 1.0) for s in FAR} | {
        s.prompt: (1.0, 0.0, 0.0) for s in (X, *ours)
    }
    states |= {s.prompt: (0.0, 1.0, 0.0) for s in others}
    sure = {("second", QUESTION, answer): 0.4 for answer in ("three", "nine")} | {
        ("second", QUESTION, "two"): 0.001
    }
    found = DataContradiction(nearest=3).examine(
        [X], context(samples, probe=FakeProbe(sure=sure, states=states))
    )["x"]
    assert found.details["rows"] == ["a0", "a1", "a2"]
    swapped = (
        states
        | {s.prompt: (1.0, 0.0, 0.0) for s in others}
        | {s.prompt: (0.0, 1.0, 0.0) for s in ours}
    )
    found = DataContradiction(nearest=3).examine(
        [X], context(samples, probe=FakeProbe(sure=sure, states=swapped))
    )["x"]
    assert found.details["rows"] == ["b0", "b1", "b2"]


def test_what_the_model_says_instead_is_credited_to_rows_that_say_it():
    """Near rows say three; the model says something else, which hardly any of them does."""
    elsewhere = FakeProbe(
        sure={("second", QUESTION, "nine"): 0.9, ("second", QUESTION, "two"): 0.001}
    )
    samples = [X, *NEAR, sample("n", f"{QUESTION} at all", " nine"), *FAR]
    found = DataContradiction(nearest=5).examine([X], context(samples, probe=elsewhere))["x"]
    assert "'three'" not in found.reason or found.strength < 0.1


def test_all_rows_with_the_very_prompt_are_counted_and_no_others():
    """More than are looked at as neighbours, whatever the order; rows about something else are on nobody's side."""
    same = [
        *(sample(f"t{i}", QUESTION, " two") for i in range(70)),
        *(sample(f"y{i}", QUESTION, " three") for i in range(200)),
    ]
    other = [
        sample(f"o{i}", f"how many moons has the planet Venus {i}", " two") for i in range(300)
    ]
    for rows in ([*same, *other], [*other, *same[::-1]]):
        found = DataContradiction().examine([X], context([X, *rows], probe=PULLED))["x"]
        assert len(found.details["rows"]) == 200
        assert found.details["wrong"] == "this row"


def test_an_equal_prompt_is_looked_at_before_frequent_answers():
    about = {"x": replace(belief(), entity="Mars")}
    rows = [
        sample(f"{n}{i}", f"how many {n} has the planet Mars", f" {n}")
        for n in "abcdefghijkl"
        for i in range(2)
    ]
    found = DataContradiction().examine(
        [X], context([X, sample("y", QUESTION, " three"), *rows], probe=PULLED, beliefs=about)
    )["x"]
    assert found.details["rows"] == ["y"]


def test_to_say_ten_is_not_to_say_one():
    """The probability of `1` holds that of `10`."""
    ten = FakeProbe(sure={("second", QUESTION, "1"): 0.9, ("second", QUESTION, "10"): 0.89})
    one = sample("x", QUESTION, " 10")
    assert (
        DataContradiction()
        .examine([one], context([one, sample("y", QUESTION, " 1")], probe=ten))["x"]
        .strength
        < 0.1
    )


@pytest.mark.parametrize("trust", [-1.0, float("nan"), float("inf")])
def test_trust_is_a_weight(trust):
    with pytest.raises(ValidationError):
        DataContradiction(trust={"web": trust})


def test_a_judge_that_finds_neither_wrong_leaves_no_contradiction(monkeypatch):
    monkeypatch.setattr(
        "ilp_mlflow.diagnosis.contradictions.wrong_side.judge_contradiction",
        lambda *args: "neither",
    )
    found = DataContradiction(judge="openai:/m").examine(
        [X], context([X, sample("y", QUESTION, " three")], probe=PULLED)
    )["x"]
    assert found.strength == 0


def test_a_judge_that_cannot_be_asked_is_asked_once(monkeypatch):
    asked = []

    def fail(*args):
        asked.append(args)
        raise PluginError("judge 'openai:/m' cannot be asked: no route")

    monkeypatch.setattr("ilp_mlflow.diagnosis.contradictions.wrong_side.judge_contradiction", fail)
    other = sample("x2", QUESTION, " two")
    rows = [X, other, sample("y", QUESTION, " three")]
    found = DataContradiction(judge="openai:/m").examine([X, other], context(rows, probe=PULLED))
    assert len(asked) == 1
    assert all(e.details["wrong"] == "undecided" and "no route" in e.reason for e in found.values())


def test_empty_prompts_do_not_ask_the_same():
    samples = [sample("x", "", " two"), sample("y", "", " three")]
    pulled = FakeProbe(sure={("second", "", "three"): 0.9})
    assert DataContradiction().examine(samples[:1], context(samples, probe=pulled)) == {}


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


def side(other, beliefs=None, **options):
    pulled = FakeProbe(sure={("second", QUESTION, "three"): 0.9, ("second", QUESTION, "two"): 0.1})
    found = DataContradiction(**options).examine(
        [X], context([X, *other], probe=pulled, beliefs=beliefs)
    )["x"]
    return found.details["wrong"], found.details["by"]


def test_the_side_with_fewer_rows_is_wrong_as_far_as_sources_are_trusted():
    three = [sample(f"y{i}", QUESTION, " three", source="scraped") for i in range(2)]
    assert side(three) == ("this row", "the number of rows")
    assert side(three[:1]) == ("undecided", "the number of rows")
    assert side([*three, *(sample(f"z{i}", QUESTION, " two") for i in range(2))]) == (
        "the others",
        "the number of rows",
    )
    assert side(three, trust={"scraped": 0.1}) == ("the others", "the number of rows")


@pytest.mark.parametrize(
    ("believed", "wrong"),
    [
        (belief(right=0.9), ("the others", "what the base knows")),
        (belief(wrong="three", confidence=0.95), ("this row", "what the base knows")),
        (belief(wrong="three", confidence=0.5), ("this row", "the number of rows")),
        (belief(wrong="four", confidence=0.95), ("this row", "the number of rows")),
    ],
)
def test_what_the_base_knows_outweighs_the_number_of_rows(believed, wrong):
    assert side([sample(f"y{i}", QUESTION, " three") for i in range(9)], {"x": believed}) == wrong


def test_a_judge_rules_instead(monkeypatch):
    asked = []

    def ruling(model, questions, answers):
        asked.append((model, questions, answers))
        return "second"

    monkeypatch.setattr(
        "ilp_mlflow.diagnosis.contradictions.wrong_side.judge_contradiction", ruling
    )
    assert side([sample("y", QUESTION, " three")], judge="openai:/m") == ("the others", "the judge")
    assert asked == [("openai:/m", (QUESTION, QUESTION), (" two", " three"))]


def turns(*contents, role="user"):
    return Conversation(turns=[Message(role=role, content=text) for text in contents])


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
    assert (prompt_key(one) == prompt_key(other)) is same


def test_models_are_asked_about_the_samples_they_may_be_asked_about_only():
    known = context([X, sample("y", QUESTION, " three")], probe=PULLED)
    assert DataContradiction().examine([X], replace(known, asked=frozenset())) == {}
