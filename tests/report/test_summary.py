import re

import pytest

from ilp_mlflow.core.values import (
    Checkpoint,
    Diagnosis,
    Evidence,
    Finding,
    Outcome,
    Report,
    Request,
    Sample,
    Subject,
    Verdict,
)
from ilp_mlflow.report.html import render_html
from ilp_mlflow.report.sentences import leak_sentence
from ilp_mlflow.report.summary import issue_markdown, markdown_summary, terminal_summary


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
    unlearned = tuple(
        Diagnosis(verdict=Verdict(sample_id=i, status="unlearned"), evidence={}) for i in "ab"
    )
    bare = report(unavailable=("exposures", "signals"), diagnoses=unlearned, asked=2)
    for text in (terminal_summary(bare), markdown_summary(bare), render_html(bare, samples)):
        assert text.count("No training ledger: ") == text.count("No training signals: ") == 1
    learned = (Verdict(sample_id="a", status="learned"),)
    stopping = Finding(
        subject=Subject(kind="checkpoint", name="two"),
        kind="idle_adapter",
        evidence=Evidence(cause="faulty_checkpoint", strength=1, reason="it does nothing"),
        samples=len(bare.diagnoses),
        stops=True,
    )
    without_use = (
        report(),
        # nothing is unlearned, or nothing else was looked for in what is
        report(unavailable=bare.unavailable, diagnoses=(), verdicts=learned),
        bare.model_copy(update={"findings": (stopping,)}),
    )
    for told in without_use:
        assert "No training" not in terminal_summary(told) + markdown_summary(told)
        assert "No training" not in render_html(told, samples)
    of_one = stopping.model_copy(update={"samples": 1})
    part = bare.model_copy(update={"findings": (of_one,)})
    assert "No training ledger: " in markdown_summary(part)
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


def rendered(found):
    return render_html(found, {i: _sample(i) for i in "ab"})


@pytest.mark.parametrize(
    "write",
    [terminal_summary, markdown_summary, issue_markdown, rendered],
    ids=lambda w: w.__name__,
)
def test_a_finding_about_a_stage_is_said_once_and_before_the_causes(write):
    evidence = Evidence(cause="not_trained", strength=1, reason="changed nothing at all")
    finding = Finding(subject=Subject(kind="stage", name="two"), evidence=evidence, samples=1)
    one = Diagnosis(
        verdict=Verdict(sample_id="a", status="unlearned"),
        cause="missing_knowledge",
        strength=0.7,
        evidence={},
    )
    text = write(report(findings=(finding,), diagnoses=(one,))).replace("&#39;", "'")
    assert text.count("Stage 'two': changed nothing at all (1 unlearned sample).") == 1
    assert text.index("Stage 'two'") < re.search("missing[_ ]knowledge", text).start()
    assert "changed nothing" not in write(report(diagnoses=(one,)))


def test_an_issue_names_no_folder_of_the_machine_and_no_sample():
    settings = "data: /home/someone/rows/train.jsonl\nuri: https://host/rows/x\nother: rows/y.jsonl"
    text = issue_markdown(report(settings=settings, versions={"mlflow": "3"}))
    assert "data: train.jsonl\nuri: https://host/rows/x\nother: rows/y.jsonl" in text
    assert "mlflow 3" in text
    assert "1 of 2 tokens are wrong" not in text


def test_a_bar_in_a_name_does_not_end_a_cell():
    assert "| m\\|n | 1 | - |" in issue_markdown(
        report(outcomes=(report().outcomes[0].model_copy(update={"mitigation": "m|n"}),))
    )


def test_the_colours_change_nothing_else():
    one = Diagnosis(
        verdict=Verdict(sample_id="a", status="unlearned"), cause="k", strength=0.7, evidence={}
    )
    painted = terminal_summary(report(diagnoses=(one,)), lambda text, colour: f"<{colour}>{text}<>")
    assert "\n<yellow>k<>: 1 of 1 unlearned samples" in painted
    assert painted.startswith("<cyan>1 of 2 samples")
    plain = re.sub("<[a-z]*>", "", painted)
    assert plain == terminal_summary(report(diagnoses=(one,)))
