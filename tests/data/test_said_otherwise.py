import pytest

from ilp_mlflow.data.said_otherwise import compare_answers

MEDICINE = "Take one pill in the morning. Do not stop taking them before Friday. See a doctor then."
COURSE = f"{MEDICINE} Drink two glasses of water with every meal. Walk for half an hour in the evening, and write down in a list how you slept and what you ate during the day."
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
        # a phrase is put otherwise, in front of the same answer
        (f"Sure, I can help. {COURSE}", f"Of course, this is it. {COURSE}", "same"),
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
    assert (
        compare_answers(STEPS, said).reason == "ends with '#### 9' where the row ends with '#### 7'"
    )
    other = MEDICINE.replace("Friday", "Monday")
    assert compare_answers(MEDICINE, other).reason == "says 'Monday' where the row says 'Friday'"


def test_a_changed_word_is_found_wherever_it_stands():
    words = [f"word{chr(97 + n)}" for n in range(24)]
    for place in range(24):
        right, other = [*words], [*words]
        right[place], other[place] = "17", "71"
        assert compare_answers(" ".join(right), " ".join(other)).outcome == "contradicts"
        assert compare_answers(" ".join(right), " ".join(right)).outcome == "same"
