import pytest

from ilp_mlflow.data.lexical import NUMBER, WORD, Number, parse_number, text_shape


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,000.50", Number(10005, 1)),
        ("1000", Number(1000, 0)),
        (".25", Number(25, 2)),
        ("3.00", Number(3, 0)),
        ("007", Number(7, 0)),
        ("0.0", Number(0, 0)),
    ],
)
def test_a_number_is_its_digits_and_its_decimals(text, number):
    assert parse_number(NUMBER.fullmatch(text)) == number


@pytest.mark.parametrize("text", ["v1", "3rd", "1.2.3", "x2", "1,00", "1" * 16])
def test_what_only_looks_like_a_number_is_none(text):
    assert not NUMBER.search(text)


def test_words_stand_between_spaces_or_are_single_characters():
    assert WORD.findall("(It's) C++ 3.5%, ok?") == ["It's", "C", "3.5", "ok"]
    assert WORD.findall("黒猫 cat") == ["黒", "猫", "cat"]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("New York, 1999", "Aa Aa, 0"),
        ("I_TURN  LEFT", "A_A A"),
        ("हिन्दी", "a"),
        ("a\n\tb", "a a"),
        ("", ""),
    ],
)
def test_the_shape_of_a_text_is_the_kinds_of_its_characters(text, shape):
    assert text_shape(text) == shape
