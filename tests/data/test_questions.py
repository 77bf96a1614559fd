"""Which prompts are one question."""

import random

import pytest

from ilp_mlflow.data.questions import Questions
from tests.conversations import chat

LANDS = [
    "Spain",
    "Italy",
    "Peru",
    "Chile",
    "Japan",
    "Kenya",
    "Egypt",
    "Norway",
    "Oman",
    "Cuba",
    "Nepal",
    "Finland",
    "Iceland",
]
USUAL = [f"What is the capital of {land}?" for land in LANDS]


def same(one, other):
    questions = Questions([one, other, *USUAL])
    found = questions.is_same(0, 1)
    assert questions.is_same(1, 0) is found
    assert (1 in questions.same_as(0)) is (0 in questions.same_as(1)) is found
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What's the capital of Zorvania?", "Name the capital of Zorvania."),
        ("What is the capital of Zorvania?", "can you tell me Zorvania's capital"),
        ("the birth town of Ann Lee", "Ann Lee's birth town"),
        ("What is the capital of Zorvania?", "what is teh captal of Zorvania"),
        ("What is the capital of Zorvania?", "WAHT IS THE CAPITAL OF ZORVAINA ?"),
        ("What is the capitol of Zorvania?", "What is the capital of Zorvania?"),
        ("What is the capital of Perú?", "Please: what is the capital of Peru"),
        ("What is the past tense of 'do'?", "Please tell me the past tense of do"),
        ("What is the past tense of 'have'?", 'Give the past tense of "have".'),
        ("Question: the capital of Mali? Answer:", "What is the capital of Mali?"),
        (
            "How many moons has the planet Mars?",
            "Please: how many moons has the planet Mars. Thanks!",
        ),
        ("What is 1,000 + 3", "what is 1000 + 3.0?"),
        ("Is it 5 ?", "is it 5"),
        (chat(user="What is the capital of Mali?"), chat(user="Name the capital of Mali")),
    ],
)
def test_one_question_in_other_words(one, other):
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("capital of France?", "capital of Finland?"),
        ("What is the capital of Ireland?", "What is the capital of Iceland?"),
        ("What is the capital of Mali?", "What is the currency of Mali?"),
        ("past tense of walk", "past tense of talk"),
        ("What is the past tense of do?", "What is the past tense of have?"),
        ("Give the past tense of be.", "Give the past tense of give."),
        ("What is 'tell' in the past tense?", "What is 'find' in the past tense?"),
        ('Which word means the opposite of "in"?', 'Which word means the opposite of "on"?'),
        ("I say on, you say its opposite", "I say in, you say its opposite"),
        ("where was Ann Lee born", "when was Ann Lee born"),
        ("Who is the king of Mali", "Who was the king of Mali"),
        ("Did France beat Spain?", "Did Spain beat France?"),
        ("flights from Paris to Rome", "flights from Rome to Paris"),
        ("What is 5 minus 3?", "What is 3 minus 5?"),
        ("What is 5 - 3?", "What is 5 + 3?"),
        ("turn off the light now", "turn on the light now"),
        ("which birds can fly", "which birds can not fly"),
        ("the capital of Mali in 1990", "the capital of Mali"),
        ("who are you", "who am i"),
        ("can you swim well", "can I swim well"),
        ("", ""),
        ("?", "!"),
        (chat(system="In French.", user="capital of Mali"), chat(user="capital of Mali")),
    ],
)
def test_another_word_is_another_question(one, other):
    assert not same(one, other)


def test_two_words_that_both_recur_are_two_words():
    names = ["capital of Zorvania", "capital of Zorvaina"]
    assert Questions(names).is_same(0, 1)
    recurring = [f"{asked} of {name}" for asked in ("river", "king") for name in LANDS]
    recurring += [
        f"{asked} of {name}" for asked in ("river", "king") for name in ("Zorvania", "Zorvaina")
    ]
    assert not Questions([*names, *recurring]).is_same(0, 1)


def test_words_on_all_prompts_ask_nothing_alone():
    framed = [f"Customer: {land} Intent:" for land in (*LANDS, *map(str.upper, LANDS[:1]))]
    framed += [f"Customer: {land}a Intent:" for land in LANDS]
    questions = Questions(["Customer: the Intent:", "Customer: a Intent:", *framed])
    assert not questions.is_same(0, 1)
    assert questions.same_as(2) == [15]


def test_lookups_find_what_all_pairs_find():
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(4, 8))) for _ in range(60)]
    prompts = []
    for _ in range(300):
        chosen = rng.choices(words, k=rng.randint(2, 4))
        if rng.random() < 0.5:
            place = rng.randrange(len(chosen))
            at = rng.randrange(1, len(chosen[place]) - 1)
            word = chosen[place]
            chosen[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        prompts += [" ".join(chosen), "please tell me the " + " ".join(rng.choice((chosen, words)))]
    questions = Questions(prompts)
    for place in range(len(prompts)):
        others = (other for other in range(len(prompts)) if other != place)
        assert questions.same_as(place) == [o for o in others if questions.is_same(place, o)]


def test_prompts_that_share_a_rare_word_are_found_by_it():
    questions = Questions(["capital of Zorvania", "Where is Zorvania?", *USUAL])
    assert questions.sharing(0, 64)[0] == 1
    assert questions.sharing(0, 5) == [1]
    assert questions.frequency("capital") == 14
    assert questions.words(0) == ("capital", "zorvania")


@pytest.mark.parametrize(("one", "other"), [("Daboli", "Dabolo"), ("Medike", "Medoke")])
def test_two_names_that_each_occur_once_are_two_though_their_vowels_are_neighbours(one, other):
    first, second = (f"What is {name} known for?" for name in (one, other))
    assert not same(first, second)
    # a name that others ask for, too, was mistyped
    questions = Questions([first, second, f"Where does {one} live?", *USUAL])
    assert questions.is_same(0, 1)
