import random

import pytest

from ilp_mlflow.core.values import Sample
from ilp_mlflow.data.distractors import choose_distractors
from tests.conversations import chat
from tests.data.test_matching import DIFFERENT, SAME

PLACES = ["Paris", "Rome", "Oslo", "Bern", "Riga", "Kyiv"]


def sample(key, prompt, completion, **more):
    return Sample(
        id=str(key), stage=more.pop("stage", "s"), prompt=prompt, completion=completion, **more
    )


def one(answer, others, n=3, **more):
    """The options of one sample among `others`, the answers to other prompts."""
    found = [sample(f"o{i}", f"other {i}", other) for i, other in enumerate(others)]
    return choose_distractors([*found, sample("x", "the question", answer, **more)], n, 0)["x"]


def equal(a, b):
    """`b` is no option where `a` is right, though given as one."""
    return (
        len(choose_distractors([sample("x", "q", a, options=(a, b, "something else"))], 0, 0)["x"])
        == 1
    )


def test_the_answers_to_the_nearest_prompts_are_chosen():
    towns = [
        sample(f"t{i}", f"Which town lies at river {i}?", f" {place}")
        for i, place in enumerate(PLACES)
    ]
    people = [
        sample(f"p{i}", f"Who wrote the book number {i}?", f" {name}")
        for i, name in enumerate(["Anna", "Bill", "Carl", "Dora"])
    ]
    found = choose_distractors([*towns, *people], 3, 0)
    assert all({o.strip() for o in found[s.id]} <= {*PLACES} for s in towns)
    assert {o.strip() for s in people for o in found[s.id]} == {"Anna", "Bill", "Carl", "Dora"}


def test_only_answers_of_the_same_kind_and_about_the_same_length_are_drawn():
    others = ["12", "365", "Oslo", "blue", "Constantinople", "green", "1999"]
    assert {*one("42", others, 2)} <= {"12", "365", "1999"}
    assert one("Rome", others, 1) == ("Oslo",)
    assert {*one("black", others, 2)} == {"blue", "green"}


def test_the_same_form_comes_before_a_more_similar_prompt():
    near = sample("near", "the question", "12 kg")
    far = sample("far", "something far", "15%")
    assert choose_distractors([near, far, sample("x", "the question?!", "20%", stage="s")], 1, 0)[
        "x"
    ] == ("15%",)


def test_chat_prompts_are_compared_by_all_their_turns():
    def row(key, system, user, answer):
        prompt = chat(system=system, user=user)
        return sample(key, prompt, chat(assistant=answer))

    found = choose_distractors(
        [
            row("a", "towns", "1", "Rome"),
            row("b", "towns", "2", "Oslo"),
            row("c", "men", "3", "Karl"),
        ],
        1,
        0,
    )
    assert found["a"] == ("Oslo",)
    assert not {"Rome"} & {
        *choose_distractors([row("a", "T", "1", "Rome"), row("b", " t", "1.", "Oslo")], 9, 0)["b"]
    }


def test_other_stages_give_nothing():
    assert (
        choose_distractors([sample("a", "p", "Rome"), sample("b", "q", "Oslo", stage="t")], 3, 0)[
            "a"
        ]
        == ()
    )


def test_order_does_not_matter_and_the_seed_does():
    found = [
        sample(i, f"question {i}", f" word{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10]}")
        for i in range(60)
    ]
    mixed = random.Random(1).sample(found, len(found))
    assert choose_distractors(found, 3, 0) == choose_distractors(mixed, 3, 0)
    assert choose_distractors(found, 3, 0) != choose_distractors(found, 3, 1)


