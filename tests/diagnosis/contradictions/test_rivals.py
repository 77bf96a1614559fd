"""How rows that ask the same are grouped by what they answer."""

from ilp_mlflow.diagnosis.contradictions.rivals import (
    EQUAL,
    WORDINGS,
    WORDS,
    AskingRow,
    find_rivals,
    group_by_answer,
)
from tests.contexts import sample

QUESTION = "how many moons has Mars"
X = sample("x", QUESTION, " two")
THREE = [AskingRow(sample(id_, f"{QUESTION}?", " three"), 1.0, EQUAL) for id_ in "abh"]
FOUR = AskingRow(sample("c", f"please: {QUESTION}", " four"), 1.0, WORDS)
TWO = AskingRow(sample("d", QUESTION, " the two moons"), 1.0, EQUAL)
UNSURE = AskingRow(sample("e", "moons of Mars", " three"), 0.4, WORDINGS)
SURE = AskingRow(sample("f", "moons of Mars", " four"), 0.7, WORDINGS)
LONG = AskingRow(sample("g", QUESTION, " as many as it has, which nobody has counted"), 1.0, EQUAL)


def test_rows_that_say_the_same_or_merely_more_agree():
    grouped = group_by_answer(X, [*THREE, TWO, FOUR, LONG], {})
    assert grouped.agreeing == [TWO]
    assert grouped.by_answer == {"three": THREE, "four": [FOUR]}
    assert list(grouped.untold.values()) == [[LONG]]


def test_rivals_are_counted_where_they_surely_ask_the_same():
    three, four, long = find_rivals(X, [UNSURE, SURE, LONG, TWO, FOUR, *THREE], {}, 0.5)
    assert [row.id for row in three.rows] == ["a", "b", "h"]
    assert [row.id for row in four.rows] == ["c", "f"]
    assert (four.same_question, four.ground) == (1.0, WORDS)
    assert (three.is_incompatible, long.is_incompatible) == (True, False)
    assert [row.id for row in three.agreeing] == ["d"]
    assert find_rivals(X, [UNSURE, TWO], {}, 0.5) == []
