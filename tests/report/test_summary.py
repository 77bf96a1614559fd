import re

from ilp_mlflow.core.values import Checkpoint, Diagnosis, Outcome, Report, Request, Sample, Verdict
from ilp_mlflow.report.html import render_html
from ilp_mlflow.report.summary import (
    leak_sentence,
    markdown_summary,
    percent,
    result_sentence,
    terminal_summary,
    unavailable_sentences,
)


def report(**changes):
    values = {
        "name": "x",
        "run_id": "r",
        "preset": "default",
        "checkpoints": tuple(
            Checkpoint(name=n, model_uri="u") for n in ("base", "one", "one@5", "two")
        ),
        "retention": {
            "one": {"base": 0.0, "one": 1.0, "one@5": 0.5, "two": 0.5},
            "two": {"base": 0.0, "one": 0.0, "one@5": 0.0, "two": 1.0},
        },
        "recognition": {
            measure: {"base": share, "two": share + 0.1}
            for measure, share in {
                "sum": 0.5,
                "mean": 0.4,
                "corrected": 0.6,
                "blank": 0.3,
                "chance": 0.25,
            }.items()
        },
        "verdicts": (
            Verdict(
                sample_id="a",
                status="unlearned",
                first_learned="one",
                last_lost="two",
                reason="1 of 2 tokens are wrong",
            ),
            Verdict(sample_id="b", status="learned", first_learned="two"),
        ),
        "histories": {
            "a": ("unlearned", "learned", "learned", "unlearned"),
            "b": ("unlearned",) * 3 + ("learned",),
        },
        "diagnoses": (),
        "asked": 1,
        "outcomes": (
            Outcome(
                mitigation="m",
                run_id="r",
                targets=("a",),
                recovered=("a",),
                still=(),
                regressed=("b",),
            ),
        ),
    }
    return Report(**{**values, **changes})


def _sample(id_):
    return Sample(id=id_, stage="one", prompt="p", completion="c")


def test_the_sentence_says_how_many_and_where_they_were_lost():
    assert result_sentence(report()) == (
        "1 of 2 samples (50.0%) are unlearned after the last stage; 1 of them had been learned and were lost (1 at two)."
    )


def test_of_a_single_stage_nothing_is_said_of_earlier_ones():
    one = {
        "checkpoints": report().checkpoints[:2],
        "retention": {"one": {"base": 0.0, "one": 0.5}},
        "verdicts": (
            Verdict(sample_id="a", status="unlearned"),
            Verdict(sample_id="b", status="learned"),
        ),
    }
    assert (
        result_sentence(report(**one)) == "1 of 2 samples (50.0%) are unlearned after stage 'one'."
    )


def test_what_is_lost_at_a_step_inside_is_lost_by_its_stage():
    lost = (
        Verdict(sample_id=i, status="unlearned", last_lost=at)
        for i, at in zip("ab", ("two@5", "two"), strict=True)
    )
    assert "2 of them had been learned and were lost (2 at two)" in result_sentence(
        report(verdicts=tuple(lost))
    )


def test_the_summary_holds_the_matrix_of_stages_without_the_steps_inside():
    text = terminal_summary(report())
    assert re.search(r"learned, % of +base +one +two\n", text)
    assert re.search(r"\none +0% +100% +50%\n", text)
    assert re.search(r"\nm +1 +- +1 +- +-", text)
    assert max(map(len, text.splitlines())) <= 80
    assert "| one | 0% | 100% | 50% |" in markdown_summary(report())


def test_a_leak_is_told_against_chance():
    expected = "With the prompt blanked, the right option wins for 30% of the samples under base and 40% under two"
    assert expected in leak_sentence(report())
    assert "With the prompt blanked" in terminal_summary(report())
    assert expected in render_html(
        report(), {i: Sample(id=i, stage="one", prompt="p", completion="c") for i in "ab"}
    )
    none = report(recognition={measure: {} for measure in report().recognition})
    assert leak_sentence(none) == ""
    assert "blanked" not in terminal_summary(none) + render_html(
        none, {i: Sample(id=i, stage="one", prompt="p", completion="c") for i in "ab"}
    )


def test_what_training_did_not_leave_behind_is_said_once():
    samples = {i: Sample(id=i, stage="one", prompt="p", completion="c") for i in "ab"}
    bare = report(unavailable=("exposures", "signals"))
    for text in (terminal_summary(bare), markdown_summary(bare), render_html(bare, samples)):
        assert text.count("No training ledger: ") == text.count("No training signals: ") == 1
    assert "No training" not in terminal_summary(report()) + markdown_summary(
        report()
    ) + render_html(report(), samples)
    assert max(map(len, terminal_summary(bare).splitlines())) <= 80


def test_a_stage_that_taught_little_is_said_before_its_causes():
    weak = report(
        retention={s: {"base": 0.0, "one": 0.06, "one@5": 0.0, "two": 0.9} for s in ("one", "two")}
    )
    for text in (
        terminal_summary(weak).replace("\n", " "),
        markdown_summary(weak),
        render_html(weak, {i: _sample(i) for i in "ab"}),
    ):
        assert text.count("taught only 6% of its own samples") == 1
    assert "taught only" not in terminal_summary(report())
    one = Diagnosis(
        verdict=Verdict(sample_id="a", status="unlearned"),
        cause="missing_knowledge",
        strength=0.7,
        evidence={},
    )
    text = terminal_summary(weak.model_copy(update={"diagnoses": (one,)}))
    assert text.index("taught only") < text.index("missing_knowledge")


def test_a_mitigation_without_anything_to_do_is_named():
    idle = {"repair": Request(targets=(), wanted={}, reason="nothing is of its kind")}
    assert "repair has nothing to do: nothing is of its kind." in terminal_summary(
        report(requests=idle)
    )
    lacking = {"reader": Request(targets=("a",), wanted={"a": 2}, reason="texts wanted")}
    assert "reader lacks data: texts wanted." in terminal_summary(report(requests=lacking))


def test_it_says_when_models_were_asked_about_some_samples_only():
    found = tuple(
        Diagnosis(verdict=Verdict(sample_id=i, status="unlearned"), evidence={}) for i in "abc"
    )
    assert "asked about 2 of the 3 unlearned samples" in " ".join(
        unavailable_sentences(report(diagnoses=found, asked=2))
    )
    assert unavailable_sentences(report(diagnoses=found, asked=3)) == []


def test_halves_of_a_percent_are_rounded_up():
    assert [percent(n / 40) for n in (0, 1, 7, 39, 40)] == ["0%", "3%", "18%", "98%", "100%"]
