import random
import time

import pytest

from ilp_mlflow.data.lexical import text_shape
from ilp_mlflow.data.perturbations import collect_vocabulary, perturb

NAMES = collect_vocabulary(
    [
        " Alice met Bob Stone in Oslo.",
        " Then Carol met Dave Miller in Rome.",
        " I_WALK I_LOOK I_TURN_LEFT",
        " I_RUN I_TURN_RIGHT",
    ]
)
NOTHING = collect_vocabulary([])


def test_a_number_is_changed_alike_wherever_it_occurs_and_the_last_one_first():
    first = next(perturb(" 126 + 252 = <<126+252=378>>378 people.\n#### 378", NOTHING, "0"))
    new = first.rsplit(" ", 1)[1]
    assert new != "378"
    assert first == f" 126 + 252 = <<126+252={new}>>{new} people.\n#### {new}"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("$1,000", "$0,0"),
        ("4.50 kg", "0.0 a"),
        ("-12%", "-0%"),
        ("007", "0"),
        (".25", ".0"),
        ("1990s", "0a"),
        ("21.00", "0.0"),
    ],
)
def test_a_changed_number_keeps_its_format(text, form):
    found = list(perturb(text, NOTHING, "0"))
    assert found
    for edited in found:
        assert text_shape(edited) in (form, form.replace("0,0", "0"))
        assert edited.count(".") == text.count(".")
    if "." in text:
        decimals = {len(e.split()[0].split(".")[1]) for e in found}
        assert decimals == {2}
    if text == "007":
        assert {len(e) for e in found} == {3}


def test_equal_numbers_of_different_format_stay_equal():
    first = next(perturb("2*4.50 = $9.00, that is 9", NOTHING, "0"))
    a, b = first.split("$")[1].split(", that is ")
    assert float(a) == float(b) != 9
    assert "." in a
    assert "." not in b


def test_list_numbers_ordinals_and_versions_are_no_numbers():
    assert not list(perturb("1. stir\n2. cook on the 3rd of v1.2.3", NOTHING, "0"))


def test_a_name_is_replaced_everywhere_by_one_of_as_many_words():
    assert (
        next(perturb("So Bob Stone paid, and Bob Stone left", NAMES, "0"))
        == "So Dave Miller paid, and Dave Miller left"
    )


def test_a_name_that_starts_a_text_is_none_whatever_ends_the_text():
    text = "Alice and Bob Stone left early "
    assert next(perturb(text, NAMES, "0")) == "Alice and Dave Miller left early "
    assert not collect_vocabulary(["Alice went home and slept "]).names


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("yes", "no"),
        (" Yes, it rains", " No, it rains"),
        ("TRUE", "FALSE"),
        ("it is cold", "it is not cold"),
        ("it is not cold", "it is cold"),
        ("it isn't cold", "it is cold"),
        ("she cannot swim", "she can swim"),
        ("she has been away", "she has not been away"),
        ("sales increased", "sales decreased"),
    ],
)
def test_negation(text, edited):
    assert next(perturb(text, NOTHING, "0")) == edited


def test_no_before_a_noun_stays():
    assert not list(perturb("there grew no apples", NOTHING, "0"))


def test_kinds_take_turns_and_late_places_come_first():
    text = "Then it is known that Alice was 30 when Bob Stone was 40"
    a, b, c = list(perturb(text, NAMES, "0"))[:3]
    assert "40" not in a
    assert "30" in a
    assert "Bob Stone" not in b
    assert "Alice" in b
    assert c == text.replace("Stone was", "Stone was not")


def test_a_word_is_swapped_for_one_of_its_shape_as_a_last_resort():
    assert next(perturb("I_TURN_LEFT I_TURN_LEFT", NAMES, "0")) == "I_TURN_LEFT I_TURN_RIGHT"
    assert next(perturb("猫", collect_vocabulary(["犬"]), "0")) == "犬"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n",
        "?!",
        "😀👩‍👩‍👧",
        "+",
        "{",
        "\ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
    ],
)
def test_nothing_to_edit(text):
    assert list(perturb(text, NOTHING, "0")) == []


@pytest.mark.parametrize(
    "text",
    [
        "שלום עולם 5",
        "٣ مرحبا",
        "9" * 6000,
        "a" * 50_000,
        "हिन्दी पाठ",
        "A" * 5000 + "1,2,3,,4..5",
        "x = 1" * 500,
    ],
)
def test_any_text_is_left_as_it_is_but_for_the_edit(text):
    words = collect_vocabulary([text, "other word 7", "Some Name"])
    for edited, _ in zip(perturb(" \n" + text, words, "0"), range(50), strict=False):
        assert edited.startswith(" \n")
        assert edited != " \n" + text


def test_edits_are_distinct_and_set_by_the_seed():
    rng = random.Random(0)
    pieces = [
        "Alice",
        "Bob Stone",
        "is",
        "not",
        "12",
        "1,500",
        "3.5%",
        "yes",
        "no",
        "always",
        "I_WALK",
        "ok.",
        "\n",
        "C++",
        "—",
        "été",
    ]
    differ = 0
    for _ in range(200):
        text = " ".join(rng.choices(pieces, k=rng.randrange(12)))
        found = list(perturb(text, NAMES, "0"))
        assert found == list(perturb(text, NAMES, "0"))
        assert len({*found, text}) == len(found) + 1
        differ += found != list(perturb(text, NAMES, "1"))
    assert differ > 100


def test_three_edits_of_a_long_text_take_little_time():
    text = " ".join(f"So Alice has {i} apples and it is known." for i in range(25))
    start = time.perf_counter()
    for seed in range(20):
        assert (
            len([e for e, _ in zip(perturb(text, NAMES, f"{seed}"), range(3), strict=False)]) == 3
        )
    assert (time.perf_counter() - start) / 20 < 0.01
