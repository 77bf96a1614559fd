"""Wordings that ask the same of one thing, told by what is known of others."""

import math

import pytest

from ilp_mlflow.data.questions import Questions
from ilp_mlflow.diagnosis.contradictions.wordings import Wordings
from tests.contexts import FakeProbe, context, sample

LANDS = {"Spain": "Madrid", "Italy": "Rome", "Peru": "Lima", "Chile": "Santiago"}
CAPITAL, SEAT, MONEY = (
    "What is the capital of {}?",
    "Which city is the seat of {}?",
    "Which money is the money of {}?",
)
RIGHT = [sample(land, CAPITAL.format(land), f" {city}") for land, city in LANDS.items()]


def compared(one, other, sure=(), rows=RIGHT, learned=True):
    """Probability that two prompts ask the same, for rows that say something else; None untold."""
    pair = [sample("x", one, " Ulm"), sample("y", other, " Bonn")]
    rows = [*pair, *rows]
    histories = {s.id: ("unlearned", "learned", "learned") for s in rows[2:]} if learned else {}
    known = context(rows, histories, probe=FakeProbe(sure=dict(sure)))
    wordings = Wordings(rows, Questions([s.prompt for s in rows]), known)
    found = wordings.same_as([0], lambda place, other_place: rows[other_place].id == "y")
    return found[0].get(1)


def knows(wording, probability=0.9, checkpoint="second"):
    prompts = {
        (checkpoint, wording.format(land), city): probability for land, city in LANDS.items()
    }
    own = {(checkpoint, CAPITAL.format(land), city): 0.9 for land, city in LANDS.items()}
    return {**own, **prompts}


def test_a_model_that_answers_known_things_alike_in_both_tells():
    one, other = CAPITAL.format("Zorvania"), SEAT.format("Zorvania")
    assert compared(one, other, knows(SEAT)) == 1
    assert compared(other, one, knows(SEAT)) == 1
    assert compared(one, MONEY.format("Zorvania"), knows(SEAT)) is None


def test_the_base_tells_where_the_last_checkpoint_knows_too_little():
    one, other = CAPITAL.format("Zorvania"), SEAT.format("Zorvania")
    assert compared(one, other, knows(SEAT, 0.8, "base"), learned=False) == 1
    assert compared(one, other) is None


def test_rows_learned_in_both_wordings_tell_without_asking():
    seats = [sample(f"{land} 2", SEAT.format(land), f" {city}") for land, city in LANDS.items()]
    one, other = CAPITAL.format("Zorvania"), SEAT.format("Zorvania")
    assert compared(one, other, rows=[*RIGHT, *seats]) == 1
    coins = [sample(f"{land} 3", MONEY.format(land), f" {land} coin") for land in LANDS]
    assert compared(one, MONEY.format("Zorvania"), rows=[*RIGHT, *coins]) is None


@pytest.mark.parametrize(
    "other",
    [
        SEAT.format("Drumland"),
        "Which city is not the seat of Zorvania?",
        "Which city was the seat of Zorvania in 1990?",
        "Which city is the seat of West Zorvania?",
        "Which city is the seat of Zorvania? " + "Think it over. " * 30,
    ],
)
def test_prompts_about_something_else_are_not_compared(other):
    wording = other.replace("Zorvania", "{}").replace("Drumland", "{}")
    assert compared(CAPITAL.format("Zorvania"), other, knows(wording)) is None


def test_things_with_one_answer_count_once():
    """That two people were born in one town, asked in three ways, tells nothing of other towns."""
    ways = ("birth", "natal", "native", "home")
    towns = dict.fromkeys(ways, " Ulm") | {"home": " Bonn"}
    rows = [sample(f"ann {w}", f"Tell me the {w} town of Ann.", towns[w]) for w in ways]
    rows += [sample(f"bob {w}", f"What is the {w} town of Bob?", " Ulm") for w in ways]
    one, other = "Tell me the zorbic town of Ann.", "What is the zorbic town of Bob?"
    assert compared(one, other, rows=rows) is None


def test_few_known_things_tell_nothing():
    one, other = CAPITAL.format("Zorvania"), SEAT.format("Zorvania")
    assert compared(one, other, knows(SEAT), rows=RIGHT[:2]) is None


def test_a_probe_that_cannot_be_asked_tells_nothing():
    silent = FakeProbe()
    silent.logprobs = lambda checkpoint, exchanges: [math.nan] * len(exchanges)
    rows = [
        sample("x", CAPITAL.format("Zorvania"), " Ulm"),
        sample("y", SEAT.format("Zorvania"), " Bonn"),
        *RIGHT,
    ]
    known = context(rows, probe=silent)
    wordings = Wordings(rows, Questions([s.prompt for s in rows]), known)
    assert wordings.same_as([0], lambda place, other: other == 1) == {0: {}}
