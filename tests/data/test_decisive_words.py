import pytest

from ilp_mlflow.data.decisive_words import decisive_words, is_code


def found(text):
    return [(word.kind, word.value) for word in decisive_words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It costs 1,000.50 dollars.", [("number", "1000.5")]),
        (
            "It fell by -5 degrees, from 12-7.",
            [("number", "-5"), ("number", "12"), ("number", "7")],
        ),
        ("Take twelve of them, and three more.", [("number", "12"), ("number", "3")]),
        ("The 3rd of 5kg sacks", [("number", "3rd"), ("number", "5")]),
        (
            "Do not stop, you can't, never.",
            [("negation", "not"), ("negation", "not"), ("negation", "never")],
        ),
        ("She cannot go without it.", [("negation", "not"), ("negation", "without")]),
        (
            "In 1898 she met Pierre in Paris.",
            [("number", "1898"), ("name", "Pierre"), ("name", "Paris")],
        ),
        ("The city is old. It is large.", []),
        # a name that a sentence begins with is one where it stands elsewhere, too
        ("Paris is large. I like Paris.", [("name", "Paris"), ("name", "Paris")]),
        ("Call get_user() with `max_depth` set.", [("code", "get_user()"), ("code", "max_depth")]),
        (
            "Mail ann@example.org or see https://a.b/c",
            [("code", "ann@example.org"), ("code", "https://a.b/c")],
        ),
        ("He and/or she", []),
        ("1. Eat.\n2. Sleep for 8 hours.", [("number", "8")]),
        ("", []),
    ],
)
def test_what_is_decisive(text, expected):
    assert found(text) == expected


def test_all_of_code_is_decisive_in_fences_and_without():
    code = "def f(x):\n    return x - 1"
    assert is_code(code)
    tokens = [value for kind, value in found(code)]
    expected = ["def", "f", "(", "x", ")", ":", "\n    ", "return", "x", "-", "1"]
    assert tokens == expected
    fenced = f"Here it is:\n```python\n{code}\n```\nIt takes one away."
    assert [value for _, value in found(fenced)] == tokens


def test_prose_is_no_code():
    assert not is_code("First, we go there.\nThen we return home: it is late.")
    assert not is_code("x = 1")


def test_words_are_where_they_say_and_none_is_in_another():
    text = "Not 5kg: `f(5)` costs $1,000 in New York, not -3."
    end = 0
    for word in decisive_words(text):
        assert word.start >= end
        end = word.end
