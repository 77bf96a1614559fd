"""Copies, and prompts with several answers."""

from ilp_mlflow.training.checks.duplicates import check_duplicates
from tests.training.checks.accounts import chat_row, kinds, row


def test_rows_that_differ_are_no_finding():
    assert check_duplicates([row(1), row(2, prompt="The capital of Chile is")]) == []


def test_copies_are_counted_behind_their_original():
    rows = [row(1), row(2), row(3)]
    (finding,) = check_duplicates(rows)
    assert kinds([finding]) == [("duplicates", "warning", 2)]
    assert finding.example == "sample 's2': as sample 's1'"


def test_a_prompt_with_two_answers():
    rows = [row(1), row(2, completion=" Cusco"), row(3), row(4, prompt="Else")]
    copies, several = check_duplicates(rows)
    assert copies.rows == 1
    assert kinds([several]) == [("several_answers", "warning", 2)]
    assert several.sentence.endswith("(1 prompts)")
    assert several.example == "sample 's1': 'Lima', but 'Cusco' in sample 's2'"


def test_conversations_are_compared_turn_by_turn():
    same = [chat_row(1, "a", "b"), chat_row(2, "a", "b")]
    assert kinds(check_duplicates(same)) == [("duplicates", "warning", 1)]
    # the words of one turn or of two are another prompt
    assert check_duplicates([chat_row(1, "a", "b", "c", "d"), chat_row(2, "abc", "d")]) == []


def test_texts_that_ask_nothing_are_no_answers_to_one_prompt():
    texts = [row(1, prompt="", completion="One"), row(2, prompt="", completion="Two")]
    assert check_duplicates(texts) == []
