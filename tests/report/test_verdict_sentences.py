from ilp_mlflow.core.values import StageVerdicts, Verdict
from ilp_mlflow.report.html import render_html
from ilp_mlflow.report.summary import issue_markdown, markdown_summary, terminal_summary
from ilp_mlflow.report.verdict_sentences import count_verdicts, rule_names, verdict_sentences
from tests.report.test_summary import _sample, report


def verdict(sample_id, rule="long", **fields):
    return Verdict(sample_id=sample_id, status="learned", rule=rule, **fields)


def test_verdicts_are_counted_by_stage():
    found = count_verdicts(
        [
            verdict("a", grade="reached"),
            verdict("b", rule="greedy", already_solved=True),
            verdict("c", grade="reached"),
            Verdict(sample_id="d", status="unscored"),
        ],
        {"a": "one", "b": "one", "c": "two", "d": "two"},
    )
    assert found == {
        "one": StageVerdicts(
            rules={"long": 1, "greedy": 1}, grades={"reached": 1}, already_solved=1
        ),
        "two": StageVerdicts(rules={"long": 1}, grades={"reached": 1}),
    }


def test_how_far_long_answers_were_learned_is_said_the_best_first():
    counts = StageVerdicts(grades={"not reached": 2, "reproduced": 5, "own": 1})
    (sentence,) = verdict_sentences(report(verdict_counts={"one": counts}))
    assert sentence == "Of 8 long answers of stage 'one', 5 reproduced, 2 not reached, 1 own."
    reached = StageVerdicts(grades={"reached": 3})
    (sentence,) = verdict_sentences(report(verdict_counts={"one": reached}))
    assert "a check of your own decides it" in sentence


def test_without_held_out_rows_it_is_said_that_reach_is_not_known():
    counts = StageVerdicts(rules={"long": 8, "greedy": 2}, grades={"reproduced": 5})
    (sentence,) = verdict_sentences(report(verdict_counts={"one": counts}))
    assert sentence.startswith("Of 8 long answers of stage 'one', 5 are reproduced. Which of the")
    assert "40 held-out rows" in sentence


def test_what_the_base_answered_already_is_said_apart():
    counts = StageVerdicts(rules={"greedy": 4}, already_solved=1)
    (sentence,) = verdict_sentences(report(verdict_counts={"one": counts}))
    expected = "1 learned sample of stage 'one' was answered by the base before any training."
    assert sentence == expected


def test_a_rule_that_the_base_passes_measures_nothing():
    retention = {"one": {"base": 0.6, "one": 1.0, "one@5": 1.0, "two": 1.0}}
    counts = {"one": StageVerdicts(rules={"paper": 4}, already_solved=3)}
    (sentence,) = verdict_sentences(report(retention=retention, verdict_counts=counts))
    assert "the untrained base passes 60% of stage 'one': there it does not measure" in sentence
    retention["one"]["base"] = 0.5
    (sentence,) = verdict_sentences(report(retention=retention, verdict_counts=counts))
    assert "measure" not in sentence


def test_all_of_it_stands_where_results_are_read():
    counts = StageVerdicts(rules={"greedy": 1, "long": 8}, grades={"reproduced": 8})
    shown = report(verdict_counts={"one": counts})
    assert rule_names(shown) == ["greedy", "long"]
    page = render_html(shown, {i: _sample(i) for i in "ab"}, {})
    for text in (terminal_summary(shown), markdown_summary(shown), issue_markdown(shown), page):
        assert "Of 8 long answers of stage" in text.replace("\n  ", " ")
    assert "by the `greedy` and `long` rules." in issue_markdown(shown)
    assert "greedy and long" in page
