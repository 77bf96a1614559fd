"""What templates leave out and put in."""

from ilp_mlflow.training.checks.rendering import check_rendering
from tests.training.checks.accounts import kinds, row


def test_a_field_that_is_left_out_is_one_finding_over_all_turns_and_rows():
    rows = [
        row(1),
        row(
            2,
            dropped=(
                "messages[1].reasoning_content: 'Lima is'",
                "messages[3].reasoning_content: 'x'",
            ),
        ),
        row(3, dropped=("messages[5].reasoning_content: 'y'", "tools: '[...]'")),
    ]
    findings = check_rendering(rows)
    assert kinds(findings) == [("template_drops", "warning", 2), ("template_drops", "warning", 1)]
    assert "messages.reasoning_content is nowhere" in findings[0].sentence
    assert findings[0].example == "sample 's2': messages[1].reasoning_content: 'Lima is'"
    assert findings[1].example == "sample 's3': tools: '[...]'"


def test_a_text_that_is_put_in_is_a_note():
    rows = [row(n, added=("You are a helpful assistant.",)) for n in (1, 2)]
    (finding,) = check_rendering(rows)
    assert kinds([finding]) == [("template_adds", "note", 2)]
    assert "'You are a helpful assistant.'" in finding.sentence


def test_what_is_rendered_as_it_is_is_no_finding():
    assert check_rendering([row(1), row(2)]) == []