@pytest.mark.parametrize("seed", range(6))
def test_no_option_is_right_for_its_prompt_or_given_twice(seed):
    rng = random.Random(seed)
    answers = [
        "Rome",
        " rome.",
        "The Rome",
        "B. Rome",
        "Oslo",
        "yes",
        "Yes!",
        "no",
        "1,000",
        "1000.0",
        "12",
        "+",
        "{",
        "猫",
        "C",
        "C++",
        "New York",
    ]
    found = [
        sample(
            i,
            rng.choice(["q", "Q ?", "r", "s t", "st"]),
            rng.choice(answers),
            options=rng.choice([None, None, ("Oslo", "Rome", "12")]),
        )
        for i in range(40)
    ]
    chosen = choose_distractors(found, 4, seed, lambda lacking: {s.id: [*answers] for s in lacking})
    prompt = {s.id: "".join(s.prompt.casefold().strip(" ?").split()) for s in found}
    for s in found:
        for option in chosen[s.id]:
            assert not any(equal(o.answer, option) for o in found if prompt[o.id] == prompt[s.id])
        assert not any(equal(a, b) for i, a in enumerate(chosen[s.id]) for b in chosen[s.id][:i])


@pytest.mark.parametrize(("a", "b"), SAME)
def test_an_option_that_says_the_same_as_the_answer_is_dropped(a, b):
    assert equal(a, b)
    assert equal(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_an_option_that_says_something_else_is_kept(a, b):
    assert not equal(a, b)
    assert not equal(b, a)


def test_an_answer_that_says_more_or_less_is_not_drawn_unless_it_denies():
    assert "New York City" not in one("New York", ["New York City", "Los Angeles"])
    assert "York" not in one("York City", ["York", "Leeds"])
    assert one("spam", ["not spam", "spam"], 1) == ("not spam",)


def test_labels_come_first_and_nothing_is_made_up_for_them():
    answers = ["yes", "yes", "no", "no", "blue", "gray", "pink"]
    found = [sample(i, f"is it {i}?", answer) for i, answer in enumerate(answers)]
    chosen = choose_distractors(found, 3, 0)
    assert all(chosen[s.id][0] == ("no" if s.answer == "yes" else "yes") for s in found[:4])
    assert all(set(chosen[s.id]) <= set(answers) for s in found[:4])


def test_a_stage_with_one_label_is_made_up_for():
    found = [
        sample(i, prompt, "Paris")
        for i, prompt in enumerate(("capital of France?", "France's capital?"))
    ]
    assert choose_distractors(
        found, 2, 0, lambda lacking: {s.id: ["Rome", "Paris!", "Oslo"] for s in lacking}
    ) == {s.id: ("Rome", "Oslo") for s in found}


def test_an_amount_in_a_currency_is_no_rival_to_the_amount():
    assert (
        "$5"
        not in choose_distractors(
            [sample(0, "how much?", "5")], 2, 0, lambda lacking: {"0": ["$5", "7"]}
        )["0"]
    )


def test_yes_and_no():
    found = [sample(i, f"is it {i}?", " yes" if i % 3 else " no") for i in range(9)]
    assert {(s.answer, choose_distractors(found, 3, 0)[s.id]) for s in found} == {
        (" yes", (" no",)),
        (" no", (" yes",)),
    }
    assert choose_distractors(found[1:2], 3, 0) == {"1": (" no",)}


@pytest.mark.parametrize(
    ("answer", "options", "wrong"),
    [
        (" B. Paris", ("Rome", "Paris", "Oslo"), (" A. Rome", " C. Oslo")),
        ("(b) Paris", ("Rome", "paris"), ("(a) Rome",)),
        ("2) Paris", ("Rome", "Paris", "Oslo"), ("1) Rome", "3) Oslo")),
        ("1: Paris", ("Rome", "Paris", "Oslo"), ("0: Rome", "2: Oslo")),
        ("C. Paris", ("Rome", "Paris", "Oslo"), ("Rome", "Oslo")),
        ("Paris", ("A. Rome", "B. Paris", "C. Oslo"), ("Rome", "Oslo")),
        ("B. Paris", ("A) Rome", "B) Paris"), ("A. Rome",)),
        ("J. Bach", ("J. Haydn", "J. Bach", "C. Orff"), ("J. Haydn", "C. Orff")),
        (" B", ("Rome", "Paris", "Oslo"), (" A", " C")),
        ("B", ("A", "B", "C"), ("A", "C")),
        ("A", ("B", "C", "D"), ("B", "C", "D")),
        (
            "3. Oktober 1990",
            ("4. Oktober 1990", "3. Oktober 1990", "9. November 1989"),
            ("4. Oktober 1990", "9. November 1989"),
        ),
        ("J. Smith", ("C. Smith", "J. Smith"), ("C. Smith",)),
        ("$5", ("\u20ac5", "$5"), ("\u20ac5",)),
        ("Paris", ("Rome", "Paris", "PARIS", "Rome."), ("Rome",)),
    ],
)
def test_given_options_are_kept_with_the_labels_of_the_answer(answer, options, wrong):
    assert one(answer, PLACES[2:], 9, options=options) == wrong


def test_given_options_that_are_all_right_are_made_up_for():
    assert one("Paris", ["Rome"], 1, options=("Paris",)) == ("Rome",)


def test_models_are_asked_once_for_what_is_lacking_and_their_right_answers_rejected():
    asked = []

    def ask(lacking):
        asked.append([s.id for s in lacking])
        return {"x": ["", "\n**Zug**\nwhich is", "Bern.", "Bern, in Switzerland", "zug", "Thun"]}

    found = [
        sample("a", "p", "blue"),
        sample("b", "q", "green"),
        sample("c", "r", "black"),
        sample("x", "s", "Bern"),
    ]
    chosen = choose_distractors(found, 2, 0, ask)
    assert asked == [["x"]]
    assert chosen["x"] == ("Zug", "Thun")
    assert choose_distractors(found[:3], 2, 0, ask)
    assert len(asked) == 1


def test_edits_fill_the_rest():
    assert len(one("42", [], 3)) == 3


def test_a_long_answer_takes_edits_and_not_what_others_answer():
    long = "She had {} apples and gave half of them to her friends, so at the end of the day she was left with {}."
    found = [sample(i, f"p{i}", long.format(10 + i, 5 + i)) for i in range(8)]
    chosen = choose_distractors(found, 3, 0, lambda lacking: pytest.fail("edits are enough"))
    for s in found:
        assert len(chosen[s.id]) == 3
        assert not {*chosen[s.id]} & {o.answer for o in found}
        assert all(o.startswith("She had") for o in chosen[s.id])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_odd_data(n):
    odd = [
        "",
        "😀",
        "?",
        "\n",
        "A",
        "\u202e\u05e9\u05dc\u05d5\u05dd",
        "12",
        "x" * 3000,
        "你好吗" * 20,
        " ",
    ]
    found = [
        sample(i, prompt, answer)
        for i, (prompt, answer) in enumerate(
            [*zip(odd, odd[::-1], strict=True), *zip(odd[::-1], odd, strict=True)]
        )
    ]
    assert all(len(options) <= n for options in choose_distractors(found, n, 0).values())
    assert choose_distractors([], n, 0) == {}
    assert choose_distractors([sample("a", "p", "c")], n, 0) == {"a": ()}


def test_an_answer_of_several_prompts_is_a_label_and_takes_labels_only():
    answers = ["yes", "no", "maybe, it depends"]
    found = [
        Sample(id=f"{i}", stage="s", prompt=f"Is it {i}?", completion=answers[i % 3])
        for i in range(9)
    ]

    def never(samples):
        raise AssertionError(samples)

    chosen = choose_distractors(found, 5, 0, never)
    assert all(
        sorted(options) == sorted(set(answers) - {s.answer})
        for s, options in ((s, chosen[s.id]) for s in found)
    )


def test_models_are_asked_for_so_many_samples_only(monkeypatch):
    monkeypatch.setattr("ilp_mlflow.data.distractors.MAX_ASKED", 3)
    found = [
        Sample(id=f"{i}", stage=f"{i}", prompt="p", completion="x" * (i + 1)) for i in range(9)
    ]
    asked = []
    choose_distractors(found, 2, 0, lambda samples: asked.append([s.id for s in samples]) or {})
    assert [len(ids) for ids in asked] == [3]
    assert asked[0] == sorted(asked[0])
