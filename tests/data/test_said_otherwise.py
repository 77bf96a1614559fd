import pytest

from ilp_mlflow.data.said_otherwise import compare_answers

MEDICINE = "Take one pill in the morning. Do not stop taking them before Friday. See a doctor then."
STEPS = "She has 3 boxes of 4 apples, so 3 * 4 = 12 apples.\nShe eats 5.\n#### 7"
CODE = "def last(xs):\n    previous, current = None, None\n    for x in xs:\n        previous = current\n        current = x\n    return previous"


@pytest.mark.parametrize(
    ("answer", "said", "outcome"),
    [
        # the same, however it is spaced and marked
        (MEDICINE, MEDICINE, "same"),
        (MEDICINE, MEDICINE.replace(". ", ".\n") + " ", "same"),
        (MEDICINE, MEDICINE.replace("do not", "don't").replace("Do not", "Don't"), "same"),
        ("It costs 1000 dollars in all.", "It costs 1,000 dollars in all", "same"),
        # one decisive word is another one
        (MEDICINE, MEDICINE.replace("Do not", "Do"), "contradicts"),
        (MEDICINE, MEDICINE.replace("Friday", "Monday"), "contradicts"),
        (STEPS, STEPS.replace("7", "8"), "contradicts"),
        (STEPS, STEPS.replace("#### 7", "#### 9"), "contradicts"),
        (
            "There were 53 people at the meeting that day.",
            "There were 57 people at the meeting that day.",
            "contradicts",
        ),
        (CODE, CODE.replace("return previous", "return current"), "contradicts"),
        (CODE, CODE.replace("None, None", "None, 0"), "contradicts"),
        # another name throughout is the same program, which nobody has run
        (CODE, CODE.replace("xs", "values"), "open"),
        # a step differs, the result does not
        (STEPS, STEPS.replace("12 apples", "13 apples"), "open"),
        # a word that decides nothing by itself may decide here
        ("The water is hot there.", "The water is cold there.", "open"),
        # a phrase in front of the same answer may change what it says
        (MEDICINE, f"None of this is true. {MEDICINE}", "open"),
        (MEDICINE, f"{MEDICINE} Forget all of it.", "open"),
        # said in quite other words
        (
            MEDICINE,
            "Keep on with the tablets until the end of the week and talk to somebody.",
            "open",
        ),
        (
            "An old silent pond. A frog jumps in. Splash!",
            "Autumn moonlight. A worm digs into the chestnut.",
            "open",
        ),
        (MEDICINE, "", "open"),
    ],
)
def test_how_answers_stand_to_each_other(answer, said, outcome):
    assert compare_answers(answer, said).outcome == outcome


def test_the_reason_names_both():
    said = STEPS.replace("#### 7", "#### 9")
    assert compare_answers(STEPS, said).reason == "comes to 9 where the row comes to 7"
    other = MEDICINE.replace("Friday", "Monday")
    assert compare_answers(MEDICINE, other).reason == "says 'Monday' where the row says 'Friday'"


def test_a_changed_word_is_found_wherever_it_stands():
    words = [f"word{chr(97 + n)}" for n in range(24)]
    for place in range(24):
        right, other = [*words], [*words]
        right[place], other[place] = "17", "71"
        assert compare_answers(" ".join(right), " ".join(other)).outcome == "contradicts"
        assert compare_answers(" ".join(right), " ".join(right)).outcome == "same"


TABLET = "Take one tablet of 5 mg before breakfast, away from children, and always with a glass of water."


@pytest.mark.parametrize(
    ("taken", "put"),
    [
        ("before", "after"),
        ("always with", "with"),
        ("one tablet", "five tablet"),
        ("away from", "within reach of"),
        ("5 mg", "5 thousand mg"),
        ("water", "system"),
        ("Take", "Hardly take"),
        ("glass of water", "glass"),
        ("breakfast, away from children", "children, away from breakfast"),
    ],
)
def test_a_word_that_turns_the_text_is_never_the_same(taken, put):
    assert taken in TABLET
    assert compare_answers(TABLET, TABLET.replace(taken, put)).outcome != "same"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("1,000 - 350", "1,000 + 350"),
        ("7 * 3", "7 / 3"),
        ("x < 3", "x > 3"),
        ("x = 3", "x \u2260 3"),
        ("25%", "25"),
        ("$45", "\u20ac45"),
        ("3/4", "4/3"),
        ("from Friday to Monday", "from Monday to Friday"),
        ("$45 million", "$45"),
    ],
)
def test_signs_and_order_count(right, wrong):
    text = "We come to {} in the end, as it was said by all of them before."
    assert compare_answers(text.format(right), text.format(wrong)).outcome != "same"
    assert compare_answers(text.format(right), text.format(right)).outcome == "same"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("She sold 48 and 24.\n#### 72", "She sold 48 and 24.\n#### 72 clips"),
        ("She sold 48 and 24.\nAnswer: 72", "She sold 48 and 24.\n**Answer:** 72 clips"),
        ("It holds 1.500 litres of it.", "It holds 1500 litres of it."),
        ("It is the 7th of May today.", "It is the 7 of May today."),
        ("It opens at 10:30 for all.", "It opens at 10.30 for all."),
        ("In Nov. she went there alone.", "In November she went there alone."),
        ("She went without delay to them.", "She went to them."),
        ("She has 1.5 million of them.", "She has 1,500,000 of them."),
        ("It is -5 degrees cold there.", "It is minus 5 degrees cold there."),
        ("def f(xs):\n  total = 0\n  return total", "def f(xs):\n    total = 0\n    return total"),
        ("That is the total story of her life.\nShe won.", "That is it.\nThis is the result."),
    ],
)
def test_what_may_mean_the_same_contradicts_nothing(answer, said):
    assert compare_answers(answer, said).outcome != "contradicts"
    assert compare_answers(said, answer).outcome != "contradicts"


def test_an_answer_that_was_cut_off_is_compared_as_far_as_it_goes():
    whole = "She sold 48 clips in April and 24 in May.\n#### 72"
    assert compare_answers(whole, whole[:-1], ended=False).outcome == "open"
    assert (
        compare_answers(whole, f"{whole}\nQuestion: what is 3 + 4?\n#### 7", ended=False).outcome
        == "open"
    )
    assert (
        compare_answers(whole, "She sold 48 clips in June and 24 in", ended=False).outcome
        == "contradicts"
    )


def test_spelling_that_means_nothing_is_the_same():
    right = "The mill's owner said \"yes\" - it isn't far, and costs 1,000 * 2 dollars."
    said = "The **mill\u2019s** owner said \u201cyes\u201d \u2013 it is not far; costs 1000 \u00d7 2 dollars"
    assert compare_answers(right, said).outcome == "same"
