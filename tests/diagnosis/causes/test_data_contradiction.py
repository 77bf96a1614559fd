"""What contradicts a sample, how far that matters, and which side is wrong."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from ilp_mlflow import PluginError
from ilp_mlflow.diagnosis.causes.data_contradiction import DataContradiction
from ilp_mlflow.plugin import Conversation, Message, prompt_key
from tests import contexts
from tests.contexts import FakeProbe, belief, sample
from tests.diagnosis.contradictions.open_ended import reading, reworded
from tests.diagnosis.contradictions.planted import Planted

SLOW = pytest.mark.slow
QUESTION = "how many moons has the planet Mars"
X = sample("x", QUESTION, " two")
DATA = Path(os.environ.get("ILP_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))


def context(samples, **more):
    """A context in which the stage taught all rows but the first."""
    return contexts.context(
        samples, {s.id: ("unlearned", "learned", "learned") for s in samples[1:]}, **more
    )


def examined(other, probe=None, beliefs=None, **options):
    samples = [X, *other, sample("far", "who painted the bridge", " Ann")]
    known = context(samples, probe=probe, beliefs=beliefs)
    return DataContradiction(**options).examine([X], known).get("x")


def prefers(answer, probability):
    return FakeProbe(
        sure={
            ("second", QUESTION, answer): probability,
            ("second", QUESTION, "two"): 1 - probability,
        }
    )


@pytest.mark.parametrize("probability", [0.9, 0.1])
def test_a_contradiction_is_one_whether_or_not_the_model_goes_with_it(probability):
    found = examined([sample("y", QUESTION.upper() + "?", " three")], prefers("three", probability))
    assert found.strength == found.details["same_question"] == 1
    assert found.details["others_win"] == pytest.approx(probability)
    assert found.details["rows"] == ["y"]
    assert "is to be 'two', but a similar row says 'three', such as 'y'" in found.reason
    assert f"same question: 1.00 (equal prompts), the others win: {probability:.2f}" in found.reason


@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize(
    ("prompt", "ground"),
    [
        (f"{QUESTION} ?", "equal prompts"),
        (f"Please tell me: {QUESTION}?", "the same words"),
        ("How mnay moons has the planet Mars?", "the same words"),
    ],
)
def test_it_is_found_after_any_amount_of_training_in_any_stage(prompt, ground, taught):
    rows = [X, *(sample(i, prompt, " three", stage="second") for i in "abc"), *FAR]
    known = context(rows) if taught else contexts.context(rows)
    found = DataContradiction().examine([X], known)["x"]
    assert (found.strength, found.details["ground"]) == (1, ground)
    assert found.details["wrong"] == "this row"


def test_a_model_that_cannot_be_asked_changes_nothing_about_the_data():
    silent = FakeProbe()
    silent.logprobs = lambda checkpoint, exchanges: [float("nan")] * len(exchanges)
    found = examined([sample("y", QUESTION, " three")], silent)
    assert (found.strength, found.details["others_win"]) == (1, None)
    assert "the others win: not asked" in found.reason


def test_models_are_asked_about_the_samples_they_may_be_asked_about_only():
    probe = prefers("three", 0.9)
    known = context([X, sample("y", QUESTION, " three")], probe=probe)
    found = DataContradiction().examine([X], replace(known, asked=frozenset()))["x"]
    assert (found.strength, found.details["others_win"], probe.asked) == (1, None, 0)


@pytest.mark.parametrize("same", [" Two", " two.", " The two", " two moons"])
def test_an_answer_that_says_the_same_or_merely_more_is_none(same):
    assert examined([sample("y", QUESTION, same)]) is None


@pytest.mark.parametrize(
    "prompt",
    [
        "how many moons has the planet Venus",
        "how many rings has the planet Mars",
        "how many moons had the planet Mars",
        "how many moons has the planet Mars not",
    ],
)
def test_nearness_is_not_the_same_question(prompt):
    rows = [sample(f"y{i}", prompt, " three") for i in range(6)]
    assert examined(rows, prefers("three", 0.9)) is None


@pytest.mark.parametrize("seed", [200, *(pytest.param(s, marks=SLOW) for s in range(201, 205))])
def test_planted_contradictions_are_found_and_nothing_else(seed):
    planted = Planted(seed)
    found = DataContradiction().examine(planted.rows, planted.context())
    named = {id_ for id_, evidence in found.items() if evidence.strength >= 0.5}
    hits = len(named & planted.contradicted.keys())
    print(
        f"seed {seed}: {hits} of {len(planted.contradicted)} found, {len(named & planted.free)} of "
        f"{len(planted.free)} others named"
    )
    assert not named & planted.free
    assert hits >= 0.95 * len(planted.contradicted)
    sides = {1: [], 2: [], 6: []}
    for id_ in named & planted.contradicted.keys():
        _, size = planted.contradicted[id_]
        sides[size].append(found[id_].details["wrong"])
    assert set(sides[1]) == {"undecided"}
    # of several rows with slips some may not be known to ask the same
    assert sides[6].count("this row") >= 0.95 * len(sides[6])


def test_only_other_wordings_take_a_model_that_knows_something():
    planted = Planted(0)
    found = DataContradiction().examine(planted.rows, planted.context(learned=False))
    named = {id_ for id_, evidence in found.items() if evidence.strength >= 0.5}
    assert not named & planted.free
    others = [id_ for id_, (way, _) in planted.contradicted.items() if way != "wordings"]
    assert len(named.intersection(others)) >= 0.95 * len(others)


@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize("rows", [reworded(60), reading(60), reading(600)], ids=len)
def test_open_answers_and_other_documents_contradict_nothing(rows, taught):
    known = context(rows) if taught else contexts.context(rows)
    found = DataContradiction().examine(rows, known)
    assert [e.reason for e in found.values() if e.strength >= 0.5] == []


def test_real_instructions_contradict_nothing():
    file = DATA / "instruct.jsonl"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    rows = []
    for line in file.read_text().splitlines():
        row = json.loads(line)
        rows.append(sample(row["id"], row["prompt"], row["completion"]))
    found = DataContradiction().examine(rows, contexts.context(rows))
    assert [e.reason for e in found.values() if e.strength >= 0.5] == []


# Rows sorted into classes: those about one topic are near each other and agree.
WORDS = ["now", "maybe", "today", "really", "then", "here", "again", "soon", "still", "ever"]
NEAR = [sample(f"y{i}", f"{QUESTION} {word}", " three") for i, word in enumerate(WORDS)]
FAR = [sample(f"far {i}", f"who painted the bridge {i}", " Ann") for i in range(40)]
TWOS = [sample(f"two {i}", f"is the sea deep near {i}", " two") for i in range(10)]
PULLED = FakeProbe(sure={("second", QUESTION, "three"): 0.9, ("second", QUESTION, "two"): 0.0001})


def voted(samples, probe=PULLED, **more):
    options = more.pop("options", {})
    known = context([X, *samples], probe=probe, **more)
    return DataContradiction(nearest=4, **options).examine([X], known).get("x")


def test_near_rows_vote_on_labels():
    found = voted([*NEAR, *FAR, *TWOS])
    assert found.strength > 0.8
    assert found.details["wrong"] == "this row"
    assert found.details["ground"] == found.details["by"] == "the nearest rows"


def test_they_do_not_vote_where_the_prompt_tells_what_it_asks_about():
    about = replace(belief(), entity="Mars")
    found = voted([*NEAR, *FAR, *TWOS], beliefs={"x": about})
    assert found is None or found.strength < 0.01


def test_the_vote_on_a_label_counts_as_far_as_the_model_goes_with_it():
    keeps = FakeProbe(sure={("second", QUESTION, "two"): 0.9})
    found = voted([*NEAR, *FAR, *TWOS], keeps)
    assert found.details["same_question"] > 0.8
    assert found.strength < 0.1


def test_after_a_stage_that_taught_little_nobody_votes():
    rows = [X, *NEAR, *FAR, *TWOS]
    told = DataContradiction(nearest=4)
    assert told.examine([X], contexts.context(rows, probe=PULLED)) == {}


def test_answers_that_near_rows_do_not_share_are_no_labels():
    """Of 60 rows each has its own answer: that another differs is what to expect."""
    rows = [sample(s.id, s.prompt, f" {s.id}") for s in (*NEAR, *FAR, *TWOS)]
    assert voted(rows) is None


def test_a_rare_answer_is_not_outvoted_for_being_rare():
    near = [sample(f"z{i}", f"{QUESTION} then {i}", " two") for i in range(4)]
    found = voted([*NEAR[:5], *near, *FAR])
    assert found is None or found.strength < 0.5


def test_untrusted_rows_do_not_outvote():
    scraped = [row.model_copy(update={"source": "scraped"}) for row in NEAR]
    found = voted([*scraped, *FAR, *TWOS], options={"trust": {"scraped": 0}})
    assert found is None or found.strength < 0.01


def test_near_is_what_the_last_checkpoint_takes_for_the_same_among_what_shares_words():
    """Of rows that share as many words with the sample, those speak that the model sees near it."""
    ours = [sample(f"a{i}", f"how many moons circle {w}", " three") for i, w in enumerate("uvwxyz")]
    others = [sample(f"b{i}", f"how many moons see {w}", " nine") for i, w in enumerate("opqrst")]
    samples = [*ours, *others, *FAR, *TWOS]
    states = {s.prompt: (0.0, 0.0, 1.0) for s in (*FAR, *TWOS)}
    states |= {s.prompt: (1.0, 0.0, 0.0) for s in (X, *ours)}
    states |= {s.prompt: (0.0, 1.0, 0.0) for s in others}
    sure = {("second", QUESTION, answer): 0.4 for answer in ("three", "nine")}
    sure["second", QUESTION, "two"] = 0.001
    found = voted(samples, FakeProbe(sure=sure, states=states))
    assert set(found.details["rows"]) <= {s.id for s in ours}
    states |= {s.prompt: (1.0, 0.0, 0.0) for s in others}
    states |= {s.prompt: (0.0, 1.0, 0.0) for s in ours}
    found = voted(samples, FakeProbe(sure=sure, states=states))
    assert set(found.details["rows"]) <= {s.id for s in others}


def test_the_order_of_rows_does_not_matter():
    others = [
        sample(f"y{i}", f"Please: {QUESTION}{'?' * i}", f" {answer}")
        for i, answer in enumerate(("three", "four", "three"))
    ]
    found, turned = examined(others), examined(others[::-1])
    assert found.details["wrong"] == turned.details["wrong"] == "this row"
    assert sorted(found.details["rows"]) == sorted(turned.details["rows"]) == ["y0", "y2"]


# Where the prompt tells what it asks about, the base says which prompts about it ask the same.
REWORDED = "how many satellites go around the planet Mars"


@pytest.mark.parametrize(("probability", "low", "high"), [(0.01, 0, 0.1), (0.95, 0.9, 1)])
def test_prompts_about_one_thing_count_as_far_as_the_base_answers_them_alike(
    probability, low, high
):
    about = {"x": replace(belief(), entity="Mars")}
    sure = {("base", QUESTION, "two"): 0.99, ("base", REWORDED, "two"): probability}
    probe = FakeProbe(sure=sure)
    found = examined([sample("y", REWORDED, " none")], probe, about)
    assert low <= found.strength <= high
    assert found.details["ground"] == "the base answers both alike"


def test_an_answer_the_base_gives_to_anything_does_not_tell_that_two_prompts_ask_the_same():
    told = {"x": replace(belief(), entity="Mars")}
    far = [sample(f"far {i}", f"unrelated words {i}", f" answer {i}") for i in range(45)]
    sure = {("base", p, "two"): 0.95 for p in (QUESTION, REWORDED, *(s.prompt for s in far))}
    samples = [X, sample("y", REWORDED, " none"), *far]
    known = context(samples, probe=FakeProbe(sure=sure), beliefs=told)
    assert DataContradiction().examine([X], known)["x"].strength < 0.5


def test_a_row_about_something_else_contradicts_nothing():
    prompt = "how many moons has the planet Venus"
    pulled = FakeProbe(sure={("second", QUESTION, "none"): 0.9, ("base", prompt, "two"): 0.95})
    about = {"x": replace(belief(), entity="Mars")}
    assert examined([sample("y", prompt, " none")], pulled, about) is None


def test_all_rows_with_the_question_are_counted_and_no_others():
    same = [
        *(sample(f"t{i}", QUESTION, " two") for i in range(70)),
        *(sample(f"y{i}", QUESTION, " three") for i in range(200)),
    ]
    other = [
        sample(f"o{i}", f"how many moons has the planet Venus {i}", " two") for i in range(300)
    ]
    for rows in ([*same, *other], [*other, *same[::-1]]):
        found = examined(rows)
        assert len(found.details["rows"]) == 200
        assert found.details["wrong"] == "this row"


def test_to_say_ten_is_not_to_say_one():
    """The probability of `1` holds that of `10`."""
    ten = FakeProbe(sure={("second", QUESTION, "1"): 0.9, ("second", QUESTION, "10"): 0.89})
    one = sample("x", QUESTION, " 10")
    known = context([one, sample("y", QUESTION, " 1")], probe=ten)
    assert DataContradiction().examine([one], known)["x"].details["others_win"] < 0.1


@pytest.mark.parametrize("trust", [-1.0, float("nan"), float("inf")])
def test_trust_is_a_weight(trust):
    with pytest.raises(ValidationError):
        DataContradiction(trust={"web": trust})


JUDGE = "ilp_mlflow.diagnosis.contradictions.wrong_side.judge_contradiction"
LONG = " it takes up the heat of the food and hands it on to the air behind the box"
OTHER = " heat goes from what is inside to the room, carried by something that boils and condenses"


@pytest.mark.parametrize(
    ("ruling", "strength"), [("first", 1), ("second", 1), ("both", 1), ("neither", 0)]
)
@pytest.mark.parametrize("answers", [(" two", " three"), (LONG, OTHER)], ids=["short", "long"])
def test_a_judge_tells_whether_answers_contradict_each_other(
    monkeypatch, ruling, strength, answers
):
    monkeypatch.setattr(JUDGE, lambda *args: ruling)
    rows = [sample("x", QUESTION, answers[0]), sample("y", QUESTION, answers[1])]
    found = DataContradiction(judge="openai:/m").examine(rows[:1], context(rows))["x"]
    assert found.strength == strength


def test_without_one_long_answers_are_not_held_against_each_other():
    rows = [sample("x", QUESTION, LONG), sample("y", QUESTION, OTHER)]
    found = DataContradiction().examine(rows[:1], context(rows))["x"]
    assert found.strength == 0
    assert "which a `judge` can tell" in found.reason


def test_a_judge_that_cannot_be_asked_is_asked_once(monkeypatch):
    asked = []

    def fail(*args):
        asked.append(args)
        raise PluginError("judge 'openai:/m' cannot be asked: no route")

    monkeypatch.setattr(JUDGE, fail)
    rows = [X, sample("x2", QUESTION, " two"), sample("y", QUESTION, " three")]
    rows += [sample("l", "how does it cool", LONG), sample("o", "how does it cool", OTHER)]
    found = DataContradiction(judge="openai:/m").examine([*rows[:2], rows[3]], context(rows))
    assert len(asked) == 1
    assert all(e.details["wrong"] == "undecided" and "no route" in e.reason for e in found.values())
    assert {id_: e.strength for id_, e in found.items()} == {"x": 1, "x2": 1, "l": 0}


def test_empty_prompts_do_not_ask_the_same():
    samples = [sample("x", "", " two"), sample("y", "", " three")]
    assert DataContradiction().examine(samples[:1], context(samples)) == {}


def side(other, beliefs=None, **options):
    found = examined(other, prefers("three", 0.9), beliefs, **options)
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

    monkeypatch.setattr(JUDGE, ruling)
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
